"""Image files to shards of arrays; images that cannot be used are told apart, never dropped."""

import errno
import functools
import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import cv2
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from threadpoolctl import threadpool_limits

from hpaloc.classes import CHANNELS
from hpaloc.files import write_csv, written_whole
from hpaloc.image_header import Notes
from hpaloc.images import (
    BadImage,
    Header,
    Reading,
    chosen_plane,
    plane_of_stack,
    read_header,
    read_planes,
    reduction,
    resize_area,
    to_8_bit,
)
from hpaloc.index import FILE_COLUMNS, write_index
from hpaloc.log import InputError, Progress
from hpaloc.memory import keep_freed_memory
from hpaloc.raw_files import Read, raw_files
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
# The contents of the file of a channel of a record; raises BadImage.
Load = Callable[[dict, str], bytes]
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
    slices: Mapping[str, Any] | None = None,
) -> str:
    """Converts the images of one shard to ``array`` (.npy, uint8 n × size × size × 4, C order).

    ``index`` is the whole raw index and ``root`` the folder, or the zip archive, of its paths;
    ``slices`` is the source's setting for files of several planes (see hpaloc.image_header).
    ``rows`` becomes a table of every image of the shard with its row, or null and the reason, and
    holds one sha256 for the pixels (of the sums of the rows, which the threads compute) and notes
    on how files were understood, where there are any. A bad
    image never stops the shard. Images go straight to their rows of the file; several are in work
    at a time, one per thread, so memory does not grow with the shard. Returns that sum.
    """
    part = index.iloc[shard_range(len(index), shard, shards)]
    records = part.to_dict("records")
    groups = [list(group) for _, group in groupby(enumerate(records), key=_files_of)]
    progress = Progress("converted", len(records), "images")
    results: list[Problem | str] = []
    notes = Notes()
    keep_freed_memory()
    # The images are the parallel unit: threads inside of the libraries would only compete.
    cv2.setNumThreads(1)
    with (
        raw_files(root) as read,
        written_whole(array) as aside,
        open(aside, "w+b") as file,
        threadpool_limits(1),
        ThreadPoolExecutor(threads) as executor,
    ):
        offset = _begin_array(file, len(records), size)
        make = functools.partial(
            converted, stack_order=stack_order, size=size, slices=slices, notes=notes
        )
        work = functools.partial(_convert_group, read, make, file.fileno(), offset)
        for found in executor.map(work, groups):
            results += found
            progress.add(len(found))
        kept = [row for row, result in enumerate(results) if isinstance(result, str)]
        _close_gaps(file, kept, size, offset)
    sha256 = hashlib.sha256("".join(results[row] for row in kept).encode()).hexdigest()
    about = {"shard": shard, "sha256": sha256}
    if notes.items():
        about["notes"] = json.dumps(notes.items())
    _write_rows(part["image_id"], results, about, rows)
    logging.getLogger("hpaloc").info(
        "shard %d of %d: %d images, %d quarantined",
        shard, shards, len(kept), len(records) - len(kept),
    )  # fmt: skip
    return sha256


def list_quarantine(rows: Sequence[str | Path], quarantine: str | Path) -> pd.DataFrame:
    """Writes the quarantined images of all shards (``rows``, in their order) as one CSV table.

    Warns of what is noted on how files were understood, once for the whole source.
    """
    frames, notes = [], Notes()
    for path in rows:
        frame, about = _read_rows_table(path)
        frames.append(frame)
        for text, count, file in json.loads(about.get("notes", "[]")):
            notes.add(text, file, count)
    for line in notes.lines():
        logging.getLogger("hpaloc").warning("%s", line)
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
            for row in bad.drop_duplicates(["file", "channel", "reason"]).head(5).itertuples()
        )
        raise InputError(
            f"{quarantine}: {len(bad)} of {len(placed)} images cannot be used:{first}\n"
            "Fix or remove these files and run again, or set the config's arrays.quarantine to"
            " leave_out to continue without them."
            if policy == "stop"
            else f"{quarantine}: none of the {len(placed)} images can be used:{first}"
        )
    frame = raw.drop(columns=list(FILE_COLUMNS)).assign(
        shard=placed["shard"].to_numpy(), row=placed["row"].to_numpy()
    )
    write_index(frame[placed["row"].notna().to_numpy()], index, digest, sums)


