"""Whether the files that a source was made of are as they were: what makes its jobs run again.

Asked by the Snakefile before any job, so nothing here needs more than the standard library. Only
the process that plans reads files and writes; the same questions on a node of a cluster are
answered from what it left.
"""

import contextlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hpaloc.contents import (
    FILE_NAME,
    UNREADABLE,
    Changes,
    Contents,
    changes,
    next_token,
    noticed,
    read_contents,
    renewed,
    state_of,
    token_of,
    write_contents,
)
from hpaloc.kaggle.files import paths_found
from hpaloc.listing import FileState, file_states, image_states

ENTRY_SUFFIXES = (".xml", ".xml.gz")


class Status(NamedTuple):
    """``token`` is the trigger: it names the contents of a source's files, None where they are
    unknown. ``files`` is their number, ``changes`` what is not as it was indexed (None where
    nothing was indexed yet)."""

    token: str | None
    files: int
    changes: Changes | None


NOTHING_KNOWN = Status(None, 0, None)

# The token of the competition's files before they were looked for.
AS_FOUND = "as_found"


def status_of_folder(settings: Mapping[str, Any], source: Path, is_planner: bool) -> Status:
    """Compare the images of a local source with those that were indexed.

    ``source`` is the source's own folder below the results. Where the images are gone, the token
    that was recorded stays.
    """
    folder = Path(settings["folder"])
    states = image_states(folder, settings["ignore"]) if folder.is_dir() else None
    return _status(source / "raw" / FILE_NAME, states, is_planner)


def status_of_list(path: Path, source: Path, is_planner: bool) -> Status:
    """Compare a user's list of atlas images, or folder of gene entries, with what was indexed."""
    states = list_states(path) if path.exists() else None
    return _status(source / "atlas" / FILE_NAME, states, is_planner)


def list_states(path: str | Path) -> dict[str, FileState]:
    """The state of a list, by the name "", or of each file in a folder that may be an entry."""
    if not Path(path).is_dir():
        return {"": state_of(path)} if Path(path).is_file() else {}
    return {
        name: state
        for name, state in file_states(path).items()
        if name.lower().endswith(ENTRY_SUFFIXES)
    }


def status_of_competition(source: Path, is_planner: bool) -> Status:
    """Compare the competition's table and images, wherever they were found, with what was indexed.

    So is the archive that the table was unpacked from.

    An archive, folder or table that was deleted since counts as it was: what was made of it stays.
    """
    record = source / "raw" / FILE_NAME
    contents = read_contents(record)
    if contents is None:  # which files are taken is known once they were looked for
        return Status(AS_FOUND, 0, None)
    try:
        found = json.loads((source / "raw/files.json").read_text(encoding="utf-8"))
        paths = paths_found(found)
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return Status(contents.token, len(contents.files), None)
    states = competition_states(paths)
    for path in paths:
        if not Path(path).exists():
            within = (name for name in contents.files if f"{name}/".startswith(f"{path}/"))
            states |= {name: contents.files[name][0] for name in within}
    return _status(record, states, is_planner)


def competition_states(paths: Sequence[str]) -> dict[str, FileState]:
    """The state of each of the files ``paths``, and of each image of those that are folders."""
    states: dict[str, FileState] = {}
    for path in paths:
        if Path(path).is_dir():
            states |= {f"{path}/{name}": state for name, state in image_states(path).items()}
        elif Path(path).is_file():
            states[path] = state_of(path)
    return states


def _status(record: Path, states: Mapping[str, FileState] | None, is_planner: bool) -> Status:
    contents = read_contents(record)
    if states is None:
        return Status(contents.token, len(contents.files), None) if contents else NOTHING_KNOWN
    if contents is None:
        return Status(token_of(states), len(states), None)
    found = changes(contents, states, read=is_planner)
    if found:
        repaired = [
            name
            for name in found.edited
            if contents.files[name][1] == UNREADABLE and contents.files[name][0] == states[name]
        ]
        if repaired and is_planner:
            _keep(record, noticed(contents, repaired))
        return Status(next_token(contents, states), len(states), found)
    if found.touched and is_planner:
        _keep(record, renewed(contents, states))
    return Status(contents.token, len(states), found)


def _keep(record: Path, contents: Contents) -> None:
    # On a disk that is full or read-only they are compared once more next time.
    with contextlib.suppress(OSError):
        write_contents(record, contents)
