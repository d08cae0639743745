"""The index that travels with the images: one row per image or tile, joined by ``image_id``.

``INDEX_SCHEMA`` describes the raw images of a source, ``ARRAYS_SCHEMA`` the same images once
they are rows of shards. Both are Parquet files with exactly these columns and no other metadata,
so that equal indexes are equal files.
"""

from collections.abc import Iterable
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from hpaloc.classes import CHANNELS, N_CLASSES
from hpaloc.files import sha256_of_file, write_text, written_whole
from hpaloc.log import InputError

_ABOUT = [
    pa.field("image_id", pa.string(), nullable=False),
    pa.field("parent", pa.string(), nullable=False),
    pa.field("source", pa.string(), nullable=False),
    pa.field("antibody", pa.string()),
    pa.field("gene", pa.string()),
    pa.field("cell_line", pa.string()),
    pa.field("labels", pa.list_(pa.int8())),
    *(pa.field(name, pa.int32(), nullable=False) for name in ("x", "y", "width", "height")),
]
_FILES = [
    field
    for channel in CHANNELS
    for field in (
        pa.field(f"path_{channel}", pa.string(), nullable=False),
        pa.field(f"bytes_{channel}", pa.int64(), nullable=False),
        pa.field(f"sha256_{channel}", pa.string(), nullable=False),
        pa.field(f"low_{channel}", pa.float32()),
        pa.field(f"high_{channel}", pa.float32()),
    )
]
_PLACE = [pa.field(name, pa.int32(), nullable=False) for name in ("shard", "row")]

INDEX_SCHEMA = pa.schema(_ABOUT + _FILES)
ARRAYS_SCHEMA = pa.schema(_ABOUT + _PLACE)

FILE_COLUMNS = tuple(field.name for field in _FILES)


def read_index(path: str | Path) -> pd.DataFrame:
    """An index of raw images or of arrays, in the order of the file.

    ``labels`` holds lists of class numbers, ``[]`` for an image of none of the classes and None
    for an unlabelled one; missing text and grey values are NaN. Raises InputError for a file
    that is not such an index.
    """
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise InputError(f"{path}: not a readable index of images ({error}).") from error
    if table.schema.names not in (INDEX_SCHEMA.names, ARRAYS_SCHEMA.names):
        raise InputError(
            f"{path}: not an index of images: its columns are {', '.join(table.schema.names)}."
        )
    frame = table.drop_columns(["labels"]).to_pandas()
    frame.insert(
        table.schema.names.index("labels"),
        "labels",
        pd.Series(table["labels"].to_pylist(), dtype=object),
    )
    return frame


def root_of(settings: dict, index: str | Path) -> Path:
    """The folder or zip archive of the paths of a raw index: ``settings`` is its settings.json."""
    return Path(index).parent if settings["root"] == "." else Path(settings["root"])


def write_index(
    frame: pd.DataFrame,
    path: str | Path,
    digest: str | Path | None = None,
    pixels: Iterable[str] = (),
) -> None:
    """Writes ``frame`` as an index, and its sha256 to ``digest`` (default: ``<stem>.sha256``).

    The sums ``pixels`` of an index of arrays, one per shard, follow in the digest file.

    A frame with a column ``shard`` is an index of arrays, any other one of raw images. Columns
    that may be null may be absent; others that the schema does not name are left out. ``labels``
    may hold lists, arrays or None. Raises InputError for doubled ids, for labels that are not
    classes, and where a required value is missing.
    """
    schema = ARRAYS_SCHEMA if "shard" in frame.columns else INDEX_SCHEMA
    columns = []
    for field in schema:
        if field.name in frame.columns:
            columns.append(_column(frame, field, path))
        elif field.nullable:
            columns.append(pa.nulls(len(frame), field.type))
        else:
            raise InputError(f"{path}: the index lacks the column {field.name}.")
    doubled = frame.loc[frame["image_id"].duplicated(), "image_id"]
    if len(doubled):
        raise InputError(
            f"{path}: {len(doubled)} image ids stand twice in the index, the first is"
            f" {doubled.iloc[0]!r}. Ids must be unique within a source."
        )
    with written_whole(path) as aside:
        pq.write_table(pa.table(columns, schema=schema), aside, compression="zstd")
    sums = [sha256_of_file(path), *pixels]
    write_text("".join(f"{line}\n" for line in sums), digest or Path(path).with_suffix(".sha256"))


def _column(frame: pd.DataFrame, field: pa.Field, path: str | Path) -> pa.Array:
    if field.name == "labels":
        lists = [
            None if labels is None or labels is pd.NA or isinstance(labels, float) else list(labels)
            for labels in frame["labels"]
        ]
        for image_id, labels in zip(frame["image_id"], lists, strict=True):
            if not all(0 <= label < N_CLASSES for label in labels or []):
                raise InputError(f"{path}: image {image_id!r} has labels out of range: {labels}.")
        return pa.array(lists, type=field.type)
    array = pa.array(frame[field.name], type=field.type, from_pandas=True)
    if array.null_count and not field.nullable:
        row = frame[field.name].isna().to_numpy().argmax()
        raise InputError(
            f"{path}: image {frame['image_id'].iloc[row]!r} has no value of {field.name}."
        )
    return array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array
