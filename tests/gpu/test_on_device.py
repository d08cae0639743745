"""Training and prediction on a real GPU give what they give on the CPU.

They run where torch can use a GPU, and are skipped elsewhere. Weights and images are the same on
both devices; float32 is IEEE's here (no TF32), and no network draws dropout, for a GPU draws other
numbers. ``make gpu-check`` runs them too.
"""

import copy
import dataclasses

import numpy as np
import pytest
import torch
from unit.training_case import make_case, recipe

from hpaloc import schedule
from hpaloc.backends import ready
from hpaloc.checkpoint import Checkpoint
from hpaloc.compute import Compute
from hpaloc.device_batches import on_device
from hpaloc.feed import Batch
from hpaloc.fold_data import FoldData, fold_data
from hpaloc.history import STEP_NUMBERS
from hpaloc.network import build_network
from hpaloc.predict import mean_probabilities, probabilities
from hpaloc.ranks import ALONE
from hpaloc.training import Setup, set_up, train_epoch, train_step

CPU = Compute(torch.device("cpu"), torch.float32)
GPU = Compute(torch.device("cuda"), torch.float32)
# Relative differences of a loss that rounding in a precision may make in one step.
STEP_RTOL = {"float32": 1e-4, "bfloat16": 2e-2, "float16": 5e-3}
# Absolute differences of probabilities of the same weights.
ANSWER_ATOL = {"float32": 1e-4, "bfloat16": 3e-2, "float16": 5e-3}
LOSS = STEP_NUMBERS.index("loss_total")

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU that torch can use")
# Elsewhere the network goes on as it is, with a warning.
for_compiling = pytest.mark.skipif(
    torch.cuda.is_available() and torch.cuda.get_device_capability() < (7, 0),
    reason="torch.compile makes code for GPUs from Volta on",
)


@pytest.fixture(autouse=True)
def ieee():
    """No TF32, and the GPU's memory as it was before."""
    libraries = torch.backends.cudnn.conv, torch.backends.cuda.matmul
    before = [library.fp32_precision for library in libraries]
    for library in libraries:
        library.fp32_precision = "ieee"
    yield
    for library, precision in zip(libraries, before, strict=True):
        library.fp32_precision = precision
    torch.compiler.reset()
    torch.cuda.empty_cache()


@pytest.fixture
def data(tmp_path) -> FoldData:
    case = make_case(tmp_path / "case", images=60)
    return fold_data(case / "arrays/index.parquet", case / "folds.parquet", 1, 2)


def settings(**changes) -> dict:
    defaults = {"dropout": 0.0, "compile": False, "batch_size": 8, "epochs": 2}
    return recipe(**(defaults | changes))


def prepared(data: FoldData, compute: Compute, state: Checkpoint, **changes) -> Setup:
    return set_up(settings(**changes), 1, data, compute, None, ALONE, state)


def fresh() -> Checkpoint:
    return Checkpoint(plateau=schedule.new_plateau(0.1))


def losses_of_an_epoch(data: FoldData, compute: Compute, **changes) -> np.ndarray:
    state = fresh()
    train_epoch(prepared(data, compute, state, **changes), state, lambda _: None)
    return np.array([row[LOSS] for row in state.steps])


def made_batch(compute: Compute, images: int = 8) -> Batch:
    rng = np.random.default_rng(1)
    pixels = torch.from_numpy(rng.integers(0, 256, (images, 64, 64, 4), dtype=np.uint8))
    targets = torch.from_numpy((rng.random((images, 28)) < 0.2).astype(np.float32))
    device = compute.device
    return Batch(pixels.to(device), targets.to(device), torch.arange(images))


def step_of(setup: Setup, part_size: int = 8) -> tuple[dict, torch.Tensor, int]:
    batch = made_batch(setup.compute)
    return train_step(setup, batch, 1, schedule.BCE, 0.1, part_size)


def compared_answers(forward, network, compute, size: int) -> tuple[np.ndarray, np.ndarray]:
    images = made_batch(CPU, size).images
    expected = probabilities(network, images, CPU).numpy()
    return probabilities(forward, images.to(compute.device), compute).cpu().numpy(), expected


def uneven_network(**changes):
    """One whose running averages and answers are not those of a new network."""
    torch.manual_seed(1)
    network = build_network(settings(**changes)).train()
    with torch.no_grad():
        for _ in range(3):
            network(made_batch(CPU).images)
    return network.eval()


