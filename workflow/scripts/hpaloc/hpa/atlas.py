"""The list of images that the atlas's entries, or a CSV list, name: one row per image.

It comes before any image is fetched; what was fetched is an index of ``hpaloc.index``.
"""

from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from hpaloc.files import write_digest, written_whole
from hpaloc.hpa.names import ImageName
from hpaloc.log import InputError

# ``walk`` is the running number in the walk through all genes, from 0; of a CSV list the number
# of the row. ``image_id`` is null where the address is not that of an atlas image, ``gene`` and
# what follows from the entry where a CSV list does not tell.
ATLAS_SCHEMA = pa.schema(
    [
        pa.field("image_id", pa.string()),
        pa.field("walk", pa.int32(), nullable=False),
        pa.field("gene", pa.string()),
        pa.field("antibody", pa.string()),
        pa.field("cell_line", pa.string()),
        pa.field("labels", pa.list_(pa.int8()), nullable=False),
        pa.field("url", pa.string()),
        pa.field("reliability", pa.string()),
        pa.field("verification", pa.string()),
        pa.field("sub_assay", pa.string()),
        pa.field("antibody_name", pa.string()),
        pa.field("plate", pa.string()),
        pa.field("well", pa.string()),
        pa.field("position", pa.string()),
        pa.field("suffix", pa.string()),
    ]
)
# Of the table of files, or rows of a CSV list, that name no image.
LEFT_OUT_COLUMNS = ["file", "reason"]


def name_columns(name: ImageName | None) -> dict[str, str | None]:
    """The columns that an image's name gives; all None where it has no name."""
    if name is None:
        return dict.fromkeys(("image_id", *ImageName._fields))
    return {"image_id": name.image_id, **name._asdict()}


def name_of(row: pd.Series | dict) -> ImageName:
    """The name of a row's image: its files and addresses follow from it, not from ``image_id``.

    (An image that stands twice in the paper's set has a second id for the same files.)
    """
    return ImageName(*(row[part] for part in ImageName._fields))


def write_atlas(frame: pd.DataFrame, path: str | Path, digest: str | Path | None = None) -> None:
    """Writes a list of images, and its sha256 to ``digest`` where one is given."""
    columns = [
        pa.array(frame[field.name], type=field.type, from_pandas=True) for field in ATLAS_SCHEMA
    ]
    with written_whole(path) as aside:
        pq.write_table(pa.table(columns, schema=ATLAS_SCHEMA), aside, compression="zstd")
    if digest is not None:
        write_digest(path, digest)


def read_atlas(path: str | Path) -> pd.DataFrame:
    """A list of images in the order of the file: ``labels`` are lists of int, missing text None."""
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise InputError(f"{path}: not a readable list of atlas images ({error}).") from error
    if table.schema.names != ATLAS_SCHEMA.names:
        raise InputError(
            f"{path}: not a list of atlas images: its columns are {', '.join(table.schema.names)}."
        )
    return pd.DataFrame(
        {
            name: pd.Series(table[name].to_pylist(), dtype="int32" if name == "walk" else object)
            for name in table.schema.names
        }
    )
