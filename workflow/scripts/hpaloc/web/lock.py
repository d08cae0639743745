"""One program at a time in a folder of downloads: the others wait, and find the files there."""

import fcntl
import json
import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_log = logging.getLogger("hpaloc")


@contextmanager
def waited_for(folder: str | Path, every_s: float = 0.2) -> Iterator[None]:
    """Holds the lock of a folder, after waiting for whoever holds it; a killed process lets go.

    Limits on connections and rate are those of a program, so one program at a time keeps them,
    and what the first one fetched the second one finds.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "a+", encoding="utf-8") as lock:
        named = None
        while not _taken(lock, folder):
            holder = _holder(lock)
            if holder != named:
                _log.info("%s: waiting for %s, which fetches into it", folder, holder)
                named = holder
            time.sleep(every_s)
        lock.seek(0)
        lock.truncate()
        json.dump({"pid": os.getpid(), "host": socket.gethostname()}, lock)
        lock.flush()
        yield
        lock.truncate(0)


def _taken(lock, folder: Path) -> bool:
    try:
        # Not flock(): its locks live on in forked workers.
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError as error:  # some cluster file systems know no locks
        _log.warning("%s cannot be locked (%s): keep other runs out of it", folder, error)
    return True


def _holder(lock) -> str:
    lock.seek(0)
    try:
        about = json.loads(lock.read())
        return f"process {about['pid']} on {about['host']}"
    except (ValueError, KeyError, TypeError):  # it took the lock just now
        return "another process"
