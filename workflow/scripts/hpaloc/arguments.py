"""The files and folders among a program's arguments, checked before its work begins.

A program says with the ``type`` of an option what it takes (``input_file``, ``input_folder``,
``optional_folder``) and what it makes (``output_file``, ``output_folder``). Its Parser then looks
at all of them and reports every fault at once: hours of work never end at a path that was wrong
from the start.
"""

import argparse
import errno
import glob
import json
import os
import re
import struct
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hpaloc.log import InputError

# A fault of each of a thousand files would hide what is wrong with all of them.
_MOST_FAULTS = 5
# Enough to find a full disk.
_TRIAL = b"\0" * 4096


def input_file(text: str) -> Path:
    """The type of an option that names a file to read.

    By its ending, a Parquet, JSON or safetensors file is also checked to be whole.
    """
    return _path(text)


def input_folder(text: str) -> Path:
    """The type of an option that names a folder to read."""
    return _path(text)


def optional_folder(text: str) -> Path:
    """The type of an option that names a folder to read, which may not exist."""
    return _path(text)


def output_file(text: str) -> Path:
    """The type of an option that names a file to write; an existing one is replaced."""
    return _path(text)


def output_folder(text: str) -> Path:
    """The type of an option that names a folder to write in, made where it does not exist."""
    return _path(text)


def json_value(text: str) -> Any:
    """The type of an option that is JSON text."""
    try:
        return json.loads(text)
    except ValueError as error:
        start = text if len(text) <= 60 else f"{text[:60]}…"
        raise argparse.ArgumentTypeError(f"{start!r} is not JSON ({error})") from None


def positive(text: str) -> int:
    """The type of an option that is a whole number from 1."""
    return _whole_number(text, 1)


def not_negative(text: str) -> int:
    """The type of an option that is a whole number from 0."""
    return _whole_number(text, 0)


