"""What becomes of every fold of a configuration: read from states, outputs and SLURM's queue."""

import os
import re
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from hpaloc.config import trained_folds
from hpaloc.lease import LEASE_S, find_lease
from hpaloc.log import duration
from hpaloc.progress import read_attempts, read_progress
from hpaloc.state import META, read_meta

FINISHED, RUNNING, WAITING = "finished", "running", "waiting"
SILENT, STOPPED, NOT_BEGUN = "silent", "stopped", "not begun"


@dataclass(frozen=True)
class FoldStatus:
    """``progress`` is what training told last (see hpaloc.progress; empty: nothing yet), ``where``
    says in words who works on the fold, or why nobody does."""

    recipe: str
    fold: int
    status: str
    where: str = ""
    attempts: int = 0
    progress: dict[str, Any] = field(default_factory=dict)


class QueuedJob(NamedTuple):
    """A fold's job in SLURM's queue. ``ran_s``: since when it runs; of a job that was queued again,
    since it was started last."""

    number: str
    state: str
    reason: str = ""
    ran_s: float = 0.0

    @property
    def words(self) -> str:
        """``SLURM job 12 (PENDING: Resources)``"""
        why = f": {self.reason}" if self.state == "PENDING" else ""
        return f"SLURM job {self.number} ({self.state}{why})"


def fold_statuses(
    config: dict[str, Any], results: Path, states: Path, queue: dict[tuple[str, int], QueuedJob]
) -> list[FoldStatus]:
    """Every fold that a resolved configuration asks for, in its order.

    ``results`` is the folder of the run, ``states`` that of all states; ``queue`` has the SLURM
    jobs of folds (see slurm_queue).
    """
    run = config["run"] or "config"
    return [
        _status(
            recipe,
            fold,
            (results / "models" / recipe / f"fold{fold}" / "weights.sha256").is_file(),
            _state(states, run, recipe, fold, config["recipes"][recipe]),
            queue.get((recipe, fold)),
        )
        for recipe, fold in trained_folds(config)
    ]


def _state(states: Path, run: str, name: str, fold: int, recipe: dict[str, Any]) -> Path | None:
    """Of the states of a fold with this recipe the one that was worked in last."""
    found = []
    for meta_file in (states / "train_fold").glob(f"{name}_fold{fold}_*/{META}"):
        meta = read_meta(meta_file.parent)
        if (meta["run"], meta["name"], meta["recipe"]) == (run, name, recipe):
            found.append(meta_file.parent)
    return max(found, key=lambda folder: (folder / META).stat().st_mtime, default=None)


def _status(
    recipe: str, fold: int, is_made: bool, state: Path | None, queued: QueuedJob | None
) -> FoldStatus:
    progress = read_progress(state) if state else {}
    attempts = read_attempts(state) if state else []
    lease = find_lease(state) if state else None
    is_done = is_made or progress.get("finished", False)
    if is_done and queued and attempts and attempts[-1].get("slurm_job") == queued.number:
        queued = None  # has finished the fold, and leaves
    if lease and lease.about:
        job = f", SLURM job {progress['slurm_job']}" if progress.get("slurm_job") else ""
        where = f"{lease.holder}{job}, heard of {duration(max(lease.age_s, 0))} ago"
    if lease and lease.about and lease.age_s <= LEASE_S:
        status = RUNNING
    elif is_done and not queued:  # a job that waits trains it anew: what is made is old
        status, where = FINISHED, ""
    elif queued and not (lease and lease.about and _fell_silent(queued, lease.age_s)):
        status, where = WAITING, queued.words
    elif lease and lease.about:
        status = SILENT
    elif attempts:
        status, where = STOPPED, "nobody works on it; goes on when it is started again"
    else:
        status, where = NOT_BEGUN, ""
    return FoldStatus(recipe, fold, status, where, len(attempts), progress)


def _fell_silent(job: QueuedJob, silent_s: float) -> bool:
    """Whether a job that runs has been heard of, and is no more. A lease that is older than the job
    is that of a job before: this one only begins."""
    return job.state == "RUNNING" and silent_s <= job.ran_s


def slurm_queue(workdir: Path) -> dict[tuple[str, int], QueuedJob]:
    """The folds of this folder that have a job in SLURM; empty where there is no SLURM."""
    command = ["squeue", "--me", "--noheader", "--format=%i|%T|%r|%M|%k|%Z"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return {}
    return parse_queue(done.stdout, workdir)


def parse_queue(text: str, workdir: Path) -> dict[tuple[str, int], QueuedJob]:
    """Lines ``job|state|reason|time|comment|folder``; the comment is that of Snakemake's plugin."""
    queue = {}
    begin = "rule_train_fold_wildcards_"
    for line in text.splitlines():
        job, state, reason, ran, comment, folder = line.split("|", 5)
        if comment.startswith(begin) and os.path.realpath(folder) == os.path.realpath(workdir):
            recipe, _, fold = comment.removeprefix(begin).rpartition("_")
            queue[recipe, int(fold)] = QueuedJob(job, state, reason, _seconds(ran))
    return queue


def _seconds(text: str) -> float:
    """``1-02:03:04``, ``2:03:04`` or ``3:04``, as squeue tells how long a job runs; 0 for words."""
    found = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)", text)
    if found is None:
        return 0.0
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return 86400.0 * days + 3600 * hours + 60 * minutes + seconds
