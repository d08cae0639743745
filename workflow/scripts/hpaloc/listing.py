"""What lies in a folder of images, told from its directories alone: quick enough for planning."""

import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from hpaloc.classes import CHANNELS
from hpaloc.log import InputError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".npy")


class FileState(NamedTuple):
    """What can be known of a file without reading it: size, times of its last changes in ns.

    ``changed_ns`` is the inode's time of change, which no program can set: it differs also where a
    copy has brought its older time of modification along.
    """

    bytes: int
    modified_ns: int
    changed_ns: int


def image_states(folder: str | Path) -> dict[str, FileState]:
    """The state of each image file below ``folder`` (see list_images), by its relative path."""
    return {name: state for name, state in file_states(folder).items() if _is_image(name)}


def file_states(folder: str | Path) -> dict[str, FileState]:
    """The same of every file, whatever its ending."""
    return dict(sorted(_files(str(folder))))


def list_images(folder: str | Path) -> list[tuple[str, int]]:
    """Relative POSIX path and size in bytes of each image file below ``folder``, sorted.

    Hidden files and folders are left out, as are files with other endings. Symbolic links are
    followed; one that leads nowhere is a file of 0 bytes.
    """
    return [(name, size) for name, size in list_files(folder) if _is_image(name)]


def list_files(folder: str | Path) -> list[tuple[str, int]]:
    """The same of every file, whatever its ending."""
    return [(name, state.bytes) for name, state in file_states(folder).items()]


def other_endings(folder: str | Path) -> Counter[str]:
    """How many files of each other ending (in lower case) lie below ``folder``."""
    names = (Path(name).name.lower() for name, _ in _files(str(folder)))
    return Counter(Path(name).suffix for name in names if not _is_image(name))


def _is_image(name: str) -> bool:
    return name.lower().endswith(IMAGE_SUFFIXES)


def pattern_regex(pattern: str, channels: dict[str, str]) -> re.Pattern:
    """What paths without their ending match; groups ``id`` and, where it has one, ``channel``.

    Raises InputError for a pattern or texts of channels that cannot be meant.
    """
    texts = "|".join(re.escape(text) for text in channels.values())
    if set(channels) != set(CHANNELS) or len(set(channels.values())) != len(CHANNELS):
        raise InputError(
            f"channels: {channels} must give each of {', '.join(CHANNELS)} a text of its own."
        )
    regex = {"{id}": "(?P<id>.+)", "{channel}": f"(?P<channel>{texts})", "{any}": "[^/]*"}
    parts = re.split(r"(\{[^}]*\})", pattern)
    unknown = [part for part in parts if part.startswith("{") and part not in regex]
    if unknown or parts.count("{id}") != 1 or parts.count("{channel}") > 1:
        raise InputError(
            f"pattern: {pattern!r} must hold {{id}} once, {{channel}} once (or not at all where"
            " a file holds all four planes), and nothing else in braces but {any}."
        )
    return re.compile("".join(regex.get(part, re.escape(part)) for part in parts))


def _files(folder: str) -> Iterator[tuple[str, FileState]]:
    """All files below ``folder`` that are not hidden, nor in hidden folders."""
    waiting, seen = [(folder, "")], set()
    while waiting:
        path, prefix = waiting.pop()
        here = os.path.realpath(path)
        if here in seen:  # a link to a folder above would go round for ever
            continue
        seen.add(here)
        try:
            entries = list(os.scandir(path))
        except OSError as error:
            raise InputError(f"{path}: the folder cannot be read ({error.strerror}).") from error
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                waiting.append((entry.path, f"{prefix}{entry.name}/"))
                continue
            try:
                about = entry.stat()
            except OSError:  # a link that leads nowhere
                yield f"{prefix}{entry.name}", FileState(0, 0, 0)
            else:
                yield (
                    f"{prefix}{entry.name}",
                    FileState(about.st_size, about.st_mtime_ns, about.st_ctime_ns),
                )


def listing_digest(images: list[tuple[str, int]]) -> str:
    """sha256 (hex) of a listing: another when an image comes, goes or changes its size."""
    lines = "".join(f"{name}\t{size}\n" for name, size in images)
    return hashlib.sha256(lines.encode("utf-8", "surrogateescape")).hexdigest()
