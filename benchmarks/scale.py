"""What a million images cost: planning, operations on the index, and GPU hours and disk by stage.

The plan is Snakemake's own, a dry run of a copy of this project with a simulated configuration: no
image is there. It is made twice, with nothing there and with every output there. Operations on the
index are the library's, on a made index of as many rows; thresholds are found by the program, from
made probabilities. The table of costs is computed from rates and sizes, which it names; those of
GPUs are arithmetic.

    python benchmarks/scale.py --out benchmarks/scale.md
"""

import argparse
import datetime
import json
import math
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
# What was asked for: seconds and MB of a plan, seconds of an operation on a million rows.
PLAN_LIMITS, OPERATION_LIMIT = (15, 1_000), 5
# Outputs that are large in earnest, and more bytes than Snakemake would read to compare a file.
LARGE, LARGE_BYTES = (".npy", ".parquet", ".safetensors"), 2_000_000
# Measured; where: benchmarks/convert.md, benchmarks/audit.md, benchmarks/feed.md.
CONVERT_MS = 27.4  # per image and core, four JPEG files of 1728 px
HASHED_PER_S = 1_164  # per thread
COMPARED_S, COMPARED_IMAGES = 50.0, 31_072  # core seconds, all pairs: grows with the square
FEED_CORES = 6  # that make batches as fast as the GPU below takes them
# Bytes of an image's four files: of the training images as Kaggle has them, PNG of 512 px (14 GB
# in all), and of the atlas's JPEG files of 1728 px (one real image).
RAW_BYTES = {"train": 14e9 / 31_072, "test": 573_495}
# Arithmetic, not measured: SE-ResNeXt101 at 224 px on an H100, forward and backward.
TRAINED_PER_S = 1_533
PREDICTED_PER_S = 3 * TRAINED_PER_S  # the forward pass is a third of a step
EPOCHS = 45  # the paper's network is of epoch 44
VIEWS = 4  # of validation and of test images
# What a fold stores, of the paper's recipe in config.yaml.
PARAMETERS = 47_138_956  # as model.json has it; four bytes each
BATCH = 64
SAVED_EPOCHS, LATER_EPOCHS = 10, 5  # up to the exported one (save_epochs); after it (stop_after)
PROBABILITY_BYTES = 4 * 28  # of an image and epoch
STEP_BYTES = 8 * 13, 60  # of a step, in a checkpoint and at most in steps.parquet
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
    parser.add_argument(
        "--times", type=int, default=2, help="plans and operations; the best counts"
    )
    arguments = parser.parse_args(argv)

    with tempfile.TemporaryDirectory() as scratch:
        plans = planned(Path(scratch) / "project", arguments)
        operations, row_bytes = index_operations(Path(scratch), arguments)
        thresholds, validation_bytes = thresholds_found(Path(scratch), arguments)
    command = shlex.join(["python", "benchmarks/scale.py", *(argv or sys.argv[1:])])
    text = report(plans, operations, row_bytes, thresholds, validation_bytes, arguments, command)
    print(text)
    if arguments.out:
        write_text(text, arguments.out)


