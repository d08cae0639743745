"""Every program that makes batches ends when it is to end, and its workers with it."""

import ast
import json
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from test_local import settings_of
from test_workers import ended
from training_case import make_case, recipe, train_arguments
from workspace import PROJECT
from zygote import Zygote

from hpaloc.calling import threshold_table
from hpaloc.classes import CHANNELS, PROBABILITY_COLUMNS
from hpaloc.files import write_csv
from hpaloc.index import write_index
from hpaloc.local import index_folder
from hpaloc.network import SMALL, build_network, save_weights

SCRIPTS, BENCHMARKS = PROJECT / "workflow" / "scripts", PROJECT / "benchmarks"
# Forked workers make the batches of some programs, threads those of others.
WORKERS = ("train_fold", "predict_part", "measure_training_step", "feed", "train_step")
THREADS = ("label_images", "measure_speed")
# Takes the network's part of hpaloc.predict alone; and what ends at once without a GPU, and with one
# is made of the others.
NEITHER = ("predict_cpu", "gpu_check", "gpu_memory")


@cache
def imports(file: Path) -> set[Path]:
    """The modules of hpaloc that a file imports."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import | ast.ImportFrom):
            below = [alias.name for alias in node.names]
            if isinstance(node, ast.ImportFrom):
                below = [node.module, *(f"{node.module}.{name}" for name in below)]
            names.update(name for name in below if name.startswith("hpaloc."))
    return set(filter(Path.is_file, (SCRIPTS / f"{name.replace('.', '/')}.py" for name in names)))


def imported(program: Path) -> set[Path]:
    """The modules that a program imports, directly or by another."""
    found, left = set(), [program]
    while left:
        if (one := left.pop()) not in found:
            found.add(one)
            left += imports(one)
    return found


def test_every_program_that_can_make_batches_is_tested_here() -> None:
    programs = [*SCRIPTS.glob("*.py"), *BENCHMARKS.glob("*.py")]
    buffers = SCRIPTS / "hpaloc" / "batch_buffers.py"
    found = {program.stem for program in programs if buffers in imported(program)}
    assert found == {*WORKERS, *THREADS, *NEITHER}


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    with Zygote("batch_program", *WORKERS, *THREADS) as started:
        yield started


@pytest.fixture(scope="module")
def case(tmp_path_factory) -> Path:
    """Arrays, a network and image files, of which no program is done soon."""
    folder = make_case(tmp_path_factory.mktemp("programs") / "case", images=240)
    settings = recipe(epochs=1000, stop_after=None, batch_size=4)
    save_weights(build_network(settings), folder / "weights.safetensors")
    model = {"fold": 1, "image_size": 64, "recipe": settings, "network": SMALL, "arrays_size": 64}
    (folder / "model.json").write_text(json.dumps(model))
    shutil.copy(folder / "arrays" / "shard_000.npy", folder / "shard_kept.npy")
    (folder / "images").mkdir()
    rng = np.random.default_rng(1)
    for number in range(200):
        for channel in CHANNELS:
            plane = rng.integers(0, 256, (90, 90), np.uint8)
            cv2.imwrite(str(folder / "images" / f"{number}_{channel}.png"), plane)
    return folder


def arguments_of(program: str, case: Path) -> list[str]:
    """The command line of a program that works for longer than any test."""
    settings = json.loads((case / "model.json").read_text())["recipe"]
    index = f"{case}/arrays/index.parquet"
    network = ["--weights", f"{case}/weights.safetensors"]
    if program == "train_fold":
        state = Path(tempfile.mkdtemp(dir=case))
        return [*train_arguments(case, settings, state, state), "--workers", "2"]
    if program == "predict_part":
        views = {"tta": {"prediction": {"kind": "augmentation", "views": 1000}}}
        return [
            "--arrays", index, "--part", "0", "--parts", "1", "--folds", "1", *network,
            "--models", f"{case}/model.json", "--recipe", json.dumps(views), "--gpus", "0",
            "--workers", "2", "--predictions", f"{case}/out", "--digest", f"{case}/out.sha256",
        ]  # fmt: skip
    if program == "measure_training_step":
        # A step of so many images takes longer than a test.
        slow = settings | {"batch_size": 16}
        return [
            "--arrays", index, "--folds", f"{case}/folds.parquet", "--fold", "1",
            "--recipe", json.dumps(slow), "--gpus", "0", "--workers", "2", "--seconds", "1000",
            "--table", f"{case}/out",
        ]  # fmt: skip
    if program == "label_images":
        ids = [f"v{k}" for k in range(56)]
        labels = [list(range(28))] * 28 + [[]] * 28
        probability = np.tile(np.linspace(0, 1, 56, dtype=np.float32)[:, None], 28)
        pool = pd.DataFrame(probability, columns=list(PROBABILITY_COLUMNS)).assign(image_id=ids)
        known = pd.DataFrame({"image_id": ids, "labels": labels})
        write_csv(threshold_table([pool], known, 0.3), case / "thresholds.csv")
        return [
            "--images", f"{case}/images", *network, "--models", f"{case}/model.json",
            "--thresholds", f"{case}/thresholds.csv", "--gpus", "0", "--threads", "2",
            "--labels", f"{case}/out",
        ]  # fmt: skip
    if program == "measure_speed":
        files = settings_of(case / "images")
        write_index(index_folder("files", files, 2), case / "raw.parquet")
        (case / "settings.json").write_text(json.dumps({"root": f"{case}/images"}))
        return [
            "--arrays", index, "--raw-index", f"{case}/raw.parquet",
            "--settings", f"{case}/settings.json", *network, "--model", f"{case}/model.json",
            "--recipe", json.dumps(settings), "--gpus", "0", "--threads", "2",
            "--repeats", "100000", "--table", f"{case}/out",
            "--published", str(PROJECT / "resources/paper/table3.csv"),
        ]  # fmt: skip
    if program == "feed":
        return ["--images", "8", "--repeats", "1000", "--cores", "2"]
    assert program == "train_step"
    return [
        "--networks", SMALL, "--sizes", "64", "--images", "8", "--batch-size", "2",
        "--workers", "2", "--gpus", "0", "--seconds", "1000", "--repeats", "1",
    ]  # fmt: skip


def at_work(zygote: Zygote, log: Path, program: str, timeout: float = 60) -> list[int]:
    """The workers of a program, as soon as it has two, or two further threads."""
    last = time.monotonic() + timeout
    tasks = Path(f"/proc/{zygote.child}/task")
    while time.monotonic() < last:
        try:
            children = [word for task in tasks.iterdir() for word in _children(task)]
            threads = len(list(tasks.iterdir()))
        except FileNotFoundError:
            break
        if (program in THREADS and threads > 2) or len(children) == 2:
            return list(map(int, children))
        time.sleep(0.02)
    zygote.kill()
    raise AssertionError(log.read_text(encoding="utf-8"))


def _children(task: Path) -> list[str]:
    return (task / "children").read_text(encoding="ascii").split()


def status_of(zygote: Zygote, meanwhile=lambda: None, timeout: float = 30) -> int | None:
    """How the program ended; None if it did not."""
    last = time.monotonic() + timeout
    while zygote.is_running():
        meanwhile()
        time.sleep(0.02)
        if time.monotonic() > last:
            zygote.kill()
            return None
    return zygote.wait()


# Where a program tells a person: status and words of the log.
ENDS = {"SIGINT": (130, "stopped"), "SIGTERM": (-signal.SIGTERM, ""), "SIGKILL": (-9, "")}


# benchmarks/train_step.py measures the device for some seconds before it makes batches.
CASES = [
    (program, number)
    for program in (*WORKERS, *THREADS)
    for number in (("SIGKILL",) if program == "train_step" else ENDS)
]


@pytest.mark.parametrize(("program", "number"), CASES)
def test_a_signal_ends_a_program_and_its_workers(zygote, case, program, number) -> None:
    log = case / "log"
    zygote.start(program, arguments_of(program, case), str(log))
    workers = at_work(zygote, log, program)
    os.kill(zygote.child, getattr(signal, number))
    status, words = ENDS[number]
    if program == "train_fold" and number == "SIGTERM":
        status, words = 75, "the state is stored"
    if program in ("feed", "train_step") and number == "SIGINT":
        status, words = 1, "KeyboardInterrupt"
    assert status_of(zygote) == status, log.read_text()
    assert words in log.read_text()
    assert ended(workers)


@pytest.mark.parametrize("program", WORKERS)
def test_a_worker_that_is_killed_ends_its_program_in_words(zygote, case, program) -> None:
    """As the system does where memory is short."""
    log = case / "log"
    zygote.start(program, arguments_of(program, case), str(log))
    seen = set(at_work(zygote, log, program))

    def kill() -> None:
        tasks = Path(f"/proc/{zygote.child}/task").glob("*/children")
        for worker in [int(word) for file in tasks for word in file.read_text().split()]:
            seen.add(worker)
            with suppress(ProcessLookupError):
                os.kill(worker, signal.SIGKILL)

    assert status_of(zygote, kill) == 1, log.read_text()
    text = log.read_text()
    assert "was killed (SIGKILL), most often because memory was short" in text
    assert program in ("feed", "train_step") or "Traceback" not in text
    assert ended(sorted(seen))


@pytest.mark.parametrize("program", ["train_fold", "predict_part", "measure_training_step"])
def test_arrays_that_are_cut_short_end_a_program_in_words(zygote, case, program) -> None:
    log = case / "log"
    zygote.start(program, arguments_of(program, case), str(log))
    workers = at_work(zygote, log, program)
    os.truncate(case / "arrays" / "shard_000.npy", 128)
    status = status_of(zygote)
    shutil.copy(case / "shard_kept.npy", case / "arrays" / "shard_000.npy")
    assert status == 1, log.read_text()
    text = log.read_text()
    assert "SIGBUS" in text and "cut short" in text and "Traceback" not in text
    assert ended(workers)
