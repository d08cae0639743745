"""Which files of the user's have changed since a source was made of them.

Size and time stamps are a hint that costs no reading; where they differ, the contents decide. The
job that indexes a source leaves a table of what it read beside the index (``contents.json``), which
Snakemake does not track: it holds time stamps, and results hold none. A touched, copied or restored
file thus reruns nothing, and a changed one is noticed whatever its name, size and times.
"""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from hpaloc.classes import CHANNELS
from hpaloc.files import sha256_of_file, write_text
from hpaloc.listing import FileState
from hpaloc.log import Progress

if TYPE_CHECKING:  # the Snakefile imports this module, and Snakemake comes without it
    import pandas as pd

FILE_NAME = "contents.json"

# Stands for the sum of a file that was to be used and could not be read.
UNREADABLE = "unreadable"

# A state that no file has.
_NO_STATE = FileState(-1, -1, -1)


class Contents(NamedTuple):
    """What a source was made of.

    ``token`` names these contents: it stays the same for as long as they do, and triggers when it
    changes. ``files`` has the state and the sum (see sum_of_file) of each file by its name within
    ``root``, a folder or a single file (whose name is ""); the sum is "" for a file that was there
    and not used, UNREADABLE for one that was to be used and could not be read.
    """

    token: str
    root: str
    files: dict[str, tuple[FileState, str]]

    def path(self, name: str) -> str:
        return os.path.join(self.root, name) if name else self.root


class Changes(NamedTuple):
    """Names of files: other contents, new, gone, and other time stamps with the same contents."""

    edited: list[str]
    added: list[str]
    removed: list[str]
    touched: list[str]

    def __bool__(self) -> bool:
        return bool(self.edited or self.added or self.removed)

    def __str__(self) -> str:
        """Return such as ``3 files edited (a_red.tif, …), 1 added (b_red.tif)``."""
        return ", ".join(
            f"{len(names)} file{'s' * (len(names) != 1)} {what}"
            f" ({', '.join(names[:2])}{', …' * (len(names) > 2)})"
            for what, names in (
                ("edited", self.edited), ("added", self.added), ("removed", self.removed)
            )
            if names
        )  # fmt: skip


def read_contents(path: str | Path) -> Contents | None:
    """Read the table of a source; None where there is none, or none that can be read."""
    try:
        about = json.loads(Path(path).read_text(encoding="utf-8"))
        files = {
            name: (FileState(size, modified, changed), sum_)
            for name, (size, modified, changed, sum_) in about["files"].items()
        }
        return Contents(str(about["token"]), str(about["root"]), files)
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None


def write_contents(path: str | Path, contents: Contents) -> None:
    files = {name: [*state, sum_] for name, (state, sum_) in contents.files.items()}
    about = {"token": contents.token, "root": contents.root, "files": files}
    write_text(json.dumps(about) + "\n", path)


def write_contents_of_index(
    frame: pd.DataFrame,
    states: Mapping[str, FileState],
    token: str,
    root: str,
    index: str | Path,
    sums: Mapping[str, str] | None = None,
    prefix: str = "",
) -> None:
    """Write the table of a source beside its raw ``index``, whose rows are ``frame``.

    ``states`` are those of its files before they were read, ``prefix`` is what their names have
    before the paths of the index, and ``sums`` those of files that are not images of it. An image
    without a sha256 in the index could not be read.
    """
    known = dict(sums or {})
    for channel in CHANNELS:
        paths, found = (frame[f"{what}_{channel}"] for what in ("path", "sha256"))
        known |= {
            prefix + path: sum_ or UNREADABLE for path, sum_ in zip(paths, found, strict=True)
        }
    files = {name: (state, known.get(name, "")) for name, state in states.items()}
    write_contents(Path(index).with_name(FILE_NAME), Contents(token, root, files))


