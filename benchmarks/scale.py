"""What a million images cost: planning, operations on the index, and GPU hours and disk by stage.

The plan is Snakemake's own, a dry run of a copy of this project with a simulated configuration: no
image is there. Operations on the index are the library's, on a made index of as many rows. The
table of costs is computed from rates, which it names; those of GPUs are arithmetic.

    python benchmarks/scale.py --out benchmarks/scale.md
"""

import argparse
import datetime
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import yaml
from machine import cpu_model

PROJECT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(PROJECT / "workflow" / "scripts"))

from hpaloc.classes import PROBABILITY_COLUMNS, multi_hot
from hpaloc.files import write_parquet, write_text
from hpaloc.folds import connected_units, fold_counts, make_folds
from hpaloc.index import read_index, write_index
from hpaloc.parts import collect, part_table
from hpaloc.predictions import truth_of
from hpaloc.shards import positions_of

PARTS = ["Snakefile", "config.yaml", "config", "profiles", "workflow", "envs", "resources"]
PAPER = {"train": 31_072, "test": 11_111}
# Measured; where: benchmarks/convert.md, benchmarks/audit.md, benchmarks/feed.md.
CONVERT_MS = 27.4  # per image and core, four JPEG files of 1728 px
HASHED_PER_S = 1_164  # per thread
COMPARED_S, COMPARED_IMAGES = 50.0, 31_072  # core seconds, all pairs: grows with the square
FEED_CORES = 6  # that make batches as fast as the GPU below takes them
# Arithmetic, not measured: SE-ResNeXt101 at 224 px on an H100, forward and backward.
TRAINED_PER_S = 1_533
PREDICTED_PER_S = 3 * TRAINED_PER_S  # the forward pass is a third of a step
EPOCHS = 45  # the paper's network is of epoch 44
VIEWS = 4  # of validation and of test images
STATE_GB = 2.2  # a fold's outputs and its checkpoints
ARGUMENT_BYTES = 131_072  # the longest argument that Linux hands to a program: `bash -c COMMAND`


class Used(NamedTuple):
    """``wall`` and ``cpu`` in seconds, ``memory`` in MB at most."""

    wall: float
    cpu: float
    memory: float


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", help="report to write (Markdown)")
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--images-per-shard", type=int, default=1_000)
    parser.add_argument("--recipes", type=int, default=32)
    parser.add_argument("--folds", type=int, default=10)
    parser.add_argument("--fewer", type=int, default=100_000, help="images to fold and collect")
    arguments = parser.parse_args(argv)

    with tempfile.TemporaryDirectory() as scratch:
        plan, jobs = planned(Path(scratch) / "project", arguments)
        operations, row_bytes = index_operations(Path(scratch), arguments)
    command = shlex.join(["python", "benchmarks/scale.py", *(argv or sys.argv[1:])])
    text = report(plan, jobs, operations, row_bytes, arguments, command)
    print(text)
    if arguments.out:
        write_text(text, arguments.out)


