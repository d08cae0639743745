"""Image files to shards of arrays; images that cannot be used are told apart, never dropped."""

import functools
import hashlib
import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from threadpoolctl import threadpool_limits

from hpaloc.classes import CHANNELS
from hpaloc.files import inside, write_csv, written_whole
from hpaloc.images import (
    BadImage,
    Header,
    plane_of_channel,
    plane_of_stack,
    read_header,
    read_planes,
    reduction,
    resize_area,
    to_8_bit,
)
from hpaloc.index import FILE_COLUMNS, write_index
from hpaloc.log import InputError, Progress
from hpaloc.shards import shard_range

_ROWS_SCHEMA = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("row", pa.int32()),
        pa.field("file", pa.string()),
        pa.field("channel", pa.string()),
        pa.field("reason", pa.string()),
    ]
)
_QUARANTINE_COLUMNS = ["image_id", "file", "channel", "reason"]


class Problem(NamedTuple):
    """Why an image is not in the arrays: its file, the channel of the file, the reason."""

    file: str
    channel: str
    reason: str


def convert_shard(
    index: pd.DataFrame,
    root: Path,
    stack_order: Sequence[str],
    shard: int,
    shards: int,
    size: int,
    array: str | Path,
    rows: str | Path,
    threads: int,
) -> None:
    """Converts the images of one shard to ``array`` (.npy, uint8 n × size × size × 4, C order).

    ``index`` is the whole raw index and ``root`` the folder of its paths. ``rows`` becomes a
    table of every image of the shard with its row, or null and the reason, and holds the sha256
    of the pixels. A bad image never stops the shard. Images go straight to their rows of the
    file; several are in work at a time, one per thread, so memory does not grow with the shard.
    """
    part = index.iloc[shard_range(len(index), shard, shards)]
    records = part.to_dict("records")
    groups = [list(group) for _, group in groupby(enumerate(records), key=_files_of)]
    progress = Progress("converted", len(records), "images")
    results: list[Problem | str] = []
    _keep_freed_memory()
    # The images are the parallel unit: threads inside of the libraries would only compete.
    cv2.setNumThreads(1)
    with (
        written_whole(array) as aside,
        _Shard(aside, len(records), size) as pixels,
        threadpool_limits(1),
        ThreadPoolExecutor(threads) as executor,
    ):
        work = functools.partial(_convert_group, root, stack_order, pixels)
        for found in executor.map(work, groups):
            results += found
            progress.add(len(found))
        kept = [row for row, result in enumerate(results) if isinstance(result, str)]
        pixels.keep(kept)
    sha256 = hashlib.sha256("".join(results[row] for row in kept).encode()).hexdigest()
    _write_rows(part["image_id"], results, {"shard": shard, "sha256": sha256}, rows)
    logging.getLogger("hpaloc").info(
        "shard %d of %d: %d images, %d quarantined",
        shard, shards, len(kept), len(records) - len(kept),
    )  # fmt: skip


def list_quarantine(rows: Sequence[str | Path], quarantine: str | Path) -> pd.DataFrame:
    """Writes the quarantined images of all shards (``rows``, in their order) as one CSV table."""
    frames = [_read_rows_table(path)[0] for path in rows]
    table = pd.concat(frames, ignore_index=True)
    listed = table.loc[table["row"].isna(), _QUARANTINE_COLUMNS]
    write_csv(listed, quarantine)
    return listed


def index_arrays(
    raw: pd.DataFrame,
    rows: Sequence[str | Path],
    quarantine: str | Path,
    policy: str,
    index: str | Path,
    digest: str | Path,
) -> None:
    """Writes the index of the arrays, and the digest of the index and of all pixels.

    ``raw`` is the raw index, ``rows`` are the tables of the shards in their order, ``policy`` is
    "stop" (InputError when images are quarantined) or "leave_out".
    """
    frames, sums = [], []
    for number, path in enumerate(rows):
        table, about = _read_rows_table(path)
        if int(about["shard"]) != number:
            raise InputError(f"{path}: holds shard {about['shard']}, where {number} is due.")
        frames.append(table.assign(shard=number))
        sums.append(about["sha256"])
    placed = pd.concat(frames, ignore_index=True)
    if placed["image_id"].tolist() != raw["image_id"].tolist():
        raise InputError(
            f"{rows[0]} and the other shards do not hold the images of the raw index."
            " Delete the folder of the arrays and run them again."
        )
    bad = placed[placed["row"].isna()]
    if len(bad) and (policy == "stop" or len(bad) == len(placed)):
        first = "".join(
            f"\n  {row.image_id}: {row.file} ({row.channel}): {row.reason}"
            for row in bad.head(5).itertuples()
        )
        raise InputError(
            f"{quarantine}: {len(bad)} of {len(placed)} images cannot be used:{first}\n"
            "Mend or remove these files and index the source again, or set the config's"
            " quarantine to leave_out to go on without them."
            if policy == "stop"
            else f"{quarantine}: none of the {len(placed)} images can be used:{first}"
        )
    frame = raw.drop(columns=list(FILE_COLUMNS)).assign(
        shard=placed["shard"].to_numpy(), row=placed["row"].to_numpy()
    )
    write_index(frame[placed["row"].notna().to_numpy()], index, digest, sums)


def _files_of(record: tuple[int, dict]) -> list[str]:
    return [record[1][f"path_{channel}"] for channel in CHANNELS]


