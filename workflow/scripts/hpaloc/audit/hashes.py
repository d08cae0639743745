"""Perceptual hashes of the four channels, and thumbnails to verify by.

An image is averaged to 64 × 64 pixels and the square root is taken, which makes noise even and
bright spots less heavy; a gain of the camera stays a factor. The smooth part (cosine coefficients
below 3 on both axes: illumination, focus) is taken out. The hash of a channel is the sign of the
next 64 cosine coefficients (after Zauner 2010, "Implementation and benchmarking of perceptual
image hash functions", with zero for the median): unchanged by any gain, hardly by another size
or coding, and known for all eight views at once (hpaloc.audit.views). The rest of the channel,
averaged to 32 × 32, is the thumbnail, and its standard deviation the contrast.
"""

from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from hpaloc.audit.table import THUMBNAIL, Hashes
from hpaloc.audit.views import FREQUENCIES, SMOOTH, pack
from hpaloc.classes import CHANNELS
from hpaloc.log import Progress

SMALL = 2 * THUMBNAIL
_CHUNK = 64  # images a thread hashes between two reports


def _cosines(length: int, count: int) -> np.ndarray:
    """The first ``count`` rows of the orthonormal DCT-II matrix of ``length``: float32."""
    frequency, place = np.arange(count)[:, None], np.arange(length)[None] + 0.5
    rows = np.cos(np.pi * frequency * place / length) * np.sqrt(2 / length)
    rows[0] /= np.sqrt(2)
    return rows.astype(np.float32)


_ROWS, _COLUMNS = np.transpose(FREQUENCIES)
_COSINES = _cosines(SMALL, int(_ROWS.max()) + 1)


def describe(image: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Hash (uint64 4), contrast (float32 4) and thumbnail (int8 4 × 32 × 32) of one image.

    ``image`` is uint8 S × S × 4. A thumbnail is scaled to ±127; that of a flat channel is 0.
    """
    small = cv2.resize(image.astype(np.float32), (SMALL, SMALL), interpolation=cv2.INTER_AREA)
    return describe_small(small)


def describe_small(small: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """``describe`` of an image that is already averaged: float32 64 × 64 × 4."""
    planes = np.ascontiguousarray(np.sqrt(small).transpose(2, 0, 1))
    coefficients = _COSINES @ planes @ _COSINES.T
    bits = pack(coefficients[:, _ROWS, _COLUMNS] > 0)
    low = _COSINES[:SMOOTH]
    rest = planes - low.T @ coefficients[:, :SMOOTH, :SMOOTH] @ low
    rest = rest.reshape(len(CHANNELS), THUMBNAIL, 2, THUMBNAIL, 2).mean(axis=(2, 4))
    contrast = rest.std(axis=(1, 2))
    # Rounding leaves a little of a flat channel, which must not be stretched.
    highest = np.maximum(np.abs(rest).max(axis=(1, 2), keepdims=True), 1e-2)
    return bits, contrast, np.rint(rest * (127 / highest)).astype(np.int8)


def hash_arrays(frame: pd.DataFrame, shards: list[np.ndarray], threads: int) -> Hashes:
    """The hashes of all images of an index of arrays, see ``hpaloc.shards.open_arrays``."""
    count = len(frame)
    bits = np.empty((count, len(CHANNELS)), np.uint64)
    contrast = np.empty((count, len(CHANNELS)), np.float32)
    thumbnail = np.empty((count, len(CHANNELS), THUMBNAIL, THUMBNAIL), np.int8)
    shard, row = frame["shard"].to_numpy(), frame["row"].to_numpy()

    def hash_chunk(start: int) -> int:
        end = min(start + _CHUNK, count)
        for at in range(start, end):
            image = shards[shard[at]][row[at]]
            bits[at], contrast[at], thumbnail[at] = describe(image)
        return end - start

    progress = Progress("hashed", count, "images")
    # The images are the parallel unit: threads inside of the libraries would only compete.
    cv2.setNumThreads(1)
    with threadpool_limits(1), ThreadPoolExecutor(threads) as executor:
        for done in executor.map(hash_chunk, range(0, count, _CHUNK)):
            progress.add(done)
    return Hashes(frame["image_id"].to_numpy(object), bits, contrast, thumbnail)
