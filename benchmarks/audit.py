"""The audit of duplicates: what it finds, what it mistakes, and how fast it is.

Found: images get a second delivery (another size, JPEG, gain, view; tests/unit/planted_twins.py)
and every pair of first and second deliveries is judged. The images are rendered cells, which
measure the machinery only, and tiles and whole fields of a folder of real ones, if given.
Fast: hashing of arrays of 512 px, and both programs on 31,072 training and 11,111 test images,
whose small images are made directly, with twins planted among them.

    python benchmarks/audit.py --out benchmarks/audit.md [--fields FOLDER]
"""

import argparse
import datetime
import os
import platform
import shlex
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

PROJECT = Path(__file__).resolve().parents[1]
SCRIPTS = PROJECT / "workflow" / "scripts"
sys.path[:0] = [str(SCRIPTS), str(PROJECT / "tests" / "unit")]

from machine import cpu_model
from planted_twins import BEYOND, CHANGES, at_size

from hpaloc.audit.hashes import describe, shrink
from hpaloc.audit.pairs import LARGEST_DISTANCE, LEAST_CORRELATION, correlation, twins_between
from hpaloc.audit.table import LEAST_CONTRAST, THUMBNAIL, Hashes, write_hashes
from hpaloc.audit.views import VIEWS, view_of_bits, view_of_planes
from hpaloc.classes import CHANNELS
from hpaloc.files import write_text
from hpaloc.index import write_index
from hpaloc.shards import shard_name
from hpaloc.simulate.render import render

SIDE = 512
TRAINING, TEST = 31_072, 11_111
RENDERED = {
    "seed": 1, "delivery": "kaggle", "imbalance": 0.5, "images_per_antibody": 4, "size": SIDE,
    "cells": [8, 20], "field_um": 140.0, "cell_lines": ["U-2 OS", "A-431", "MCF7"],
}  # fmt: skip

READING = f"""## What is chosen, and what is not measured

Candidates differ in at most {LARGEST_DISTANCE:g} of the compared bits, more than twice what the worst promised
twin does; it only saves work. Twins are those that correlate by at least {LEAST_CORRELATION:g} in every compared
channel: between the worst promised twin and the closest images of different cells above, nearer to
the twins, since 42,183 images have some 10⁵ times as many pairs as were looked at here, and the
closest of more is closer.

A rotation by 2°, a crop of 2 % a side and a field moved by 1 % are mostly found; beyond that a
field that overlaps another in part is not a twin here.

Rendered cells and tiles measure the machinery. Pairs of files that Kaggle and the Human Protein
Atlas deliver of the same field were not at hand, nor neighbouring fields of one well; whether
such neighbours are mistaken is judged by tiles of the same image alone.
"""


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", help="table to write (Markdown)")
    parser.add_argument("--fields", type=Path, help="folder of real <id>_<channel>.png files")
    parser.add_argument("--rendered", type=int, default=200, help="rendered images")
    parser.add_argument("--hashed", type=int, default=4000, help="images hashed to time it")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args(argv)
    cv2.setNumThreads(1)
    lines = heading(shlex.join(argv if argv is not None else sys.argv[1:]))
    with tempfile.TemporaryDirectory() as scratch:
        lines += speed(Path(scratch), arguments.hashed, arguments.threads)
    with ThreadPoolExecutor(arguments.threads) as executor:
        images = list(executor.map(lambda k: render(RENDERED, k)[1], range(arguments.rendered)))
        lines += found(f"{len(images)} rendered fields, {SIDE} px", images, executor)
        if arguments.fields:
            wholes = read_fields(arguments.fields)
            large = wholes + [tile for whole in wholes for tile in tiles(whole, 1024)]
            lines += found(f"{len(large)} real fields and their tiles of 1024 px", large, executor)
            small = [tile for whole in wholes for tile in tiles(whole, 512)]
            lines += found(f"{len(small)} real tiles of 512 px, few cells each", small, executor)
    lines += READING.splitlines()
    text = "\n".join(lines) + "\n"
    print(text)
    if arguments.out:
        write_text(text, arguments.out)


