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


def shrink(image: np.ndarray) -> np.ndarray:
    """An image (uint8 S × S × 4) averaged to 64 × 64: float32, nothing of dark channels is lost."""
    return cv2.resize(image.astype(np.float32), (SMALL, SMALL), interpolation=cv2.INTER_AREA)


def describe(small: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Hash (uint64 n × 4), contrast (float32 n × 4) and thumbnail (int8 n × 4 × 32 × 32).

    ``small`` are n images of ``shrink``: float32 n × 64 × 64 × 4. Each channel of a thumbnail is
    scaled to ±127; a flat one is 0.
    """
    planes = np.ascontiguousarray(np.sqrt(small).transpose(0, 3, 1, 2))
    coefficients = _COSINES @ planes @ _COSINES.T
    bits = pack(coefficients[..., _ROWS, _COLUMNS] > 0)
    low = _COSINES[:SMOOTH]
    rest = planes - low.T @ coefficients[..., :SMOOTH, :SMOOTH] @ low
    rest = rest.reshape(len(small), len(CHANNELS), THUMBNAIL, 2, THUMBNAIL, 2).mean(axis=(3, 5))
    contrast = rest.std(axis=(2, 3))
    # Rounding leaves a little of a flat channel, which must not be stretched.
    highest = np.maximum(np.abs(rest).max(axis=(2, 3), keepdims=True), 1e-2)
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
        chunk = slice(start, end)
        small = [shrink(shards[shard[at]][row[at]]) for at in range(start, end)]
        # All at once: small steps of many threads would wait for each other's interpreter.
        bits[chunk], contrast[chunk], thumbnail[chunk] = describe(np.array(small))
        return end - start

    progress = Progress("hashed", count, "images")
    # The images are the parallel unit: threads inside of the libraries would only compete.
    cv2.setNumThreads(1)
    with threadpool_limits(1), ThreadPoolExecutor(threads) as executor:
        for done in executor.map(hash_chunk, range(0, count, _CHUNK)):
            progress.add(done)
    return Hashes(frame["image_id"].to_numpy(object), bits, contrast, thumbnail)
