"""Arrays of images in shards: which rows a shard holds, and rows read from memory maps."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from hpaloc.classes import CHANNELS
from hpaloc.files import map_array
from hpaloc.index import read_index
from hpaloc.log import InputError


def shard_range(images: int, shard: int, shards: int) -> range:
    """The rows of the raw index that belong to ``shard`` of ``shards``, counted from 0."""
    return range(shard * images // shards, (shard + 1) * images // shards)


def shard_name(shard: int) -> str:
    return f"shard_{shard:03d}.npy"


def open_arrays(index: str | Path) -> tuple[pd.DataFrame, list[np.ndarray]]:
    """The index of arrays and its shards, uint8 n × S × S × 4 each, memory-mapped read-only.

    Shard k is item k of the list. Raises InputError where a shard is missing or is not what the
    index says.
    """
    frame = read_index(index)
    if "shard" not in frame.columns:
        raise InputError(f"{index}: an index of raw images, where arrays are wanted.")
    rows_needed = frame.groupby("shard")["row"].max() + 1
    shards = []
    for number in range(int(frame["shard"].max()) + 1 if len(frame) else 0):
        path = Path(index).with_name(shard_name(number))
        needed = int(rows_needed.get(number, 0))
        if needed == 0:  # an empty file cannot be mapped
            shards.append(np.empty((0, 0, 0, len(CHANNELS)), np.uint8))
            continue
        try:
            pixels = map_array(path)
        except (OSError, ValueError) as error:
            raise InputError(
                f"{path}: this shard of {index} cannot be read ({error})."
                f" Make it again: snakemake --force {path}, with your configuration; make verify"
                " names all that are missing or damaged."
            ) from error
        size = pixels.shape[1] if pixels.ndim == 4 else 0
        if (
            pixels.dtype != np.uint8
            or pixels.shape != (needed, size, size, len(CHANNELS))
            or any(len(other) and other.shape[1] != size for other in shards)
        ):
            raise InputError(
                f"{path}: {pixels.dtype} {pixels.shape} is not a shard of {needed} square images"
                f" of {len(CHANNELS)} channels, all of one size, as {index} says."
            )
        shards.append(pixels)
    return frame, shards


def size_of(shards: list[np.ndarray]) -> int:
    """Pixels per side of the images of ``open_arrays``; 0 where there are none."""
    return next((pixels.shape[1] for pixels in shards if len(pixels)), 0)


def positions_of(frame: pd.DataFrame, image_ids: Iterable[str]) -> np.ndarray:
    """Where the ids stand in ``frame``, in the order asked for; an unknown id is an InputError."""
    ids = pd.Index(list(image_ids))
    positions = pd.Index(frame["image_id"]).get_indexer(ids)
    if (positions < 0).any():
        unknown = ids[positions < 0]
        raise InputError(
            f"{len(unknown)} image ids are not in the arrays, the first is {unknown[0]!r}."
            " Were the arrays made of the same source?"
        )
    return positions


def read_rows(
    frame: pd.DataFrame,
    shards: list[np.ndarray],
    positions: np.ndarray,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """The images at ``positions`` of the index ``frame``, uint8 n × S × S × 4, in that order.

    They are written to the beginning of ``out`` where given (C order, at least n images), else
    to a new array; what comes back are these n images. Files are read in their own order.
    """
    positions = np.asarray(positions)
    shard = frame["shard"].to_numpy()[positions]
    row = frame["row"].to_numpy()[positions]
    if out is None:
        size = size_of(shards)
        out = np.empty((len(positions), size, size, len(CHANNELS)), np.uint8)
    for target in np.lexsort((row, shard)):
        np.copyto(out[target], shards[shard[target]][row[target]])
    return out[: len(positions)]
