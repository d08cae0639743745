"""What is wanted of the network, and what became of it."""

from pathlib import Path
from typing import NamedTuple


class Wanted(NamedTuple):
    """One file: its name in messages and tables, its addresses in order of preference, its place."""

    name: str
    addresses: tuple[str, ...]
    path: Path


class Fetched(NamedTuple):
    """What became of a wanted file.

    ``url`` is the address that gave it, None where the file was there already or could not be
    had. ``bytes`` and ``sha256`` are those of the file as stored (0 and "" without one).
    ``reason`` is "" for a good file, else what each address answered; ``temporary`` says that
    another run may get it, ``gone`` that every address answered 404 or 410.
    """

    name: str
    path: Path
    url: str | None
    bytes: int
    sha256: str
    reason: str
    temporary: bool
    gone: bool = False


class Refused(Exception):
    """Why a body, or an address, is not what is wanted: the next address is tried.

    ``again`` marks a body that the way may have broken (a truncated image): the same address is
    asked once or twice more.
    """

    def __init__(self, reason: str, again: bool = False):
        super().__init__(reason)
        self.again = again


class Unreachable(Exception):
    """Why nothing usable came this time: another attempt, or another run, may get it."""