def _whole_number(text: str, least: int) -> int:
    # int() refuses thousands of digits with a message of its own.
    if not re.fullmatch(r"[0-9]{1,18}", text) or int(text) < least:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {least}")
    return int(text)


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that checks the files and folders of its options when it parses.

    ``parse_args`` raises InputError, with every option and path that is wrong and why: an input
    that does not exist, is not a file (or folder), cannot be read or is damaged; an output that
    cannot be written, or is an input or another output as well.
    """

    def add_input(self, option: str, *, required: bool = True, **more: Any) -> None:
        """An option that names a file to read, or several with ``nargs``."""
        self.add_argument(option, type=input_file, required=required, **more)

    def add_input_folder(self, option: str, *, required: bool = True, **more: Any) -> None:
        """An option that names a folder to read."""
        self.add_argument(option, type=input_folder, required=required, **more)

    def add_optional_folder(self, option: str, **more: Any) -> None:
        """An option that names a folder to read, which may not exist."""
        self.add_argument(option, type=optional_folder, **more)

    def add_output(self, option: str, *, required: bool = True, **more: Any) -> None:
        """An option that names a file to write, or several with ``nargs``."""
        self.add_argument(option, type=output_file, required=required, **more)

    def add_output_folder(self, option: str, *, required: bool = True, **more: Any) -> None:
        """An option that names a folder to write in."""
        self.add_argument(option, type=output_folder, required=required, **more)

    def add_json(self, option: str, *, required: bool = True, **more: Any) -> None:
        """An option whose value is JSON text."""
        self.add_argument(option, type=json_value, required=required, **more)

    def parse_args(
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> argparse.Namespace:
        parsed = super().parse_args(args, namespace)
        found = list(_paths_of(self._actions, parsed))
        faults = [
            f"{option} {path}: {fault}"
            for option, path, check in found
            if (fault := _CHECKS[check](path)) is not None
        ]
        faults += _shared(found)
        if faults:
            more = len(faults) - _MOST_FAULTS
            tail = [f"and {more} more like these"] if more > 0 else []
            raise InputError("\n  ".join([*faults[:_MOST_FAULTS], *tail]))
        return parsed


_Found = tuple[str, Path, Any]


def _path(text: str) -> Path:
    if not text:
        raise argparse.ArgumentTypeError("the path is empty")
    return Path(text)


def _paths_of(actions: Sequence[argparse.Action], parsed: argparse.Namespace) -> Iterator[_Found]:
    """Option, path and type of everything that was given."""
    for action in actions:
        if action.type in _CHECKS:
            value = getattr(parsed, action.dest)
            for path in value if isinstance(value, list) else [value]:
                if path is not None:
                    yield action.option_strings[0], path, action.type


def _input_file_fault(path: Path) -> str | None:
    try:
        if path.is_dir():
            return "is a folder; a file is expected"
        if path.exists() and not path.is_file():
            return None  # a pipe or a device can be read only once
        with open(path, "rb") as file:
            file.read(1)
            damage = _DAMAGE.get(path.suffix, lambda path: None)(path)
    except OSError as error:
        return _missing(path, "file") if _is_missing(error) else _unreadable(error)
    return damage and f"{damage}; the file is damaged or of another kind: make it again"


def _input_folder_fault(path: Path) -> str | None:
    try:
        if path.is_file():
            return "is a file; a folder is expected"
        with os.scandir(path):
            return None
    except OSError as error:
        return _missing(path, "folder") if _is_missing(error) else _unreadable(error)


def _optional_folder_fault(path: Path) -> str | None:
    return _input_folder_fault(path) if os.path.lexists(path) else None


def _output_file_fault(path: Path) -> str | None:
    try:
        if path.is_dir():
            return "is a folder; a file is expected: add the name of the file"
        if path.exists() and not path.is_file():
            return "is not a file but a device or a pipe; a file is expected"
        # Files are written beside their place under a name that is longer (files.written_whole).
        with_room = path.with_name(f".{path.stem}.{2**22}.part{path.suffix}")
        for name in (path, with_room):
            _lookup(name)
    except OSError as error:
        return _unwritable(error)
    return _no_writing_in(path.parent)


def _output_folder_fault(path: Path) -> str | None:
    return _no_writing_in(path)


def _no_writing_in(folder: Path) -> str | None:
    """Why no file can be written in a folder, or the first one above it that exists."""
    try:
        while not os.path.lexists(folder) and folder != folder.parent:
            _lookup(folder)
            folder = folder.parent
        if folder.exists() and not folder.is_dir():
            return f"cannot be written: {folder} is a file; a folder is expected there"
        with tempfile.TemporaryFile(dir=folder) as trial:
            trial.write(_TRIAL)
            trial.flush()
    except OSError as error:
        return _unwritable(error, folder)
    return None


def _lookup(path: Path) -> None:
    """Raises OSError for a path that can never exist, such as one with too long a name."""
    try:
        os.lstat(path)
    except OSError as error:
        # A file in the place of a folder is found, and named, on the way up.
        if error.errno not in (errno.ENOENT, errno.ENOTDIR):
            raise


def _shared(found: Sequence[_Found]) -> list[str]:
    """Outputs that are an input or another output too."""
    faults = []
    inputs = {os.path.realpath(path): name for name, path, check in found if check is input_file}
    outputs: dict[str, str] = {}
    for option, path, check in found:
        if check is not output_file:
            continue
        place = os.path.realpath(path)
        if place in inputs:
            faults.append(
                f"{option} {path}: is the input {inputs[place]} too, which would be overwritten;"
                " choose another name"
            )
        elif place in outputs:
            faults.append(f"{option} {path}: is the output {outputs[place]} too")
        outputs[place] = option
    return faults


def _is_missing(error: OSError) -> bool:
    return error.errno in (errno.ENOENT, errno.ENOTDIR)


def _unreadable(error: OSError) -> str:
    return f"cannot be read ({error.strerror})"


def _unwritable(error: OSError, folder: Path | None = None) -> str:
    where = "" if folder is None else f" in {folder}"
    return f"cannot be written{where} ({error.strerror})"


def _missing(path: Path, what: str) -> str:
    """Why a path does not exist, with the folder where the way to it ends."""
    above = next((folder for folder in path.parents if os.path.lexists(folder)), Path("."))
    step = above / path.relative_to(above).parts[0]
    if glob.has_magic(str(path)):
        if glob.glob(str(path)):
            return "is a pattern in quotes, which the shell hands on as it is: remove the quotes"
        step = next(
            (folder for folder in reversed(path.parents) if not glob.glob(str(folder))), None
        )
        why = "" if step is None else f": there is no folder {step}"
        return f"no {what} matches this pattern{why}"
    if os.path.islink(path):
        return f"is a link to {os.readlink(path)}, which does not exist"
    if above.is_file():
        return f"does not exist: {above} is a file, not a folder"
    return "does not exist" + ("" if step == path else f": there is no folder {step}")


def _parquet_damage(path: Path) -> str | None:
    with open(path, "rb") as file:
        head, size = file.read(4), os.fstat(file.fileno()).st_size
        file.seek(max(size - 8, 0))
        tail = file.read()
    if head == tail[4:] == b"PAR1" and struct.unpack("<I", tail[:4])[0] <= size - 12:
        return None
    return "is truncated" if head == b"PAR1" else "is not a Parquet file"


def _json_damage(path: Path) -> str | None:
    try:
        json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        return f"is not JSON ({error})"
    return None


def _safetensors_damage(path: Path) -> str | None:
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        length = int.from_bytes(file.read(8), "little")
        if length > size - 8:
            return "is not a whole safetensors file"
        try:
            ends = [about["data_offsets"][1] for name, about in json.loads(file.read(length)).items()
                    if name != "__metadata__"]  # fmt: skip
            expected = 8 + length + max(ends, default=0)
        except (ValueError, LookupError, TypeError, AttributeError):
            return "is not a safetensors file"
    return None if size == expected else f"has {size} bytes where {expected} are expected"


_CHECKS = {
    input_file: _input_file_fault,
    input_folder: _input_folder_fault,
    optional_folder: _optional_folder_fault,
    output_file: _output_file_fault,
    output_folder: _output_folder_fault,
}
_DAMAGE = {
    ".parquet": _parquet_damage,
    ".json": _json_damage,
    ".safetensors": _safetensors_damage,
}
