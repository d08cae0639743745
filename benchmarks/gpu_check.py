"""Checks on a real GPU, within minutes and without a network, that training and prediction work.

    make gpu-check
    python benchmarks/gpu_check.py --minutes 12 --out benchmarks/gpu_check_h100.md

The parts, each a process of its own with a limit on its time: the tests of tests/gpu/test_on_device.py;
the first steps of training on the CPU and on the GPU, compared; a fold of the demo, by Snakemake;
then measurements: the time of a step and of compiling, rates (train_step.py) and memory
(gpu_memory.py). A part for which no time is left is skipped, and said to be. The last line says whether all
is well, as does the exit status: 0 where every check was made and nothing failed, else 1. The table
is written after every part. Where other programs use the GPU it waits for it, within its time.
"""

import argparse
import datetime
import json
import logging
import os
import platform
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
import yaml
from gpu_memory import made_fold
from machine import cpu_model
from recipes import FLIPS, ROOT, paper_recipe

from hpaloc import schedule
from hpaloc.checkpoint import Checkpoint
from hpaloc.compiled import GRAPHS, wanted
from hpaloc.compute import Compute, choose_compute
from hpaloc.config import resolve
from hpaloc.device_batches import to_device
from hpaloc.feed import Batch
from hpaloc.files import write_text
from hpaloc.fold_data import FoldData, fold_data
from hpaloc.gpu_lock import claim_gpus
from hpaloc.history import STEP_NUMBERS
from hpaloc.log import InputError, duration, run_program
from hpaloc.predict import mean_probabilities
from hpaloc.ranks import ALONE
from hpaloc.training import set_up, train_epoch, train_step

STEPS = 20
# How far GPU and CPU may be apart: of the loss of the first step and of all STEPS, relative; of
# the probabilities of validation images after them, absolute. Rounding makes differences that grow
# from step to step: on a CPU, other kernels (without oneDNN) moved losses of a small network by 9e-7
# and probabilities by 1e-6 in float32; bfloat16 moved them by 4e-4 (first), 2e-2 and 5e-2.
TOLERANCES = {"float32": (1e-4, 5e-3, 1e-2), "bfloat16": (5e-3, 0.05, 0.1)}
OK, FAILED, SKIPPED = "ok", "FAILED", "skipped"
_SAID_EVERY_S = 20


class Part(NamedTuple):
    """A process and its limits in seconds: the most that it may take, and the least that must be
    left for it to begin. ``is_check``: without it nothing can be said to be well."""

    name: str
    what: str
    most: float
    least: float
    is_check: bool


class Outcome(NamedTuple):
    status: str
    said: str
    seconds: float
    found: dict[str, Any]


