"""Conversion of colour-coded JPEG files to arrays: this workflow against a pool of Pillow.

Both convert the same files to 512 px on the same cores, in turns, and the medians are compared.
The baseline is what is commonly done: a process per core, each file decoded in full by Pillow,
resized with bicubic interpolation, its plane stored in a mapped array. The files are rendered
cells, coded as the Human Protein Atlas does (RGB, 4:2:0, quality 50), and optionally a folder of
real ones. Accuracy is the PSNR against full decoding and area averaging, the worst image counts.

    python benchmarks/convert.py --out benchmarks/convert.md [--atlas FOLDER]
"""

import argparse
import datetime
import multiprocessing
import os
import platform
import shlex
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from machine import cpu_model
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "workflow" / "scripts"))

from hpaloc.classes import CHANNELS
from hpaloc.colour_planes import RGB_PLANE
from hpaloc.convert import convert_shard
from hpaloc.files import write_text
from hpaloc.index import read_index, write_index
from hpaloc.local import index_folder
from hpaloc.simulate.source import make_source

SIZE = 512
RENDERED = {
    "seed": 1, "delivery": "hpa_v18", "imbalance": 0.5, "images_per_antibody": 4,
    "cells": [10, 25], "field_um": 140.0, "cell_lines": ["U-2 OS"],
}  # fmt: skip
ATLAS = {
    "pattern": "{id}_{channel}",
    "channels": {channel: channel for channel in CHANNELS},
    "ignore": [],
    "stack_order": list(CHANNELS),
    "slices": {},
    "incomplete": "stop",
    "labels": None,
    "tiles": None,
    "grey_range": None,
}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", help="table to write (Markdown)")
    parser.add_argument("--atlas", help="folder of real colour-coded JPEG files")
    parser.add_argument("--images", type=int, default=96, help="images per measurement")
    parser.add_argument("--distinct", type=int, default=6, help="different images among them")
    parser.add_argument("--repeats", type=int, default=5, help="measurements of each")
    parser.add_argument("--cores", type=int, default=len(os.sched_getaffinity(0)))
    arguments = parser.parse_args(argv)

    with tempfile.TemporaryDirectory() as scratch:
        sources = {}
        for size in (1728, 2048):
            folder = Path(scratch) / str(size)
            settings = {**RENDERED, "images": arguments.distinct, "size": size}
            sources[f"rendered, {size} px"] = (
                make_source("rendered", settings, folder, arguments.cores),
                folder,
            )
        if arguments.atlas:
            # Two copies: rows of one file after another would be tiles, which share its decoding.
            for copy in ("one", "two"):
                shutil.copytree(arguments.atlas, Path(scratch) / "atlas" / copy)
            folder = Path(scratch) / "atlas"
            frame = index_folder("atlas", {**ATLAS, "folder": str(folder)}, arguments.cores)
            sources[f"real, {frame['width'][0]} px"] = (frame, folder)
        rows = [
            measure(name, frame, folder, Path(scratch), arguments)
            for name, (frame, folder) in sources.items()
        ]
    command = shlex.join(["python", "benchmarks/convert.py", *(argv or sys.argv[1:])])
    text = report(pd.DataFrame(rows), arguments, command)
    print(text)
    if arguments.out:
        write_text(text, arguments.out)


def measure(
    name: str, frame: pd.DataFrame, folder: Path, scratch: Path, arguments: argparse.Namespace
) -> dict[str, object]:
    """One row of the table: rates of both, their ratio, and the accuracy of each channel."""
    write_index(frame, scratch / "index.parquet")
    frame, distinct = read_index(scratch / "index.parquet"), len(frame)
    frame = frame.iloc[np.arange(arguments.images) % distinct].reset_index(drop=True)
    array, rows, other = scratch / "ours.npy", scratch / "ours.parquet", scratch / "baseline.npy"
    shape = (len(frame), SIZE, SIZE, len(CHANNELS))

    def ours() -> None:
        convert_shard(frame, folder, CHANNELS, 0, 1, SIZE, array, rows, arguments.cores)

    tasks = [
        (str(other), row, [str(folder / record[f"path_{channel}"]) for channel in CHANNELS])
        for row, record in enumerate(frame.to_dict("records"))
    ]
    context = multiprocessing.get_context("spawn")
    with context.Pool(arguments.cores) as pool:

        def baseline() -> None:
            np.lib.format.open_memmap(other, mode="w+", dtype=np.uint8, shape=shape)
            pool.map(convert_with_pillow, tasks, chunksize=1)

        for program in (ours, baseline):  # libraries loaded, files in the page cache
            program()
        times: dict[Callable, list[float]] = {ours: [], baseline: []}
        for _ in range(arguments.repeats):
            for program, seconds in times.items():
                start = time.perf_counter()
                program()
                seconds.append(time.perf_counter() - start)
    medians = [statistics.median(seconds) for seconds in times.values()]
    result = np.load(array, mmap_mode="r")
    kilobytes = [round(frame[f"bytes_{channel}"].mean() / 1000) for channel in CHANNELS]
    row: dict[str, object] = {
        "files": name,
        "KB a channel": " / ".join(map(str, kilobytes)),
        "Pillow, images/s": f"{len(frame) / medians[1]:.1f}",
        "ours, images/s": f"{len(frame) / medians[0]:.1f}",
        "ours, ms per image and core": f"{1000 * medians[0] * arguments.cores / len(frame):.1f}",
        "ratio": f"{medians[1] / medians[0]:.1f}",
    }
    for k, channel in enumerate(CHANNELS):
        worst = min(
            psnr(result[i, :, :, k], area_average(folder / frame[f"path_{channel}"][i], channel))
            for i in range(distinct)
        )
        row[f"{channel}, dB"] = f"{worst:.1f}"
    return row


def convert_with_pillow(task: tuple[str, int, list[str]]) -> None:
    array, row, paths = task
    pixels = np.load(array, mmap_mode="r+")
    for k, (channel, path) in enumerate(zip(CHANNELS, paths, strict=True)):
        with Image.open(path) as image:
            small = image.resize((SIZE, SIZE), Image.Resampling.BICUBIC)
        pixels[row, :, :, k] = np.asarray(small)[:, :, RGB_PLANE[channel]]


def area_average(path: Path, channel: str) -> np.ndarray:
    full = cv2.extractChannel(np.asarray(Image.open(path)), RGB_PLANE[channel])
    return cv2.resize(full, (SIZE, SIZE), interpolation=cv2.INTER_AREA)


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    error = np.mean((one.astype(np.float64) - other) ** 2)
    return float(10 * np.log10(255**2 / error)) if error else float("inf")


def report(table: pd.DataFrame, arguments: argparse.Namespace, command: str) -> str:
    versions = ", ".join(f"{n} {version(n)}" for n in ("simplejpeg", "pillow", "numpy"))
    rows = [table.columns, ["---"] * len(table.columns), *table.to_numpy()]
    grid = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return f"""# Conversion of JPEG files to arrays

{datetime.date.today()}, {arguments.cores} cores of {cpu_model()}, Python {platform.python_version()},
{versions}, OpenCV {cv2.__version__}; load average {os.getloadavg()[2]:.1f} (1 to 2 is this program).
Medians of {arguments.repeats} interleaved runs over {arguments.images} images each, to {SIZE} px,
four channels an image. PSNR is that of the worst image.

    {command}

{grid}
"""


if __name__ == "__main__":
    main()
