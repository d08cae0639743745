"""When the state of training is stored: in time, when a job is told to stop, and by one process."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from hpaloc.checkpoint import Checkpoint, disk_full_in_words, save_checkpoint
from hpaloc.lease import Lease
from hpaloc.progress import ProgressFile


class Keeper:
    """Writes to the state in ``folder`` while this process has its lease.

    ``every_s`` seconds of work are lost at most when the process is killed, and the validation
    that it was in; ``asked_to_stop`` says whether the process is to end; ``progress`` is told how
    far it is.
    """

    def __init__(
        self,
        folder: Path,
        lease: Lease,
        every_s: float,
        asked_to_stop: Callable[[], bool],
        progress: ProgressFile,
    ):
        self.folder, self.lease = folder, lease
        self.every_s, self.asked_to_stop = every_s, asked_to_stop
        self.progress = progress
        self.stored_at = time.monotonic()
        self._asked = False

    def pause(self, state: Callable[[], Checkpoint], asked: bool, stops: bool) -> None:
        """Between two steps: stores ``state()`` where it is time, when the process is first
        ``asked`` to stop, and where it ``stops``."""
        if self.lease.lost:
            self.lease.ensure()
        newly_asked = asked and not self._asked
        self._asked = asked
        if stops or newly_asked or time.monotonic() - self.stored_at >= self.every_s:
            self.save(state())
        elif self.progress.is_due():
            self.progress.tell(state())

    def save(self, state: Checkpoint) -> None:
        with self.writing():
            save_checkpoint(self.folder, state)
        self.progress.tell(state)
        self.stored_at = time.monotonic()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """To be written within; raises InputError where the lease was lost or the disk is full."""
        self.lease.ensure()
        with disk_full_in_words(self.folder):
            yield
