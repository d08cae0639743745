"""Batches of images for training, validation and prediction, made by worker processes.

A batch is a function of seed, purpose, epoch, view and image ids alone: any number of workers
gives the same bytes in the same order. Images stay uint8, channels last: whoever takes a batch
scales it to the network's input where the network is, which sends a quarter of the bytes.
"""

import hashlib
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import cv2
import numpy as np
import pandas as pd
import torch
from torch.utils.data import DataLoader, Dataset

from hpaloc.classes import CHANNELS
from hpaloc.geometry import N_DIHEDRAL, dihedral, resized
from hpaloc.shards import read_rows

# The most that a rare class multiplies the draws of an image (sampling: rare).
RARE_CAP = 10.0


# What hpaloc.shards.open_arrays gives: the index, and the shards as memory maps.
Arrays = tuple[pd.DataFrame, list[np.ndarray]]


class Batch(NamedTuple):
    """``images`` uint8 N×S×S×4; ``targets`` float32 N×28, None where labels play no part;
    ``rows`` int64 N, the images' positions in the index of the arrays.
    """

    images: torch.Tensor
    targets: torch.Tensor | None
    rows: torch.Tensor


def training_batches(
    arrays: Arrays,
    rows: np.ndarray,
    labels: np.ndarray,
    recipe: dict[str, Any],
    epoch: int,
    workers: int,
) -> Iterator[Batch]:
    """One epoch of augmented training images, in an order drawn from (seed, epoch).

    ``rows`` (int, n) are positions in the index, ``labels`` is bool n×28. A negative sample has
    neither a green channel nor labels. The last batch may be smaller: the paper's patience of
    874 steps is two epochs of 437 steps, the last of 61 images.

    Raises InputError where the recipe's augmentation is not valid.
    """
    # Here and not above: prediction without augmentation works where albumentations is absent.
    from hpaloc.augment import build

    order = epoch_order(labels, recipe["sampling"], recipe["seed"], epoch)
    rows = np.asarray(rows, np.int64)[order]
    make = partial(
        _training_batch,
        arrays=arrays,
        rows=rows,
        image_ids=_image_ids(arrays, rows),
        repeats=_repeats(order),
        labels=labels[order],
        pipeline=build(recipe["augmentation"]),
        recipe=recipe,
        epoch=epoch,
    )
    return _made(make, _slices(len(order), recipe["batch_size"]), workers)


def view_batches(
    arrays: Arrays,
    rows: np.ndarray,
    recipe: dict[str, Any],
    views: dict[str, Any],
    view: int,
    purpose: str,
    workers: int,
    batch_size: int,
    epoch: int = 0,
) -> Iterator[Batch]:
    """View ``view`` of all images, in their order, for test-time augmentation.

    ``views`` is a block of the recipe's ``tta``. ``augmentation``: a draw of the training
    augmentation, without negatives, seeded by ``purpose`` ("validation" or "prediction"),
    ``epoch``, view and image; ``dihedral8``: one of the eight exact views; ``none``: the image.
    """
    if not 0 <= view < n_views(views):
        raise ValueError(f"view {view} of {n_views(views)}")
    rows = np.asarray(rows, np.int64)
    settings = {"arrays": arrays, "rows": rows, "size": recipe["image_size"]}
    if views["kind"] == "augmentation":
        from hpaloc.augment import build

        make = partial(
            _augmented_batch,
            image_ids=_image_ids(arrays, rows),
            pipeline=build(recipe["augmentation"]),
            key=(recipe["seed"], purpose, epoch, view),
            **settings,
        )
    else:
        make = partial(_exact_batch, view=view, **settings)
    return _made(make, _slices(len(rows), batch_size), workers)


def n_views(views: dict[str, Any]) -> int:
    """How many views a block of the recipe's ``tta`` asks for."""
    return {"none": 1, "dihedral8": N_DIHEDRAL}.get(views["kind"]) or views["views"]


def epoch_order(labels: np.ndarray, sampling: str, seed: int, epoch: int) -> np.ndarray:
    """The images of an epoch in their order: n positions in 0..n − 1 (int64), from (seed, epoch).

    ``uniform``: a permutation. ``rare``: systematic sampling with the weights of
    ``draw_weights``, so that each image comes as often as it should, rounded down or up.
    """
    key = hashlib.blake2b(f"{seed}/order/{epoch}".encode(), digest_size=32).digest()
    rng = np.random.default_rng(int.from_bytes(key, "little"))
    shuffled = rng.permutation(len(labels))
    if sampling == "uniform" or len(labels) == 0:
        return shuffled
    weights = draw_weights(labels)[shuffled]
    expected = weights * (len(weights) / weights.sum())
    ends = np.floor(np.cumsum(expected) + rng.random())
    ends[-1] = len(weights)
    counts = np.diff(ends, prepend=0).astype(np.int64)
    return rng.permutation(np.repeat(shuffled, counts))


