"""What lies in a folder of images, told from names and sizes alone: quick enough for planning."""

import hashlib
import itertools
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

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


def list_images(folder: str | Path, ignore: Sequence[str] = ()) -> list[tuple[str, int]]:
    """Relative POSIX path and size in bytes of each image file below ``folder``, sorted.

    Hidden files and folders are left out, as are files with other endings and those that a
    pattern of ``ignore`` names (see ``ignored_by``). Symbolic links are followed; one that leads
    nowhere is a file of 0 bytes.
    """
    is_ignored = ignored_by(ignore)
    return [
        (name, size)
        for name, size in list_files(folder)
        if _is_image(name) and not is_ignored(name)
    ]


def ignored_by(patterns: Sequence[str]) -> Callable[[str], bool]:
    """Whether a path within a folder matches one of the glob patterns, as in a .gitignore file.

    A pattern without ``/`` is compared with the name of the file and of each folder above it,
    one that ends in ``/`` with folders only, any other with the whole path and the folders above.
    ``*`` and ``?`` stay within a name, ``**`` does not, ``[ab]`` is one of the characters. Case
    and the composition of letters (Unicode NFC or NFD) do not matter.
    """
    if not patterns:
        return lambda path: False
    regex = re.compile("|".join(map(_glob_regex, patterns)), re.IGNORECASE | re.DOTALL)
    return lambda path: regex.fullmatch(nfc(path)) is not None


def _glob_regex(pattern: str) -> str:
    text = nfc(pattern)
    only_folders, inner = text.endswith("/"), text.rstrip("/")
    parts = re.findall(r"\*\*/|\*\*|\*|\?|\[[!^]?\]?[^]/]*\]|.", inner.removeprefix("/"), re.DOTALL)
    wild = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    regex = "".join(
        wild.get(part) or (_set_regex(part) if len(part) > 1 else re.escape(part)) for part in parts
    )
    above = "" if "/" in inner else "(?:.*/)?"
    return f"{above}{regex}{'/.*' if only_folders else '(?:/.*)?'}"


def _set_regex(part: str) -> str:
    """``[ab]``, ``[a-c]`` or ``[!ab]`` of a glob pattern, which never matches ``/``."""
    inner = part[1:-1]
    negated = inner[0] in "!^"
    inner = inner[negated:].replace("\\", r"\\").replace("[", r"\[").replace("]", r"\]")
    return f"(?!/)[{'^' if negated else ''}{inner}]"


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
    """What paths (in Unicode NFC) without their ending match.

    Groups: ``id``; ``channel``, where the pattern has one; ``any0``, ``any1``, … for each
    ``{any}`` in the name of a folder that does not depend on the channel. Raises InputError for a
    pattern or texts of channels that cannot be meant.
    """
    texts = "|".join(re.escape(nfc(text)) for text in channels.values())
    distinct = {nfc(text) for text in channels.values()}
    if set(channels) != set(CHANNELS) or len(distinct) != len(CHANNELS):
        raise InputError(
            f"channels: {channels} must give each of {', '.join(CHANNELS)} a text of its own."
        )
    regex = {"{id}": "(?P<id>.+)", "{channel}": f"(?P<channel>{texts})", "{any}": "[^/]*"}
    parts = re.split(r"(\{[^}]*\})", nfc(pattern))
    unknown = [part for part in parts if part.startswith("{") and part not in regex]
    if unknown or parts.count("{id}") != 1 or parts.count("{channel}") > 1:
        raise InputError(
            f"pattern: {pattern!r} must hold {{id}} once, {{channel}} once (or not at all where"
            " a file holds all four planes), and nothing else in braces but {any}."
        )
    numbers = itertools.count()
    *folders, file_name = nfc(pattern).split("/")
    names = []
    for place, name in enumerate([*folders, file_name]):
        of_image = place < len(folders) and "{channel}" not in name
        names.append(
            "".join(
                f"(?P<any{next(numbers)}>[^/]*)"
                if of_image and part == "{any}"
                else regex.get(part, re.escape(part))
                for part in re.split(r"(\{[^}]*\})", name)
            )
        )
    return re.compile("/".join(names))


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