PARTS = [
    Part("images", "simulated images, arrays and folds of the demo", 120, 10, True),
    Part("tests", "tests/gpu/test_on_device.py", 240, 30, True),
    Part("compare", f"the first {STEPS} steps on the CPU and on the GPU", 90, 20, True),
    Part("demo", "a fold of the demo, trained by the workflow", 210, 40, True),
    Part("speed", "a step of the paper's recipe, and its start", 180, 40, False),
    Part("restart", "its start again, with what was compiled", 90, 20, False),
    Part("rates", "train_step.py in short", 180, 60, False),
    Part("memory", "gpu_memory.py in short", 120, 30, False),
]
NEEDS = {"compare": ["images"], "demo": ["images"], "restart": ["speed"]}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, default=12, help="for all parts together")
    parser.add_argument("--out", type=Path, help="table to write (Markdown; JSON beside it)")
    parser.add_argument("--parts", nargs="+", choices=[part.name for part in PARTS])
    parser.add_argument(
        "--small", action="store_true", help="small networks and few images: tries this program"
    )
    parser.add_argument("--part", help=argparse.SUPPRESS)  # of the processes that it starts
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.part:
        found = WITHIN[arguments.part](arguments.folder, arguments.small)
        write_text(json.dumps(found), str(_answer(arguments.folder, arguments.part)))
        return
    if arguments.minutes <= 0:
        raise InputError(f"--minutes {arguments.minutes:g}: give a time, such as 12.")
    begun = time.monotonic()
    claim_within(arguments.minutes)  # before anything starts CUDA, and for all parts
    logging.getLogger("hpaloc").setLevel(logging.WARNING)
    if not torch.cuda.is_available():
        raise InputError(
            f"no GPU that torch can use: torch {torch.__version__} is built for CUDA"
            f" {torch.version.cuda or '(none)'} and finds none on this machine; nothing was"
            " checked. `nvidia-smi` shows whether there is a GPU and how new its driver is."
        )
    command = shlex.join(["python", "benchmarks/gpu_check.py", *(argv or sys.argv[1:])])
    for number in (signal.SIGTERM, signal.SIGHUP):  # a part ends with this process
        signal.signal(number, lambda *_: sys.exit(1))
    parts = [part for part in PARTS if arguments.parts is None or part.name in arguments.parts]
    folder = Path(tempfile.mkdtemp(prefix="gpu_check_"))
    outcomes: dict[Part, Outcome] = {}
    try:
        machine = _machine(folder, arguments.small)
        print(f"{machine['device']}, driver {machine['driver']}, torch {torch.__version__}")
        out = arguments.out or table_of(machine["device"], arguments.small)
        for number, part in enumerate(parts, 1):
            left = 60 * arguments.minutes - (time.monotonic() - begun)
            head = f"[{number} of {len(parts)}, {duration(max(0, left))} left] {part.name}"
            missing = [name for name in NEEDS.get(part.name, ()) if not _is_ok(name, outcomes)]
            if missing:
                outcomes[part] = Outcome(SKIPPED, f"it needs {missing[0]}", 0, {})
            else:
                outcomes[part] = run_part(part, folder, arguments.small, left, head)
            print(f"{head}: {outcomes[part].status}, {outcomes[part].said}", flush=True)
            is_over = number == len(parts)
            write_text(report(outcomes, machine, arguments, command, is_over), str(out))
            record = {"machine": machine, "command": command, "parts": _as_json(outcomes)}
            write_text(json.dumps(record, indent=1), str(out.with_suffix(".json")))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    words = verdict(outcomes)
    if arguments.small:
        words += "; with small networks and few images, a trial of the program"
    print(f"{words} ({duration(time.monotonic() - begun)}; {out})")
    if not is_well(outcomes):
        sys.exit(1)


def claim_within(minutes: float) -> None:
    """Claims a GPU, which the log says where others have it. Raises InputError after ``minutes``."""

    def give_up(*_: Any) -> None:
        raise InputError(
            f"the GPU was in use for all of --minutes {minutes:g}, and nothing was checked: see above"
            " by what. Run again when that has ended."
        )

    former = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, 60 * minutes)
    try:
        claim_gpus(1)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, former)


def table_of(device: str, small: bool) -> Path:
    """Where the table goes by default: a trial with ``small`` networks replaces no real one."""
    name = re.sub(r"[^a-z0-9]+", "_", device.lower()).strip("_")
    return ROOT / "benchmarks" / f"gpu_check_{name}{'_small' if small else ''}.md"


# Parts, as seen from outside.


