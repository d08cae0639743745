"""What lies in a folder of images, told from names and sizes alone: quick enough for planning."""

import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from hpaloc.classes import CHANNELS
from hpaloc.log import InputError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".npy")


def list_images(folder: str | Path) -> list[tuple[str, int]]:
    """Relative POSIX path and size in bytes of each image file below ``folder``, sorted.

    Hidden files and folders are left out, as are files with other endings. Symbolic links are
    followed; one that leads nowhere is a file of 0 bytes.
    """
    return [(name, size) for name, size in list_files(folder) if _is_image(name)]


def list_files(folder: str | Path) -> list[tuple[str, int]]:
    """The same of every file, whatever its ending."""
    return sorted(
        (path.relative_to(folder).as_posix(), path.stat().st_size if path.exists() else 0)
        for path in _files(folder)
    )


def other_endings(folder: str | Path) -> Counter[str]:
    """How many files of each other ending (in lower case) lie below ``folder``."""
    names = (path.name.lower() for path in _files(folder))
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


def _files(folder: str | Path) -> Iterator[Path]:
    """All files below ``folder`` that are not hidden, nor in hidden folders."""
    seen = set()
    for parent, folders, names in os.walk(folder, followlinks=True):
        here = os.path.realpath(parent)
        if here in seen:  # a link to a folder above would go round for ever
            folders.clear()
            continue
        seen.add(here)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(parent, name) for name in names if not name.startswith("."))


def listing_digest(images: list[tuple[str, int]]) -> str:
    """sha256 (hex) of a listing: another when an image comes, goes or changes its size."""
    lines = "".join(f"{name}\t{size}\n" for name, size in images)
    return hashlib.sha256(lines.encode("utf-8", "surrogateescape")).hexdigest()
