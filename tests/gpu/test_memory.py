"""What happens where the GPU's memory is short: batches are halved, or programs end in words."""

import pandas as pd
import pytest

from hpaloc.classes import PROBABILITY_COLUMNS

SPLIT = """
settings, data, compute = fold(precision="float32")
state = trained(settings, data, compute)
short = fake_gpu.counters().get("OUT_OF_MEMORY", 0)
result(part=state.part_size, warnings=state.warnings, short=short)
"""

# Steps as they were made: images of the batch, and images at a time before and after the step.
WATCHED = """
steps, made = [], training.train_step
def watched(setup, batch, step, phase, rate, part_size):
    found = made(setup, batch, step, phase, rate, part_size)
    steps.append([len(batch.targets), part_size, found[2]])
    return found
training.train_step = watched
"""


def test_batches_are_halved_where_memory_is_short(on_gpu) -> None:
    found, _ = on_gpu(SPLIT, memory_gb=0.072)
    assert found["part"] in (2, 4) and found["short"]
    assert len(found["warnings"]) == 1 and "images of step" in found["warnings"][0]


def test_so_they_are_where_the_code_of_a_kernel_finds_no_room(on_gpu) -> None:
    found, _ = on_gpu(SPLIT, fake_cuda_no_memory_for_kernel_at=400)
    assert found["part"] == 4 and not found["short"] and len(found["warnings"]) == 1


def test_a_short_last_batch_leaves_the_full_ones_whole(on_gpu) -> None:
    """As where the last batch alone is not compiled, and takes more memory than a full one."""
    code = """
    inner = training.backward_that_fits
    def short_for_the_last(network, forward, images, *more):
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction(0.15 if len(images) < 64 else 1.0)
        return inner(network, forward, images, *more)
    training.backward_that_fits = short_for_the_last
    settings, data, compute = fold(images=282, batch_size=64, precision="float32", epochs=2)
    state = trained(settings, data, compute)
    result(steps=steps, warnings=state.warnings)
    """
    found, log = on_gpu(WATCHED + code.replace("\n    ", "\n"), memory_gb=1)
    full = [64, 64, 64]
    assert found["steps"] == [full, full, [60, 64, 32], full, full, [60, 32, 32]]
    assert len(found["warnings"]) == 1 and "an epoch's last batches" in found["warnings"][0]
    assert log.count("did not hold the 60 images of step 3") == 1


def test_a_new_attempt_tries_the_whole_batch_and_says_it_once(on_gpu, tmp_path) -> None:
    first = f"""
    from hpaloc.checkpoint import save_checkpoint
    settings, data, compute = fold(precision="float32")
    state = trained(settings, data, compute)
    setup = training.set_up(settings, 1, data, compute, None, training.ALONE, Checkpoint())
    tensors = {{"network": setup.network.state_dict(), "optimizer": setup.optimizer.state_dict()}}
    save_checkpoint(Path({str(tmp_path)!r}), training.replace(state, finished=False, **tensors))
    result(part=state.part_size)
    """
    found, _ = on_gpu(first, fake_cuda_no_memory_for_kernel_at=400)
    assert found["part"] == 4
    second = f"""
    from hpaloc.checkpoint import load_checkpoint
    settings, data, compute = fold(precision="float32", epochs=2)
    state = trained(settings, data, compute, load_checkpoint(Path({str(tmp_path)!r})))
    result(steps=steps, warnings=state.warnings)
    """
    found, _ = on_gpu(
        WATCHED + second.replace("\n    ", "\n"), fake_cuda_no_memory_for_kernel_at=400
    )
    assert found["steps"][0] == [8, 8, 8]
    assert [8, 8, 4] in found["steps"]
    assert len(found["warnings"]) == 1


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"memory_gb": 0.06}, "CUDA out of memory"),
        ({"fake_cublas_no_memory": 1}, "CUBLAS_STATUS_ALLOC_FAILED"),
    ],
)
def test_a_fold_that_does_not_fit_at_all_ends_in_words(on_gpu, settings, reason) -> None:
    code = """
    import train_fold
    from training_case import train_arguments
    folder = Path(tempfile.mkdtemp())
    small = recipe(precision="float32", compile=False)
    words = train_arguments(make_case(folder / "case"), small, folder, folder / "state")
    words[words.index("--gpus") + 1] = "1"
    train_fold.main(words)
    """
    _, log = on_gpu(code, ends=1, **settings)
    assert "Traceback" not in log
    assert "memory does not hold seresnext_small at 64 px" in log and reason in log
    assert "use a smaller image_size" in log