def _files_of(record: tuple[int, dict]) -> list[str]:
    return [record[1][f"path_{channel}"] for channel in CHANNELS]


def _begin_array(file: BinaryIO, images: int, size: int) -> int:
    """Writes the header of an .npy file and takes all its space; returns where the pixels begin."""
    _write_header(file, images, size)
    file.flush()
    offset = file.tell()
    needed = images * size * size * len(CHANNELS)
    try:
        os.posix_fallocate(file.fileno(), 0, offset + needed)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise InputError(
                f"{file.name}: no room for a shard of {needed / 2**30:.1f} GiB ({error.strerror})."
            ) from error
    return offset


def _write_header(file: BinaryIO, images: int, size: int) -> None:
    # NumPy pads headers for any number of rows: another number gives a header of this length.
    shape = (images, size, size, len(CHANNELS))
    file.seek(0)
    np.lib.format.write_array_header_1_0(
        file, {"descr": "|u1", "fortran_order": False, "shape": shape}
    )


def _close_gaps(file: BinaryIO, kept: list[int], size: int, offset: int) -> None:
    """Moves the rows that are kept together and shortens the file to them."""
    length = size * size * len(CHANNELS)
    for row, old in enumerate(kept):
        if row != old:
            data = os.pread(file.fileno(), length, offset + old * length)
            _write_at(file.fileno(), data, offset + row * length)
    _write_header(file, len(kept), size)
    file.truncate(offset + len(kept) * length)


def _write_at(descriptor: int, data: bytes | np.ndarray, place: int) -> None:
    left = memoryview(data).cast("B")
    while left:
        written = os.pwrite(descriptor, left, place)
        left, place = left[written:], place + written


def _convert_group(
    read: Read,
    make: Callable[[Load, list[dict]], Iterator[np.ndarray]],
    descriptor: int,
    offset: int,
    group: list[tuple[int, dict]],
) -> list[Problem | str]:
    """Converts the rows of one set of files: one image, or all the tiles of one.

    They are written to the file ``descriptor``, whose pixels begin at ``offset``. Returns the
    sha256 of each row, or why there is none.
    """
    sums = []
    try:
        images = make(functools.partial(_read_file, read), [record for _, record in group])
        for (row, _), image in zip(group, images, strict=True):
            sums.append(hashlib.sha256(image).hexdigest())
            _write_at(descriptor, image, offset + row * image.nbytes)
    except BadFile as error:  # before the first image: all are cut out of the same planes
        return [error.problem] * len(group)
    return sums