def run_part(part: Part, folder: Path, small: bool, left: float, head: str) -> Outcome:
    """Runs a part's process within its time; its output is kept in ``folder``."""
    if left < part.least:
        return Outcome(SKIPPED, f"it needs {duration(part.least)} at least", 0, {})
    limit = left if small else min(part.most, left)  # small: however slow the machine is
    print(f"{head}: {part.what}, at most {duration(limit)}", flush=True)
    output, begun = folder / f"{part.name}.log", time.monotonic()
    with output.open("w", encoding="utf-8") as log:
        process = subprocess.Popen(
            command_of(part.name, folder, small), stdout=log, stderr=log, cwd=ROOT,
            env=environment_of(part.name, folder), start_new_session=True,
        )  # fmt: skip
        try:
            status = _waited(process, limit, head)
        finally:
            _end(process)
    seconds = time.monotonic() - begun
    text = output.read_text(encoding="utf-8", errors="replace")
    try:
        found = json.loads(_answer(folder, part.name).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        found = {}
    found["output"] = text[-4000:]
    if (table := folder / f"{part.name}.md").exists():  # written after every case
        found["table"] = table.read_text(encoding="utf-8")
        found.setdefault("said", "measured, see below")
    if status is None:
        said = f"not ready after {duration(limit)}; {_last_line(text)}"
        # A measurement for which the machine is too slow is no fault of the program.
        is_short = limit < part.most or not part.is_check
        return Outcome(SKIPPED if is_short else FAILED, said, seconds, found)
    if part.name == "tests":
        return Outcome(OK if status == 0 else FAILED, _last_line(text), seconds, found)
    if status != 0:
        return Outcome(FAILED, f"exit status {status}: {_last_line(text)}", seconds, found)
    faults = found.get("faults", [])
    said = "; ".join(faults) or found.get("said", "")
    return Outcome(FAILED if faults else OK, said, seconds, found)


def command_of(name: str, folder: Path, small: bool) -> list[str]:
    python, here = sys.executable, ROOT / "benchmarks"
    tiny = ["--small"] if small else []
    match name:
        case "tests":
            options = ["-p", "no:cacheprovider", "--tb=short", "--show-capture=no", "-rfEs"]
            return [python, "-m", "pytest", "tests/gpu/test_on_device.py", *options]
        case "rates":
            network, size = ("seresnext_small", 64) if small else ("seresnext50_32x4d", 512)
            options = [
                "--networks", network, "--sizes", str(size), "--repeats", "1", "--seconds", "3",
                "--images", "256", "--only", "training", "forward", "prediction, four",
            ]  # fmt: skip
            if small:
                options += ["--images", "16", "--batch-size", "4", "--seconds", "0.1"]
            out = ["--out", str(folder / "rates.md")]
            return [python, str(here / "train_step.py"), *options, *out]
        case "memory":
            options = ["--short", *tiny, "--out", str(folder / "memory.md"), "--minutes", "1"]
            return [python, str(here / "gpu_memory.py"), *options]
        case _:
            options = ["--part", name, "--folder", str(folder), *tiny]
            return [python, str(here / "gpu_check.py"), *options]


def environment_of(name: str, folder: Path) -> dict[str, str]:
    environment = os.environ | {"COLUMNS": "250"}  # pytest cuts its reasons to this width
    if name in ("compare", "tests"):
        environment["NVIDIA_TF32_OVERRIDE"] = "0"  # float32 is to be float32
    if name in ("speed", "restart"):  # what an earlier run compiled is no part of the time
        environment["TORCHINDUCTOR_CACHE_DIR"] = str(folder / "inductor")
        environment["TRITON_CACHE_DIR"] = str(folder / "triton")
    return environment


def _waited(process: subprocess.Popen, limit: float, head: str) -> int | None:
    begun = time.monotonic()
    while (left := limit - (time.monotonic() - begun)) > 0:
        try:
            return process.wait(min(_SAID_EVERY_S, left))
        except subprocess.TimeoutExpired:
            passed = time.monotonic() - begun
            print(f"{head}: since {duration(passed)}, at most {duration(limit)}", flush=True)
    return None


def _end(process: subprocess.Popen) -> None:
    """Ends a part's process and all that it has started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _answer(folder: Path, name: str) -> Path:
    return folder / f"{name}.json"


def _last_line(text: str) -> str:
    lines = [line.strip(" =") for line in text.splitlines() if line.strip(" =")]
    return lines[-1][:300] if lines else "it has written nothing"


def _machine(folder: Path, small: bool) -> dict[str, Any]:
    # Not in this process: its context would take memory of the GPU all the time.
    outcome = run_part(Part("machine", "the machine", 120, 0, True), folder, small, 120, "first")
    if outcome.status != OK:
        raise InputError(f"the GPU cannot be used: {outcome.said}")
    return {key: value for key, value in outcome.found.items() if key != "output"}


# Parts, as they run.


def machine(folder: Path, small: bool) -> dict[str, Any]:
    properties = torch.cuda.get_device_properties(0)
    torch.zeros(1, device="cuda").add_(1)
    torch.cuda.synchronize()
    words = shutil.which("nvidia-smi") and subprocess.run(
        ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"],
        capture_output=True, text=True, check=False,
    ).stdout.split()  # fmt: skip
    return {
        "device": properties.name,
        "memory_mib": properties.total_memory // 2**20,
        "capability": f"{properties.major}.{properties.minor}",
        "driver": words[0] if words else "unknown",
    }


def images(folder: Path, small: bool) -> dict[str, Any]:
    """The demo's training images as the workflow makes them, and the check's configuration."""
    recipe = {"gpus_per_fold": 1, "run": "gpu_check", "folds": {"train": [1]}}
    if small:
        recipe["sources"] = {"demo_train": {"images": 120}}
        recipe["recipes"] = {"demo": {"epochs": 2, "batch_size": 4}}
    (folder / "overlay.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    _snakemake(folder, "results/gpu_check/folds/folds.parquet")
    data, _ = _demo(folder)
    return {"said": f"{len(data.rows)} images to train on, {len(data.validation_rows)} to validate"}


def compare(folder: Path, small: bool) -> dict[str, Any]:
    """The same steps on both devices: same weights, batches and losses, no dropout, not compiled."""
    data, recipe = _demo(folder)
    recipe |= {"dropout": 0.0, "compile": False}
    if small:
        recipe["batch_size"] = 4
    count = STEPS * recipe["batch_size"]
    rows = np.resize(np.arange(len(data.rows)), count)
    data = replace(
        data,
        rows=data.rows[rows],
        labels=data.labels[rows],
        validation_rows=data.validation_rows[:32],
        validation_labels=data.validation_labels[:32],
    )
    faults, said, found = [], [], {}
    for precision, most in TOLERANCES.items():
        dtype = getattr(torch, precision)
        if dtype is torch.bfloat16 and not torch.cuda.is_bf16_supported(including_emulation=False):
            said.append("this GPU has no bfloat16")
            continue
        losses, answers = zip(
            *(first_steps(recipe, data, Compute(torch.device(name), dtype)) for name in DEVICES),
            strict=True,
        )
        apart = np.abs(losses[1] - losses[0]) / np.abs(losses[0])
        seen = float(apart[0]), float(apart.max()), float(np.abs(answers[1] - answers[0]).max())
        names = "loss of the first step", f"losses of {STEPS} steps", "probabilities"
        for name, value, limit in zip(names, seen, most, strict=True):
            if not value <= limit:  # a value that is no number neither
                faults.append(f"{precision}: {name} {value:.2g} apart (at most {limit:g})")
        said.append(f"{precision}: " + ", ".join(f"{value:.1e}" for value in seen) + " apart")
        found[precision] = {"apart": seen, "cpu": losses[0].tolist(), "gpu": losses[1].tolist()}
    return {"faults": faults, "said": "; ".join(said), **found}


DEVICES = ("cpu", "cuda")


def first_steps(
    recipe: dict[str, Any], data: FoldData, compute: Compute
) -> tuple[np.ndarray, np.ndarray]:
    """The losses of an epoch's steps, and the probabilities of validation images after it."""
    state = Checkpoint(plateau=schedule.new_plateau(recipe["optimizer"]["learning_rate"]))
    setup = set_up(recipe, 1, data, compute, None, ALONE, state)
    train_epoch(setup, state, lambda _: None)
    losses = np.array([row[STEP_NUMBERS.index("loss_total")] for row in state.steps])
    setup.network.eval()
    (answers,) = mean_probabilities(
        [setup.network], data.validation_batches(recipe, 1), len(data.validation_rows),
        recipe["tta"]["validation"], compute,
    )  # fmt: skip
    return losses, answers


def demo(folder: Path, small: bool) -> dict[str, Any]:
    """Fold 1 of the demo through Snakemake and train_fold.py, and whether it has learned."""
    _snakemake(folder, "results/gpu_check/models/demo/fold1/weights.safetensors")
    results = folder / "results" / "gpu_check"
    epochs = pd.read_parquet(results / "models/demo/fold1/epochs.parquet")
    steps = pd.read_parquet(results / "models/demo/fold1/steps.parquet")
    log = (results / "logs/train_fold/demo/fold1.log").read_text(encoding="utf-8")
    data, _ = _demo(folder)
    # The other losses, which come later, are not for the BCE to fall.
    by_epoch = steps[steps["phase"] == schedule.BCE].groupby("epoch")["bce"].mean()
    first, last = float(by_epoch.iloc[0]), float(by_epoch.iloc[-1])
    score, constant = float(epochs["validation_macro_f1"].max()), best_constant(data)
    faults = []
    if "(cuda)" not in log:
        faults.append("the log does not say that it ran on the GPU")
    if not last < first:
        faults.append(
            f"the BCE does not fall: {first:.4f} in the first epoch with it, {last:.4f} in the last"
        )
    if not score > constant:
        faults.append(
            f"macro F1 {score:.4f} is not above {constant:.4f}, the best constant answer's"
        )
    said = (
        f"{len(epochs)} epochs: BCE {first:.4f} to {last:.4f}, validation macro F1 {score:.4f}"
        f" (best constant answer {constant:.4f})"
    )
    return {"faults": faults, "said": said, "log": log[-4000:]}


def best_constant(data: FoldData) -> float:
    """Macro F1 of the constant answer that has the best one: every class, for every image."""
    shares = data.validation_labels.mean(0)
    return float((2 * shares / (1 + shares)).mean())


def speed(folder: Path, small: bool) -> dict[str, Any]:
    """Steps of the paper's recipe on a batch that lies on the GPU: with and without
    deterministic algorithms, compiled, and as CUDA graphs; and the time until the first step."""
    recipe, compute = _paper(small), choose_compute("auto", 8)
    measured = {}
    for name, is_on in (("deterministic", True), ("any algorithm", False)):
        torch.use_deterministic_algorithms(is_on, warn_only=True)
        measured[name] = _rate(recipe | {"compile": False}, compute)
    torch.use_deterministic_algorithms(True, warn_only=True)
    measured["compiled, deterministic"] = _rate(recipe | {"compile": True}, compute)
    start = measured["compiled, deterministic"]
    measured["the same as CUDA graphs"] = _rate(recipe | {"compile": GRAPHS}, compute)
    rates = {f"{name}{rate.remark}": rate.images_per_second for name, rate in measured.items()}
    said = ", ".join(f"{name} {rate:,.0f} images/s" for name, rate in rates.items())
    return {
        "said": f"{said}; {start.start_s:.0f} s to the first step, compiled{start.remark}",
        "rates": rates,
        "start_s": start.start_s,
    }


def restart(folder: Path, small: bool) -> dict[str, Any]:
    """The same start in another process, which finds what ``speed`` compiled."""
    rate = _rate(_paper(small) | {"compile": True}, choose_compute("auto", 8))
    said = f"{rate.start_s:.0f} s to the first step, compiled before{rate.remark}"
    return {"said": said, "start_s": rate.start_s}


class Rate(NamedTuple):
    """Seconds until the first step was made, images a second after it, and what has to stand
    beside them: that the network was to be compiled and was not."""

    start_s: float
    images_per_second: float
    remark: str


def _rate(recipe: dict[str, Any], compute: Compute, seconds: float = 3) -> Rate:
    begun, size = time.monotonic(), recipe["batch_size"]
    data = made_fold(recipe["image_size"], size, 1, 0)
    state = Checkpoint(plateau=schedule.new_plateau(recipe["optimizer"]["learning_rate"]))
    setup = set_up(recipe, 1, data, compute, None, ALONE, state)
    batch = next(data.training_batches(recipe, 1))
    images, targets = (to_device(tensor, compute) for tensor in batch[:2])
    batch = Batch(images, targets, batch.rows)

    def step(number: int) -> None:
        train_step(setup, batch, number, schedule.BCE, 0.01, size)

    step(1)
    torch.cuda.synchronize()
    start = time.monotonic() - begun
    for number in range(2, 7):  # cuDNN chooses, clocks rise
        step(number)
    torch.cuda.synchronize()
    begun, made = time.monotonic(), 0
    while time.monotonic() - begun < seconds:
        for number in range(10):
            step(7 + made + number)
        made += 10
        torch.cuda.synchronize()
    rate = made * size / (time.monotonic() - begun)
    is_missing = wanted(recipe["compile"], compute) and setup.forward is setup.network
    return Rate(start, rate, " (NOT COMPILED, see its output)" if is_missing else "")


def _paper(small: bool) -> dict[str, Any]:
    recipe = paper_recipe() | {"pretrained": None, "augmentation": FLIPS}
    tiny = {"network": "seresnext_small", "image_size": 64, "batch_size": 4}
    return recipe | tiny if small else recipe


def _snakemake(folder: Path, target: str) -> None:
    command = [
        sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"),
        "--directory", str(folder), "--workflow-profile", "none", "--cores", "all",
        "--resources", "gpu=1", "--show-failed-logs", target,
        "--configfile", str(ROOT / "config/demo.yaml"), str(folder / "overlay.yaml"),
    ]  # fmt: skip
    status = subprocess.run(command, check=False).returncode
    if status:
        sys.exit(f"Snakemake ended with status {status} and without {target}")


def _demo(folder: Path) -> tuple[FoldData, dict[str, Any]]:
    """Fold 1 of what ``images`` made, and the demo's recipe."""
    from snakemake.utils import update_config

    config = yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8"))
    for overlay in (ROOT / "config/demo.yaml", folder / "overlay.yaml"):
        update_config(config, yaml.safe_load(overlay.read_text(encoding="utf-8")))
    (arrays,) = folder.glob("results/sources/demo_train/arrays_*/index.parquet")
    workers = min(8, len(os.sched_getaffinity(0)))
    data = fold_data(arrays, folder / "results/gpu_check/folds/folds.parquet", 1, workers)
    return data, resolve(config)["recipes"]["demo"]


WITHIN: dict[str, Callable[[Path, bool], dict[str, Any]]] = {
    function.__name__: function for function in (machine, images, compare, demo, speed, restart)
}


# What is said of it.


def is_well(outcomes: dict[Part, Outcome]) -> bool:
    """Whether every check of PARTS was made and is well, and no measurement failed."""
    return not _failed(outcomes) and all(
        _is_ok(part.name, outcomes) for part in PARTS if part.is_check
    )


def _failed(outcomes: dict[Part, Outcome]) -> bool:
    return any(outcome.status == FAILED for outcome in outcomes.values())


def _is_ok(name: str, outcomes: dict[Part, Outcome]) -> bool:
    return any(part.name == name and outcome.status == OK for part, outcome in outcomes.items())


def verdict(outcomes: dict[Part, Outcome], is_over: bool = True) -> str:
    """All in one line; where it ``is_over`` not yet, what was found so far."""
    if _failed(outcomes):
        head = "NOT WELL"
    elif not is_over:
        head = "UNFINISHED"
    else:
        head = "ALL IS WELL" if is_well(outcomes) else "NOT ALL CHECKED"
    by_status = {
        status: [part.name for part, outcome in outcomes.items() if outcome.status == status]
        for status in (OK, FAILED, SKIPPED)
    }
    words = [head]
    words += [f"{status}: {', '.join(names)}" for status, names in by_status.items() if names]
    ran = {part.name for part in outcomes}
    if missing := [part.name for part in PARTS if part.name not in ran]:
        words.append(f"not run: {', '.join(missing)}")
    return "; ".join(words)


def _as_json(outcomes: dict[Part, Outcome]) -> dict[str, Any]:
    return {part.name: outcome._asdict() for part, outcome in outcomes.items()}


def report(
    outcomes: dict[Part, Outcome],
    machine: dict[str, Any],
    arguments: argparse.Namespace,
    command: str,
    is_over: bool,
) -> str:
    rows = "\n".join(
        f"| {part.name} | {part.what} | {outcome.status} | {outcome.seconds:.0f} s |"
        f" {outcome.said.replace('|', '/')} |"
        for part, outcome in outcomes.items()
    )
    tables = "\n".join(
        re.sub(r"^#", "##", outcome.found["table"], flags=re.MULTILINE)
        for outcome in outcomes.values()
        if "table" in outcome.found
    )
    small = "\n**With small networks and few images: a trial of the program.**\n"
    tolerances = "; ".join(
        f"{name} {first:g}, {all_steps:g}, {answers:g}"
        for name, (first, all_steps, answers) in TOLERANCES.items()
    )
    return f"""# Check on a GPU

{datetime.date.today()}, {machine["device"]} ({machine["memory_mib"]:,} MiB, compute capability {machine["capability"]}),
driver {machine["driver"]}, torch {torch.__version__}, timm {version("timm")}, Python {platform.python_version()}; {len(os.sched_getaffinity(0))} cores of
{cpu_model()}. {verdict(outcomes, is_over)}.
{small if arguments.small else ""}
    {command}

| part | what | | time | found |
| --- | --- | --- | --- | --- |
{rows}

CPU and GPU may be apart, relative for the loss of the first step and of all {STEPS}, absolute for
the probabilities after them: {tolerances}. float32 is compared without TF32.

{tables}"""


if __name__ == "__main__":
    run_program(main)
