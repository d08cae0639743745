"""Folders of state that outlive a job: named by a hash of all that their contents depend on."""

import fcntl
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hpaloc.files import canonical_json, write_json
from hpaloc.log import InputError

META = "meta.json"


def state_folder(root: str | Path, program: str, name: str, key: dict[str, Any]) -> Path:
    """``root/program/name_<hash of key>``: another key is another folder."""
    digest = hashlib.sha256(canonical_json(key).encode()).hexdigest()
    return Path(root) / program / f"{name}_{digest[:12]}"


def write_meta(folder: Path, meta: dict[str, Any]) -> None:
    """Says in clear what the state belongs to, for whoever lists or removes states."""
    write_json(meta, folder / META)


def read_meta(folder: Path) -> dict[str, Any]:
    return json.loads((folder / META).read_text(encoding="utf-8"))


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Keeps a second process out of the folder; a killed process lets go of it by itself."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"{folder}: another process works in this state. Wait for it, or end it first."
            ) from None
        yield
