"""One process at a time in a folder: a lease that its holder renews, on network file systems too.

The lease is a file that names its holder; creating it is atomic. Its holder sets the file's time
again and again (the heartbeat). A lease whose time is too old belongs to nobody: its holder was
killed, or stopped, or its machine is gone. No lock of the operating system is involved, for not
every cluster's file system has them, or has them between its nodes.

Ages are differences of times that the file system itself has set, so that the clocks of the nodes
do not matter; the file is opened before its time is looked at, which makes NFS ask the server. Two
that take an old lease over at the same moment are told apart by a second look. Whoever holds a
lease asks ``ensure`` before it writes: a process that was stopped for long may have lost it.
"""

import contextlib
import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from hpaloc.log import InputError

log = logging.getLogger("hpaloc")

LEASE = "lease.json"
LEASE_S = 60.0


class Found(NamedTuple):
    """A lease as it lies in the folder; ``about`` is empty while its holder writes it."""

    about: dict[str, Any]
    age_s: float

    @property
    def holder(self) -> str:
        if not self.about:
            return "another process"
        return f"process {self.about['pid']} on {self.about['host']}"


def find_lease(folder: Path) -> Found | None:
    """The folder's lease and its age; None where nobody has it."""
    try:
        with open(folder / LEASE, encoding="utf-8") as lease:
            text, renewed = lease.read(), os.fstat(lease.fileno()).st_mtime
        try:
            # The file system's own clock, the one that stamps leases.
            os.utime(folder)
            age_s = folder.stat().st_mtime - renewed
        except PermissionError:  # somebody else who looks
            age_s = time.time() - renewed
    except FileNotFoundError:
        return None
    try:
        return Found(json.loads(text), age_s)
    except ValueError:
        return Found({}, age_s)


@contextmanager
def leased(folder: Path, age_s: float = LEASE_S, wait: bool = True) -> Iterator["Lease"]:
    """Holds the folder's lease, after waiting for its holder; without ``wait``, InputError.

    A lease is taken over when it was not renewed for ``age_s`` seconds, and at once when its
    holder was a process of this machine that is no more.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lease = Lease(folder, age_s)
    lease.take(wait)
    ended = threading.Event()
    heart = threading.Thread(target=lease.beat, args=(ended,), name="lease", daemon=True)
    heart.start()
    try:
        yield lease
    finally:
        ended.set()
        heart.join()
        lease.give_back()


class Lease:
    def __init__(self, folder: Path, age_s: float):
        self.folder, self.path, self.age_s = folder, folder / LEASE, age_s
        self.lost = False  # as far as the heartbeat knows
        self.about = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "machine": _machine(),
            "token": uuid.uuid4().hex,
        }

    def take(self, wait: bool) -> None:
        waited_for = None
        while not self._created():
            found = find_lease(self.folder)
            if found is None:  # given back just now
                time.sleep(self.age_s / 600)
                continue
            if why := self._why_over(found):
                log.warning("%s: taken over from %s, %s", self.folder, found.holder, why)
                if self._taken_over(found):
                    return
                continue
            if not wait:
                raise InputError(
                    f"{self.folder}: {found.holder} works in this state. Wait for it, or end it."
                )
            if found.holder != waited_for:
                waited_for = found.holder
                log.info(
                    "%s: waiting for %s, which works in it; it renewed its lease %.0f s ago and"
                    " loses it after %.0f s",
                    self.folder, found.holder, found.age_s, self.age_s,
                )  # fmt: skip
            time.sleep(self.age_s / 60)

    def beat(self, ended: threading.Event) -> None:
        """Renews the lease until ``ended``, or until it is another's."""
        while not ended.wait(self.age_s / 6):
            # A file system that does not answer now may answer at the next beat.
            with contextlib.suppress(OSError):
                if not self._is_mine():
                    self.lost = True
                    return
                os.utime(self.path)

    def ensure(self) -> None:
        """Raises InputError where another process took the lease over: write nothing then."""
        if not self._is_mine():
            found = find_lease(self.folder)
            now = f"{found.holder} has it" if found else "it was removed"
            raise InputError(
                f"{self.folder}: this process was stopped for more than {self.age_s:.0f} s, or its"
                f" disk did not answer, and lost its lease: {now}. It ends here and writes nothing."
            )

    def give_back(self) -> None:
        if self._is_mine():
            self.path.unlink(missing_ok=True)

    def _created(self) -> bool:
        try:
            file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        except FileExistsError:
            return False
        except OSError as error:
            raise InputError(f"{self.path}: cannot be written ({error.strerror}).") from None
        with os.fdopen(file, "w", encoding="utf-8") as lease:
            json.dump(self.about, lease)
        return True

    def _is_mine(self) -> bool:
        found = find_lease(self.folder)
        return found is not None and found.about == self.about

    def _why_over(self, found: Found) -> str:
        """Why a lease is its holder's no more; empty where it is."""
        if found.age_s > self.age_s:
            return f"which has not renewed its lease for {found.age_s:.0f} s"
        if found.about.get("machine") == self.about["machine"] and not _runs(found.about["pid"]):
            return "which runs no more"
        return ""

    def _taken_over(self, old: Found) -> bool:
        """Replaces an old lease; of two that do it at once, the later one has it."""
        found = find_lease(self.folder)
        if found is None or found.about != old.about or not self._why_over(found):
            return False
        self.path.unlink(missing_ok=True)
        if not self._created():
            return False
        time.sleep(self.age_s / 60)
        return self._is_mine()


def _machine() -> str:
    """What process numbers belong to: a start of a machine and a namespace (of a container)."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):  # only Linux tells
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        return True
    with contextlib.suppress(OSError):  # Linux: ended, but its parent has not taken note
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return True
