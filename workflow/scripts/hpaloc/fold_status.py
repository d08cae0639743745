"""What becomes of every fold of a configuration: read from states, outputs and SLURM's queue."""

import os
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

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


def fold_statuses(
    config: dict[str, Any], results: Path, states: Path, queue: dict[tuple[str, int], str]
) -> list[FoldStatus]:
    """Every fold that a resolved configuration asks for, in its order.

    ``results`` is the folder of the run, ``states`` that of all states; ``queue`` says how the
    SLURM jobs of folds stand (see slurm_queue).
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
    recipe: str, fold: int, is_made: bool, state: Path | None, waits: str | None
) -> FoldStatus:
    progress = read_progress(state) if state else {}
    attempts = len(read_attempts(state)) if state else 0
    lease = find_lease(state) if state else None
    if lease and lease.about:
        job = f", SLURM job {progress['slurm_job']}" if progress.get("slurm_job") else ""
        where = f"{lease.holder}{job}, heard of {duration(max(lease.age_s, 0))} ago"
    if lease and lease.about and lease.age_s <= LEASE_S:
        status = RUNNING
    elif is_made or progress.get("finished"):
        status, where = FINISHED, ""
    elif waits:
        status, where = WAITING, waits
    elif lease and lease.about:
        status = SILENT
    elif attempts:
        status, where = STOPPED, "nobody works on it; goes on when it is started again"
    else:
        status, where = NOT_BEGUN, ""
    return FoldStatus(recipe, fold, status, where, attempts, progress)


def slurm_queue(workdir: Path) -> dict[tuple[str, int], str]:
    """The folds of this folder that have a job in SLURM, and how it stands with that:
    ``SLURM job 12 (PENDING: Resources)``; empty where there is no SLURM."""
    command = ["squeue", "--me", "--noheader", "--format=%i|%T|%r|%k|%Z"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return {}
    return parse_queue(done.stdout, workdir)


def parse_queue(text: str, workdir: Path) -> dict[tuple[str, int], str]:
    """Lines ``job|state|reason|comment|folder``; the comment is that of Snakemake's plugin."""
    queue = {}
    begin = "rule_train_fold_wildcards_"
    for line in text.splitlines():
        job, state, reason, comment, folder = line.split("|", 4)
        if comment.startswith(begin) and os.path.realpath(folder) == os.path.realpath(workdir):
            recipe, _, fold = comment.removeprefix(begin).rpartition("_")
            why = f": {reason}" if state == "PENDING" else ""
            queue[recipe, int(fold)] = f"SLURM job {job} ({state}{why})"
    return queue
