"""Files that appear whole or not at all, their digests, and paths that stay in their folder."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tokenize import TokenError
from typing import TYPE_CHECKING, Any

from hpaloc.log import InputError

if TYPE_CHECKING:  # the Snakefile imports this module, and Snakemake comes without these
    import numpy as np
    import pandas as pd


@contextmanager
def written_whole(path: str | Path) -> Iterator[Path]:
    """A path beside ``path`` to write to; renamed to ``path`` when the block ends well."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # The suffix is kept last: writers such as Pillow and NumPy choose the format by it.
    aside = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
    try:
        yield aside
        os.replace(aside, path)
    except OSError as error:
        if error.filename in (None, str(aside)):  # PyArrow names no file, and nobody knows aside
            error.filename = str(path)
        raise
    finally:
        aside.unlink(missing_ok=True)


def write_parquet(frame: pd.DataFrame, path: str | Path) -> None:
    with written_whole(path) as aside:
        frame.to_parquet(aside, index=False, compression="zstd")


def write_csv(frame: pd.DataFrame, path: str | Path) -> None:
    with written_whole(path) as aside:
        frame.to_csv(aside, index=False, lineterminator="\n")


def write_text(text: str, path: str | Path) -> None:
    with written_whole(path) as aside:
        aside.write_text(text, encoding="utf-8")


def write_json(value: Any, path: str | Path) -> None:
    write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", path)


def read_json(path: str | Path, *keys: str) -> dict[str, Any]:
    """The object of a JSON file; InputError where it cannot be read, or lacks one of ``keys``."""
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not a readable JSON file ({error}).") from error
    for key in keys:
        if not isinstance(value, dict) or key not in value:
            raise InputError(f"{path}: the key {key!r} is missing; is this another file?")
    return value


def map_array(path: str | Path) -> np.ndarray:
    """The array of an .npy file, memory-mapped read-only; ValueError for what is no such file."""
    import numpy as np

    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (EOFError, TokenError) as error:  # an empty file; a header that is no Python any more
        raise ValueError(f"no whole .npy file: {error.args[0]}") from error


def sha256_of_file(path: str | Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_digest(of: str | Path, path: str | Path) -> None:
    """Writes the sha256 of file ``of``: Snakemake compares this small file instead of a big one.

    Snakemake compares inputs over 1 MB by time; a rule takes the big file as
    ``ancient`` and its digest file as the trigger.
    """
    write_text(f"{sha256_of_file(of)}\n", path)


def read_digest(path: str | Path) -> str:
    """The lines of a file of ``write_digest`` or ``hpaloc.index.write_index``, without the last
    line break; InputError for any other file."""
    try:
        text = Path(path).read_text(encoding="ascii").strip()
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not a readable file of sha256 sums ({error}).") from error
    if not re.fullmatch(r"([0-9a-f]{64}\n)*[0-9a-f]{64}", text):
        raise InputError(f"{path}: not a file of sha256 sums.")
    return text


def canonical_json(value: Any) -> str:
    """One text for equal values: sorted keys, no blanks."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def inside(folder: str | Path, name: str, where: str) -> Path:
    """``folder/name``, refused where it would leave the folder (``where`` names the table's row)."""
    inner = os.path.normpath(name)
    if os.path.isabs(name) or inner == ".." or inner.startswith("../"):
        raise InputError(f"{where}: the path {name!r} leaves the folder {folder}.")
    return Path(folder, inner)
