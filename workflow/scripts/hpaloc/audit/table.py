"""The table of hashes of a source: what an image looks like, small enough to compare all pairs.

One Parquet row per image of the arrays, in their order: ``image_id``; of each channel
``hash_<channel>`` (uint64, 64 signs of cosine coefficients) and ``contrast_<channel>`` (float32);
``thumbnail`` (4096 bytes: int8 4 × 32 × 32). What they are: hpaloc.audit.hashes.
"""

import itertools
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from hpaloc.classes import CHANNELS
from hpaloc.files import written_whole
from hpaloc.log import InputError

THUMBNAIL = 32
THUMBNAIL_BYTES = len(CHANNELS) * THUMBNAIL**2

# A channel with less contrast (standard deviation of the square roots of its grey values) than
# this says nothing: what is left of it after another coding and gain is noise. Among tiles of
# real images, channels above it stay within a correlation of 0.93 through any such change.
LEAST_CONTRAST = 1.0
# The three reference stains are always there; a single channel with a few spots may look alike
# in images of different cells (a correlation of 0.85 was seen, with two channels 0.55).
FEWEST_CHANNELS = 2

_ROWS = 4096  # images written and read at a time: 17 MB

SCHEMA = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        *(pa.field(f"hash_{channel}", pa.uint64(), nullable=False) for channel in CHANNELS),
        *(pa.field(f"contrast_{channel}", pa.float32(), nullable=False) for channel in CHANNELS),
        pa.field("thumbnail", pa.binary(THUMBNAIL_BYTES), nullable=False),
    ]
)


class Hashes(NamedTuple):
    """Hashes of n images, rows in the order of their index."""

    image_id: np.ndarray  # str n
    bits: np.ndarray  # uint64 n × 4
    contrast: np.ndarray  # float32 n × 4
    thumbnail: np.ndarray  # int8 n × 4 × 32 × 32

    @property
    def telling(self) -> np.ndarray:
        """Bool n × 4: the channels with enough contrast to be compared."""
        return self.contrast >= LEAST_CONTRAST

    @property
    def blank(self) -> np.ndarray:
        """Bool n: images with too few telling channels to be compared with any other."""
        return self.telling.sum(axis=1) < FEWEST_CHANNELS


def write_hashes(hashes: Hashes, path: str | Path) -> None:
    thumbnails = np.ascontiguousarray(hashes.thumbnail)
    columns = [
        pa.array(hashes.image_id, pa.string()),
        *(pa.array(hashes.bits[:, channel], pa.uint64()) for channel in range(len(CHANNELS))),
        *(pa.array(hashes.contrast[:, channel], pa.float32()) for channel in range(len(CHANNELS))),
        pa.FixedSizeBinaryArray.from_buffers(
            pa.binary(THUMBNAIL_BYTES), len(thumbnails), [None, pa.py_buffer(thumbnails)]
        ),
    ]
    with written_whole(path) as aside:
        pq.write_table(
            pa.table(columns, schema=SCHEMA),
            aside,
            compression="zstd",
            use_dictionary=False,
            row_group_size=_ROWS,
        )


def read_hashes(path: str | Path, index: pd.DataFrame, where: str | Path) -> Hashes:
    """The hashes of exactly the images of ``index`` (read from ``where``), in its order.

    They are in memory once, 4.2 KB an image (4.2 GB for a million).
    """
    count = len(index)
    hashes = Hashes(
        index["image_id"].to_numpy(object),
        np.empty((count, len(CHANNELS)), np.uint64),
        np.empty((count, len(CHANNELS)), np.float32),
        np.empty((count, len(CHANNELS), THUMBNAIL, THUMBNAIL), np.int8),
    )
    start = 0
    try:
        with pq.ParquetFile(path) as file:
            if file.schema_arrow != SCHEMA:
                raise InputError(
                    f"{path}: not a table of hashes: its columns are"
                    f" {', '.join(file.schema_arrow.names)}. Delete it and make it again."
                )
            # One group after the other: iter_batches keeps what it has read.
            groups = map(file.read_row_group, range(file.num_row_groups))
            for batch in itertools.chain.from_iterable(group.to_batches() for group in groups):
                part = slice(start, start + len(batch))
                if batch["image_id"].to_pylist() != hashes.image_id[part].tolist():
                    break
                _fill(hashes, part, batch)
                start = part.stop
            rows = file.metadata.num_rows
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path}: not a readable table of hashes ({error}).") from error
    if not start == rows == count:
        raise InputError(f"{path}: holds other images than {where}. Delete it and make it again.")
    return hashes


def _fill(hashes: Hashes, part: slice, batch: pa.RecordBatch) -> None:
    for number, channel in enumerate(CHANNELS):
        hashes.bits[part, number] = batch[f"hash_{channel}"].to_numpy()
        hashes.contrast[part, number] = batch[f"contrast_{channel}"].to_numpy()
    column = batch["thumbnail"]
    begin = column.offset * THUMBNAIL_BYTES
    pixels = np.frombuffer(column.buffers()[1], np.int8)
    shape = (len(batch), *hashes.thumbnail.shape[1:])
    hashes.thumbnail[part] = pixels[begin : begin + len(batch) * THUMBNAIL_BYTES].reshape(shape)
