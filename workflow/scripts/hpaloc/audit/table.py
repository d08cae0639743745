"""The table of hashes of a source: what an image looks like, small enough to compare all pairs.

One Parquet row per image of the arrays, in their order: ``image_id``; of each channel
``hash_<channel>`` (uint64, 64 signs of cosine coefficients) and ``contrast_<channel>`` (float32);
``thumbnail`` (4096 bytes: int8 4 × 32 × 32). What they are: hpaloc.audit.hashes.
"""

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
            row_group_size=4096,
        )


def read_hashes(path: str | Path, index: pd.DataFrame, where: str | Path) -> Hashes:
    """The hashes of exactly the images of ``index`` (read from ``where``), in its order."""
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise InputError(f"{path}: not a readable table of hashes ({error}).") from error
    if table.schema != SCHEMA:
        raise InputError(
            f"{path}: not a table of hashes: its columns are {', '.join(table.schema.names)}."
            " Delete it and make it again."
        )
    image_id = table["image_id"].to_numpy(zero_copy_only=False)
    if image_id.tolist() != index["image_id"].tolist():
        raise InputError(f"{path}: holds other images than {where}. Delete it and make it again.")

    def of_channels(name: str) -> np.ndarray:
        return np.column_stack([table[f"{name}_{channel}"].to_numpy() for channel in CHANNELS])

    thumbnails = [
        np.frombuffer(chunk.buffers()[1], np.int8)[
            chunk.offset * THUMBNAIL_BYTES : (chunk.offset + len(chunk)) * THUMBNAIL_BYTES
        ]
        for chunk in table["thumbnail"].chunks
    ]
    shape = (len(image_id), len(CHANNELS), THUMBNAIL, THUMBNAIL)
    joined = np.concatenate([np.empty(0, np.int8), *thumbnails]).reshape(shape)
    return Hashes(image_id, of_channels("hash"), of_channels("contrast"), joined)
