"""GPU memory that training and prediction take at their peak, by torch's own count.

Training is an epoch of the real loop: three whole batches, a last one that is three images smaller
(the paper's has 61 of 64), and validation. Prediction runs ten networks on each batch, as
predict_part.py does. `allocated` is what tensors held at once, `reserved` what torch's allocator
held for them. A GPU that is too small gets batches in parts, or the row says that it does not fit.

    python benchmarks/gpu_memory.py --out benchmarks/gpu_memory.md
"""

import argparse
import datetime
import gc
import json
import logging
import os
import platform
import shlex
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from recipes import FLIPS, paper_recipe
from warnings_said import warnings_that_begin

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "workflow" / "scripts"))

from hpaloc.backends import ready
from hpaloc.checkpoint import Checkpoint
from hpaloc.compute import Compute, choose_compute, describe
from hpaloc.feed import view_batches
from hpaloc.files import write_text
from hpaloc.fold_data import FoldData
from hpaloc.gpu_lock import claim_gpus
from hpaloc.gpu_memory import is_shortage
from hpaloc.log import InputError, run_program
from hpaloc.network import build_network
from hpaloc.predict import mean_probabilities
from hpaloc.training import train

MIB = 2**20
# What cards sold with so much memory show of it, in MiB, the least and the most: T4 to A4000; A10
# and L4 with error correction to RTX 3090; H100 to A100.
CARDS = {"16 GB": (15_360, 16_376), "24 GB": (23_028, 24_576), "80 GB": (81_559, 81_920)}
# Beside torch's allocator, in MiB: the context of CUDA, the code of kernels and the libraries'
# handles take about 500; the rest is for the workspaces of cuDNN where the count has none.
BESIDE = 1_024
NETWORKS = 10
PAPER, SMALLER = "seresnext101_32x4d", "seresnext50_32x4d"


class Case(NamedTuple):
    """What is measured; ``optimizer`` is empty for prediction."""

    network: str
    size: int
    batch: int
    optimizer: str = "adadelta"
    is_compiled: bool = False


class Peak(NamedTuple):
    """MiB at most; ``part_size`` is how many images of a batch went through at a time."""

    allocated: float
    reserved: float
    part_size: int


def all_cases() -> list[Case]:
    """The table's rows: eager first, for compiling takes minutes."""
    batches = {224: (64,), 512: (64, 32), 1024: (64, 16)}
    sizes = [(size, batch) for size, counts in batches.items() for batch in counts]
    return [
        *(Case(name, size, batch) for name in (PAPER, SMALLER) for size, batch in sizes),
        Case(PAPER, 224, 64, "adamw"),
        *(Case(PAPER, size, counts[-1], "") for size, counts in batches.items()),
        Case(PAPER, 224, 64, "adadelta", True),
    ]


def short_cases(small: bool) -> list[Case]:
    """Those that gpu_check.py measures; or of a ``small`` network, to try the program."""
    if small:
        case = Case("seresnext_small", 64, 8)
        return [case, case._replace(optimizer=""), case._replace(is_compiled=True)]
    return [
        Case(PAPER, 224, 64),
        Case(SMALLER, 512, 64),
        Case(PAPER, 224, 64, ""),
        Case(PAPER, 224, 64, "adadelta", True),
    ]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--short", action="store_true", help="four cases only")
    parser.add_argument("--small", action="store_true", help="with --short: of a small network")
    parser.add_argument("--only", choices=("eager", "compiled"), help="a part of the cases")
    parser.add_argument("--minutes", type=float, default=60, help="no case starts after them")
    parser.add_argument("--workers", type=int, default=min(8, len(os.sched_getaffinity(0))))
    parser.add_argument("--note", default="", help="sentence about the machine, for the table")
    parser.add_argument("--out", help="table to write after every case (Markdown)")
    parser.add_argument("--json", help="the same as JSON")
    arguments = parser.parse_args(argv)
    claim_gpus(1)  # before anything starts CUDA; it says so where it has to wait
    if not torch.cuda.is_available():
        raise InputError(
            "no GPU that torch can use: gpu_memory.py counts the memory of one, and there is"
            " nothing to count on a CPU."
        )
    command = shlex.join(["python", "benchmarks/gpu_memory.py", *(argv or sys.argv[1:])])
    logging.getLogger("hpaloc").setLevel(logging.WARNING)
    started = time.monotonic()
    compute = choose_compute("auto", arguments.workers)
    recipe = paper_recipe()
    found: dict[Case, Peak | str] = {}
    for case in short_cases(arguments.small) if arguments.short else all_cases():
        if arguments.only and case.is_compiled != (arguments.only == "compiled"):
            continue
        if time.monotonic() - started > 60 * arguments.minutes:
            found[case] = f"not measured: {arguments.minutes:g} minutes were over"
        else:
            found[case] = peak(case, recipe, compute, arguments.workers)
        print(row(case, found[case]), flush=True)
        if arguments.out:
            write_text(report(found, compute, arguments.note, command), arguments.out)
        if arguments.json:
            write_text(json.dumps(as_records(found), indent=1), arguments.json)


def peak(case: Case, paper: dict[str, Any], compute: Compute, workers: int) -> Peak | str:
    """The memory of a case at its peak, or why there is no such figure."""
    recipe = paper | {
        "network": case.network,
        "image_size": case.size,
        "batch_size": case.batch,
        "compile": case.is_compiled,
        "pretrained": None,
        "augmentation": FLIPS,
        "epochs": 1,
        "loss": paper["loss"] | {"soft_f1": None},  # one epoch does not reach the others
        "tta": {"validation": {"kind": "none"}, "prediction": {"kind": "none"}},
    }
    torch.compiler.reset()
    gc.collect()  # what the case before has left
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    try:
        measured = trained if case.optimizer else predicted
        with warnings_that_begin("not compiled") as not_compiled:
            part_size = measured(case, recipe, compute, workers)
    except Exception as error:
        if not is_shortage(error):
            raise
        return "does not fit"
    if not_compiled:
        return "not compiled, see the log"
    return Peak(
        torch.cuda.max_memory_allocated() / MIB, torch.cuda.max_memory_reserved() / MIB, part_size
    )


