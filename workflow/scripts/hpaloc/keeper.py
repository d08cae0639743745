"""When the state of training is stored: in time, when a job is told to stop, and by one process."""

import logging
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from hpaloc.checkpoint import (
    Checkpoint,
    disk_full_in_words,
    forget_old,
    save_checkpoint,
    save_validation,
    weights_file,
)
from hpaloc.lease import Lease
from hpaloc.log import InputError
from hpaloc.network import save_tensors
from hpaloc.progress import ProgressFile
from hpaloc.snapshot import Snapshots

log = logging.getLogger("hpaloc")


class Keeper:
    """Writes to the state in ``folder`` while this process has its lease.

    A thread writes, from a copy of the state: training goes on at the end of an epoch while its
    files (0.6 GB and more for SE-ResNeXt-101) are written, one state after another. Its errors are
    raised where training next calls ``pause``, ``save`` or ``wait``: InputError where the lease was
    lost or the disk is full.

    ``every_s`` seconds of work are lost at most when the process is killed, and the validation
    that it was in; ``asked_to_stop`` says whether the process is to end; ``progress`` is told how
    far it is. ``close`` has to be called before the lease is given back.
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
        self._snapshots = Snapshots()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="state")
        self._writing: Future[None] | None = None

    def pause(
        self, state: Checkpoint, whole: Callable[[], Checkpoint], asked: bool, stops: bool
    ) -> None:
        """Between two steps: stores ``whole()``, ``state`` with its tensors, where it is time, when
        the process is first ``asked`` to stop, and where it ``stops``; it is on disk then."""
        if self.lease.lost:
            self.lease.ensure()
        if self._writing and self._writing.done():
            self.wait()
        newly_asked = asked and not self._asked
        self._asked = asked
        if stops or newly_asked or time.monotonic() - self.stored_at >= self.every_s:
            self._write(save_checkpoint, whole())
            self.wait()
        elif self.progress.is_due():
            self.progress.tell(state)

    def save_epoch(
        self, state: Checkpoint, validation: np.ndarray, best_before: int, keep: int
    ) -> None:
        """Begins to store a ``state`` with its tensors at the end of an epoch: weights, if they are
        the best, and the ``validation`` probabilities (float32 n × 28) before the state that names
        them. Then removes what neither this state nor the one before it, whose best epoch was
        ``best_before``, needs of the last ``keep`` epochs."""

        def write(folder: Path, state: Checkpoint, ready: Callable[[], None]) -> None:
            if state.best_epoch == state.epoch:
                save_tensors(state.network, weights_file(folder, state.epoch), ready)
            save_validation(folder, state.epoch, validation, ready)
            # A finished fold needs no more than its history, its weights and its probabilities.
            none = {"network": {}, "optimizer": {}, "scaler": {}} if state.finished else {}
            save_checkpoint(folder, replace(state, **none), ready)
            ready()
            forget_old(folder, (best_before, state.best_epoch), keep)

        self._write(write, state)

    def wait(self) -> None:
        """Until what was begun is on disk; raises its error."""
        writing, self._writing = self._writing, None
        if writing:
            writing.result()

    def close(self) -> None:
        """Waits too, for the last time, and logs an error that nobody came to hear of."""
        try:
            self.wait()
        except InputError as error:
            log.warning("%s", error)
        self._thread.shutdown()

    def _write(self, write: Callable[[Path, Checkpoint, Any], None], state: Checkpoint) -> None:
        self.lease.ensure()
        self.wait()  # for the memory of the copy, and because the older state comes first
        copy, is_whole = self._snapshots.take(state)

        def in_thread() -> None:
            is_whole()
            with disk_full_in_words(self.folder):
                # The lease may be lost while a slow disk writes.
                write(self.folder, copy, self.lease.ensure)

        self._writing = self._thread.submit(in_thread)
        self.progress.tell(state)
        self.stored_at = time.monotonic()
