"""Batches of images for training, validation and prediction, made by worker processes.

A batch is a function of seed, fold, purpose, epoch, view and image ids alone: any number of
workers gives the same bytes in the same order. Images stay uint8, channels last: whoever takes a
batch scales it to the network's input where the network is, which sends a quarter of the bytes.

An image is read from the mapped shard by its first transform and written into the batch by its
last. Beside the mapped files, which the system may drop at any time, this takes the memory of
SLOTS batches (hpaloc.batch_buffers), and of some ten images at the array's size per worker.
"""

import hashlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from hpaloc.augment import augmented, build, is_negative, stream
from hpaloc.batch_buffers import Write, filled
from hpaloc.classes import CHANNELS
from hpaloc.geometry import N_DIHEDRAL, resized
from hpaloc.ranks import ALONE, Ranks

# The most that a rare class multiplies the draws of an image (sampling: rare).
RARE_CAP = 10.0


# What hpaloc.shards.open_arrays gives: the index, and the shards as memory maps.
Arrays = tuple[pd.DataFrame, list[np.ndarray]]


class Batch(NamedTuple):
    """``images`` uint8 N×S×S×4; ``targets`` float32 N×28, None where labels play no part;
    ``rows`` int64 N, the images' positions in the index of the arrays. Where several processes
    share a batch, ``images`` are a process's own and the others those of the whole batch.
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
    fold: int = 0,
    first_step: int = 0,
    ranks: Ranks = ALONE,
) -> Iterator[Batch]:
    """One epoch of augmented training images, in an order drawn from (seed, fold, epoch).

    ``rows`` (int, n) are positions in the index, ``labels`` is bool n×28. A negative sample has
    neither a green channel nor labels. The last batch may be smaller: the paper's patience of
    874 steps is two epochs of 437 steps, the last of 61 images. The first ``first_step`` batches
    are left out without being made; those that follow are the same as in the whole epoch.

    Of several processes (``ranks``) each has its share of a batch's images, and all its targets and
    rows: together the batches are the same whatever their number.

    Raises InputError where the recipe's augmentation is not valid.
    """
    scheme, seed, size = recipe["augmentation"], recipe["seed"], recipe["image_size"]
    order = epoch_order(labels, recipe["sampling"], seed, epoch, fold)
    rows, labels = np.asarray(rows, np.int64)[order], labels[order]
    image_ids, repeats = _image_ids(arrays, rows), _repeats(order)
    read, pipeline = _reader(arrays, rows), build(scheme)

    def key(position: int) -> bytes:
        return stream(seed, "train", epoch, int(repeats[position]), image_ids[position], fold)

    def write(position: int, out: np.ndarray) -> None:
        out[:], _ = augmented(pipeline, read(position), size, key(position), scheme["negative"])

    def targets(part: range) -> np.ndarray:
        negative = [is_negative(scheme["negative"], key(position)) for position in part]
        return (labels[part] & ~np.array(negative)[:, None]).astype(np.float32)

    parts = _parts(len(order), recipe["batch_size"])[first_step:]
    return _batches(parts, rows, size, write, workers, targets, ranks)


def view_batches(
    arrays: Arrays,
    rows: np.ndarray,
    recipe: dict[str, Any],
    views: dict[str, Any],
    purpose: str,
    workers: int,
    batch_size: int,
    epoch: int = 0,
    fold: int = 0,
) -> Iterator[Batch]:
    """All images in their order for test-time augmentation, every batch ``n_draws`` times before
    the next one, so that a shard is read once.

    ``views`` is a block of the recipe's ``tta``. ``augmentation``: draws of the training
    augmentation, without negatives, each seeded by ``fold``, ``purpose`` ("validation" or
    "prediction", whose views are for the networks of all folds: fold 0), ``epoch``, view and
    image. ``dihedral8`` and ``none``: the images themselves; their exact views are made where the
    network is (hpaloc.predict.exact_views).
    """
    rows = np.asarray(rows, np.int64)
    read, image_ids = _reader(arrays, rows), _image_ids(arrays, rows)
    draws, made = n_draws(views), view_maker(recipe, views, purpose, epoch, fold)

    def write(place: int, out: np.ndarray) -> None:
        view, position = divmod(place, len(rows))
        out[:] = made(read(position), image_ids[position], view)

    places = [
        range(view * len(rows) + part.start, view * len(rows) + part.stop)
        for part in _parts(len(rows), batch_size)
        for view in range(draws)
    ]
    return _batches(places, np.tile(rows, draws), recipe["image_size"], write, workers)


def view_maker(
    recipe: dict[str, Any], views: dict[str, Any], purpose: str, epoch: int = 0, fold: int = 0
) -> Callable[[np.ndarray, str, int], np.ndarray]:
    """What makes one of the ``n_draws`` views of ``view_batches``, for one thread at a time: of an
    image of the arrays (uint8 S×S×4), its id and the view's number, uint8 at the network's size."""
    size = recipe["image_size"]
    if views["kind"] != "augmentation":
        return lambda image, image_id, view: resized(image, size)
    pipeline = build(recipe["augmentation"])

    def drawn(image: np.ndarray, image_id: str, view: int) -> np.ndarray:
        key = stream(recipe["seed"], purpose, epoch, view, image_id, fold)
        return augmented(pipeline, image, size, key)[0]

    return drawn


def n_views(views: dict[str, Any]) -> int:
    """How many views a block of the recipe's ``tta`` asks for."""
    return N_DIHEDRAL if views["kind"] == "dihedral8" else n_draws(views)


def n_draws(views: dict[str, Any]) -> int:
    """How many of them are drawn, each an image of its own."""
    return views["views"] if views["kind"] == "augmentation" else 1


def epoch_order(
    labels: np.ndarray, sampling: str, seed: int, epoch: int, fold: int = 0
) -> np.ndarray:
    """The images of an epoch in their order: n positions in 0..n − 1 (int64).

    It is drawn from (seed, fold, epoch).

    ``uniform``: a permutation. ``rare``: systematic sampling with the weights of
    ``draw_weights``, so that each image comes as often as it should, rounded down or up.
    """
    key = hashlib.blake2b(f"{seed}/{fold}/order/{epoch}".encode(), digest_size=32).digest()
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


def _reader(arrays: Arrays, rows: np.ndarray) -> Callable[[int], np.ndarray]:
    """What gives the image at a position of ``rows``, uint8 S×S×4: the mapped file itself.

    Whatever is done to the image first reads it from there; it is not copied before.
    """
    frame, shards = arrays
    shard, row = (frame[name].to_numpy()[rows] for name in ("shard", "row"))
    pixels = [np.asarray(pixels) for pixels in shards]
    return lambda position: pixels[shard[position]][row[position]]


def _parts(count: int, size: int) -> list[range]:
    return [range(start, min(start + size, count)) for start in range(0, count, size)]


def _batches(
    parts: list[range],
    rows: np.ndarray,
    size: int,
    write: Write,
    workers: int,
    targets: Callable[[range], np.ndarray] | None = None,
    ranks: Ranks = ALONE,
) -> Iterator[Batch]:
    shares = [part[ranks.share(len(part))] for part in parts]
    images = filled(shares, (size, size, len(CHANNELS)), write, workers)
    # Not zip: it would hold a batch longer than whoever takes it.
    for part in parts:
        yield Batch(
            next(images),
            None if targets is None else torch.from_numpy(targets(part)),
            torch.from_numpy(rows[part]),
        )
