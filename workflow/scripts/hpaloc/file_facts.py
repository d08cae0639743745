"""Size, checksum and header of many files: the columns of an index that describe files."""

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from hpaloc.classes import CHANNELS
from hpaloc.images import BadImage, Header, Reading, read_header
from hpaloc.log import Progress, some_of

_ONE_CHANNEL = Reading()


class FileFacts(NamedTuple):
    """Size in bytes, sha256 and header of a file; the header is None where it is no image."""

    bytes: int
    sha256: str
    header: Header | None


def scan_files(
    read: Callable[[str], bytes],
    paths: Sequence[str],
    workers: int,
    reading: Reading = _ONE_CHANNEL,
) -> tuple[dict[str, FileFacts], dict[str, str]]:
    """The facts of each file, and the reason of each path that cannot be used.

    ``read`` gives the contents of a path; a BadImage or OSError that it raises is a reason, the
    file then has 0 bytes and the sha256 "". ``reading`` says how the files are meant.
    """

    def scan(path: str) -> tuple[FileFacts, str]:
        try:
            data = read(path)
        except BadImage as error:
            return FileFacts(0, "", None), str(error)
        except OSError as error:
            return FileFacts(0, "", None), error.strerror or str(error)
        sha256 = hashlib.sha256(data).hexdigest()
        try:
            return FileFacts(len(data), sha256, read_header(data, reading)), ""
        except BadImage as error:
            return FileFacts(len(data), sha256, None), str(error)

    progress = Progress("indexed", len(paths), "files")
    facts, bad = {}, {}
    with ThreadPoolExecutor(workers) as executor:
        for path, (fact, reason) in zip(paths, executor.map(scan, paths), strict=True):
            facts[path] = fact
            if reason:
                bad[path] = reason
            progress.add()
    return facts, bad


def some_reasons(bad: dict[str, str]) -> str:
    """The most frequent reasons, each with one of its files, for a message."""
    files: dict[str, list[str]] = {}
    for path, reason in bad.items():
        files.setdefault(reason, []).append(path)
    frequent = sorted(files.items(), key=lambda item: -len(item[1]))
    return some_of(f"{some_of(paths, 1)}: {reason}" for reason, paths in frequent)


def file_columns(
    paths: Sequence[str],
    facts: dict[str, FileFacts],
    ranges: dict[str, tuple[float, float]],
) -> dict[str, Any]:
    """The columns of hpaloc.index.FILE_COLUMNS of one image: ``paths`` in the order of CHANNELS.

    ``ranges`` has the grey values that become 0 and 255 in 16-bit files of a channel.
    """
    columns: dict[str, Any] = {}
    for channel, path in zip(CHANNELS, paths, strict=True):
        fact = facts[path]
        sixteen = fact.header is not None and fact.header.dtype == "uint16"
        # A channel has no range where none of its 16-bit files can be read.
        low, high = ranges.get(channel, (np.nan, np.nan)) if sixteen else (np.nan, np.nan)
        columns |= {
            f"path_{channel}": path,
            f"bytes_{channel}": fact.bytes,
            f"sha256_{channel}": fact.sha256,
            f"low_{channel}": low,
            f"high_{channel}": high,
        }
    return columns


def image_size(paths: Sequence[str], facts: dict[str, FileFacts]) -> tuple[int, int]:
    """Width and height of an image by its first readable header, (0, 0) without one.

    The conversion names an image without any header; until then its size is unknown.
    """
    headers = (facts[path].header for path in paths)
    header = next((header for header in headers if header is not None), None)
    return (header.width, header.height) if header else (0, 0)
