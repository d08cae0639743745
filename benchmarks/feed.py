"""Making batches: this workflow against a DataLoader over a file per image.

Three figures of one run, on the same images (4 × 512² uint8, random textures) and cores:

- reading alone, from mapped shards in the page cache into the batches' buffers;
- the paper's augmentation, 512 to 224 px, by this workflow;
- the same augmentation by the baseline, which is what is commonly written: a .npy file per image,
  np.load, albumentations (its own transforms, and a piecewise affine by cv2.remap, because
  A.PiecewiseAffine takes seconds), resize, float32 normalised by channel, and torch's DataLoader
  with a worker per core.

Each is measured in turns, and the medians are compared. The first batch, until which all workers
run, is left out of the rate, not of the CPU time, which is that of all processes. Memory is the
proportional set size (Pss) of all processes at its highest, without mapped files, in a further run.

    python benchmarks/feed.py --out benchmarks/feed.md
"""

import argparse
import datetime
import math
import os
import platform
import resource
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # it asks a server for newer versions

import albumentations as A
import cv2
import numpy as np
import pandas as pd
import torch
import yaml
from machine import cpu_model
from made_images import make_images
from torch.utils.data import DataLoader, Dataset

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "workflow" / "scripts"))

from hpaloc.augment import augmented, build, stream
from hpaloc.batch_buffers import SLOTS
from hpaloc.classes import CHANNELS
from hpaloc.feed import training_batches, view_batches
from hpaloc.files import write_text
from hpaloc.geometry import INTERPOLATIONS
from hpaloc.memory import keep_freed_memory
from hpaloc.scheme import channels_of, transforms_of
from hpaloc.transforms import GRID, displacement_maps

SIDE = 512
# Training on an H100: the goal for SE-ResNeXt50 at 512 px, and the same operations a second
# with the paper's SE-ResNeXt101 at 224 px (22.3 and 8.0 GMAC per image).
GOAL, GMAC, GMAC_PAPER = 550, 22.3, 8.0


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", help="table to write (Markdown)")
    parser.add_argument("--images", type=int, default=768, help="different images (1 MiB each)")
    parser.add_argument("--repeats", type=int, default=5, help="measurements of each")
    parser.add_argument("--seconds", type=float, default=4.0, help="of each measurement")
    parser.add_argument("--cores", type=int, default=len(os.sched_getaffinity(0)))
    arguments = parser.parse_args(argv)
    recipe = yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8"))["recipes"]["paper"]

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        arrays, files = make_images(Path(folder), arguments.images, SIDE)
        rows = np.arange(arguments.images)
        labels = np.zeros((len(rows), 28), bool)
        plain = {**recipe, "image_size": SIDE}

        def reading(workers: int = arguments.cores) -> Iterator[Any]:
            shuffled = np.random.default_rng(0).permutation(np.tile(rows, 8))
            views, size = {"kind": "none"}, recipe["batch_size"]
            return view_batches(arrays, shuffled, plain, views, "validation", workers, size)

        def ours() -> Iterator[Any]:
            return training_batches(arrays, rows, labels, recipe, 1, arguments.cores, fold=1)

        programs: dict[str, Callable[[], Iterator[Any]]] = {
            "reading alone": reading,
            "augmentation": ours,
            "augmentation, baseline": lambda: baseline(files, labels, recipe, arguments.cores),
        }
        speeds: dict[str, list[Speed]] = {name: [] for name in programs}
        for _ in range(arguments.repeats):
            for name, program in programs.items():
                speeds[name].append(speed(program, arguments.seconds))
        peaks = {name: peak_memory(program) for name, program in programs.items()}
        alone = time_per_image(arrays, recipe)
    command = shlex.join(["python", "benchmarks/feed.py", *(argv or sys.argv[1:])])
    text = report(speeds, peaks, alone, arguments, recipe, command)
    print(text)
    if arguments.out:
        write_text(text, arguments.out)


class Speed(NamedTuple):
    images_per_second: float
    cpu_ms_per_image: float  # of all processes


def speed(program: Callable[[], Iterator[Any]], seconds: float) -> Speed:
    """Over as many whole epochs as it takes; the rate is that from each second batch on."""
    images, timed, spent, cpu = 0, 0, 0.0, -cpu_seconds()
    while spent < seconds:
        batches = program()
        images += len(next(batches)[0])
        start = time.perf_counter()
        for batch in batches:
            images, timed = images + len(batch[0]), timed + len(batch[0])
        spent += time.perf_counter() - start
        del batch, batches
    cpu += cpu_seconds()
    return Speed(timed / spent, 1000 * cpu / images)


