"""Logging of every program: one format, errors in words, progress with rates and time left."""

import errno
import logging
import os
import sys
import time
from collections.abc import Callable, Iterable

_ROOM = "Make room there and run again: what is whole is kept."
_PATH = "Check this path, then run again: what is whole is kept."
_DISK = "The disk or its connection failed; when it works again, run again: what is whole is kept."

# What to do about errors of files, by their number. Any other OSError is a defect.
_ADVICE = {
    errno.ENOSPC: _ROOM, errno.EDQUOT: _ROOM, errno.EFBIG: _ROOM,
    errno.EROFS: _PATH, errno.EACCES: _PATH, errno.EPERM: _PATH, errno.ENOENT: _PATH,
    errno.ENOTDIR: _PATH, errno.EISDIR: _PATH, errno.ENAMETOOLONG: _PATH, errno.ELOOP: _PATH,
    errno.EEXIST: _PATH, errno.ENOTEMPTY: _PATH, errno.EXDEV: _PATH,
    errno.EIO: _DISK, errno.ESTALE: _DISK, errno.ENXIO: _DISK,
}  # fmt: skip


class InputError(Exception):
    """Something that the user can mend: the message says what, where, why and what to do."""


def run_program(main: Callable[[], None]) -> None:
    """Runs a script's ``main`` with logging to standard error.

    An InputError ends the program with its message and status 1, as does a file or disk that fails
    at work (full, read-only, gone), Ctrl-C with status 130; any other exception is a defect and
    keeps its traceback.
    """
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.INFO,
        format="%(asctime)s %(levelname)s %(message)s",
        datefmt="%H:%M:%S",
        force=True,
    )
    logging.captureWarnings(True)
    sys.argv[1:] = map(_with_home, sys.argv[1:])
    try:
        main()
    except InputError as error:
        logging.getLogger("hpaloc").error("%s", error)
        sys.exit(1)
    except KeyboardInterrupt:
        logging.getLogger("hpaloc").warning("stopped; run again to go on")
        sys.exit(130)
    except Exception as error:
        if isinstance(error, OSError) and (advice := _ADVICE.get(error.errno)):
            file = error.filename or "a file of this job"
            logging.getLogger("hpaloc").error("%s: %s. %s", file, os.strerror(error.errno), advice)
            sys.exit(1)
        logging.getLogger("hpaloc").exception("a defect of this program; please report it")
        sys.exit(70)


def _with_home(word: str) -> str:
    """An argument whose ~ the shell left: ``--labels=~/labels.csv``, or a path in quotes."""
    name, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
    return f"{name}{equals}{os.path.expanduser(value)}" if value[:2] in ("~", "~/") else word


def some_of(things: Iterable[str], count: int = 3) -> str:
    """The first few of many things, for a message: ``a, b, c and 7 more``."""
    things = list(things)
    more = f" and {len(things) - count} more" if len(things) > count else ""
    return ", ".join(things[:count]) + more


def duration(seconds: float) -> str:
    """``3725`` as ``1h02m``, ``65`` as ``1m05s``, ``4.2`` as ``4s``."""
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    if whole >= 60:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole}s"


class Progress:
    """Lines such as ``rendered 300 of 1200 images (25 %), 31.2 images/s, 29s left``."""

    def __init__(self, verb: str, total: int, unit: str, every_s: float = 10.0):
        self.verb, self.total, self.unit, self.every_s = verb, total, unit, every_s
        self.done = 0
        self.start = self.last = time.monotonic()

    def add(self, count: int = 1) -> None:
        self.done += count
        now = time.monotonic()
        if now - self.last >= self.every_s or self.done == self.total:
            self.last = now
            rate = self.done / max(now - self.start, 1e-9)
            left = duration((self.total - self.done) / rate)
            logging.getLogger("hpaloc").info(
                "%s %d of %d %s (%d %%), %.1f %s/s, %s left",
                self.verb, self.done, self.total, self.unit,
                100 * self.done // max(self.total, 1), rate, self.unit, left,
            )  # fmt: skip