@pytest.mark.parametrize("optimizer", ["adadelta", "adamw", "sgd"])
def test_a_step_is_that_of_the_cpu(data, optimizer) -> None:
    chosen = {"name": optimizer, "learning_rate": 0.1, "weight_decay": 1e-4}
    setups = [prepared(data, compute, fresh(), optimizer=chosen) for compute in (CPU, GPU)]
    (on_cpu, counts, _), (on_gpu, gpu_counts, _) = map(step_of, setups)
    found, expected = (
        {name: float(value) for name, value in scores.items()} for scores in (on_gpu, on_cpu)
    )
    gradients = [
        torch.cat([p.grad.flatten().cpu() for p in setup.network.parameters()]) for setup in setups
    ]
    apart = torch.linalg.vector_norm(gradients[1] - gradients[0])
    norm = torch.linalg.vector_norm(gradients[0])
    torch.testing.assert_close(gpu_counts.cpu(), counts)
    assert found == pytest.approx(expected, rel=1e-3, abs=1e-5)
    assert norm > 0
    assert apart < 1e-3 * norm


@pytest.mark.parametrize("precision", list(STEP_RTOL))
def test_the_first_loss_is_that_of_the_cpu_in_every_precision(data, precision) -> None:
    dtype = getattr(torch, precision)
    if dtype is torch.bfloat16 and not torch.cuda.is_bf16_supported(including_emulation=False):
        pytest.skip("this GPU has no bfloat16")
    found = losses_of_an_epoch(data, dataclasses.replace(GPU, dtype=dtype))
    expected = losses_of_an_epoch(data, CPU)
    assert len(found) == len(expected)
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found[0], expected[0], rtol=STEP_RTOL[precision])


@pytest.mark.parametrize("precision", list(ANSWER_ATOL))
def test_predictions_are_those_of_the_cpu(precision) -> None:
    compute = dataclasses.replace(GPU, dtype=getattr(torch, precision))
    network = uneven_network()
    (forward,) = ready([network], settings(), "torch", compute)
    found, expected = compared_answers(forward, network, compute, 8)
    assert expected.std() > 1e-3  # networks that answer all images alike would compare well
    np.testing.assert_allclose(found, expected, rtol=0, atol=ANSWER_ATOL[precision])


def test_views_are_averaged_as_on_the_cpu(data) -> None:
    network, views = uneven_network(), {"kind": "dihedral8"}
    answers = []
    for compute in (CPU, GPU):
        forwards = ready([network, copy.deepcopy(network)], settings(), "torch", compute)
        images = made_batch(CPU, 16).images
        batches = (Batch(part, None, torch.arange(8)) for part in images.split(8))
        answers.append(mean_probabilities(forwards, batches, 16, views, compute))
    np.testing.assert_allclose(answers[1], answers[0], rtol=0, atol=ANSWER_ATOL["float32"])


def test_batches_arrive_byte_for_byte(data) -> None:
    """However busy the GPU is: no shared, pinned buffer is filled while it is copied."""
    rows = np.resize(data.rows, 400)
    data = dataclasses.replace(data, rows=rows, labels=np.resize(data.labels, (400, 28)))
    busy = torch.randn(4096, 4096, device="cuda")
    expected = [(b.images.clone(), b.targets) for b in data.training_batches(settings(), 1)]
    arrived = []
    for batch in on_device(data.training_batches(settings(), 1), GPU):
        arrived.append((batch.images.clone(), batch.targets.clone()))
        for _ in range(4):
            busy @ busy
    different = [
        number
        for number, (found, made) in enumerate(zip(arrived, expected, strict=True))
        if not all(torch.equal(one.cpu(), other) for one, other in zip(found, made, strict=True))
    ]
    assert len(expected) == 50
    assert not different


