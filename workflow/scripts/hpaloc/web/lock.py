"""One program at a time in a folder of downloads: the others wait, and find the files there."""

import fcntl
import json
import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from hpaloc.log import InputError

# Whoever waits is told so again: the holder may have been stopped, or hang.
_NAMED_AGAIN_S = 300

_log = logging.getLogger("hpaloc")


@contextmanager
def waited_for(folder: str | Path, every_s: float = 0.2) -> Iterator[None]:
    """Holds the lock of a folder, after waiting for whoever holds it; a killed process lets go.

    Limits on connections and rate are those of a program, so one program at a time keeps them,
    and what the first one fetched the second one finds. It waits as long as the holder lives, and
    names it. Raises InputError where the folder cannot be used.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise unusable(folder, error) from error
    try:
        named, named_at = None, 0.0
        while not _taken(lock, folder):
            holder = _holder(lock)
            if holder != named or time.monotonic() - named_at > _NAMED_AGAIN_S:
                _log.info("%s: waiting for %s, which fetches into it", folder, holder)
                named, named_at = holder, time.monotonic()
            time.sleep(every_s)
        with suppress(OSError):  # a full disk: others then wait for one that has no name
            os.ftruncate(lock, 0)
            about = {"pid": os.getpid(), "host": socket.gethostname()}
            os.pwrite(lock, json.dumps(about).encode(), 0)
        yield
        os.ftruncate(lock, 0)
    finally:
        os.close(lock)


def unusable(folder: Path, error: OSError) -> InputError:
    """What to say where nothing can be written to a folder of downloads."""
    return InputError(
        f"{folder}: the folder of downloads cannot be used ({error.strerror}). Mend its rights,"
        " make room there, or link it to another place."
    )


def _taken(lock: int, folder: Path) -> bool:
    try:
        # Not flock(): its locks live on in forked workers.
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError as error:  # some cluster file systems know no locks
        _log.warning("%s cannot be locked (%s): keep other runs out of it", folder, error)
    return True


def _holder(lock: int) -> str:
    try:
        about = json.loads(os.pread(lock, 1000, 0))
        return f"process {about['pid']} on {about['host']}"
    except (ValueError, KeyError, TypeError, OSError):  # it took the lock just now
        return "another process"