def _allocate(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """A new .npy file, mapped, with all its space: a disk that fills up later would kill us."""
    if shape[0] == 0:
        np.save(path, np.empty(shape, np.uint8))
        return np.empty(shape, np.uint8)
    pixels = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
    with open(path, "r+b") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, pixels.offset + pixels.nbytes)
        except OSError as error:
            raise InputError(
                f"{path.parent}: no room for a shard of {pixels.nbytes / 2**30:.1f} GiB ({error})."
            ) from error
    return pixels


def _close_gaps(pixels: np.ndarray, kept: list[int], path: Path) -> str:
    """Moves the rows that are kept together, shortens the file, returns the sha256 of the rows."""
    digest = hashlib.sha256()
    for row, old in enumerate(kept):
        if row != old:
            pixels[row] = pixels[old]
        digest.update(pixels[row])
    if len(kept) < len(pixels):
        pixels.flush()
        with open(path, "r+b") as file:
            # NumPy pads headers for any number of rows: the new one is as long as the old.
            np.lib.format.write_array_header_1_0(
                file,
                {"descr": "|u1", "fortran_order": False, "shape": (len(kept), *pixels.shape[1:])},
            )
            file.truncate(pixels.offset + len(kept) * pixels[0].nbytes)
    return digest.hexdigest()


def _convert_group(
    root: Path, stack_order: Sequence[str], pixels: np.ndarray, group: list[tuple[int, dict]]
) -> list[Problem | None]:
    """Converts the rows of one set of files: one image, or all the tiles of one."""
    boxes = [tuple(record[name] for name in ("x", "y", "width", "height")) for _, record in group]
    first = group[0][1]
    stacked = len(set(_files_of(group[0]))) == 1
    image_size = planes = None
    fraction = 1
    for number, channel in enumerate(CHANNELS):
        try:
            if planes is None or not stacked:
                data = _read_file(root, first, channel)
                header = read_header(data)
                image_size = image_size or (header.width, header.height)
                _check_size(header, image_size, group)
                fraction = reduction(header, boxes, pixels.shape[1])
                planes = read_planes(data, fraction)
            if stacked:
                plane = plane_of_stack(planes, channel, stack_order)
            else:
                plane = plane_of_channel(planes, channel)
            _check_not_blank(plane)
            low, high = first[f"low_{channel}"], first[f"high_{channel}"]
            if plane.dtype != np.uint8 and np.isnan(low):
                raise BadImage("16-bit values, but the index has no grey values for 0 and 255")
        except BadImage as error:
            return [Problem(first[f"path_{channel}"], channel, str(error))] * len(group)
        for (row, _), box in zip(group, boxes, strict=True):
            x, y, width, height = (value // fraction for value in box)
            cut = plane[y : y + height, x : x + width]
            if plane.dtype == np.uint8:
                small = resize_area(cut, *pixels.shape[1:3])
            else:
                averaged = resize_area(cut.astype(np.float32), *pixels.shape[1:3])
                small = to_8_bit(averaged, low, high)
            cv2.insertChannel(small, np.asarray(pixels[row]), number)
    return [None] * len(group)


def _read_file(root: Path, record: dict, channel: str) -> bytes:
    name, where = record[f"path_{channel}"], f"image {record['image_id']}"
    try:
        data = inside(root, name, where).read_bytes()
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        raise BadImage("missing" if missing else f"cannot be read ({error.strerror})") from error
    if not data:
        raise BadImage("empty file")
    expected = record[f"bytes_{channel}"]
    if len(data) != expected:
        raise BadImage(f"changed since it was indexed ({expected} bytes then, {len(data)} now)")
    if hashlib.sha256(data).hexdigest() != record[f"sha256_{channel}"]:
        raise BadImage("changed since it was indexed (other contents of the same size)")
    return data


def _check_size(header: Header, image_size: tuple[int, int], group: list[tuple[int, dict]]) -> None:
    size = (header.width, header.height)
    if size != image_size:
        raise BadImage(
            f"wrong size: {size[0]} × {size[1]} px, the image's first channel has"
            f" {image_size[0]} × {image_size[1]}"
        )
    for _, record in group:
        x, y, width, height = (record[name] for name in ("x", "y", "width", "height"))
        whole = record["image_id"] == record["parent"]
        if (whole and (x, y, width, height) != (0, 0, *size)) or not (
            0 <= x < x + width <= size[0] and 0 <= y < y + height <= size[1]
        ):
            raise BadImage(
                f"wrong size: {size[0]} × {size[1]} px, the index has the box"
                f" {width} × {height} at ({x}, {y})"
            )


def _check_not_blank(plane: np.ndarray) -> None:
    lowest = plane.min()
    if lowest == plane.max():
        black = " (all black)" if lowest == 0 else ""
        raise BadImage(f"blank: every pixel has the value {lowest}{black}")


def _write_rows(
    image_ids: pd.Series, problems: list[Problem | None], about: dict, path: str | Path
) -> None:
    row, rows = 0, []
    for problem in problems:
        rows.append(row if problem is None else None)
        row += problem is None
    columns = [
        image_ids.tolist(),
        rows,
        *([getattr(problem, name, None) for problem in problems] for name in Problem._fields),
    ]
    arrays = [
        pa.array(column, field.type) for column, field in zip(columns, _ROWS_SCHEMA, strict=True)
    ]
    schema = _ROWS_SCHEMA.with_metadata({key: str(value) for key, value in about.items()})
    with written_whole(path) as aside:
        pq.write_table(pa.table(arrays, schema=schema), aside, compression="zstd")


def _read_rows_table(path: str | Path) -> tuple[pd.DataFrame, dict[str, str]]:
    table = pq.read_table(path)
    about = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
    return table.to_pandas(), about
