"""Snakemake with the profile for SLURM, run on a copy of the project and watched from outside."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import yaml
from slurm import ask, wait_for
from workspace import Workspace

from hpaloc.provenance import SUFFIX

POLLING = Path(__file__).with_name("polling_snakemake.py")
RESULTS = "results/tiny"
FOLDS = (1, 2)
# Two folds that ask for a GPU; and with a job after them that needs none.
TWO_FOLDS = [f"{RESULTS}/models/tiny/fold{fold}/weights.sha256" for fold in FOLDS]
THRESHOLDS = [f"{RESULTS}/thresholds/tiny.csv"]

EPOCHS = 32
# For what SLURM looks at twice a minute, its time limits: minutes on any machine.
MANY_EPOCHS = 320
# Folds of the tiny run that last long enough for something to happen to them, and whose state is
# stored after every step. They ask for a GPU: with none that torch can use they run on the CPU.
OVERLAY = {
    "gpus_per_fold": 1,
    "generations": ["tiny"],
    "recipes": {"tiny": {"epochs": EPOCHS, "stop_after": 1000}},
    "training": {"checkpoint_minutes": 1e-6},
}
# Times and rates, what is measured, and what quotes it: rows of the summary, sums of the files.
DIFFERING = (
    "logs", "benchmarks", "speed.csv", "training_step.csv", "training_step.png",
    "training_step.pdf", "summary.csv", "provenance.csv",
)  # fmt: skip


class Submission:
    """A run of Snakemake that submits to SLURM, from its start to its end."""

    def __init__(self, workspace: Workspace, *arguments: str, targets: Sequence[str] = TWO_FOLDS):
        self.workspace = workspace
        self.log = workspace.path.parent / f"{workspace.path.name}.log"
        profile = ["--workflow-profile", "profiles/slurm"]
        at_once = ["--slurm-init-seconds-before-status-checks", "1"]
        configs = ["--configfile", "config/demo.yaml", "config/tiny.yaml"]
        with open(self.log, "a") as log:
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    str(POLLING),
                    *profile,
                    *at_once,
                    *arguments,
                    *configs,
                    "--",
                    *targets,
                ],
                cwd=workspace.path,
                env=workspace.environment(),
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait_for(self, what: Callable, at_most_s: float = 600):
        """What ``what()`` gives as soon as it is something; the run has to last as long."""

        def found():
            # First: a run may end right after what it was waited for.
            if (seen := what()) or self.process.poll() is None:
                return seen
            raise AssertionError(f"the run ended too early:\n{self.said()[-6000:]}")

        return wait_for(found, at_most_s)

    def completes(self) -> None:
        assert self.process.wait(timeout=1200) == 0, self.said()[-6000:]

    def kill(self, how: signal.Signals = signal.SIGKILL) -> None:
        self.process.send_signal(how)
        self.process.wait(timeout=120)

    def said(self) -> str:
        return self.log.read_text()


def edit_profile(workspace: Workspace, **resources: str) -> None:
    """Other resources for train_fold, where a user would write them. (--set-resources on the
    command line would replace all of the profile's.)"""
    path = workspace.path / "profiles/slurm/config.yaml"
    profile = yaml.safe_load(path.read_text())
    profile["set-resources"]["train_fold"] |= resources
    path.write_text(yaml.safe_dump(profile))


def copy_of(workspace: Workspace, path: Path) -> Workspace:
    shutil.copytree(workspace.path, path, symlinks=True)
    return Workspace(path)


def job_of(fold: int) -> str:
    """The SLURM job that runs a fold now; empty while there is none."""
    lines = ask("squeue", "-h", "-t", "RUNNING", "-o", "%A %k").splitlines()
    jobs = [line.split() for line in lines]
    return next(
        (job for job, name in jobs if name.endswith(f"train_fold_wildcards_tiny_{fold}")), ""
    )


def about(job: str) -> dict[str, str]:
    """What SLURM knows of a job."""
    words = ask("scontrol", "show", "--oneliner", "job", job).split()
    return dict(word.split("=", 1) for word in words if "=" in word)


def state_of(workspace: Workspace, fold: int) -> Path | None:
    folders = (workspace.path / "results/state/train_fold").glob(f"tiny_fold{fold}_*")
    return next(folders, None)


def epochs_done(workspace: Workspace, fold: int) -> int:
    """Epochs in the newest checkpoint of a fold."""
    folder = state_of(workspace, fold)
    names = [path.stem for path in folder.glob("checkpoint_*.pt")] if folder else []
    return max((int(name.split("_")[1]) for name in names), default=0)


def attempts(workspace: Workspace, fold: int) -> list[dict]:
    """Each time that a process went to work on a fold, and from where."""
    path = state_of(workspace, fold) / "attempts.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def trained_once(workspace: Workspace) -> str:
    """Asserts that no fold was begun anew; says after which epoch each attempt went on."""
    words = []
    for fold in FOLDS:
        begun = [attempt["step"] for attempt in attempts(workspace, fold)]
        assert begun[0] == 0 and begun.count(0) == 1, begun
        first, *later = [attempt["epoch"] for attempt in attempts(workspace, fold)]
        assert [first, *later] == sorted([first, *later]), later
        if not later:
            words.append(f"fold {fold} ran once")
        elif later == [EPOCHS]:
            words.append(f"fold {fold} was finished by the first job and not trained again")
        else:
            words.append(f"fold {fold} went on after epoch {' and '.join(map(str, later))}")
    return "; ".join(words)


def made(workspace: Workspace, part: str) -> dict[str, bytes]:
    """All that a run made, or that part of it, which has to be equal to the byte: not the records
    beside it, which tell with how many threads it was made."""
    root = workspace.path / RESULTS
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted((root / part).rglob("*"))
        if path.is_file()
        and not set(path.relative_to(root).parts) & set(DIFFERING)
        and not path.name.endswith(SUFFIX)
    }


def same_as(workspace: Workspace, undisturbed: Workspace, part: str = "") -> int:
    """Asserts that a run made what an undisturbed local run made; how many files that are."""
    expected, found = made(undisturbed, part), made(workspace, part)
    assert found.keys() == expected.keys()
    differing = [name for name in expected if found[name] != expected[name]]
    assert not differing, differing
    assert sum(name.endswith("weights.safetensors") for name in expected) == len(FOLDS)
    return len(expected)


def end_of_all(run: subprocess.Popen) -> None:
    """Whatever became of a test: nothing of it runs on."""
    if run.poll() is None:
        os.kill(run.pid, signal.SIGKILL)
        run.wait()
    if jobs := ask("squeue", "-h", "-o", "%A").split():
        subprocess.run(["scancel", *jobs], check=False, timeout=60)
        wait_for(lambda: not ask("squeue", "-h", "-o", "%A"))