def test_an_error_that_nothing_fetched_does_not_break_the_next_attempt(on_gpu) -> None:
    code = """
    from hpaloc.gpu_memory import make_room
    settings, data, compute = fold()
    ones = torch.zeros(4096, device="cuda")
    host = torch.zeros(4096)
    torch.cuda.cudart().cudaHostRegister(host.data_ptr(), 4096, 0)
    make_room(compute.device)
    ones.add_(1)
    """
    on_gpu(code, fake_cuda_register_fails=1)


def test_a_gpu_that_failed_is_not_short_of_memory(on_gpu) -> None:
    code = """
    from hpaloc.gpu_memory import is_shortage, make_room
    settings, data, compute = fold()
    ones = torch.zeros(4096, device="cuda")
    errors = []
    for attempt in (lambda: ones.add_(1), lambda: make_room(compute.device)):
        try:
            attempt()
        except RuntimeError as error:
            errors.append(is_shortage(error))
    result(errors=errors)
    import os, sys
    sys.stdout.flush()
    os._exit(0)  # torch aborts at the end of a process whose GPU has failed
    """
    found, _ = on_gpu(code, fake_cuda_fails_at=1)
    assert found["errors"] == [False, False]


# Arrays of images, and two networks with batches of 200.
NETWORKS = """
from hpaloc.network import build_network, save_weights
folder = make_case(Path(tempfile.mkdtemp()) / "case", images=200)
settings = recipe(batch_size=200, compile=False, precision="float32")
networks = ["--weights", "--models"]
for fold_number in (3, 1):
    torch.manual_seed(fold_number)
    save_weights(build_network(settings), folder / f"weights{fold_number}.safetensors")
    model = {"fold": fold_number, "image_size": 64, "arrays_size": 64, "recipe": settings}
    (folder / f"model{fold_number}.json").write_text(json.dumps(model))
    networks.insert(1, f"{folder}/weights{fold_number}.safetensors")
    networks.insert(networks.index("--models") + 1, f"{folder}/model{fold_number}.json")
"""

PREDICT = """
import predict_part
predict_part.main([
    "--arrays", f"{folder}/arrays/index.parquet", "--part", "0", "--parts", "1",
    "--folds", "1", "3", *networks, "--recipe", "{}", "--workers", "1",
    "--predictions", f"{folder}/part.parquet", "--digest", f"{folder}/part.sha256",
])
result(predictions=f"{folder}/part.parquet")
"""

LABEL = """
import numpy as np, pandas as pd, label_images
from hpaloc.calling import PER_CLASS
(folder / "images").mkdir()
ramp = np.arange(64 * 64 * 4, dtype=np.uint16).reshape(64, 64, 4).astype(np.uint8)
for number in range(3):
    np.save(folder / "images" / f"{number}.npy", ramp + np.uint8(number))
rows = ["all", *map(str, range(28))]
columns = {name: 0.5 for name in PER_CLASS.values()}
pd.DataFrame({"class": rows, "positives": 9, **columns}).to_csv(folder / "thresholds.csv")
label_images.main([
    "--images", f"{folder}/images", "--pattern", "{id}", *networks, "--strategy", "0.5",
    "--thresholds", f"{folder}/thresholds.csv", "--threads", "1",
    "--labels", f"{folder}/labels.csv",
])
"""


def test_a_prediction_goes_on_with_half_the_batch(on_gpu) -> None:
    found, log = on_gpu(NETWORKS + PREDICT, memory_gb=0.15)
    assert log.count("does not hold a batch of 200 images: predicting 100 at a time") == 1
    table = pd.read_parquet(found["predictions"])
    assert len(table) == 400 and table[list(PROBABILITY_COLUMNS)].notna().all(axis=None)


@pytest.mark.parametrize("program", [PREDICT, LABEL])
def test_a_prediction_that_does_not_fit_at_all_ends_in_words(on_gpu, program) -> None:
    _, log = on_gpu(NETWORKS + program, ends=1, fake_cublas_no_memory=1)
    assert "Traceback" not in log
    assert "memory does not hold 2 networks (seresnext_small) and one image of 64 px" in log
    assert "predict on the CPU" in log