def heading(command: str) -> list[str]:
    versions = ", ".join(f"{name} {version(name)}" for name in ("numpy", "scipy", "pandas"))
    return [
        "# Audit of duplicates",
        "",
        f"{datetime.date.today()}, {os.cpu_count()} cores of {cpu_model()},",
        f"Python {platform.python_version()},",
        f"{versions}, OpenCV {cv2.__version__}; load average {os.getloadavg()[0]:.1f} at the start.",
        "",
        f"    python benchmarks/audit.py {command}",
        "",
    ]


def read_fields(folder: Path) -> list[np.ndarray]:
    """The four-channel images of a folder, uint8 N × N × 4."""
    ids = sorted({path.name.rpartition("_")[0] for path in folder.glob("*.png")})
    return [
        np.dstack(
            [cv2.imread(str(folder / f"{i}_{c}.png"), cv2.IMREAD_GRAYSCALE) for c in CHANNELS]
        )
        for i in ids
    ]


def tiles(image: np.ndarray, side: int) -> list[np.ndarray]:
    starts = range(0, image.shape[0] - side + 1, side)
    return [image[y : y + side, x : x + side] for y in starts for x in starts]


def hashes_of(smalls: list[np.ndarray]) -> Hashes:
    """The hashes of images that are shrunk already."""
    ids = np.array([f"image_{number:05d}" for number in range(len(smalls))], dtype=object)
    parts = [describe(np.array(smalls[at : at + 64])) for at in range(0, len(smalls), 64)]
    return Hashes(ids, *(np.concatenate(part) for part in zip(*parts, strict=True)))