def planned(project: Path, arguments: argparse.Namespace) -> tuple[Used, int]:
    """A dry run that trains all recipes on all folds and predicts by one; number of its jobs."""
    for part in PARTS:
        source = PROJECT / part
        copy = shutil.copytree if source.is_dir() else shutil.copy2
        project.mkdir(exist_ok=True)
        copy(source, project / part)
    recipes = {
        f"r{number:02d}": {"inherit": "paper", "seed": number}
        for number in range(arguments.recipes)
    }
    folds = list(range(1, arguments.folds + 1))
    config = {
        "run": "scale",
        "train_source": "many",
        "sources": {"many": {"kind": "kaggle", "folder": "many", "images": arguments.images}},
        "arrays": {"images_per_shard": arguments.images_per_shard},
        "folds": {"n": arguments.folds, "train": folds},
        "recipes": recipes,
        "train": list(recipes),
        "evaluate": ["r00"],
        "generations": ["r00"],
    }
    (project / "config/scale.yaml").write_text(yaml.safe_dump(config))
    snakemake = Path(sys.executable).parent / "snakemake"
    command = [snakemake, "-n", "train", "predict", "--configfile", "config/scale.yaml"]
    with open(project / "plan.txt", "w+", encoding="utf-8") as said:
        start = time.perf_counter()
        process = subprocess.Popen(command, cwd=project, stdout=said, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        said.seek(0)
        text = said.read()
    if process.returncode:
        sys.exit(f"the plan failed:\n{text[-2000:]}")
    jobs = int(re.search(r"^total\s+(\d+)", text, re.MULTILINE)[1])
    return Used(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1000), jobs


def index_operations(scratch: Path, arguments: argparse.Namespace) -> tuple[dict[str, Used], float]:
    """Seconds of each operation, once; bytes of memory of a row of the index."""
    used: dict[str, Used] = {}

    def timed(name: str, operation: Callable[[], Any]) -> Any:
        wall, cpu = time.perf_counter(), time.process_time()
        result = operation()
        used[name] = Used(time.perf_counter() - wall, time.process_time() - cpu, 0)
        return result

    path = scratch / "index.parquet"
    made = made_index(arguments.images, arguments.images_per_shard)
    timed("write the index", lambda: write_index(made, path))
    index = timed("read the index", lambda: read_index(path))
    ids = index["image_id"].sample(frac=1, random_state=1)
    timed("join: find all ids, shuffled", lambda: positions_of(index, ids))
    timed("join: labels of all ids, shuffled", lambda: truth_of(index, ids, "images"))
    timed("labels as a matrix", lambda: multi_hot(index["labels"]))
    some = set(index["antibody"].unique()[:1000])
    timed("filter: 1,000 antibodies", lambda: index[index["antibody"].isin(some)])
    timed("group: images of each antibody", lambda: index.groupby("antibody")["image_id"].count())
    timed(
        "group: units by antibody and gene",
        lambda: connected_units(index, ["parent", "antibody", "gene"]),
    )
    folds = pd.DataFrame({"image_id": ids, "fold": np.arange(len(ids)) % arguments.folds + 1})
    timed("label counts of the folds", lambda: fold_counts(folds, index, arguments.folds))

    fewer = index.iloc[: arguments.fewer].reset_index(drop=True)
    much = f"{len(fewer):,} images"
    timed(f"make folds, {much}", lambda: make_folds(fewer, arguments.folds, 1, []))
    timed(
        f"make folds by antibody, {much}",
        lambda: make_folds(fewer, arguments.folds, 1, ["antibody"]),
    )
    numbers = list(range(1, arguments.folds + 1))
    parts = []
    for number, rows in enumerate(np.array_split(np.arange(len(fewer)), 5)):
        probability = np.full((len(numbers), len(rows), len(PROBABILITY_COLUMNS)), 0.5, np.float32)
        table = part_table(fewer["image_id"].to_numpy()[rows], numbers, probability)
        parts.append(scratch / f"part_{number}.parquet")
        write_parquet(table, parts[-1])
    timed(
        f"collect predictions, {much} × {len(numbers)} folds",
        lambda: collect(parts, numbers, fewer["image_id"]),
    )
    return used, index.memory_usage(deep=True).sum() / len(index)


def made_index(images: int, images_per_shard: int) -> pd.DataFrame:
    """An index of arrays with ids, antibodies, genes and labels as Kaggle and the atlas have."""
    rng = np.random.default_rng(1)
    counts = rng.integers(1, 4, images)
    antibody = rng.integers(0, max(images // 4, 1), images)
    ids = [f"{number:08x}-bbb5-11e8-b2ba-ac1f6b6435d0" for number in rng.permutation(images)]
    return pd.DataFrame(
        {
            "image_id": ids,
            "parent": ids,
            "source": "many",
            "antibody": [f"HPA{number:06d}" for number in antibody],
            "gene": [f"ENSG{number // 2:011d}" for number in antibody],
            "cell_line": "U-2 OS",
            "labels": [sorted(set(rng.integers(0, 28, count).tolist())) for count in counts],
            **dict.fromkeys(("x", "y"), 0),
            **dict.fromkeys(("width", "height"), 512),
            "shard": np.arange(images) // images_per_shard,
            "row": np.arange(images) % images_per_shard,
        }
    )


def costs(train: int, test: int, recipes: int, folds: int, extra: int) -> list[tuple[str, ...]]:
    """Rows of the table: stage, core hours, GPU hours, disk in GB; ``extra`` folds are trained for
    the generations."""
    images, jobs = train + test, recipes * folds + extra
    steps = EPOCHS * train * ((folds - 1) / folds + VIEWS / folds / 3)
    gpu = jobs * steps / TRAINED_PER_S / 3600
    predicted = VIEWS * folds * test / PREDICTED_PER_S / 3600
    probabilities = 4 * len(PROBABILITY_COLUMNS) * test * (2 * folds + 2) / 1e9
    compared = COMPARED_S * (train / COMPARED_IMAGES) ** 2 * (1 + test / train) ** 2 / 3600
    return [
        ("arrays, 512 px", f"{images * CONVERT_MS / 3.6e6:,.1f}", "", f"{images * 2**20 / 1e9:,.0f}"),
        ("audit: hashes", f"{images / HASHED_PER_S / 3600:,.2f}", "", f"{images * 4e-6:,.1f}"),
        ("audit: all pairs", f"{compared:,.2f}", "", ""),
        (f"training, {jobs} folds", f"{gpu * FEED_CORES:,.0f}", f"{gpu:,.1f}", f"{jobs * STATE_GB:,.0f}"),
        ("prediction by one recipe", "", f"{predicted:,.2f}", f"{probabilities:,.2f}"),
    ]  # fmt: skip


def grid(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in lines)


def report(
    plan: Used,
    jobs: int,
    operations: dict[str, Used],
    row_bytes: float,
    arguments: argparse.Namespace,
    command: str,
) -> str:
    shards = -(-arguments.images // arguments.images_per_shard)
    longest = len("results/sources/many/arrays_512/shard_0000.parquet ")
    names = ("snakemake", "pandas", "pyarrow", "numpy")
    versions = ", ".join(f"{name} {version(name)}" for name in names)
    timed = [(name, f"{used.wall:.1f}", f"{used.cpu:.1f}") for name, used in operations.items()]
    head = ("stage", "core hours", "GPU hours", "disk, GB")
    paper = costs(PAPER["train"], PAPER["test"], 1, 10, 2)
    many = costs(arguments.images, PAPER["test"], arguments.recipes, arguments.folds, 0)
    return f"""# A million images

{datetime.date.today()}, {os.cpu_count()} cores of {cpu_model()}, Python {platform.python_version()},
{versions}; load average {os.getloadavg()[1]:.1f} (1 is this program). Where the load is above the number
of cores, the wall clock says less than the seconds of the processor.

    {command}

## Planning

{arguments.images:,} images in {shards:,} shards; {arguments.recipes} recipes × {arguments.folds} folds trained, one recipe predicted: {jobs:,} jobs, nothing made yet.

| | seconds | of a processor | memory, MB |
| --- | --- | --- | --- |
| `snakemake -n train predict` | {plan.wall:.1f} | {plan.cpu:.1f} | {plan.memory:.0f} |

## The index at {arguments.images:,} rows

{grid(("operation", "seconds", "of a processor"), timed)}

## What each stage costs

The paper: {PAPER["train"]:,} training and {PAPER["test"]:,} test images, one recipe on ten folds and two folds of
generations.

{grid(head, paper)}

{arguments.images:,} training and {PAPER["test"]:,} test images, {arguments.recipes} recipes × {arguments.folds} folds.

{grid(head, many)}

Measured: {CONVERT_MS} ms per image and core for the arrays (convert.md), {HASHED_PER_S:,} images/s and thread for
hashes and {COMPARED_S:.0f} core seconds for all pairs of {COMPARED_IMAGES:,} (audit.md), {FEED_CORES} cores that feed a GPU (feed.md).
**Not measured**: {TRAINED_PER_S:,} images/s trained and {PREDICTED_PER_S:,} predicted with the paper's SE-ResNeXt101 at 224 px
on an H100 are arithmetic, from operations and memory traffic; {EPOCHS} epochs are the paper's. A fold keeps
{STATE_GB} GB with its checkpoints; of finished folds `results/state/` may be deleted.

## Where it stops being right

- **Shards.** The commands of `list_quarantine` and `index_arrays` name every shard's table, and a command is one
  argument of at most {ARGUMENT_BYTES // 1024} KiB: about {ARGUMENT_BYTES // longest:,} shards. Beyond, `images_per_shard` has to be larger: 4,000 images are
  a shard of 4 GiB and {4000 * CONVERT_MS / 60e3:.0f} minutes of one core, and ten million images fit.
  Sources of more than 100 shards are no longer inputs of every job that reads them; the index stands for them.
- **The index** is read whole, {row_bytes:.0f} bytes of memory a row: right up to some ten million rows ({row_bytes / 100:.0f} GB, and ten
  times the seconds above). Above, it would have to be a partitioned data set that is filtered while it is read.
- **Folds** are dealt out image by image: the time grows with the rows (above).
- **The audit** compares all pairs: four times the time for twice the images. The rules allow for two hours, which is
  about 500,000 images on two cores and a million on eight.
- **Predictions** of all folds are collected in one table in memory: 112 bytes of
  probabilities and the id per image and fold, held some three times: about 6 GB for a million images and ten folds.
- **Epochs** of a million images are {arguments.images * 0.9 / TRAINED_PER_S / 60:.0f} minutes each: the checkpoints within them are what a kill costs.
"""


if __name__ == "__main__":
    main()
