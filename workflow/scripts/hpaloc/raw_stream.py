"""From image files straight to probabilities, without arrays on a disk.

Threads read, decode and shrink the images of the next batch while the network has the last one.
The pixels are those of a run: an image is converted as for arrays, and then made a view of the
network's size as for a batch, by the same functions.
"""

import itertools
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from threadpoolctl import threadpool_limits

from hpaloc.classes import CHANNELS, N_CLASSES
from hpaloc.compute import Compute
from hpaloc.convert import BadFile, Problem, converted
from hpaloc.device_batches import to_device, to_host
from hpaloc.feed import n_draws, n_views, view_maker
from hpaloc.gradient import Forward
from hpaloc.image_header import Notes
from hpaloc.images import BadImage, Reading, read_header
from hpaloc.log import InputError
from hpaloc.predict import exact_views, probabilities
from hpaloc.raw_files import Read, raw_files


class RawBatch(NamedTuple):
    """Images that can be used and those that cannot: ``images`` uint8 draws × n × S × S × 4 of the
    n ``image_ids`` (see hpaloc.feed.n_draws); ``problems`` by image id.
    """

    image_ids: list[str]
    images: torch.Tensor
    problems: dict[str, Problem]


def raw_batches(
    root: Path,
    files: dict[str, Sequence[str]],
    stack_order: Sequence[str],
    arrays_size: int,
    recipe: dict[str, Any],
    views: dict[str, Any],
    threads: int,
    slices: Mapping[str, Any] | None = None,
    notes: Notes | None = None,
) -> Iterator[RawBatch]:
    """The images of ``files`` in their order, the recipe's ``batch_size`` at a time.

    They are what hpaloc.feed.view_batches makes for a prediction with ``recipe`` and ``views`` of
    arrays of ``arrays_size`` px. ``files`` has the four paths of each image below the folder or zip archive ``root``, in the
    order of CHANNELS (one path four times where a file holds all). While a batch is with whoever
    takes it, ``threads`` threads make the next one; there are never more than these two and one
    that is being handed over. ``slices`` is the setting for files of several planes (see
    hpaloc.image_header), ``notes`` gets how files were understood. Raises InputError at the first
    file of 16 bits.
    """
    cv2.setNumThreads(1)
    left, batch_size = iter(files.items()), recipe["batch_size"]
    convert = _Conversion(stack_order, arrays_size, recipe, views, slices or {}, notes)
    pending: deque[tuple[str, Future]] = deque()
    # NumPy's products of matrices alone are limited: torch's threads are the network's.
    with raw_files(root) as read, threadpool_limits(1, user_api="blas"):
        executor = ThreadPoolExecutor(threads)

        def submit(count: int) -> None:
            for image_id, paths in itertools.islice(left, count):
                work = executor.submit(_image, read, image_id, paths, convert)
                pending.append((image_id, work))

        try:
            submit(batch_size)
            while pending:
                submit(batch_size)
                made = [pending.popleft() for _ in range(min(batch_size, len(pending)))]
                results = {image_id: future.result() for image_id, future in made}
                del made
                yield _batch(results, n_draws(views), recipe["image_size"])
                del results
        finally:
            executor.shutdown(cancel_futures=True)


def stream_probabilities(
    networks: Sequence[Forward],
    batches: Iterator[RawBatch],
    views: dict[str, Any],
    compute: Compute,
    progress: Callable[[int], None],
    stop_at_damage: bool = False,
) -> tuple[list[str], np.ndarray, dict[str, Problem]]:
    """Ids and probabilities (float32 networks × n × 28, mean of the views) of a stream, and what
    could not be used.

    ``views`` are those of ``batches``; every image is decoded once for all of them and for all
    networks, which are in evaluation mode on the device. ``progress`` is told how many
    images are done. With ``stop_at_damage`` the networks rest from the first problem on, while
    the rest is read to name all.
    """
    image_ids: list[str] = []
    found = [np.empty((len(networks), 0, N_CLASSES), np.float32)]
    problems: dict[str, Problem] = {}
    for batch in batches:
        problems |= batch.problems
        if batch.image_ids and not (stop_at_damage and problems):
            total = torch.zeros(
                (len(networks), len(batch.image_ids), N_CLASSES),
                dtype=torch.float64, device=compute.device,
            )  # fmt: skip
            for drawn in batch.images:
                for images in exact_views(to_device(drawn, compute), views):
                    for number, network in enumerate(networks):
                        total[number] += probabilities(network, images, compute)
            found.append(to_host((total / n_views(views)).float()).numpy())
            image_ids += batch.image_ids
        progress(len(batch.image_ids) + len(batch.problems))
    return image_ids, np.concatenate(found, axis=1), problems


class _Conversion(threading.local):
    """How an image becomes its views; each thread has one of its own, for a draw uses a generator."""

    def __init__(
        self,
        stack_order: Sequence[str],
        arrays_size: int,
        recipe: dict[str, Any],
        views: dict[str, Any],
        slices: Mapping[str, Any],
        notes: Notes | None,
    ):
        self.stack_order, self.arrays_size = stack_order, arrays_size
        self.slices, self.notes = slices, notes
        self.draws, self.view = n_draws(views), view_maker(recipe, views, "prediction")


def _image(
    read: Read, image_id: str, paths: Sequence[str], convert: _Conversion
) -> np.ndarray | Problem:
    """The draws of one image at the network's size, or why there is none."""
    contents: dict[str, bytes] = {}
    reading = Reading(len(set(paths)) == 1, convert.slices)
    box = (0, 0)
    for channel, path in zip(CHANNELS, paths, strict=True):
        if path in contents:
            continue
        try:
            contents[path] = read(path, f"image {image_id}")
            header = read_header(contents[path], reading)
        except BadImage as error:
            return Problem(path, channel, str(error))
        if header.dtype == "uint16":
            raise InputError(
                f"{path}: holds 16-bit values, which are scaled over a whole source and not file by"
                " file. Make the folder a source of kind local, whose grey_range says how, and run"
                " the workflow (see Your own images in the README)."
            )
        box = box if any(box) else (header.width, header.height)
    record = {f"path_{channel}": path for channel, path in zip(CHANNELS, paths, strict=True)}
    record |= {"image_id": image_id, "parent": image_id}
    record |= {"x": 0, "y": 0, "width": box[0], "height": box[1]}
    try:
        (image,) = converted(
            lambda record, channel: contents[record[f"path_{channel}"]],
            [record], convert.stack_order, convert.arrays_size, convert.slices, convert.notes,
        )  # fmt: skip
    except BadFile as error:
        return error.problem
    return np.stack([convert.view(image, image_id, view) for view in range(convert.draws)])


def _batch(results: dict[str, np.ndarray | Problem], draws: int, size: int) -> RawBatch:
    problems = {key: value for key, value in results.items() if isinstance(value, Problem)}
    good = {key: value for key, value in results.items() if key not in problems}
    images = np.empty((draws, len(good), size, size, len(CHANNELS)), np.uint8)
    for number, image in enumerate(good.values()):
        images[:, number] = image
    return RawBatch(list(good), torch.from_numpy(images), problems)