def cpu_seconds() -> float:
    """Of this process and of all its workers that have ended."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def time_per_image(arrays: tuple[pd.DataFrame, list[np.ndarray]], recipe: dict[str, Any]) -> float:
    """Milliseconds that a process without others takes for the augmentation of an image."""
    keep_freed_memory()
    cv2.setNumThreads(1)
    pipeline, shard = build(recipe["augmentation"]), arrays[1][0]
    out = np.empty((recipe["image_size"],) * 2 + (len(CHANNELS),), np.uint8)
    times = []
    for number in range(300):
        start = time.perf_counter()
        key = stream(1, "train", 1, 0, str(number))
        out[:], _ = augmented(pipeline, shard[number % len(shard)], len(out), key)
        times.append(time.perf_counter() - start)
    return 1000 * statistics.mean(times[100:])


def peak_memory(program: Callable[[], Iterator[Any]]) -> float:
    """The most memory that this process and its workers take together in an epoch, in MiB."""
    highest, last = 0, 0.0
    for _ in program():
        if time.monotonic() - last > 0.2:  # looking takes time itself
            numbers = [os.getpid(), *children()]
            highest, last = max(highest, sum(map(_unmapped, numbers))), time.monotonic()
    return highest / 1024


def children() -> list[int]:
    """The processes that this one has started."""
    files = Path("/proc/self/task").glob("*/children")
    return [int(number) for file in files for number in file.read_text().split()]


def _unmapped(number: int) -> int:
    """KiB of a process that are its own: proportional, without files in the page cache."""
    try:
        text = Path(f"/proc/{number}/smaps_rollup").read_text(encoding="ascii")
    except OSError:
        return 0
    facts = {line.split()[0]: int(line.split()[1]) for line in text.splitlines()[1:]}
    return facts["Pss_Anon:"] + facts["Pss_Shmem:"]


# The baseline: never tuned down, never tuned up.


def baseline(
    files: list[Path], labels: np.ndarray, recipe: dict[str, Any], workers: int
) -> Iterator[Any]:
    return iter(
        DataLoader(
            ImageFiles(files, labels, recipe),
            batch_size=recipe["batch_size"],
            shuffle=True,
            num_workers=workers,
        )
    )


class ImageFiles(Dataset):
    def __init__(self, files: list[Path], labels: np.ndarray, recipe: dict[str, Any]):
        scheme = recipe["augmentation"]
        self.files, self.labels = files, labels.astype(np.float32)
        self.negative = scheme["negative"]
        self.size = recipe["image_size"]
        self.means = np.array(recipe["channel_means"], np.float32)
        self.transform = A.Compose([_group(group, self.size) for group in scheme["groups"]])

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        image = self.transform(image=np.load(self.files[number]))["image"]
        if len(image) != self.size:  # a scheme without a place for it
            image = cv2.resize(image, (self.size, self.size), interpolation=cv2.INTER_AREA)
        target = torch.from_numpy(self.labels[number])
        if np.random.random() < self.negative:
            image[..., CHANNELS.index("green")] = 0
            target = torch.zeros_like(target)
        image = image.astype(np.float32) / 255 - self.means
        return torch.from_numpy(image.transpose(2, 0, 1).copy()), target


def _group(group: dict[str, Any], size: int) -> Any:
    steps = [
        _resize(size, **parameters) if name == "resize" else _TRANSFORMS[name](**parameters)
        for name, parameters in transforms_of(group)
    ]
    step = A.OneOf(steps, p=1) if len(steps) > 1 else steps[0]
    channels = channels_of(group)
    if len(channels) == len(CHANNELS):
        return step
    return A.SelectiveChannelTransform([step], channels=channels, p=1)


def _words(words: str | list[str]) -> list[str]:
    return [words] if isinstance(words, str) else words


def _any_of(steps: list[Any]) -> Any:
    return A.OneOf(steps, p=1) if len(steps) > 1 else steps[0]


def _resize(size: int, interpolation: str | list[str] = "area") -> Any:
    return _any_of(
        [A.Resize(size, size, INTERPOLATIONS[word], p=1) for word in _words(interpolation)]
    )


def _bordered(transform: Any, border: str | list[str] = "constant", **arguments: Any) -> Any:
    return _any_of(
        [transform(**arguments, border_mode=_BORDERS[word], fill=0, p=1) for word in _words(border)]
    )


_BORDERS = {"constant": cv2.BORDER_CONSTANT, "reflect": cv2.BORDER_REFLECT_101}


def _dropout(share: list[float], hole: float) -> A.CoarseDropout:
    fewest, most = (max(1, round(end / hole**2)) for end in share)
    return A.CoarseDropout((fewest, most), (hole, hole), (hole, hole), fill=0, p=1)


def _grid_dropout(probability: list[float], cells: int, per_channel: bool) -> A.Lambda:
    def drop(image: np.ndarray, **_: Any) -> np.ndarray:
        channels = image.shape[2] if per_channel else 1
        kept = np.random.random((cells, cells, channels)) >= np.random.uniform(*probability)
        mask = cv2.resize(
            kept.astype(np.uint8), image.shape[1::-1], interpolation=cv2.INTER_NEAREST
        )
        return image * mask.reshape(*image.shape[:2], channels)

    return A.Lambda(image=drop, p=1)


def _edges(alpha: list[float]) -> A.Lambda:
    def blend(image: np.ndarray, **_: Any) -> np.ndarray:
        share = np.random.uniform(*alpha)
        kernel = share * np.array([[0, 1, 0], [1, -4, 1], [0, 1, 0]])
        kernel[1, 1] += 1 - share
        return cv2.filter2D(image, -1, kernel).reshape(image.shape)

    return A.Lambda(image=blend, p=1)


def _contrast(factor: list[float]) -> A.Lambda:
    def stretch(image: np.ndarray, **_: Any) -> np.ndarray:
        values = 128 + np.random.uniform(*factor) * (np.arange(256) - 128)
        table = np.clip(np.rint(values), 0, 255).astype(np.uint8)
        return cv2.LUT(image, table).reshape(image.shape)

    return A.Lambda(image=stretch, p=1)


def _piecewise_affine(scale: list[float], clip: bool = False) -> A.Lambda:
    def warp(image: np.ndarray, **_: Any) -> np.ndarray:
        height, width = image.shape[:2]
        offsets = np.random.normal(size=(2, GRID, GRID)) * np.random.uniform(*scale) * width
        if clip:
            rest = np.stack(np.meshgrid(*[np.linspace(0, width - 1, GRID)] * 2))
            offsets = np.clip(rest + offsets, 0, width - 1) - rest
        map_x, map_y = displacement_maps(offsets.astype(np.float32), height, width)
        return cv2.remap(image, map_x, map_y, cv2.INTER_LINEAR)

    return A.Lambda(image=warp, p=1)


_TRANSFORMS: dict[str, Callable[..., Any]] = {
    "none": lambda: A.NoOp(p=1),
    "crop_and_pad": lambda share, **border: _bordered(A.CropAndPad, percent=tuple(share), **border),
    "piecewise_affine": _piecewise_affine,
    "rotate": lambda degrees, **border: _bordered(A.Affine, rotate=tuple(degrees), **border),
    "shear": lambda degrees, **border: _bordered(
        A.Affine, shear={"x": tuple(degrees), "y": (0, 0)}, **border
    ),
    "contrast": _contrast,
    "multiply": lambda factor, per_channel: A.MultiplicativeNoise(
        tuple(factor), per_channel=per_channel, p=1
    ),
    "edge_detect": _edges,
    "coarse_dropout": _dropout,
    "grid_dropout": _grid_dropout,
    "sharpen": lambda alpha, lightness=(1, 1): A.Sharpen(
        alpha=tuple(alpha), lightness=tuple(lightness), p=1
    ),
    "flip_and_rotate90": lambda: A.D4(p=1),
}


def report(
    speeds: dict[str, list[Speed]],
    peaks: dict[str, float],
    alone: float,
    arguments: argparse.Namespace,
    recipe: dict[str, Any],
    command: str,
) -> str:
    names = ("torch", "albumentations", "numpy")
    versions = ", ".join(f"{name} {version(name)}" for name in names)
    rates = {name: [each.images_per_second for each in values] for name, values in speeds.items()}
    medians = {name: statistics.median(values) for name, values in rates.items()}
    cpu = {
        name: statistics.median(each.cpu_ms_per_image for each in values)
        for name, values in speeds.items()
    }
    rows = [
        (
            name, f"{medians[name]:,.0f}", f"{min(values):,.0f} to {max(values):,.0f}",
            f"{cpu[name]:.2f}", f"{peaks[name]:,.0f}",
        )
        for name, values in rates.items()
    ]  # fmt: skip
    head = ("", "images/s", "least to most", "CPU ms per image", "memory, MiB")
    grid = "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows])
    _, own, other = speeds
    ours, theirs = medians[own], medians[other]
    ratios = [one / two for one, two in zip(rates[own], rates[other], strict=True)]
    per_core = ours / arguments.cores
    paper = GOAL * GMAC / GMAC_PAPER
    batch = recipe["batch_size"] * recipe["image_size"] ** 2 * len(CHANNELS) / 2**20
    return f"""# Making batches