def converted(
    load: Load,
    records: Sequence[dict],
    stack_order: Sequence[str],
    size: int,
    slices: Mapping[str, Any] | None = None,
    notes: Notes | None = None,
) -> Iterator[np.ndarray]:
    """The arrays (uint8, size × size × 4) of one image, or of the tiles of one: ``records``.

    A record is a row of the raw index: its box and, for 16 bits, its grey values are read;
    ``load`` gives the contents of the file of a channel. ``slices`` is the source's setting for
    files of several planes; ``notes`` gets how files were understood. Raises BadFile where there
    are none, or none that can be used.
    """
    first = records[0]
    boxes = [tuple(record[name] for name in ("x", "y", "width", "height")) for record in records]
    planes = _read_image(load, first, stack_order, boxes, size, slices or {}, notes or Notes())
    for box in boxes:
        small = []
        for channel, (plane, fraction) in zip(CHANNELS, planes, strict=True):
            x, y, width, height = (value // fraction for value in box)
            cut = plane[y : y + height, x : x + width]
            if cut.dtype == np.uint8:
                small.append(resize_area(cut, size, size))
            else:
                averaged = resize_area(cut.astype(np.float32), size, size)
                small.append(to_8_bit(averaged, first[f"low_{channel}"], first[f"high_{channel}"]))
        yield cv2.merge(small)


class BadFile(Exception):
    """Which file of an image cannot be used, and why: ``problem``."""

    def __init__(self, record: dict, channel: str, reason: BadImage):
        super().__init__(str(reason))
        self.problem = Problem(record[f"path_{channel}"], channel, str(reason))


def _read_image(
    load: Load,
    record: dict,
    stack_order: Sequence[str],
    boxes: list[tuple[int, int, int, int]],
    size: int,
    slices: Mapping[str, Any],
    notes: Notes,
) -> list[tuple[np.ndarray, int]]:
    """The four planes of an image, each with the fraction 1/f of its size that was decoded."""
    reading = Reading(len(set(_files_of((0, record)))) == 1, slices)
    image_size = data = None
    found = []
    result = []
    for channel in CHANNELS:
        try:
            if data is None or not reading.stacked:
                data = load(record, channel)
                header = read_header(data, reading)
                image_size = image_size or (header.width, header.height)
                _check_size(header, image_size, record, boxes)
                fraction = reduction(header, boxes, size)
                planes = read_planes(data, fraction, reading)
                found += [(note, record[f"path_{channel}"]) for note in header.notes]
            if reading.stacked:
                plane = plane_of_stack(planes, channel, stack_order)
            else:
                plane, note = chosen_plane(planes, channel)
                found += [(note, record[f"path_{channel}"])] if note else []
            _check_not_blank(plane)
            if plane.dtype != np.uint8 and np.isnan(record[f"low_{channel}"]):
                raise BadImage("16-bit values, but the index has no grey values for 0 and 255")
        except BadImage as error:
            raise BadFile(record, channel, error) from error
        result.append((plane, fraction))
    for note, path in found:  # of images that are used
        notes.add(note, path)
    return result


def _read_file(read: Read, record: dict, channel: str) -> bytes:
    data = read(record[f"path_{channel}"], f"image {record['image_id']}")
    if not data:
        raise BadImage("empty file")
    expected = record[f"bytes_{channel}"]
    if len(data) != expected:
        raise BadImage(f"changed since it was indexed ({expected} bytes then, {len(data)} now)")
    if hashlib.sha256(data).hexdigest() != record[f"sha256_{channel}"]:
        raise BadImage("changed since it was indexed (other contents of the same size)")
    return data


def _check_size(
    header: Header,
    image_size: tuple[int, int],
    record: dict,
    boxes: list[tuple[int, int, int, int]],
) -> None:
    size = (header.width, header.height)
    if size != image_size:
        raise BadImage(
            f"wrong size: {size[0]} × {size[1]} px, the image's first channel has"
            f" {image_size[0]} × {image_size[1]}"
        )
    whole = record["image_id"] == record["parent"]
    for x, y, width, height in boxes:
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
    image_ids: pd.Series, results: list[Problem | str], about: dict, path: str | Path
) -> None:
    good = [isinstance(result, str) for result in results]
    rows = [row if kept else None for row, kept in zip(np.cumsum(good) - 1, good, strict=True)]
    columns = [
        image_ids.tolist(),
        rows,
        *([getattr(result, name, None) for result in results] for name in Problem._fields),
    ]
    arrays = [
        pa.array(column, field.type) for column, field in zip(columns, _ROWS_SCHEMA, strict=True)
    ]
    schema = _ROWS_SCHEMA.with_metadata({key: str(value) for key, value in about.items()})
    with written_whole(path) as aside:
        pq.write_table(pa.table(arrays, schema=schema), aside, compression="zstd")


def _read_rows_table(path: str | Path) -> tuple[pd.DataFrame, dict[str, str]]:
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path}: not a readable table of a shard's rows ({error}).") from error
    about = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
    if table.schema.names != _ROWS_SCHEMA.names or not {"shard", "sha256"} <= about.keys():
        raise InputError(f"{path}: not the table of a shard's rows that convert_shard writes.")
    return table.to_pandas(), about