def measured(command: list[str | Path], folder: Path) -> tuple[Used, str]:
    """What a command used, run in ``folder``, and what it said; ends where it fails."""
    with tempfile.TemporaryDirectory() as scratch:
        note = Path(scratch) / "used.json"
        done = subprocess.run(
            [sys.executable, Path(__file__).with_name("measured.py"), note, *command],
            check=False,
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if done.returncode:
            sys.exit(f"{shlex.join(map(str, command))} failed:\n{done.stdout[-2000:]}")
        return Used(**json.loads(note.read_text())), done.stdout


def snakemake(project: Path, *words: str) -> tuple[Used, str]:
    program = Path(sys.executable).parent / "snakemake"
    return measured([program, *words, "--configfile", "config/scale.yaml"], project)


def planned(project: Path, arguments: argparse.Namespace) -> dict[str, Used]:
    """Dry runs that train all recipes on all folds and predict by one: with nothing there, and
    with all that they would make."""
    make_project(project, arguments)
    dry_run = ("-n", "train", "predict")
    fresh, said = min(snakemake(project, *dry_run) for _ in range(arguments.times))
    jobs = int(re.search(r"^total\s+(\d+)", said, re.MULTILINE)[1])
    files = make_outputs(project)
    finished, said = min(snakemake(project, *dry_run) for _ in range(arguments.times))
    if "Nothing to be done" not in said:
        sys.exit(f"all was made, but something is planned:\n{said[-2000:]}")
    return {
        f"nothing made yet: {jobs:,} jobs": fresh,
        f"all {files:,} outputs there: no job": finished,
    }


def make_project(project: Path, arguments: argparse.Namespace) -> None:
    """A copy of this project that is configured for so many images."""
    project.mkdir()
    for part in PARTS:
        source = PROJECT / part
        copy = shutil.copytree if source.is_dir() else shutil.copy2
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


def make_outputs(project: Path) -> int:
    """Every output of the plan as a file, and Snakemake's record of the job that made it.

    Files hold nothing that counts, but for the settings of sources, which are read while planning.
    ``--touch`` ends every job as if it had run: the records are those of real jobs, with their
    parameters, code, inputs and the checksums of small ones.
    """
    _, summary = snakemake(project, "--summary", "train", "predict")
    _, commands = snakemake(project, "-n", "--printshellcmds", "train", "predict")
    names = [row.split("\t")[0] for row in summary.splitlines() if row.startswith("results/")]
    for name in names:
        path = project / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix in LARGE:
            with open(path, "wb") as file:
                file.truncate(LARGE_BYTES)
        else:
            path.write_text(f"{name}\n")
    for source, settings in re.findall(r"--name (\w+) --settings '(\{.*?\})' ", commands):
        record = project / f"results/sources/{source}/raw/settings.json"
        record.write_text(f'{{"settings": {settings}}}\n')
    snakemake(project, "--touch", "--forceall", "train", "predict")
    return len(names)


def index_operations(scratch: Path, arguments: argparse.Namespace) -> tuple[dict[str, Used], float]:
    """Seconds of each operation; bytes of memory of a row of the index."""
    used: dict[str, Used] = {}

    def timed(name: str, operation: Callable[[], Any]) -> Any:
        tries = []
        for _ in range(arguments.times):
            wall, cpu = time.perf_counter(), time.process_time()
            result = operation()
            tries.append(Used(time.perf_counter() - wall, time.process_time() - cpu, 0))
        used[name] = min(tries)
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


def thresholds_found(scratch: Path, arguments: argparse.Namespace) -> tuple[dict[str, Used], float]:
    """What finding the thresholds of a recipe uses, of fewer and of all images; bytes of a row of
    a validation table."""
    used = {}
    for images in sorted({arguments.fewer, arguments.images}):
        folder = scratch / f"thresholds_{images}"
        index = made_index(images, arguments.images_per_shard)
        write_index(index, folder / "index.parquet")
        folds = range(1, arguments.folds + 1)
        for fold, rows in zip(folds, np.array_split(np.arange(images), len(folds)), strict=True):
            write_fold(folder, fold, index.iloc[rows])
        command = [
            sys.executable, PROJECT / "workflow/scripts/find_thresholds.py",
            "--arrays", folder / "index.parquet",
            "--validation", *[folder / f"validation_{fold}.parquet" for fold in folds],
            "--epochs", *[folder / f"epochs_{fold}.parquet" for fold in folds],
            "--folds", *map(str, folds), "--smoothing", "0.3",
            "--thresholds", folder / "thresholds.csv",
        ]  # fmt: skip
        used[f"{images:,} images"], _ = measured(command, folder)
        size = sum(path.stat().st_size for path in folder.glob("validation_*.parquet"))
        shutil.rmtree(folder)
    return used, size / images / SAVED_EPOCHS


def write_fold(folder: Path, fold: int, index: pd.DataFrame) -> None:
    """Tables of a trained fold, with probabilities that know something of the labels."""
    rng = np.random.default_rng(fold)
    truth = multi_hot(index["labels"])
    tables = []
    for epoch in range(1, SAVED_EPOCHS + 1):
        logits = rng.standard_normal(truth.shape, np.float32) * 2 + np.where(truth, 1, -4)
        values = (1 / (1 + np.exp(-logits))).astype(np.float32)
        table = pd.DataFrame(values, columns=list(PROBABILITY_COLUMNS))
        table.insert(0, "image_id", index["image_id"].to_numpy())
        table.insert(0, "epoch", np.int32(epoch))
        tables.append(table)
    write_parquet(pd.concat(tables, ignore_index=True), folder / f"validation_{fold}.parquet")
    epochs = pd.DataFrame({"epoch": range(1, SAVED_EPOCHS + 1)})
    epochs["exported"] = epochs["epoch"] == SAVED_EPOCHS
    write_parquet(epochs, folder / f"epochs_{fold}.parquet")


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


def fold_disk(train: int, folds: int, validation_bytes: float) -> dict[str, float]:
    """GB that a fold stores, by what it is: finished, and at most while it is trained.

    A finished one keeps the last checkpoint with tensors, which are the network and the two
    averages of Adadelta, and the best weights, in its state and as output. A training one has a
    checkpoint and weights more than the two that it keeps, while it writes them.
    """
    weights = 4 * PARAMETERS
    steps = EPOCHS * math.ceil(train * (folds - 1) / folds / BATCH)
    validated = train / folds
    kept_epochs = SAVED_EPOCHS + LATER_EPOCHS
    checkpoint = 3 * weights + STEP_BYTES[0] * steps
    probabilities = kept_epochs * validated * PROBABILITY_BYTES
    parts = {
        "weights, output": weights,
        "`validation.parquet`, output": SAVED_EPOCHS * validated * validation_bytes,
        "`steps.parquet`, output": STEP_BYTES[1] * steps,
        "checkpoint, state": checkpoint + STEP_BYTES[0] * steps,
        "weights, state": weights,
        "validation probabilities, state": probabilities,
    }
    parts["**finished**"] = sum(parts.values())
    parts["**at most, while it is trained**"] = 3 * (checkpoint + weights) + probabilities
    return {name: size / 1e9 for name, size in parts.items()}


def costs(
    train: int, test: int, recipes: int, folds: int, extra: int, validation_bytes: float
) -> list[tuple[str, ...]]:
    """Rows of the table: stage, core hours, GPU hours, disk in GB; ``extra`` folds are trained for
    the generations."""
    images, jobs = train + test, recipes * folds + extra
    raw = (train * RAW_BYTES["train"] + test * RAW_BYTES["test"]) / 1e9
    steps = EPOCHS * train * ((folds - 1) / folds + VIEWS / folds / 3)
    gpu = jobs * steps / TRAINED_PER_S / 3600
    trained = jobs * fold_disk(train, folds, validation_bytes)["**finished**"]
    predicted = VIEWS * folds * test / PREDICTED_PER_S / 3600
    probabilities = PROBABILITY_BYTES * test * (2 * folds + 2) / 1e9
    compared = COMPARED_S * (train / COMPARED_IMAGES) ** 2 * (1 + test / train) ** 2 / 3600
    return [
        ("raw images", "", "", f"{raw:,.0f}"),
        ("arrays, 512 px", f"{images * CONVERT_MS / 3.6e6:,.1f}", "", f"{images * 2**20 / 1e9:,.0f}"),
        ("audit: hashes", f"{images / HASHED_PER_S / 3600:,.2f}", "", f"{images * 4e-6:,.1f}"),
        ("audit: all pairs", f"{compared:,.2f}", "", ""),
        (f"training, {jobs} folds", f"{gpu * FEED_CORES:,.0f}", f"{gpu:,.1f}", f"{trained:,.0f}"),
        ("prediction by one recipe", "", f"{predicted:,.2f}", f"{probabilities:,.2f}"),
    ]  # fmt: skip


def grid(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in lines)


def report(
    plans: dict[str, Used],
    operations: dict[str, Used],
    row_bytes: float,
    thresholds: dict[str, Used],
    validation_bytes: float,
    arguments: argparse.Namespace,
    command: str,
) -> str:
    shards = -(-arguments.images // arguments.images_per_shard)
    longest = len("results/sources/many/arrays_512/shard_0000.parquet ")
    names = ("snakemake", "pandas", "pyarrow", "numpy")
    versions = ", ".join(f"{name} {version(name)}" for name in names)
    planning = [
        (name, f"{used.wall:.1f}", str(PLAN_LIMITS[0]), f"{used.cpu:.1f}", f"{used.memory:,.0f}",
         f"{PLAN_LIMITS[1]:,}")
        for name, used in plans.items()
    ]  # fmt: skip
    # Nothing was asked for of what is no operation on the index; it is measured on fewer images.
    fewer = f"{arguments.fewer:,} images"
    timed = [
        (name, f"{used.wall:.1f}", "" if fewer in name else str(OPERATION_LIMIT), f"{used.cpu:.1f}")
        for name, used in operations.items()
    ]
    found = [
        (name, f"{used.wall:.0f}", f"{used.cpu:.0f}", f"{used.memory:,.0f}")
        for name, used in thresholds.items()
    ]
    train, folds = arguments.images, arguments.folds
    head = ("stage", "core hours", "GPU hours", "disk, GB")
    paper = costs(PAPER["train"], PAPER["test"], 1, 10, 2, validation_bytes)
    many = costs(train, PAPER["test"], arguments.recipes, folds, 0, validation_bytes)
    of_paper = fold_disk(PAPER["train"], 10, validation_bytes)
    of_many = fold_disk(train, folds, validation_bytes)
    pooled = thresholds[f"{train:,} images"].memory * 1e3 / train
    asked = 4_000 + train * (2_400 + 320 * SAVED_EPOCHS) / 1e6  # as workflow/rules/common.smk
    stored = [(name, f"{of_paper[name]:.2f}", f"{of_many[name]:.2f}") for name in of_many]
    return f"""# A million images

{datetime.date.today()}, {os.cpu_count()} cores of {cpu_model()}, Python {platform.python_version()},
{versions}; load average {os.getloadavg()[1]:.1f} (1 is this program). Where the load is above the number
of cores, the wall clock says less than the seconds of the processor. Plans and operations were timed {arguments.times}
times; the best counts.

    {command}

## Planning

{arguments.images:,} images in {shards:,} shards; {arguments.recipes} recipes × {arguments.folds} folds trained, one recipe predicted:
`snakemake -n train predict`.

{grid(("what is there", "seconds", "limit", "of a processor", "memory, MB", "limit"), planning)}

With every output there, Snakemake looks at the time of each, at its record (`.snakemake/metadata`) and at
small files' checksums. The outputs were made for this: {LARGE_BYTES // 1_000_000} MB without content where they are large, which
Snakemake does not read, a line of text else; the records by `snakemake --touch --forceall`, which ends every job
as if it had run. **Not covered**: a shared disk, where each of these looks takes longer than here (the files
were in the machine's memory).

## The index at {arguments.images:,} rows

{grid(("operation", "seconds", "limit", "of a processor"), timed)}

## Thresholds of a recipe

`find_thresholds` on {folds} folds × {SAVED_EPOCHS} epochs of made probabilities.

{grid(("validated", "seconds", "of a processor", "memory, MB"), found)}

## What each stage costs

The paper: {PAPER["train"]:,} training and {PAPER["test"]:,} test images, one recipe on ten folds and two folds of
generations.

{grid(head, paper)}

{train:,} training and {PAPER["test"]:,} test images, {arguments.recipes} recipes × {folds} folds.

{grid(head, many)}

Measured: {CONVERT_MS} ms per image and core for the arrays (convert.md), {HASHED_PER_S:,} images/s and thread for
hashes and {COMPARED_S:.0f} core seconds for all pairs of {COMPARED_IMAGES:,} (audit.md), {FEED_CORES} cores that feed a GPU (feed.md).
**Not measured**: {TRAINED_PER_S:,} images/s trained and {PREDICTED_PER_S:,} predicted with the paper's SE-ResNeXt101 at 224 px
on an H100 are arithmetic, from operations and memory traffic; {EPOCHS} epochs are the paper's.

Raw images are Kaggle's PNG files of 512 px for training, {RAW_BYTES["train"] / 1e3:.0f} kB an image (14 GB in all), and the atlas's JPEG files
of 1728 px for the test, {RAW_BYTES["test"] / 1e3:.0f} kB (of one image). As full-size files they are more: five real ones of Kaggle's
training set, of 2048 and 3072 px, are 4.7 MB each. They may be deleted once all is made.

Of a fold, GB on disk, from sizes of what is stored:

{grid(("what", "the paper", f"{train:,} images"), stored)}

Weights are {PARAMETERS:,} numbers of four bytes, a checkpoint three times that (Adadelta) and {STEP_BYTES[0]} bytes a step.
Validation probabilities are {PROBABILITY_BYTES} bytes an image and epoch: the state holds the {SAVED_EPOCHS} epochs up to the exported one and
those after it (counted as {LATER_EPOCHS}), `validation.parquet` the {SAVED_EPOCHS} with ids, {validation_bytes:.0f} bytes a row as measured here. The table
above counts finished folds; of these the state, in `results/state/`, may be deleted.

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
- **Thresholds** are found from the validation images of all folds and {SAVED_EPOCHS} epochs, together in memory: {pooled:.1f} KB an
  image as measured above, {10 * pooled:.0f} GB for ten million. The search for the one threshold of all classes, which sorts
  all probabilities of an epoch, takes about half of it. The rule asks for {asked / 1e3:.0f} GB at {train:,}
  images and {SAVED_EPOCHS} epochs; above some ten million it would have to count in bins instead.
- **Predictions** of all folds are collected in one table in memory: {PROBABILITY_BYTES} bytes of
  probabilities and the id per image and fold, held some three times: about 6 GB for a million images and ten folds.
- **Epochs** of a million images are {arguments.images * 0.9 / TRAINED_PER_S / 60:.0f} minutes each: the checkpoints within them are what a kill costs.
"""


if __name__ == "__main__":
    main()
