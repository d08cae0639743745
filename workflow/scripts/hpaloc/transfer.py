"""What every long download needs beside its client: room on the disk, lines on how far it is, and
an end where nothing comes any more."""

import errno
import logging
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from hpaloc.log import InputError, duration

_log = logging.getLogger("hpaloc")

_GIB = 2**30
# For what else the machine writes meanwhile.
_MARGIN = _GIB


def check_room(partial: Path, whole: int) -> None:
    """Raises InputError, saying how much is missing, where a file of ``whole`` bytes won't fit.

    ``partial`` is where it grows, and may hold some of it.
    """
    left = whole - size_of_file(partial)
    check_free(
        partial.parent, left, f"The download needs {in_gib(left)} more ({in_gib(whole)} in all)"
    )


def check_free(folder: Path, needed: int, need: str) -> None:
    """Raises InputError where ``needed`` bytes, ``need`` in words, do not fit in a folder."""
    free = shutil.disk_usage(folder).free
    missing = needed + _MARGIN - free
    if missing > 0:
        raise InputError(
            f"{folder}: {in_gib(missing)} of disk space are missing. {need}, and"
            f" {in_gib(_MARGIN)} to spare; {in_gib(free)} are free. Free some, or let results/ be a"
            " link to a larger disk."
        )


def full_disk(error: BaseException, partial: Path) -> InputError | None:
    """What to say where ``error`` is a disk that filled while ``partial`` grew, else None."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return InputError(
            f"{partial}: no room left ({error.strerror}). What has come,"
            f" {in_gib(size_of_file(partial))}, is kept: free some space and run again."
        )
    return None


@contextmanager
def growth_logged(partial: Path, whole: int | None, every_s: float = 10) -> Iterator[None]:
    """Lines on how far a growing file is, with the rate since the last line and the time left."""
    ended = threading.Event()
    begun_at = size_of_file(partial)

    def report() -> None:
        last = begun_at
        while not ended.wait(every_s):
            size = size_of_file(partial)
            rate, last = (size - last) / every_s, size
            share, left = "", ""
            if whole:
                share = f" of {in_gib(whole)} ({100 * size // whole} %)"
                left = f", {duration((whole - size) / rate)} left" if rate > 0 else ", nothing came"
            _log.info("%s: %s%s, %.1f MB/s%s", partial.name, in_gib(size), share, rate / 1e6, left)

    reporter = threading.Thread(target=report, daemon=True)
    reporter.start()
    try:
        yield
    finally:
        ended.set()
        reporter.join()


class Stalled(Exception):
    """What was to grow has not grown for too long."""


@contextmanager
def ended_when_still(size: Callable[[], int], patience_s: float) -> Iterator[None]:
    """Raises Stalled in the block once ``size()`` was the same for ``patience_s`` seconds.

    The clients of others wait for single bytes without an end, and sleep for as long as a server
    asks. A signal (SIGALRM) ends whatever the block is at, but for the look-up of a name, which
    has limits of its own; signals come in the main thread only, so elsewhere nothing is done.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    last = size()

    def look(*_: object) -> None:
        nonlocal last
        before, last = last, size()
        if last == before:
            raise Stalled

    former = signal.signal(signal.SIGALRM, look)
    signal.setitimer(signal.ITIMER_REAL, patience_s, patience_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, former)


def cause_of(error: BaseException) -> str:
    """The operating system's words behind an exception of a client, or the exception's name.

    Never its own text, which may hold a token, or an address whose query is as good as one.
    """
    waiting: list[BaseException] = [error]
    seen: list[BaseException] = []
    while waiting:
        one = waiting.pop(0)
        if isinstance(one, OSError) and one.errno and one.strerror:
            return one.strerror
        seen.append(one)
        parts = [one.__cause__, one.__context__, getattr(one, "reason", None), *one.args]
        waiting += [part for part in parts if isinstance(part, BaseException) and part not in seen]
    return type(seen[-1]).__name__


def size_of_file(path: Path) -> int:
    """Bytes of a file, 0 without one."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def in_gib(size: int) -> str:
    return f"{size / _GIB:.2f} GiB" if size >= _GIB / 10 else f"{size / 2**20:.1f} MiB"
