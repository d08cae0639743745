"""What is told of an image file before its pixels are read, and how its file is meant."""

from collections.abc import Mapping
from threading import Lock
from types import MappingProxyType
from typing import Any, NamedTuple

from hpaloc.log import InputError

# What the axes of a file can be reduced by: all of them as they are, where nothing is set.
AXES = ("z", "t", "pages")
_NOTHING: Mapping[str, Any] = MappingProxyType({})


class BadImage(Exception):
    """Why a file is no image that can be used."""


class Header(NamedTuple):
    """Format, size in pixels, number of planes, and dtype ("uint8" or "uint16") of a file.

    The size is that of the picture as its ``orientation`` (of Exif and TIFF, 1 to 8) turns it.
    ``notes`` say how the file was understood where another reading would be thinkable.
    """

    format: str
    height: int
    width: int
    planes: int
    dtype: str
    orientation: int = 1
    notes: tuple[str, ...] = ()


class Reading(NamedTuple):
    """How the files of a source are meant.

    ``stacked``: each holds all four channels, else one of them. ``slices``: for the axes ``z``,
    ``t`` and ``pages`` (of a file that does not name its axis) "max", a number from 1, or None.
    """

    stacked: bool = False
    slices: Mapping[str, Any] = _NOTHING


def check_slices(slices: Any, where: str) -> None:
    """Raises InputError for what is not a setting of ``Reading.slices``."""
    if not isinstance(slices, dict):
        raise InputError(f'{where}: {slices!r} is not a mapping, as {{"z": "max"}} is.')
    for axis, wanted in slices.items():
        if axis not in AXES:
            raise InputError(f"{where}: {axis!r} is not an axis. Allowed: {', '.join(AXES)}.")
        number = isinstance(wanted, int) and not isinstance(wanted, bool) and wanted >= 1
        if not (number or wanted in ("max", None)):
            raise InputError(
                f'{where}: {wanted!r} of {axis} is neither "max" nor the number of a slice,'
                " counted from 1."
            )


def reading_of(settings: Mapping[str, Any]) -> Reading:
    """How the files of a source with these settings are meant."""
    stacked = "{channel}" not in settings.get("pattern", "{channel}")
    return Reading(stacked, settings.get("slices") or _NOTHING)


class Notes:
    """How files were understood: each kind of note with its number of files and one of them.

    Threads may share one. Which file is named does not depend on their order: the first by name.
    """

    def __init__(self) -> None:
        self._found: dict[str, tuple[int, str]] = {}
        self._lock = Lock()

    def add(self, text: str, file: str, count: int = 1) -> None:
        with self._lock:
            known, first = self._found.get(text, (0, file))
            self._found[text] = (known + count, min(first, file))

    def items(self) -> list[tuple[str, int, str]]:
        """Text, number of files and the first of them, sorted."""
        return [(text, *found) for text, found in sorted(self._found.items())]

    def lines(self) -> list[str]:
        """A line for the log of each kind of note."""
        return [
            f"{text} ({count} file{'s' if count > 1 else ''}, the first is {file})"
            for text, count, file in self.items()
        ]
