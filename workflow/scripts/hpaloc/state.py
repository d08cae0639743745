"""Folders of state that outlive a job: named by a hash of all that their contents depend on."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

from hpaloc.files import canonical_json, write_json
from hpaloc.lease import leased

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


def stale_states(
    root: str | Path, program: str, run: str, current: list[dict[str, Any]]
) -> list[tuple[Path, str]]:
    """The states of ``run`` that match nothing of ``current``, each with what makes it stale.

    ``current`` holds, of each job that the configuration asks for, some keys of its state's
    meta file; ``name`` and ``fold`` are among them. A state that a process works in is listed
    too; ``remove_state`` refuses it.
    """
    stale = []
    for path in sorted(Path(root, program).glob(f"*/{META}")):
        meta = read_meta(path.parent)
        if meta["run"] != run:
            continue
        named = [
            job for job in current if (job["name"], job["fold"]) == (meta["name"], meta["fold"])
        ]
        if not named:
            stale.append((path.parent, "no such recipe and fold is configured"))
            continue
        differing = [key for key in named[0] if named[0][key] != meta[key]]
        if differing:
            stale.append((path.parent, f"made with another {' and '.join(differing)}"))
    return stale


def size_of(folder: Path) -> int:
    """Bytes of all files of a state."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def remove_state(folder: Path) -> None:
    """Removes a state; InputError where a process works in it."""
    with leased(folder, wait=False):
        shutil.rmtree(folder)