def trained(case: Case, recipe: dict[str, Any], compute: Compute, workers: int) -> int:
    settings = {"name": case.optimizer, "learning_rate": 0.001, "weight_decay": 1e-4}
    data = made_fold(case.size, 4 * case.batch - 3, case.batch + 1, workers)
    with tempfile.TemporaryDirectory() as folder:
        state = train(
            recipe | {"optimizer": settings}, 1, data, Checkpoint(), Path(folder), None, compute
        )
    return min(state.part_size or case.batch, state.last_part_size or case.batch)


def predicted(case: Case, recipe: dict[str, Any], compute: Compute, workers: int) -> int:
    data = made_fold(case.size, 1, 3 * case.batch, workers)
    views, rows = recipe["tta"]["prediction"], data.validation_rows
    batches = view_batches(data.arrays, rows, recipe, views, "prediction", workers, case.batch)
    networks = [build_network(recipe).eval() for _ in range(NETWORKS)]
    with warnings_that_begin("the GPU's memory does not hold a batch") as smaller:
        mean_probabilities(
            ready(networks, recipe, "torch", compute), batches, len(rows), views, compute
        )
    return min((record.args[1] for record in smaller), default=case.batch)


def made_fold(size: int, training: int, validation: int, workers: int) -> FoldData:
    """A fold of 16 different images of noise, as often as needed."""
    rng = np.random.default_rng(1)
    pixels = rng.integers(0, 60, (16, size, size, 4), dtype=np.uint8)
    frame = pd.DataFrame({"image_id": [f"image {k}" for k in range(16)], "shard": 0})
    arrays = frame.assign(row=range(16)), [pixels]
    rows = np.arange(training + validation) % 16
    labels = rng.random((len(rows), 28)) < 0.06
    return FoldData(
        arrays, rows[:training], labels[:training], rows[training:], labels[training:], workers, 1
    )


def row(case: Case, found: Peak | str) -> str:
    what = f"training, {case.optimizer}" if case.optimizer else f"prediction, {NETWORKS} networks"
    how = "compiled" if case.is_compiled else "eager"
    head = f"| {what} | {case.network} | {case.size} | {case.batch} | {how} |"
    if isinstance(found, str):
        return f"{head} {found} | | |"
    parts, cards = "", suffices(found)
    if found.part_size < case.batch:  # what the whole batch takes was not seen
        parts = f" in parts of {found.part_size}"
        cards = "in parts here; other cards not known"
    return f"{head} {found.allocated:,.0f}{parts} | {found.reserved:,.0f} | {cards} |"


def suffices(found: Peak) -> str:
    """Which cards hold it: ``just`` where what is allocated fits into the largest of them, but not
    what is reserved into the smallest."""
    words = []
    for name, (least, most) in CARDS.items():
        answer = "in parts"
        if found.reserved + BESIDE <= least:
            answer = "yes"
        elif found.allocated + BESIDE <= most:
            answer = "just"
        words.append(f"{name} {answer}")
    return ", ".join(words)


def as_records(found: dict[Case, Peak | str]) -> list[dict[str, Any]]:
    return [
        case._asdict() | (peak._asdict() if isinstance(peak, Peak) else {"why": peak})
        for case, peak in found.items()
    ]


def report(found: dict[Case, Peak | str], compute: Compute, note: str, command: str) -> str:
    free, total = torch.cuda.mem_get_info()
    outside = (total - free - torch.cuda.memory_reserved()) / MIB
    precision = str(compute.dtype).removeprefix("torch.")
    least, most = (
        ", ".join(f"{size:,}" for size in sizes) for sizes in zip(*CARDS.values(), strict=True)
    )
    rows = "\n".join(row(case, peak) for case, peak in found.items())
    return f"""# Memory of the GPU

{datetime.date.today()}, {describe(compute.device)} with {total / MIB:,.0f} MiB, {precision}. Python {platform.python_version()},
torch {torch.__version__}, timm {version("timm")}.{" " + note if note else ""}

    {command}

| what | network | px | batch | | allocated, MiB | reserved, MiB | does a card suffice |
| --- | --- | --- | --- | --- | --- | --- | --- |
{rows}

Peaks of torch's allocator: `allocated` by tensors, `reserved` for them. On a GPU there are, beside
it, about 500 MiB for CUDA's context and the code of kernels; at the end of these measurements all
that was in use beside the allocator (by other programs too) was {outside:,.0f} MiB.
A card suffices (`yes`) where `reserved` and {BESIDE:,} MiB fit into the least that cards of its size show
({least} MiB). `just`: `allocated` and {BESIDE:,} MiB fit
into the most that they show ({most} MiB): it depends on the card, and where it runs the
allocator has to give back memory and ask for it again, which takes time. `in parts`: a batch
goes through in halves, quarters and so on, until they fit. In training its gradient is that of the
whole batch, batch norm takes its statistics from the parts, and the forward pass is made twice. Choose
a smaller `batch_size`, `image_size` or network where that matters. A compiled epoch has its peak in the
last batch, which is smaller and runs eager.
"""


if __name__ == "__main__":
    run_program(main)