{datetime.date.today()}, {arguments.cores} cores of {cpu_model()}, Python {platform.python_version()},
{versions}, OpenCV {cv2.__version__}; load average {os.getloadavg()[1]:.1f} ({arguments.cores} is this program).
Medians of {arguments.repeats} interleaved runs of {arguments.seconds:g} s each over {arguments.images} images of
4×{SIDE}² in the page cache, batches of {recipe["batch_size"]}, {arguments.cores} workers.

    {command}

{grid}

- The augmentation is {ours / theirs:.1f} times as fast as the baseline (in single turns {min(ratios):.1f} to {max(ratios):.1f} times).
- A process without others takes {alone:.2f} ms for an image.
- {GOAL} images/s, the goal for SE-ResNeXt50 at 512 px on an H100, take {math.ceil(GOAL / per_core)} such cores; {paper:,.0f} images/s, as many operations with the paper's
  SE-ResNeXt101 at {recipe["image_size"]} px, {math.ceil(paper / per_core)}.
- Beside the process itself, this workflow holds {SLOTS} batches ({SLOTS * batch:.0f} MiB at {recipe["image_size"]} px; {SLOTS * recipe["batch_size"]} MiB where
  images of {SIDE} px are read alone) and some ten images per worker. The baseline's memory is that of
  its processes and of the batches that wait.
"""


if __name__ == "__main__":
    main()
