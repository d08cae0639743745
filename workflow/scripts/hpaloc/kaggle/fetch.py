"""What a part of the competition is read from: the user's files, then those fetched before."""

import logging
from pathlib import Path
from typing import Any

from hpaloc.kaggle.download import NotServed, download, not_served
from hpaloc.kaggle.files import (
    TABLES,
    describe_archive,
    describe_images,
    describe_table,
    find_images,
    find_table,
    unpacked,
)
from hpaloc.web.lock import waited_for

_log = logging.getLogger("hpaloc")


def find_or_fetch(
    settings: dict[str, Any], downloads: Path, network: dict[str, Any]
) -> dict[str, Any]:
    """Which files a source of kind ``kaggle`` is made of: its table and its images.

    What lies in the source's ``folder``, or was fetched to ``downloads`` before, is taken as it
    is, without the network. ``network`` is the configuration's ``fetch``. Where the table is a
    member of an archive, a copy of it is taken, and ``table_archive`` says of which.
    """
    competition, part = settings["competition"], settings["part"]
    fetched = downloads / competition
    places = [Path(settings["folder"]), fetched]
    images = find_images(places, competition, part)
    table = find_table(places, competition, part)
    if images is None or table is None:
        with waited_for(fetched):
            images = find_images(places, competition, part) or _fetch_images(
                settings, fetched, network
            )
            table = find_table(places, competition, part) or _fetch_table(
                settings, fetched, network
            )
    path, member = table
    origin = {}
    if member:
        origin = {"table_archive": describe_archive(path, member)}
        path = unpacked(path, member, fetched / TABLES[part])
    return {
        "competition": competition,
        "part": part,
        "table": describe_table(path),
        "images": describe_images(images, part),
        **origin,
    }


def _fetch_images(settings: dict[str, Any], fetched: Path, network: dict[str, Any]) -> Path:
    """The archive of the part, or where Kaggle has unpacked it the one of everything.

    Kaggle unpacked the archives of many old competitions: their images are then files of their
    own (``train/<id>_<channel>.png``), 124,288 requests, and only the archive of the whole
    competition brings them in one.
    """
    competition, part = settings["competition"], settings["part"]
    one, whole = f"{part}.zip", f"{competition}.zip"
    try:
        download(competition, one, fetched / one, network)
        return fetched / one
    except NotServed:
        _log.info("Kaggle has no %s: the archive of the whole competition is fetched", one)
    try:
        download(competition, None, fetched / whole, network)
        return fetched / whole
    except NotServed:
        raise not_served(competition, [one, whole], settings["folder"]) from None


def _fetch_table(
    settings: dict[str, Any], fetched: Path, network: dict[str, Any]
) -> tuple[Path, str]:
    competition, name = settings["competition"], TABLES[settings["part"]]
    try:
        download(competition, name, fetched / name, network)
    except NotServed:
        raise not_served(competition, [name], settings["folder"]) from None
    return fetched / name, ""
