"""The compiled forward pass, on the CPU."""

import logging

import pytest
import torch
from training_case import recipe

from hpaloc.compiled import compiled, wanted
from hpaloc.compute import Compute
from hpaloc.inference import folded
from hpaloc.network import build_network
from hpaloc.predict import probabilities

CPU = Compute(torch.device("cpu"), torch.float32)
IMAGES = torch.randint(
    0, 256, (3, 64, 64, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
)


def network() -> torch.nn.Module:
    torch.manual_seed(1)
    return build_network(recipe(dropout=0.0)).train()


@pytest.fixture(scope="module")
def trained() -> tuple[torch.nn.Module, torch.nn.Module, list[int]]:
    """A network that trained a step compiled, one that did not, and the batches that the first saw
    as it is."""
    plain, other = network(), network()
    uncompiled: list[int] = []
    other.register_forward_hook(
        lambda module, images, logits: (
            None if torch.compiler.is_compiling() else uncompiled.append(len(images[0]))
        )
    )
    forward = compiled(other, IMAGES, CPU)
    uncompiled.clear()
    for one in (plain, forward):
        one(IMAGES).square().mean().backward()
        with torch.no_grad():
            one(IMAGES[:2])
    return plain, other, uncompiled


def test_a_compiled_network_has_the_same_gradients_and_running_averages(trained) -> None:
    plain, other, uncompiled = trained
    for one, two in zip(plain.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(two.grad, one.grad, rtol=1e-3, atol=1e-4)
    assert uncompiled == [2]  # another size of batch
    # Trying it has left no trace in them.
    for one, two in zip(plain.buffers(), other.buffers(), strict=True):
        torch.testing.assert_close(two, one, rtol=1e-3, atol=1e-5)


def test_every_fold_has_a_network_that_stays_compiled() -> None:
    torch.compiler.reset()
    small = recipe(network="seresnext_small", pool=1, image_size=32)
    forwards = []
    for fold in range(10):
        torch.manual_seed(fold)
        # As on a GPU: batch norm folded, which makes a class of its own of each.
        forwards.append(compiled(folded(build_network(small).eval()), IMAGES[:, :32, :32], CPU))
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    answers = [probabilities(forward, IMAGES[:, :32, :32], CPU) for forward in forwards]
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == graphs >= 10
    assert len({answer[0, 0].item() for answer in answers}) == 10


def test_where_no_compiler_works_the_network_goes_on_as_it_is(
    monkeypatch, caplog, tmp_path
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))

    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("no compiler here\nand much more")

    monkeypatch.setattr(torch, "compile", lambda network, **_: fails)
    one = network()
    before = [buffer.clone() for buffer in one.buffers()]
    with caplog.at_level(logging.INFO):
        assert compiled(one, IMAGES, CPU) is one
    assert "not compiled" in caplog.text and "no compiler here." in caplog.text
    assert "the code is kept in" in caplog.text and "much more" not in caplog.text
    assert all(torch.equal(a, b) for a, b in zip(before, one.buffers(), strict=True))


def test_the_warning_has_the_reason_and_not_who_raised_it(monkeypatch, caplog, tmp_path) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))

    def fails(*_: object) -> None:
        raise RuntimeError("backend='inductor' raised:\nGPUTooOld: sm_60 is too old.\n\nmore")

    monkeypatch.setattr(torch, "compile", lambda network, **_: fails)
    one = network()
    assert compiled(one, IMAGES, CPU) is one
    assert "half of the speed: GPUTooOld: sm_60 is too old. `compile" in caplog.text
    assert "raised:" not in caplog.text


def test_a_machine_without_a_compiler_is_not_made_to_compile(monkeypatch, caplog) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setattr(torch, "compile", None)
    one = network()
    with caplog.at_level(logging.INFO):
        assert compiled(one, IMAGES, CPU) is one
    assert "there is no no-such-compiler, which CXX names" in caplog.text
    assert "compiling" not in caplog.text


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("Triton Error [CUDA]: out of memory"),
    ],
)
def test_memory_that_is_short_is_no_fault_of_the_compiler(monkeypatch, error) -> None:
    def full(*_: object) -> None:
        raise error

    monkeypatch.setattr(torch, "compile", lambda network, **_: full)
    with pytest.raises(type(error)):
        compiled(network(), IMAGES, CPU)


def test_in_evaluation_any_number_of_images_goes_through_compiled(trained) -> None:
    _, other, uncompiled = trained
    forward = compiled(other.eval(), IMAGES, CPU)
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    uncompiled.clear()
    everything = probabilities(forward, IMAGES, CPU)
    first = probabilities(forward, IMAGES[:2], CPU)
    more = probabilities(forward, torch.cat([IMAGES, IMAGES[:2]]), CPU)
    other.train()
    assert torch.equal(first, everything[:2]) and uncompiled == []
    assert torch.equal(more, torch.cat([everything, everything[:2]]))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == graphs


def test_a_gpu_compiles_by_itself_and_the_cpu_when_told() -> None:
    gpu = Compute(torch.device("cuda"), torch.bfloat16)
    assert wanted("auto", gpu) and not wanted("auto", CPU)
    assert wanted(True, CPU) and not wanted(False, gpu)