def draw_weights(labels: np.ndarray) -> np.ndarray:
    """How much more often than a common image each one is drawn (sampling: rare), float64 n.

    A class with n_c images weighs clip(median(n) / n_c, 1, RARE_CAP), the median over the
    classes that occur; an image weighs as its heaviest class, one without labels 1.
    """
    counts = labels.sum(axis=0)
    present = counts > 0
    if not present.any():
        return np.ones(len(labels))
    weights = np.ones(len(counts))
    weights[present] = np.clip(np.median(counts[present]) / counts[present], 1.0, RARE_CAP)
    return np.where(labels, weights, 1.0).max(axis=1)


def _image_ids(arrays: Arrays, rows: np.ndarray) -> np.ndarray:
    """The ids at ``rows`` as Python strings: quicker to take from than a column of the index."""
    return arrays[0]["image_id"].to_numpy(dtype=object)[rows]


def _repeats(order: np.ndarray) -> np.ndarray:
    """How often the image of each draw came before in the epoch: its draws must differ."""
    by_image = np.argsort(order, kind="stable")
    images = order[by_image]
    repeats = np.empty_like(order)
    repeats[by_image] = np.arange(len(order)) - np.searchsorted(images, images)
    return repeats


def _training_batch(
    part: slice,
    arrays: Arrays,
    rows: np.ndarray,
    image_ids: np.ndarray,
    repeats: np.ndarray,
    labels: np.ndarray,
    pipeline: Any,
    recipe: dict[str, Any],
    epoch: int,
) -> Batch:
    from hpaloc.augment import augmented, stream

    rows, targets = rows[part], labels[part].astype(np.float32)
    images = _empty(len(rows), recipe["image_size"])
    draws = zip(read_rows(*arrays, rows), image_ids[part], repeats[part], strict=True)
    for number, (image, image_id, repeat) in enumerate(draws):
        key = stream(recipe["seed"], "train", epoch, int(repeat), image_id)
        images[number], is_negative = augmented(
            pipeline, image, recipe["image_size"], key, recipe["augmentation"]["negative"]
        )
        if is_negative:
            targets[number] = 0
    return _batch(images, targets, rows)


def _exact_batch(part: slice, arrays: Arrays, rows: np.ndarray, view: int, size: int) -> Batch:
    rows = rows[part]
    images = _empty(len(rows), size)
    for number, image in enumerate(read_rows(*arrays, rows)):
        images[number] = dihedral(resized(image, size), view)
    return _batch(images, None, rows)


def _augmented_batch(
    part: slice,
    arrays: Arrays,
    rows: np.ndarray,
    image_ids: np.ndarray,
    pipeline: Any,
    key: tuple[int, str, int, int],
    size: int,
) -> Batch:
    from hpaloc.augment import augmented, stream

    rows = rows[part]
    images = _empty(len(rows), size)
    draws = zip(read_rows(*arrays, rows), image_ids[part], strict=True)
    for number, (image, image_id) in enumerate(draws):
        images[number], _ = augmented(pipeline, image, size, stream(*key, image_id))
    return _batch(images, None, rows)


def _empty(count: int, size: int) -> np.ndarray:
    return np.empty((count, size, size, len(CHANNELS)), np.uint8)


def _batch(images: np.ndarray, targets: np.ndarray | None, rows: np.ndarray) -> Batch:
    return Batch(
        torch.from_numpy(images),
        None if targets is None else torch.from_numpy(targets),
        torch.from_numpy(rows),
    )


def _slices(count: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]


class _MadeBatches(Dataset):
    """Batch k is ``make(parts[k])``."""

    def __init__(self, make: Callable[[slice], Batch], parts: list[slice]):
        self.make, self.parts = make, parts

    def __len__(self) -> int:
        return len(self.parts)

    def __getitem__(self, number: int) -> Batch:
        return self.make(self.parts[number])


def _made(make: Callable[[slice], Batch], parts: list[slice], workers: int) -> Iterator[Batch]:
    # Workers are forked: they start at once and share the memory maps. Where forking is not safe
    # (macOS) or unknown (Windows), batches are made in the process itself.
    workers = min(workers, len(parts)) if sys.platform == "linux" else 0
    if workers:
        # Ends OpenCV's threads: a fork would inherit them dead, and wait for them for ever.
        # The workers are the threads.
        cv2.setNumThreads(1)
    return iter(
        DataLoader(
            _MadeBatches(make, parts),
            batch_size=None,
            collate_fn=_as_it_is,
            num_workers=workers,
            multiprocessing_context="fork" if workers else None,
            # Without one of its own, the loader takes a number from torch's global generator.
            generator=torch.Generator(),
        )
    )


def _as_it_is(batch: Batch) -> Batch:
    return batch
