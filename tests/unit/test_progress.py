"""What training tells of itself, and what the status program makes of it."""

import json
import os
import time
from pathlib import Path

import pytest

import status
from hpaloc.checkpoint import Checkpoint
from hpaloc.config import trained_folds
from hpaloc.fold_status import QueuedJob, fold_statuses, parse_queue
from hpaloc.lease import LEASE, LEASE_S
from hpaloc.progress import ProgressFile, note_attempt, read_attempts, read_progress
from hpaloc.state import write_meta

RECIPE = {"network": "seresnext_small", "epochs": 4, "batch_size": 8}


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass when the test says so."""
    now = [100.0]
    monkeypatch.setattr("hpaloc.progress.time.monotonic", lambda: now[0])
    return now


def test_rates_and_time_left_follow_the_steps(tmp_path: Path, clock, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    told = ProgressFile(tmp_path, epochs=4, steps_per_epoch=10, batch_size=8, every_s=10)
    assert told.is_due()
    told.tell(Checkpoint(epoch=1, step=12, best_epoch=1, best_score=0.25))
    first = read_progress(tmp_path)
    assert first["images_per_s"] is None and first["at_most_s_left"] is None
    assert (first["slurm_job"], first["pid"], first["finished"]) == ("77", os.getpid(), False)

    clock[0] += 4
    assert not told.is_due()
    clock[0] += 6
    assert told.is_due()
    told.tell(Checkpoint(epoch=1, step=17, best_epoch=1, best_score=0.25))
    second = read_progress(tmp_path)
    assert second["images_per_s"] == 5 * 8 / 10
    assert second["at_most_s_left"] == (40 - 17) * 10 / 5

    # Validation: no step is made, the rate stays, the time left knows of it.
    clock[0] += 10
    told.tell(Checkpoint(epoch=1, step=17, best_epoch=1, best_score=0.25))
    third = read_progress(tmp_path)
    assert third["images_per_s"] == 4.0
    assert third["at_most_s_left"] == (40 - 17) * 20 / 5

    told.tell(Checkpoint(epoch=2, step=20, best_epoch=1, best_score=0.25, finished=True))
    last = read_progress(tmp_path)
    assert last["finished"] and last["at_most_s_left"] == 0
    assert [path.name for path in tmp_path.iterdir()] == ["progress.json"]


def test_a_disk_that_is_full_or_gone_does_not_end_training(tmp_path: Path):
    (tmp_path / "file").write_text("")
    folder = tmp_path / "file" / "state"
    ProgressFile(folder, 4, 10, 8).tell(Checkpoint())
    note_attempt(folder, 0, 0)


def test_attempts_are_added_and_a_half_line_is_passed_over(tmp_path: Path):
    assert read_attempts(tmp_path) == []
    note_attempt(tmp_path, 0, 0)
    note_attempt(tmp_path, 3, 31)
    with open(tmp_path / "attempts.jsonl", "a") as file:
        file.write('{"started": "20')
    assert [(one["epoch"], one["step"]) for one in read_attempts(tmp_path)] == [(0, 0), (3, 31)]


def lease(folder: Path, age_s: float) -> None:
    path = folder / LEASE
    path.write_text(json.dumps({"host": "node7", "pid": 12, "machine": "other", "token": "x"}))
    then = time.time() - age_s
    os.utime(path, (then, then))


@pytest.fixture
def config() -> dict:
    return {
        "run": "demo",
        "folds": {"train": [3, 1, 2, 4, 5]},
        "train": ["demo"],
        "generations": ["early", "demo"],
        "recipes": {"demo": RECIPE, "early": RECIPE | {"epochs": 2}},
    }


def state(
    root: Path, name: str, fold: int, recipe=RECIPE, run: str = "demo", key: str = "a"
) -> Path:
    folder = root / "train_fold" / f"{name}_fold{fold}_{key}"
    folder.mkdir(parents=True)
    write_meta(folder, {"run": run, "name": name, "fold": fold, "recipe": recipe})
    return folder


def test_every_fold_of_the_configuration_has_one_status(tmp_path: Path, config):
    states, results = tmp_path / "state", tmp_path / "results"
    running, silent = state(states, "demo", 1), state(states, "demo", 2)
    note_attempt(running, 0, 0)
    ProgressFile(running, 4, 10, 8).tell(Checkpoint(epoch=1, step=12, best_epoch=1, best_score=0.5))
    lease(running, 3)
    note_attempt(silent, 0, 0)
    lease(silent, LEASE_S + 30)
    note_attempt(state(states, "demo", 3), 0, 0)  # stopped
    # Of another run, and of a recipe that the configuration no longer has.
    lease(state(states, "demo", 4, run="other"), 1)
    lease(state(states, "demo", 5, recipe=RECIPE | {"epochs": 9}), 1)
    made = results / "models" / "early" / "fold1" / "weights.sha256"
    made.parent.mkdir(parents=True)
    made.write_text("")

    queue = {("demo", 4): QueuedJob("9", "PENDING", "Resources")}
    found = fold_statuses(config, results, states, queue)
    assert [(one.recipe, one.fold, one.status) for one in found] == [
        ("demo", 1, "running"),
        ("demo", 2, "silent"),
        ("demo", 3, "stopped"),
        ("demo", 4, "waiting"),
        ("demo", 5, "not begun"),
        ("early", 1, "finished"),
    ]
    assert found[0].where.startswith("process 12 on node7, heard of ")
    assert found[0].progress["epoch"] == 1 and found[0].attempts == 1
    assert found[3].where == "SLURM job 9 (PENDING: Resources)"


def status_of(config: dict, root: Path, queued: QueuedJob | None) -> tuple[str, str]:
    """Of fold 1 of the recipe ``demo``."""
    queue = {("demo", 1): queued} if queued else {}
    (found,) = (
        one for one in fold_statuses(config, root / "results", root, queue)
        if (one.recipe, one.fold) == ("demo", 1)
    )  # fmt: skip
    return found.status, found.where


def test_a_finished_fold_that_is_queued_again_waits(tmp_path: Path, config, monkeypatch):
    """Its outputs lie there until its job begins."""
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    finished = state(tmp_path, "demo", 1)
    note_attempt(finished, 0, 0)
    ProgressFile(finished, 4, 10, 8).tell(Checkpoint(epoch=4, step=40, finished=True))
    assert status_of(config, tmp_path, None) == ("finished", "")
    made = tmp_path / "results" / "models" / "demo" / "fold1" / "weights.sha256"
    made.parent.mkdir(parents=True)
    made.write_text("")
    assert status_of(config, tmp_path, None) == ("finished", "")
    # The job that has finished it stays in the queue for a moment.
    assert status_of(config, tmp_path, QueuedJob("7", "COMPLETING")) == ("finished", "")
    again = QueuedJob("9", "PENDING", "Priority")
    assert status_of(config, tmp_path, again) == ("waiting", "SLURM job 9 (PENDING: Priority)")
    lease(finished, 3)
    assert status_of(config, tmp_path, again)[0] == "running"


def test_a_job_that_runs_and_is_heard_of_no_more_is_silent(tmp_path: Path, config, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "9")
    silent = state(tmp_path, "demo", 1)
    note_attempt(silent, 0, 0)
    ProgressFile(silent, 4, 10, 8).tell(Checkpoint(epoch=1, step=12))
    lease(silent, LEASE_S + 30)
    status, where = status_of(config, tmp_path, QueuedJob("9", "RUNNING", ran_s=LEASE_S + 300))
    assert status == "silent"
    assert where.startswith("process 12 on node7, SLURM job 9, heard of 1m30s ago")
    # It has just begun, or begun again: the lease is that of the one that was killed before.
    begun = QueuedJob("9", "RUNNING", ran_s=20)
    assert status_of(config, tmp_path, begun) == ("waiting", "SLURM job 9 (RUNNING)")
    assert status_of(config, tmp_path, QueuedJob("9", "PENDING", "BeginTime"))[0] == "waiting"
    assert status_of(config, tmp_path, QueuedJob("9", "SUSPENDED", ran_s=600))[0] == "waiting"
    assert status_of(config, tmp_path, None)[0] == "silent"


def test_the_queue_of_another_folder_or_rule_says_nothing(tmp_path: Path):
    lines = [
        f"12|PENDING|Resources|0:00|rule_train_fold_wildcards_my_recipe_3|{tmp_path}",
        f"13|RUNNING|None|2:03|rule_train_fold_wildcards_demo_1|{tmp_path}",
        f"14|PENDING|Priority|0:00|rule_train_fold_wildcards_demo_2|{tmp_path}/other",
        f"15|PENDING|Priority|0:00|rule_tabulate_summary|{tmp_path}",
    ]
    assert parse_queue("\n".join(lines), tmp_path) == {
        ("my_recipe", 3): QueuedJob("12", "PENDING", "Resources", 0),
        ("demo", 1): QueuedJob("13", "RUNNING", "None", 123),
    }


@pytest.mark.parametrize(
    ("told", "seconds"),
    [("0:07", 7), ("59:59", 3599), ("2:03:04", 7384), ("1-02:03:04", 93784), ("INVALID", 0)],
)
def test_how_long_a_job_runs(tmp_path: Path, told: str, seconds: int):
    line = f"13|RUNNING|None|{told}|rule_train_fold_wildcards_demo_1|{tmp_path}"
    assert parse_queue(line, tmp_path)["demo", 1].ran_s == seconds


def test_folds_of_generations_are_named_once():
    config = {"folds": {"train": [2, 1]}, "train": ["a"], "generations": ["b", "a"]}
    assert trained_folds(config) == [("a", 1), ("a", 2), ("b", 1)]


def test_the_program_shows_the_folds_of_an_overlay(tmp_path: Path, monkeypatch, capsys):
    project = Path(__file__).resolve().parents[2]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_bytes((project / "config.yaml").read_bytes())
    demo = project / "config" / "demo.yaml"
    status.main(["--configfile", str(demo)])
    rows = capsys.readouterr().out.splitlines()
    assert rows[0].split()[:3] == ["recipe", "fold", "status"]
    assert [row.split()[:2] for row in rows[1:-1]] == [
        ["demo", "1"], ["demo", "2"], ["demo_bce", "1"], ["demo_bce_soft_f1", "1"],
    ]  # fmt: skip
    assert rows[-1] == "4 not begun"


def test_a_configuration_that_is_not_there_is_told(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(status.InputError, match=r"config\.yaml: no configuration that can be read"):
        status.main([])