def found(name: str, images: list[np.ndarray], executor: ThreadPoolExecutor) -> list[str]:
    """What is found of second deliveries of ``images``, as lines of Markdown."""
    first = hashes_of(list(executor.map(lambda image: shrink(at_size(image, SIDE)), images)))
    lines = [
        f"## {name}",
        "",
        f"{first.blank.sum()} of {len(images)} are too blank to be compared (fewer than two channels",
        f"with a contrast of {LEAST_CONTRAST:g}); rates are of the others. Distance and correlation",
        "(the least of the channels) are those of the worst twin, found or not; the 2 % quantile of",
        "the correlation stands beside it. What follows **all above** is not promised.",
        "",
        "| second delivery | found | recall | false pairs | distance | correlation | 2 % |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    totals = np.zeros(4, dtype=np.int64)
    for promised, changes in ((True, CHANGES), (False, BEYOND)):
        for title, change in changes.items():
            work = executor.map(lambda image, how=change: shrink(how(image, SIDE)), images)
            second = hashes_of(list(work))
            judged = ~first.blank & ~second.blank
            pairs = twins_between(first, second, 2, name)
            right = int((pairs["a"] == pairs["b"]).sum())
            wrong = len(pairs) - right
            distance, least = likeness(first, second, judged)
            if promised:
                n = int(judged.sum())
                totals += right, n, wrong, n * (n - 1)
            lines.append(
                f"| {title} | {right} of {judged.sum()} | {right / judged.sum():.4f} | {wrong} |"
                f" {distance.max():.3f} | {least.min():.3f} | {np.quantile(least, 0.02):.3f} |"
            )
        if promised:
            lines.append(
                f"| **all above** | {totals[0]} of {totals[1]} | {totals[0] / totals[1]:.4f} |"
                f" {totals[2]} of {totals[3]:,} | | | |"
            )
    count, top = closest(first)
    lines += [
        "",
        f"Closest of {count:,} pairs and views of different images, by the least correlation of",
        f"their channels: {', '.join(f'{value:.3f}' for value in top)} (the limit is",
        f"{LEAST_CORRELATION:g}).",
        "",
    ]
    return lines


def likeness(first: Hashes, second: Hashes, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distance and least correlation of image k and its twin k, for ``rows``: best of the views."""
    telling = (first.telling & second.telling)[rows]
    distance, least = [], []
    for view in VIEWS:
        turned = view_of_planes(first.thumbnail[rows], view)
        values = correlation(turned, second.thumbnail[rows])
        least.append(np.where(telling, values, 1).min(axis=1))
        differing = np.bitwise_count(view_of_bits(first.bits[rows], view) ^ second.bits[rows])
        distance.append(np.where(telling, differing, 0).sum(axis=1) / (64 * telling.sum(axis=1)))
    best = np.argmax(least, axis=0)
    columns = np.arange(len(best))
    return np.array(distance)[best, columns], np.array(least)[best, columns]


def closest(hashes: Hashes, count: int = 5) -> tuple[int, np.ndarray]:
    """Number of pairs × views of different images, and the greatest least correlations."""
    kept = ~hashes.blank
    thumbnails, telling = hashes.thumbnail[kept].astype(np.float32), hashes.telling[kept]
    thumbnails -= thumbnails.mean(axis=(2, 3), keepdims=True)
    thumbnails /= np.sqrt((thumbnails**2).sum(axis=(2, 3), keepdims=True)) + 1e-6
    both = telling[:, None] & telling[None]
    pairs = np.triu(both.sum(axis=2) >= 2, 1)
    best = np.full(pairs.shape, -1, np.float32)
    size = len(thumbnails), len(CHANNELS), THUMBNAIL**2
    flat = thumbnails.reshape(size)
    for view in VIEWS:
        turned = view_of_planes(thumbnails, view).reshape(size)
        least = np.ones(pairs.shape, np.float32)
        for channel in range(len(CHANNELS)):
            values = turned[:, channel] @ flat[:, channel].T
            least = np.where(both[..., channel], np.minimum(least, values), least)
        best = np.maximum(best, least)
    return int(pairs.sum()) * len(VIEWS), np.sort(best[pairs])[::-1][:count]


def speed(scratch: Path, hashed: int, threads: int) -> list[str]:
    """Times of the three programs, as lines of Markdown."""
    arrays = scratch / "arrays"
    rng = np.random.default_rng(1)
    shards = np.array_split(np.arange(hashed), max(1, hashed // 1000))
    for number, rows in enumerate(shards):
        pixels = rng.integers(0, 60, (len(rows), SIDE, SIDE, len(CHANNELS)), np.uint8)
        arrays.mkdir(exist_ok=True)
        np.save(arrays / shard_name(number), pixels)
    shard = np.repeat(np.arange(len(shards)), [len(rows) for rows in shards])
    row = np.concatenate([np.arange(len(rows)) for rows in shards])
    ids = [f"image_{number:05d}" for number in range(hashed)]
    write_index(index_of(ids).assign(shard=shard, row=row), arrays / "index.parquet")
    lines = [
        "## Speed",
        "",
        "Each is a whole program, from its start to its last file.",
        "",
        "| program | images | threads | seconds | |",
        "| --- | --- | --- | --- | --- |",
    ]
    for used in sorted({1, threads}):
        seconds = run(
            "hash_images", "--arrays", arrays / "index.parquet",
            "--hashes", arrays / "hashes.parquet", "--digest", arrays / "hashes.sha256",
            "--threads", used,
        )  # fmt: skip
        rate = hashed / seconds / used
        lines.append(
            f"| hash_images, {SIDE} px | {hashed} | {used} | {seconds:.1f} |"
            f" {rate:.0f} images/s and thread |"
        )
    train, test, planted = made_sources(scratch)
    groups = train / "duplicates.parquet"
    first, second = [
        run(
            "duplicates_train", "--arrays", train / "index.parquet",
            "--hashes", train / "hashes.parquet", "--pairs", train / "duplicates.csv",
            "--groups", groups, "--digest", train / "duplicates.sha256", "--threads", threads,
        ),
        run(
            "audit_leakage", "--train-arrays", train / "index.parquet",
            "--train-hashes", train / "hashes.parquet", "--train-groups", groups,
            "--test-arrays", test / "index.parquet", "--test-hashes", test / "hashes.parquet",
            "--pairs", test / "twins.csv", "--conflicts", test / "conflicts.csv",
            "--summary", test / "leakage.csv", "--images", test / "images.parquet",
            "--digest", test / "images.sha256", "--threads", threads,
        ),
    ]  # fmt: skip
    inside = pd.read_csv(train / "duplicates.csv")
    across = pd.read_csv(test / "twins.csv")
    right = [
        len(planted[name] & set(zip(table["image_id_a"], table["image_id_b"], strict=True)))
        for name, table in (("train", inside), ("test", across))
    ]
    for program, images, took, pairs, hits, expected in (
        ("duplicates_train", f"{TRAINING:,}", first, inside, right[0], planted["train"]),
        (
            "audit_leakage",
            f"{TEST:,} and {TRAINING:,}",
            second,
            across,
            right[1],
            planted["test"],
        ),
    ):
        lines.append(
            f"| {program} | {images} | {threads} | {took:.1f} | {hits} of {len(expected)} planted"
            f" pairs found, {len(pairs) - hits} others |"
        )
    both = f"| both | | {threads} | {first + second:.1f} | |"
    return [*lines, both, ""]


def run(program: str, *arguments: object) -> float:
    """Seconds that a program takes."""
    start = time.perf_counter()
    command = [sys.executable, str(SCRIPTS / f"{program}.py"), *map(str, arguments)]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    return time.perf_counter() - start


def index_of(ids: list[str]) -> pd.DataFrame:
    frame = pd.DataFrame({"image_id": ids, "parent": ids, "source": "made"})
    frame["labels"] = [[number % 28] for number in range(len(ids))]
    return frame.assign(x=0, y=0, width=SIDE, height=SIDE, shard=0, row=np.arange(len(ids)))


def made_sources(scratch: Path) -> tuple[Path, Path, dict[str, set[tuple[str, str]]]]:
    """Hashes of made training and test images, and the pairs of ids that are twins.

    A fifth of the images has a nearly black protein channel. One training image in 60, and one
    test image in 16 (as in HPA v18), is a training image before it: turned, with other gains and
    noise.
    """
    rng = np.random.default_rng(2)
    smalls: list[np.ndarray] = []
    planted: dict[str, set[tuple[str, str]]] = {"train": set(), "test": set()}
    names = [f"train_{k:05d}" for k in range(TRAINING)] + [f"test_{k:05d}" for k in range(TEST)]
    original: dict[int, int] = {}
    for number, name in enumerate(names):
        side = name.split("_")[0]
        if number > 100 and rng.random() < {"train": 1 / 60, "test": 1 / 16}[side]:
            other = int(rng.integers(0, min(number, TRAINING)))
            other = original.get(other, other)
            original[number] = other
            smalls.append(second_small(smalls[other], rng))
        else:
            smalls.append(made_small(rng, dark=number % 5 == 0))
    for number, other in original.items():
        # Twins of one image are twins of each other.
        for twin in [other, *(k for k, o in original.items() if o == other and k < number)]:
            if number < TRAINING:
                planted["train"].add((names[twin], names[number]))
            else:
                planted["test"].add(
                    (names[number], names[twin])
                    if twin < TRAINING
                    else (names[twin], names[number])
                )
    folders = []
    for side, part in (("train", slice(TRAINING)), ("test", slice(TRAINING, None))):
        folder = scratch / side
        folder.mkdir()
        hashes = hashes_of(smalls[part])
        write_hashes(
            hashes._replace(image_id=np.array(names[part], object)), folder / "hashes.parquet"
        )
        write_index(index_of(names[part]), folder / "index.parquet")
        folders.append(folder)
    return *folders, planted


def made_small(rng: np.random.Generator, dark: bool) -> np.ndarray:
    """A textured small image, float32 64 × 64 × 4, all channels in the same blobs."""
    blobs = cv2.GaussianBlur(rng.standard_normal((64, 64)).astype(np.float32), (0, 0), 4)
    texture = cv2.GaussianBlur(rng.standard_normal((64, 64, 4)).astype(np.float32), (0, 0), 1.5)
    level = np.array([240, 4 if dark else 240, 240, 240], np.float32)
    return np.clip(np.clip(blobs, 0, None)[..., None] * (1 + 3 * texture) * level, 0, 255)


def second_small(small: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    planes = view_of_planes(small.transpose(2, 0, 1), VIEWS[rng.integers(len(VIEWS))])
    gain = rng.uniform(0.5, 2, 4).astype(np.float32)
    noisy = planes.transpose(1, 2, 0) * gain + rng.standard_normal(small.shape, np.float32) * 0.3
    return np.clip(noisy, 0, 255)


if __name__ == "__main__":
    main()
