"""What lies in a folder of images, told from its directories alone: quick enough for planning."""

import hashlib
import itertools
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hpaloc.classes import CHANNELS
from hpaloc.log import InputError
from hpaloc.unicode import nfc

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".npy")

# Pictures that programs write beside the images, the default of ``ignore`` in the schema (hidden
# files, such as the ._name of macOS, are never listed):
IGNORED = (
    # MetaXpress and CellWorX: plate_B02_s1_thumb_w1….TIF, plate_B02_s1_w1_thumb….TIF; exports of
    # slide scanners and of ImageJ macros: cell-thumb.png, cell.thumb.jpg.
    "*[._-]thumb*.*",
    "*[._-]preview.*",
    "thumbs/",
    "thumbnails/",
    "previews/",
    # Synology network storage keeps small copies of every picture in a folder beside it.
    "@eaDir/",
)


class FileState(NamedTuple):
    """What can be known of a file without reading it: size, times of its last changes in ns.

    ``changed_ns`` is the inode's time of change, which no program can set: it differs also where a
    copy has brought its older time of modification along.
    """

    bytes: int
    modified_ns: int
    changed_ns: int


def image_states(folder: str | Path, ignore: Sequence[str] = ()) -> dict[str, FileState]:
    """The state of each image file below ``folder``, by its relative POSIX path, sorted.

    Hidden files and folders are left out, as are files with other endings and those that a
    pattern of ``ignore`` names (see ``ignored_by``). Symbolic links are followed; one that leads
    nowhere is a file of 0 bytes.
    """
    is_ignored = ignored_by(ignore)
    return {
        name: state
        for name, state in file_states(folder).items()
        if _is_image(name) and not is_ignored(name)
    }


def file_states(folder: str | Path) -> dict[str, FileState]:
    """The same of every file, whatever its ending."""
    return dict(sorted(_files(str(folder))))


def list_images(folder: str | Path, ignore: Sequence[str] = ()) -> list[tuple[str, int]]:
    """Path and size in bytes of each file of ``image_states``."""
    return [(name, state.bytes) for name, state in image_states(folder, ignore).items()]


def ignored_by(patterns: Sequence[str]) -> Callable[[str], bool]:
    """Whether a path within a folder matches one of the glob patterns, as in a .gitignore file.

    A pattern without ``/`` is compared with the name of the file and of each folder above it,
    one that ends in ``/`` with folders only, any other with the whole path and the folders above.
    ``*`` and ``?`` stay within a name, ``**`` does not, ``[ab]`` is one of the characters. Case
    and the composition of letters (Unicode NFC or NFD) do not matter. Raises InputError for a set
    such as ``[z-a]``.
    """
    if not patterns:
        return lambda path: False
    regex = re.compile("|".join(map(_glob_regex, patterns)), re.IGNORECASE | re.DOTALL)
    return lambda path: regex.fullmatch(nfc(path)) is not None


def _glob_regex(pattern: str) -> str:
    text = nfc(pattern)
    only_folders, inner = text.endswith("/"), text.rstrip("/")
    # A set has at least one character, which may be ]: [] and [! without a ] stand for themselves.
    parts = re.findall(
        r"\*\*/|\*\*|\*|\?|\[[!^]?+\]?+[^]/]*\]|.", inner.removeprefix("/"), re.DOTALL
    )
    wild = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    regex = "".join(
        wild.get(part) or (_set_regex(part, pattern) if len(part) > 1 else re.escape(part))
        for part in parts
    )
    above = "" if "/" in inner else "(?:.*/)?"
    return f"{above}{regex}{'/.*' if only_folders else '(?:/.*)?'}"


def _set_regex(part: str, pattern: str) -> str:
    """``[ab]``, ``[a-c]`` or ``[!ab]`` of a glob pattern, which never matches ``/``."""
    inner = part[1:-1]
    negated = inner[0] in "!^"
    allowed = []
    for first, last, single in re.findall("(.)-(.)|(.)", inner[negated:], re.DOTALL):
        if last < first:
            raise InputError(
                f"ignore: {part} in the pattern {pattern!r} names no character: {last} comes"
                f" before {first}."
            )
        allowed.append(re.escape(single) or f"{re.escape(first)}-{re.escape(last)}")
    return f"(?!/)[{'^' if negated else ''}{''.join(allowed)}]"


def list_files(folder: str | Path) -> list[tuple[str, int]]:
    """The same of every file, whatever its ending."""
    return [(name, state.bytes) for name, state in file_states(folder).items()]


def other_endings(folder: str | Path) -> Counter[str]:
    """How many files of each other ending (in lower case) lie below ``folder``."""
    names = (Path(name).name.lower() for name, _ in _files(str(folder)))
    return Counter(Path(name).suffix for name in names if not _is_image(name))


def _is_image(name: str) -> bool:
    return name.lower().endswith(IMAGE_SUFFIXES)


def check_channels(channels: Any, where: str) -> None:
    """Raises InputError for what does not map channels to their texts in file names."""
    if not isinstance(channels, dict):
        raise InputError(f'{where}: {channels!r} is not a mapping, as {{"red": "Tubulin"}} is.')
    for channel, text in channels.items():
        if channel not in CHANNELS:
            raise InputError(
                f"{where}: {channel!r} is not a channel; the channels are {', '.join(CHANNELS)}."
            )
        if not isinstance(text, str) or not text:
            number = isinstance(text, (int, float)) and not isinstance(text, bool)
            advice = f' Quote it: {{"{channel}": "{text}"}}.' if number else ""
            raise InputError(
                f"{where}: {text!r} of {channel} is not what file names call it, a text in double"
                f" quotes.{advice}"
            )


def pattern_regex(pattern: str, channels: dict[str, str]) -> re.Pattern:
    """What paths (in Unicode NFC) without their ending match.

    Groups: ``id``; ``channel``, where the pattern has one; ``any0``, ``any1``, … for each
    ``{any}`` in the name of a folder that does not depend on the channel; ``each0``, ``each1``, …
    for each other one, which the files of an image may differ in. Raises InputError for a
    pattern or texts of channels that cannot be meant.
    """
    texts = "|".join(re.escape(nfc(text)) for text in channels.values())
    distinct = {nfc(text) for text in channels.values()}
    if set(channels) != set(CHANNELS) or len(distinct) != len(CHANNELS):
        raise InputError(
            f"channels: {channels} must give each of {', '.join(CHANNELS)} a text of its own."
        )
    regex = {"{id}": "(?P<id>.+)", "{channel}": f"(?P<channel>{texts})"}
    parts = re.split(r"(\{[^}]*\})", nfc(pattern))
    unknown = [part for part in parts if part.startswith("{") and part not in {*regex, "{any}"}]
    if unknown or parts.count("{id}") != 1 or parts.count("{channel}") > 1:
        raise InputError(
            f"pattern: {pattern!r} must hold {{id}} once, {{channel}} once (or not at all where"
            " a file holds all four planes), and nothing else in braces but {any}."
        )
    numbers = {"any": itertools.count(), "each": itertools.count()}
    *folders, file_name = nfc(pattern).split("/")
    names = []
    for place, name in enumerate([*folders, file_name]):
        kind = "any" if place < len(folders) and "{channel}" not in name else "each"
        names.append(
            "".join(
                f"(?P<{kind}{next(numbers[kind])}>[^/]*)"
                if part == "{any}"
                else regex.get(part, re.escape(part))
                for part in re.split(r"(\{[^}]*\})", name)
            )
        )
    return re.compile("/".join(names))


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
