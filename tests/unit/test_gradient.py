"""The gradient of a batch that goes through the network in parts."""

from functools import partial

import pytest
import torch
from torch import nn

from hpaloc.compute import Compute
from hpaloc.gradient import backward, backward_that_fits, halved, micro_batches
from hpaloc.ranks import Ranks
from hpaloc.training import step_losses

CPU = Compute(torch.device("cpu"), torch.float32)
SCALER = torch.amp.GradScaler("cpu", enabled=False)
LOSS = {"weighted_bce": 1.0, "scale_up": 50, "focal_alpha": 0.25, "focal_gamma": 5}
IMAGES = torch.rand(11, 3, 8, 8, generator=torch.Generator().manual_seed(1))
TARGETS = (torch.rand(11, 28, generator=torch.Generator().manual_seed(2)) < 0.15).float()


def losses(over: str = "classes"):
    return partial(
        step_losses,
        targets=TARGETS,
        class_weights=torch.linspace(0.1, 3, 28),
        loss=LOSS | {"soft_f1": over},
        phase="soft_f1",
    )


def seed(part: int) -> int:
    return 100 + part


FULL = torch.OutOfMemoryError("CUDA out of memory")
NO_ROOM_FOR_CODE = torch.AcceleratorError("CUDA error: out of memory\nSearch for ...")
NO_HANDLE = RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(h)`")


class Small(nn.Module):
    """Two convolutions with batch norm; ``holds``: how many images its second half has room for,
    ``short`` what it raises where there are more."""

    def __init__(self, dropout: float = 0.0, holds: int = 1000, short: Exception = FULL):
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(6, 8, 3), nn.BatchNorm2d(8), nn.Flatten())
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(8 * 16, 28))
        self.holds, self.short, self.tried = holds, short, []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.tried.append(len(images))
        middle = self.first(images)  # batch norm has counted them by now
        if len(images) > self.holds:
            raise self.short
        return self.head(self.second(middle))


def gradients(network: nn.Module) -> list[torch.Tensor]:
    return [parameter.grad for parameter in network.parameters()]


def assert_same(left: list[torch.Tensor], right: list[torch.Tensor], **tolerance) -> None:
    assert len(left) == len(right)
    for one, other in zip(left, right, strict=True):
        torch.testing.assert_close(one, other, **tolerance)


@pytest.mark.parametrize("over", ["classes", "samples"])
@pytest.mark.parametrize("part_size", [6, 4, 1])
def test_parts_give_the_gradient_of_the_whole_batch(over, part_size) -> None:
    whole, parts = Small().eval(), Small().eval()  # batch norm that knows no batch
    logits, scores = backward(whole, whole, IMAGES, losses(over), seed, SCALER, CPU, 11)
    split_logits, split_scores = backward(
        parts, parts, IMAGES, losses(over), seed, SCALER, CPU, part_size
    )
    assert max(parts.tried) <= part_size
    assert_same(gradients(parts), gradients(whole))
    assert_same([split_logits, *split_scores.values()], [logits, *scores.values()])


def test_the_mean_of_the_parts_gradients_is_another_one() -> None:
    # Else the test above could not fail: the soft-F1 over classes is no mean over images.
    whole, mean = Small().eval(), Small().eval()
    backward(
        whole, whole, IMAGES[:10], lambda logits: of(logits, slice(0, 10)), seed, SCALER, CPU, 10
    )
    for part in (slice(0, 5), slice(5, 10)):
        of(mean(IMAGES[part]), part)["loss_total"].div(2).backward()
    with pytest.raises(AssertionError):
        assert_same(gradients(mean), gradients(whole))


def of(logits: torch.Tensor, part: slice) -> dict[str, torch.Tensor]:
    return losses().func(logits, **losses().keywords | {"targets": TARGETS[part]})


def test_dropout_and_batch_norm_of_a_part_are_the_same_in_both_passes() -> None:
    # The reference holds all parts at once: each normalised by itself, with its own dropout.
    reference, network = Small(dropout=0.5).train(), Small(dropout=0.5).train()
    logits = []
    for number, part in enumerate(micro_batches(IMAGES, 4)):
        torch.manual_seed(seed(number))
        logits.append(reference(part))
    losses()(torch.cat(logits))["loss_total"].backward()

    split_logits, _ = backward(network, network, IMAGES, losses(), seed, SCALER, CPU, 4)
    assert_same([split_logits], [torch.cat(logits).detach()])
    assert_same(gradients(network), gradients(reference))
    # The running averages have seen every part once.
    assert_same(list(network.buffers()), list(reference.buffers()), rtol=0, atol=0)


def test_a_scaled_loss_has_a_scaled_gradient() -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    scaled, plain = Small().eval(), Small().eval()
    backward(scaled, scaled, IMAGES, losses(), seed, scaler, CPU, 4)
    backward(plain, plain, IMAGES, losses(), seed, SCALER, CPU, 4)
    assert_same([gradient / 1024 for gradient in gradients(scaled)], gradients(plain))


@pytest.mark.parametrize("short", [FULL, NO_ROOM_FOR_CODE, NO_HANDLE])
def test_where_memory_is_short_the_batch_is_halved_until_it_fits(short) -> None:
    network, never_short = Small(0.5, 3, short).train(), Small(dropout=0.5).train()
    _, _, fitting = backward_that_fits(network, network, IMAGES, losses(), seed, SCALER, CPU, 64)
    assert fitting == 2  # of 64, 32, 16, 8, 4, 2
    assert network.tried[:4] == [11, 6, 4, 2]  # 6 + 5 rather than 8 + 3
    # What failed left no trace, neither in gradients nor in running averages.
    backward(never_short, never_short, IMAGES, losses(), seed, SCALER, CPU, 2)
    assert_same(gradients(network), gradients(never_short), rtol=0, atol=0)
    assert_same(list(network.buffers()), list(never_short.buffers()), rtol=0, atol=0)


def test_where_one_image_does_not_fit_memory_is_out() -> None:
    small = Small(holds=0).eval()
    with pytest.raises(torch.OutOfMemoryError):
        backward_that_fits(small, small, IMAGES, losses(), seed, SCALER, CPU, 64)
    assert small.tried[-1] == 1


def test_another_error_is_not_tried_again() -> None:
    failed = torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
    small = Small(holds=3, short=failed).eval()
    with pytest.raises(torch.AcceleratorError, match="illegal"):
        backward_that_fits(small, small, IMAGES, losses(), seed, SCALER, CPU, 64)
    assert small.tried == [11]


def test_one_process_of_several_does_not_begin_anew() -> None:
    small = Small(holds=3).eval()
    with pytest.raises(torch.OutOfMemoryError):
        backward_that_fits(
            small, small, IMAGES, losses(), seed, SCALER, CPU, 64, Ranks(0, 2), total=22
        )
    assert small.tried == [11]


@pytest.mark.parametrize(
    ("images", "size", "parts"),
    [
        (64, 64, [64]), (64, 32, [32, 32]), (21, 11, [11, 10]), (60, 32, [32, 28]),
        (21, 6, [6, 6, 6, 3]), (5, 64, [5]), (3, 2, [2, 1]), (3, 1, [1, 1, 1]),
        (33, 32, [17, 16]), (70, 32, [32, 19, 19]),  # no batch norm over a few images
    ],
)  # fmt: skip
def test_micro_batches_are_of_one_size_but_for_what_is_left_over(images, size, parts) -> None:
    batch = torch.arange(images)
    found = micro_batches(batch, size)
    assert [len(part) for part in found] == parts and torch.equal(torch.cat(found), batch)


def test_sizes_are_halves_down_to_one() -> None:
    sizes = [21]
    while sizes[-1] > 1:
        sizes.append(halved(sizes[-1]))
    assert sizes == [21, 11, 6, 3, 2, 1]
