"""How far a fold is and where it runs, written beside its state for whoever looks.

progress.json   replaced every ten seconds while training runs, and at its end
attempts.jsonl  a line for each time that a process went to work in the state

Nothing here is read back by training. Times and hosts stand here and not in outputs: a state is
no output.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpaloc.files import write_json

if TYPE_CHECKING:  # whoever only looks needs no torch
    from hpaloc.checkpoint import Checkpoint

PROGRESS = "progress.json"
ATTEMPTS = "attempts.jsonl"
EVERY_S = 10.0


class ProgressFile:
    """Replaces ``progress.json`` in the state folder; never in the way of training.

    ``epochs`` are those at most, ``steps_per_epoch`` those of the training images.
    """

    def __init__(
        self,
        folder: Path,
        epochs: int,
        steps_per_epoch: int,
        batch_size: int,
        every_s: float = EVERY_S,
    ):
        self.folder, self.every_s = folder, every_s
        self.epochs, self.steps_per_epoch, self.batch_size = epochs, steps_per_epoch, batch_size
        self.images_per_s: float | None = None
        # Seconds and steps: at the first call, at the last one.
        self.first: tuple[float, int] | None = None
        self.last: tuple[float, int] | None = None

    def is_due(self) -> bool:
        return self.last is None or time.monotonic() - self.last[0] >= self.every_s

    def tell(self, state: Checkpoint) -> None:
        now = (time.monotonic(), state.step)
        self.first = self.first or now
        seconds, steps = (new - old for new, old in zip(now, self.last or now, strict=True))
        if steps and seconds:  # none while the validation images are predicted
            self.images_per_s = steps * self.batch_size / seconds
        self.last = now
        progress = {
            "epoch": state.epoch,
            "epochs": self.epochs,
            "step": state.step,
            "steps_per_epoch": self.steps_per_epoch,
            "images_per_s": self.images_per_s,
            "best_epoch": state.best_epoch,
            "best_macro_f1": state.best_score if state.best_epoch else None,
            "at_most_s_left": self._seconds_left(now, state.finished),
            "finished": state.finished,
            **_who(),
        }
        # A full disk ends training when the state cannot be stored, not here.
        with contextlib.suppress(OSError):
            write_json(progress, self.folder / PROGRESS)

    def _seconds_left(self, now: tuple[float, int], finished: bool) -> float | None:
        """At the pace of this process, validation included; None while there is no pace."""
        if finished:
            return 0.0
        seconds, steps = now[0] - self.first[0], now[1] - self.first[1]
        if not steps:
            return None
        return (self.epochs * self.steps_per_epoch - now[1]) * seconds / steps


def read_progress(folder: Path) -> dict[str, Any]:
    """What was told last; empty where nothing was."""
    try:
        return json.loads((folder / PROGRESS).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}


def note_attempt(folder: Path, epoch: int, step: int) -> None:
    """Adds that this process goes to work after ``epoch`` epochs and ``step`` steps (0: anew)."""
    attempt = {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "epoch": epoch,
        "step": step,
        **_who(),
    }
    with contextlib.suppress(OSError), open(folder / ATTEMPTS, "a", encoding="utf-8") as file:
        file.write(json.dumps(attempt) + "\n")


def read_attempts(folder: Path) -> list[dict[str, Any]]:
    """The attempts, the first one first; a line that a killed process left half is left out."""
    attempts = []
    with contextlib.suppress(FileNotFoundError):
        for line in (folder / ATTEMPTS).read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(ValueError):
                attempts.append(json.loads(line))
    return attempts


def _who() -> dict[str, Any]:
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "slurm_job": os.environ.get("SLURM_JOB_ID"),
    }
