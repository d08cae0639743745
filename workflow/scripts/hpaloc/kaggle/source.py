"""The index of the competition's images: labels from train.csv, or the order of a submission."""

import functools
import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd

from hpaloc.archive import Archive, BadMember
from hpaloc.classes import CHANNELS
from hpaloc.file_facts import file_columns, image_size, scan_files, some_reasons
from hpaloc.kaggle.files import describe_archive, describe_images, describe_table, image_names
from hpaloc.label_table import Advice, read_labels
from hpaloc.listing import list_images
from hpaloc.log import InputError, some_of
from hpaloc.unicode import nfc

_log = logging.getLogger("hpaloc")

_COLUMNS = {
    "train": {"id": "Id", "labels": "Target"},
    "test": {"id": "Id", "labels": "Predicted"},
}


def index_part(name: str, files: dict[str, Any], workers: int) -> pd.DataFrame:
    """The raw index (see hpaloc.index) of a part, in the order of its table.

    ``files`` is what fetch_kaggle found. Images of part "test" have no labels. Raises InputError
    where files are not what they were when they were found, where rows lack an image or one of
    its four channels, and where an image has no row, naming them.
    """
    part, table_path = files["part"], Path(files["table"]["path"])
    _check_unchanged(files)
    table = read_labels(table_path, _COLUMNS[part], _NOT_THE_TABLE)
    with _opened(files["images"]) as (names, read):
        paths = _channels_of(names, files["images"])
        _check_complete(table, paths, table_path, Path(files["images"]["path"]))
        wanted = [path for image_id in table for path in paths[image_id].values()]
        facts, bad = scan_files(read, wanted, workers)
    if bad:
        _log.warning(
            "%s: %d of %d files cannot be used: %s",
            files["images"]["path"], len(bad), len(wanted), some_reasons(bad),
        )  # fmt: skip
    rows = []
    for image_id, about in table.items():
        four = [paths[image_id][channel] for channel in CHANNELS]
        width, height = image_size(four, facts)
        rows.append(
            {
                "image_id": image_id,
                "parent": image_id,
                "source": name,
                "labels": about["labels"] if part == "train" else None,
                "x": 0,
                "y": 0,
                "width": width,
                "height": height,
                **file_columns(four, facts, {}),
            }
        )
    return pd.DataFrame(rows)


def _check_unchanged(files: dict[str, Any]) -> None:
    table, images = Path(files["table"]["path"]), Path(files["images"]["path"])
    for path in (table, images):
        if not path.exists():
            raise InputError(f"{path}: was there when it was looked for. {_AGAIN}")
    if describe_table(table) != files["table"]:
        raise InputError(f"{table}: has changed since it was found. {_AGAIN}")
    if describe_images(images, files["part"]) != files["images"]:
        raise InputError(f"{images}: has changed since it was found. {_AGAIN}")
    origin = files.get("table_archive")
    if origin is None or not Path(origin["path"]).exists():  # the copy of the table is there
        return
    if describe_archive(Path(origin["path"]), origin["member"]) != origin:
        raise InputError(f"{origin['path']}: has changed since it was found. {_AGAIN}")


_NOT_THE_TABLE = Advice(
    *["This is not the competition's table: download it again, or index these as a local source."]
    * 2
)
_AGAIN = "Put it back, or delete the source's raw/files.json and run again."


@contextmanager
def _opened(images: dict[str, Any]) -> Iterator[tuple[list[str], Callable[[str], bytes]]]:
    """Names of all images, and a function that gives the contents of one."""
    path = Path(images["path"])
    if images["form"] == "folder":
        yield (
            [name for name, _ in list_images(path)],
            lambda name: (path / name).read_bytes(),
        )
    else:
        with Archive(path) as archive:
            yield (
                image_names(archive.members, images["prefix"]),
                functools.partial(_read_member, archive),
            )


def _read_member(archive: Archive, name: str) -> bytes:
    try:
        return archive.read(name)
    except BadMember as error:
        raise InputError(
            f"{archive.path}: the archive is damaged: {name}: {error}. Delete it and its source's"
            " raw/files.json, then run again, or download it once more by hand."
        ) from error


def _channels_of(names: list[str], images: dict[str, Any]) -> dict[str, dict[str, str]]:
    """Image id to the file of each of its channels, from ``<id>_<channel>.png``."""
    prefix = re.escape(images["prefix"])
    pattern = re.compile(rf"{prefix}([^/]+)_({'|'.join(CHANNELS)})\.png")
    found: dict[str, dict[str, str]] = {}
    strange = []
    for name in names:
        match = pattern.fullmatch(name)
        if match is None:
            strange.append(name)
        else:
            found.setdefault(nfc(match[1]), {})[match[2]] = name
    if strange:
        _log.warning(
            "%s: %d images are not named <id>_<channel>.png and are left out: %s",
            images["path"], len(strange), some_of(strange),
        )  # fmt: skip
    return found


def _check_complete(
    table: dict[str, dict], paths: dict[str, dict[str, str]], labels: Path, images: Path
) -> None:
    """Raises InputError unless the table and the images are of the same ids, all four channels."""
    faults = []
    for lacking, where, what in (
        (table.keys() - paths.keys(), labels, f"rows have no image in {images}"),
        (paths.keys() - table.keys(), images, f"images have no row in {labels}"),
    ):
        if lacking:
            faults.append(f"{where}: {len(lacking)} {what}: {some_of(sorted(lacking))}")
    parts = [
        f"{image_id} has no {', '.join(channel for channel in CHANNELS if channel not in files)}"
        for image_id, files in sorted(paths.items())
        if len(files) < len(CHANNELS)
    ]
    if parts:
        faults.append(f"{images}: {len(parts)} images lack channels: {some_of(parts)}")
    if faults:
        raise InputError(
            "; ".join(faults) + ". The competition's files are complete: these were cut off, mixed"
            " up or removed. Get them again, or index what is left as a local source."
        )
