"""Seconds per image from files to probabilities, in the settings of the paper's Table III."""

import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

import cv2
import numpy as np
import pandas as pd
import torch

from hpaloc.classes import CHANNELS
from hpaloc.colour_planes import RGB_PLANE
from hpaloc.compute import Compute
from hpaloc.device_batches import to_device
from hpaloc.geometry import resized
from hpaloc.gradient import Forward
from hpaloc.images import (
    BadImage,
    plane_of_channel,
    read_header,
    read_planes,
    reduction,
    resize_area,
)
from hpaloc.log import InputError
from hpaloc.predict import probabilities
from hpaloc.raw_stream import raw_batches

# The atlas's coding (quality, 4:2:0); a plane of a colour file holds the signal of one channel.
_JPG = [
    cv2.IMWRITE_JPEG_QUALITY, 50,
    cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420,
]  # fmt: skip


def write_files(image: np.ndarray, size: int, kind: str, folder: Path, number: int) -> list[Path]:
    """Writes an image (uint8, S × S × 4) at another size as files to be timed.

    ``jpg``: four colour-coded JPG files, as the atlas serves them. ``npy``: one array of uint8.
    """
    image = resized(image, size)
    if kind == "npy":
        path = folder / f"{number}.npy"
        np.save(path, image, allow_pickle=False)
        return [path]
    paths = []
    for plane, channel in enumerate(CHANNELS):
        colour = np.zeros((size, size, 3), dtype=np.uint8)
        # OpenCV keeps blue, green, red. Yellow is R and G alike.
        colour[..., 2 - RGB_PLANE[channel]] = image[..., plane]
        if channel == "yellow":
            colour[..., 1] = image[..., plane]
        paths.append(folder / f"{number}_{channel}.jpg")
        cv2.imwrite(str(paths[-1]), colour, _JPG)
    return paths


def source_files(index: pd.DataFrame, root: Path, size: int) -> list[Path]:
    """The four colour-coded JPG files of the first image of ``size`` px of a source.

    ``index`` is its raw index and ``root`` the folder of its paths. Empty where no whole image of
    that size is there as JPG files (an archive, other formats, files that were deleted).
    """
    whole = index["image_id"] == index["parent"]
    fits = index[whole & (index["width"] == size) & (index["height"] == size)]
    for record in fits.to_dict("records"):
        paths = [root / record[f"path_{channel}"] for channel in CHANNELS]
        if len(set(paths)) == len(CHANNELS) and all(map(_is_jpg, paths)):
            return paths
    return []


def _is_jpg(path: Path) -> bool:
    try:
        header = read_header(path.read_bytes())
    except (OSError, BadImage):
        return False
    return header.format == "JPEG" and header.planes == 3


def read_file(path: Path, number: int, out: np.ndarray) -> None:
    """Reads file ``number`` of an image at the network's size, into ``out`` (size × size × 4)."""
    size = out.shape[0]
    if path.suffix == ".npy":
        out[...] = resized(np.load(path, allow_pickle=False), size)
        return
    data = path.read_bytes()
    header = read_header(data)
    fraction = reduction(header, [(0, 0, header.width, header.height)], size)
    plane = plane_of_channel(read_planes(data, fraction), CHANNELS[number])
    out[..., number] = resize_area(plane, size, size)


def seconds_per_image(
    network: Forward,
    files: Sequence[Sequence[Path]],
    size: int,
    batch_size: int,
    repeats: int,
    threads: int,
    compute: Compute,
) -> float:
    """Median over ``repeats`` batches of the seconds from files to probabilities, per image.

    Decoding, resizing, the way to the device, one view and the way back are inside the clock;
    ``files`` (of ``batch_size`` images) were written a moment ago and come from memory rather
    than from a disk. One batch before the clock starts warms up. Files are read in ``threads``
    threads.
    """
    batch = np.empty((batch_size, size, size, len(CHANNELS)), dtype=np.uint8)
    work = [
        (path, number, image)
        for paths, image in zip(files, batch, strict=True)
        for number, path in enumerate(paths)
    ]
    times = []
    with ThreadPoolExecutor(threads) as executor:
        for _ in range(repeats + 1):
            start = time.perf_counter()
            # list(): an error of a thread is raised here.
            list(executor.map(read_file, *zip(*work, strict=True)))
            probabilities(network, to_device(torch.from_numpy(batch), compute), compute).cpu()
            times.append((time.perf_counter() - start) / batch_size)
    return median(times[1:])


def stream_images_per_second(
    network: Forward,
    files: Sequence[Sequence[Path]],
    arrays_size: int,
    recipe: dict[str, Any],
    batches: int,
    threads: int,
    compute: Compute,
) -> float:
    """Images per second of a stream of one view each, as label_images.py runs it: files are read,
    decoded and shrunk for the next batch (of the recipe's ``batch_size``) while the network has
    the last one.

    ``files`` are repeated to ``batches`` batches; the clock starts when the first of them is done.
    """
    root = Path(os.path.commonpath([path.parent for paths in files for path in paths]))
    names = [[path.relative_to(root).as_posix() for path in paths] for paths in files]
    names = [paths if len(paths) == len(CHANNELS) else paths * len(CHANNELS) for paths in names]
    stream = {str(k): names[k % len(names)] for k in range(recipe["batch_size"] * batches)}
    start, done = 0.0, 0
    views = {"kind": "none"}
    for batch in raw_batches(root, stream, CHANNELS, arrays_size, recipe, views, threads):
        if batch.problems:
            problem = next(iter(batch.problems.values()))
            raise InputError(f"{root / problem.file}: cannot be timed ({problem.reason}).")
        probabilities(network, to_device(batch.images[0], compute), compute).cpu()
        if start:
            done += len(batch.image_ids)
        else:
            start = time.perf_counter()
    return done / (time.perf_counter() - start)