def token_of(states: Mapping[str, FileState]) -> str:
    """Return a name for contents that were not read yet: sha256 (hex) of names, sizes and times."""
    digest = hashlib.sha256()
    for name in sorted(states):
        digest.update(f"{json.dumps(name)} {states[name]}\n".encode())
    return digest.hexdigest()


def changes(
    contents: Contents, states: Mapping[str, FileState], read: bool = True, workers: int = 8
) -> Changes:
    """Compare the files of a source as they are now (``states``) with what it was made of.

    Files of the same size whose time stamps differ are read, or without ``read`` count as edited.
    So are those that could not be read: one that can be now counts as edited, also where its time
    stamps are the same, as after a passing fault of a disk.
    """
    known = contents.files
    there = [name for name in states if name in known]
    moved = {name for name in there if known[name][0] != states[name]}
    # What was not used can only matter by its name, which is the same.
    same = {name for name in moved if not known[name][1]}
    edited = moved - same
    unsure = [
        name
        for name in there
        if known[name][1] == UNREADABLE
        or (name in edited and known[name][0].bytes == states[name].bytes)
    ]
    if read and unsure:
        progress = Progress("compared", len(unsure), "files")

        def is_same(name: str) -> bool:
            try:
                return sum_of_file(contents.path(name)) == known[name][1]
            except OSError:  # of a file that was readable, the job that reads it says why
                return known[name][1] == UNREADABLE

        with ThreadPoolExecutor(workers) as executor:
            for name, equal in zip(unsure, executor.map(is_same, unsure), strict=True):
                (same if equal else edited).add(name)
                progress.add()
        edited -= same
    return Changes(
        [name for name in there if name in edited],
        [name for name in states if name not in known],
        [name for name in known if name not in states],
        [name for name in there if name in moved and name in same],
    )


def next_token(contents: Contents, states: Mapping[str, FileState]) -> str:
    """Return a name for what changed ``contents`` will be, other than theirs.

    A file that can be read again may have the time stamps that it had.
    """
    token = token_of(states)
    return token if token != contents.token else hashlib.sha256(token.encode()).hexdigest()


def noticed(contents: Contents, names: Iterable[str]) -> Contents:
    """Return the same contents, whose files ``names`` count as edited whoever compares them."""
    files = {name: (_NO_STATE, contents.files[name][1]) for name in names}
    return contents._replace(files=contents.files | files)


def renewed(contents: Contents, states: Mapping[str, FileState]) -> Contents:
    """Return the same contents with the time stamps of now, so that nothing is compared again."""
    files = {name: (states[name], sum_) for name, (_, sum_) in contents.files.items()}
    return contents._replace(files=files)


def sum_of_file(path: str) -> str:
    """Return the sha256 (hex) of a file; of a zip archive that of its members' names and sums.

    The directory of an archive has the size and CRC of every member: a touched archive of 14 GB
    is compared in a second or two.
    """
    if not path.lower().endswith(".zip"):
        return sha256_of_file(path)
    digest = hashlib.sha256()
    try:
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                line = f"{json.dumps(info.filename)} {info.file_size} {info.CRC:08x}\n"
                digest.update(line.encode())
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        raise OSError(f"{path}: not a zip archive ({error})") from error
    return digest.hexdigest()


def sums_of_files(root: str, names: Iterable[str], workers: int) -> dict[str, str]:
    """Return the sum of each file below ``root``, UNREADABLE where there is none.

    The name "" is ``root`` itself. Take the sums before the files are used: what is edited between
    then differs from its sum, and is noticed.
    """

    def sum_of(name: str) -> str:
        try:
            return sum_of_file(os.path.join(root, name) if name else root)
        except OSError:  # whether that matters is for the job to say
            return UNREADABLE

    names = list(names)
    with ThreadPoolExecutor(workers) as executor:
        return dict(zip(names, executor.map(sum_of, names), strict=True))


def state_of(path: str | Path) -> FileState:
    about = os.stat(path)
    return FileState(about.st_size, about.st_mtime_ns, about.st_ctime_ns)