@pytest.mark.parametrize("first, second", [(CPU, GPU), (GPU, CPU)], ids=["cpu-gpu", "gpu-cpu"])
@pytest.mark.parametrize("optimizer", ["adadelta", "adamw"])
def test_training_is_resumed_on_the_other_device(data, tmp_path, first, second, optimizer) -> None:
    """The epoch after the change is that of a training on the CPU alone."""
    chosen = {"name": optimizer, "learning_rate": 0.01, "weight_decay": 1e-4}

    def trained(*computes: Compute) -> np.ndarray:
        state = fresh()
        for compute in computes:
            setup = prepared(data, compute, state, optimizer=chosen)
            train_epoch(setup, state, lambda _: None)
            file = tmp_path / "state.pt"
            torch.save(
                {
                    "network": setup.network.state_dict(),
                    "optimizer": setup.optimizer.state_dict(),
                    "scaler": setup.scaler.state_dict(),
                },
                file,
            )
            tensors = torch.load(file, map_location="cpu", weights_only=True)
            state = dataclasses.replace(state, epoch=state.epoch + 1, counts=None, **tensors)
        return np.array([row[LOSS] for row in state.steps])

    found, expected = trained(first, second), trained(CPU, CPU)
    assert len(found) == len(expected)
    np.testing.assert_allclose(found, expected, rtol=0.02)


@for_compiling
def test_a_compiled_step_is_the_eager_one(data) -> None:
    losses = []
    for is_compiled in (False, True):
        setup = prepared(data, GPU, fresh(), compile=is_compiled)
        assert (setup.forward is setup.network) != is_compiled
        scores, _, _ = step_of(setup)
        losses.append((float(scores["loss_total"]), float(scores["gradient_norm"])))
    assert losses[0][0] > 0
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-3)


@for_compiling
def test_an_epoch_replayed_as_cuda_graphs_is_the_compiled_one(data) -> None:
    """No step reads what the graph of another one has written: images, seeds or gradients."""
    rows = data.rows[:40]  # full batches: another one is not replayed
    data = dataclasses.replace(data, rows=rows, labels=data.labels[:40])
    made = [
        losses_of_an_epoch(data, GPU, compile=setting, dropout=0.1) for setting in (True, "graphs")
    ]
    assert len(made[0]) == 5
    assert made[0].std() > 0
    np.testing.assert_allclose(made[1], made[0], rtol=1e-3)


@for_compiling
def test_a_compiled_prediction_is_the_eager_one() -> None:
    network = uneven_network()
    (forward,) = ready([network], settings(compile=True, batch_size=16), "torch", GPU)
    found, expected = compared_answers(forward, network, GPU, 16)
    np.testing.assert_allclose(found, expected, rtol=0, atol=ANSWER_ATOL["float32"])


@for_compiling
def test_cuda_graphs_replay_the_images_that_they_are_given() -> None:
    """Small batches are replayed: of other images, the answers are other ones."""
    network = uneven_network()
    (forward,) = ready([network], settings(compile=True, batch_size=2), "torch", GPU)
    images = made_batch(CPU, 16).images
    expected = [probabilities(network, pair, CPU) for pair in images.split(2)]
    found = [probabilities(forward, pair.cuda(), GPU).cpu() for pair in images.split(2)]
    assert torch.cat(expected).std() > 1e-3
    torch.testing.assert_close(
        torch.cat(found), torch.cat(expected), rtol=0, atol=ANSWER_ATOL["float32"]
    )


def test_a_batch_that_does_not_fit_is_split(data) -> None:
    """With little of the memory to be had: same loss as of the parts on the CPU, and it is noted."""
    _, total = torch.cuda.mem_get_info()
    size = {"image_size": 256, "batch_size": 64}
    setup = prepared(data, GPU, fresh(), **size)
    rng = np.random.default_rng(1)
    pixels = torch.from_numpy(rng.integers(0, 256, (64, 256, 256, 4), dtype=np.uint8)).cuda()
    targets = torch.from_numpy((rng.random((64, 28)) < 0.2).astype(np.float32)).cuda()
    batch = Batch(pixels, targets, torch.arange(64))
    torch.cuda.reset_peak_memory_stats()
    whole, _, fitting = train_step(setup, batch, 1, schedule.BCE, 0.0, 64)
    assert fitting == 64
    peak, rest = torch.cuda.max_memory_allocated(), torch.cuda.memory_allocated()
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction((rest + 0.6 * (peak - rest)) / total)
    try:
        split, _, fitting = train_step(setup, batch, 1, schedule.BCE, 0.0, 64)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert fitting < 64
    # Batch norm takes the statistics of parts: near, and not the same.
    assert float(split["loss_total"]) == pytest.approx(float(whole["loss_total"]), rel=0.2)
    assert float(split["loss_total"]) > 0
