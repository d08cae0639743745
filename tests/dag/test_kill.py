"""A run that is killed or told to stop at any moment goes on, and ends with the same bytes."""

import json
import os
import signal
import subprocess
import time

from hpaloc.provenance import SUFFIX

TRAINED = "results/tiny/models/tiny/fold1"
WEIGHTS = f"{TRAINED}/weights.safetensors"


def start(workspace, *arguments: str) -> subprocess.Popen:
    return subprocess.Popen(
        workspace.command(WEIGHTS, "--cores", "2", *arguments),
        cwd=workspace.path,
        env=workspace.environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def wait_for(what, run: subprocess.Popen):
    """What ``what()`` gives as soon as it is something; the run has to last as long."""
    deadline = time.monotonic() + 300
    while not (found := what()):
        assert run.poll() is None, "the run ended too early"
        assert time.monotonic() < deadline, "nothing within five minutes"
        time.sleep(0.02)
    return found


def newest_checkpoint(workspace) -> str:
    states = (workspace.path / "results/state/train_fold").glob("tiny_fold1_*/checkpoint_*.pt")
    return max((path.stem for path in states), default="")


def trainer(workspace) -> int:
    """The process that trains, by its lease."""
    for lease in (workspace.path / "results/state/train_fold").glob("tiny_fold1_*/lease.json"):
        try:
            return json.loads(lease.read_text())["pid"]
        except (ValueError, FileNotFoundError):  # it is being written, or given back
            return 0
    return 0


def trained(workspace) -> dict[str, bytes]:
    """Outputs by name, without their record: it tells another configuration from this one."""
    files = (workspace.path / TRAINED).iterdir()
    return {path.name: path.read_bytes() for path in files if not path.name.endswith(SUFFIX)}


def test_whatever_is_killed_or_told_to_stop_the_run_goes_on_to_the_same_bytes(fresh):
    # More epochs, so that there is time in the middle of them; the state is stored at every step.
    training = {"training": {"checkpoint_minutes": 1e-6}}
    fresh.configure({"recipes": {"tiny": {"epochs": 12}}} | training)
    log = fresh.path / "results/tiny/logs/train_fold/tiny/fold1.log"

    # The driver alone: the job that it started is still there, and goes on.
    run = start(fresh)
    wait_for(lambda: newest_checkpoint(fresh) > "checkpoint_0000", run)
    orphan = trainer(fresh)
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    os.kill(orphan, signal.SIGSTOP)
    assert not (fresh.path / WEIGHTS).exists()

    # Started again, its job waits for that one; which is killed, as its node is.
    assert fresh.run("--unlock").returncode == 0
    run = start(fresh, "--retries", "1")
    wait_for(lambda: log.exists() and f"waiting for process {orphan} on" in log.read_text(), run)
    os.kill(orphan, signal.SIGKILL)
    wait_for(lambda: "going on after epoch" in log.read_text(), run)

    # The job is told to stop, as at a time limit: another attempt goes on in the epoch.
    before = newest_checkpoint(fresh)
    told = trainer(fresh)
    wait_for(lambda: newest_checkpoint(fresh) > before, run)
    os.kill(told, signal.SIGTERM)
    assert run.wait() == 0
    resumed = log.read_text()
    assert "going on after epoch" in resumed and "told to stop" not in resumed
    survived = trained(fresh)

    for folder in ("tiny/models", "tiny/logs", "state"):
        subprocess.run(["rm", "-rf", fresh.path / "results" / folder], check=True)
    # How often the state is stored is nothing that bytes depend on.
    fresh.configure({"training": {"checkpoint_minutes": 10}})
    done = fresh.run(WEIGHTS, "--cores", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "going on after epoch" not in log.read_text()
    assert survived == trained(fresh)


def test_how_often_the_state_is_stored_reruns_nothing(fresh):
    """Neither by its key nor by the program that is given it."""
    command = ["-n", "--printshellcmds", WEIGHTS]
    first = fresh.run(*command)
    fresh.configure({"training": {"checkpoint_minutes": 1}})
    second = fresh.run(*command)
    trainings = [
        [
            line
            for line in done.stdout.splitlines() + done.stderr.splitlines()
            if "train_fold.py" in line
        ]
        for done in (first, second)
    ]
    assert trainings[0] and trainings[0] == trainings[1]
