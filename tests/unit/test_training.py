import errno
import itertools
import json
import logging
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import safetensors.numpy
import torch
from training_case import FILES, RECIPE, make_case, recipe, train_arguments

import list_states
import train_fold
from hpaloc import provenance, schedule, training
from hpaloc.checkpoint import checkpoints, load_checkpoint, validation_file, weights_file
from hpaloc.files import write_digest
from hpaloc.fold_data import FoldData, fold_data
from hpaloc.gradient import backward_that_fits
from hpaloc.history import EPOCH_COLUMNS
from hpaloc.log import InputError
from hpaloc.metrics import f1_per_class, macro_f1
from hpaloc.network import Network
from hpaloc.preemption import TRY_AGAIN
from hpaloc.thresholds import call_labels

EPOCHS = 4


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in FILES.values()}


@pytest.fixture(scope="module")
def case(tmp_path_factory) -> Path:
    return make_case(tmp_path_factory.mktemp("training") / "case")


@pytest.fixture(scope="module")
def trained(case) -> Path:
    """The outputs of an uninterrupted run; its state lies in ``state`` beside them."""
    out = case / "uninterrupted"
    train_fold.main(train_arguments(case, recipe(epochs=EPOCHS), out, out / "state"))
    return out


def at_step(monkeypatch, step: int, happens) -> None:
    """Something happens in the middle of the ``step``-th step that is made."""
    made = itertools.count(1)

    def backward(*arguments):
        if next(made) == step:
            happens()
        return backward_that_fits(*arguments)

    monkeypatch.setattr(training, "backward_that_fits", backward)


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


PROGRAM = f"""
import os, sys
sys.path[:0] = {sys.path!r}
import pytest, train_fold
from hpaloc.log import run_program
from test_training import at_step
step, number, to = sys.argv.pop(1).split(":")
at_step(pytest.MonkeyPatch(), int(step), lambda: os.kill(int(to or os.getpid()), int(number)))
run_program(train_fold.main)
"""


def program(arguments: list[str], step: int, number: int, to: str = "") -> list[str]:
    """A command that trains and sends a signal in the middle of a step: to itself, or to all
    processes of its group (``0``)."""
    return [sys.executable, "-c", PROGRAM, f"{step}:{int(number)}:{to}", *arguments]


@pytest.mark.parametrize("step", [2, 6])  # in an epoch, and at the end of one
def test_told_to_stop_training_goes_on_from_that_step_to_the_same_bytes(
    case, trained, caplog, monkeypatch, step
) -> None:
    caplog.set_level(logging.INFO)
    out = case / f"told{step}"
    arguments = train_arguments(case, recipe(epochs=EPOCHS), out, out / "state")
    with monkeypatch.context() as patched, pytest.raises(SystemExit) as ended:
        at_step(patched, step, terminate)
        train_fold.main(arguments)
    assert ended.value.code == TRY_AGAIN and "told to stop" in caplog.text
    assert not (out / "weights.safetensors").exists()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    train_fold.main(arguments)
    assert f"going on after epoch {(step - 1) // 3} (step {step})" in caplog.text
    assert contents(out) == contents(trained)


def test_told_to_stop_while_it_validates_it_trains_no_step_again(
    case, trained, caplog, monkeypatch
) -> None:
    out = case / "told_validating"
    arguments = train_arguments(case, recipe(epochs=EPOCHS), out, out / "state")

    def batches(data, recipe, epoch, ranks):
        for number, batch in enumerate(validation_batches(data, recipe, epoch, ranks)):
            if (epoch, number) == (2, 1):
                terminate()
            yield batch

    validation_batches = FoldData.validation_batches
    with monkeypatch.context() as patched, pytest.raises(SystemExit):
        patched.setattr(FoldData, "validation_batches", batches)
        train_fold.main(arguments)
    caplog.set_level(logging.INFO)
    train_fold.main(arguments)
    assert "going on after epoch 1 (step 6)" in caplog.text
    assert contents(out) == contents(trained)


def test_told_to_stop_while_it_reads_its_data_it_waits_for_no_gpu(
    case, caplog, monkeypatch
) -> None:
    out = case / "told_reading"

    def read(*arguments):
        terminate()
        return fold_data(*arguments)

    def choose(*arguments):
        raise AssertionError("it would wait for a GPU")

    monkeypatch.setattr(train_fold, "fold_data", read)
    monkeypatch.setattr(train_fold, "choose_compute", choose)
    with pytest.raises(SystemExit) as ended:
        train_fold.main(train_arguments(case, recipe(epochs=EPOCHS), out, out / "state"))
    assert ended.value.code == TRY_AGAIN and "told to stop" in caplog.text
    assert not list((out / "state").rglob("lease.json"))


def test_killed_at_once_training_loses_no_more_than_the_minutes(case, trained, caplog) -> None:
    out = case / "killed"
    arguments = train_arguments(case, recipe(epochs=EPOCHS), out, out / "state")
    minutes = ["--checkpoint-minutes", "1e-9"]  # after every step
    command = program([*arguments, *minutes], step=8, number=signal.SIGKILL)
    killed = subprocess.run(command, capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert not (out / "weights.safetensors").exists()
    with caplog.at_level(logging.INFO):
        train_fold.main(arguments)
    assert "taken over" in caplog.text and "going on after epoch 2 (step 7)" in caplog.text
    assert contents(out) == contents(trained)


def at_sync(monkeypatch, number: int, happens) -> None:
    """Something happens when the ``number``-th checkpoint is written and not yet renamed."""
    written = itertools.count(1)

    def fsync(file: int) -> None:
        if next(written) == number:
            happens()

    monkeypatch.setattr(os, "fsync", fsync)


def test_training_goes_on_while_the_state_of_an_epoch_is_written(
    case, trained, monkeypatch
) -> None:
    out = case / "slow_disk"
    made, seen = threading.Event(), []

    def slow() -> None:
        seen.append((made.wait(60), threading.current_thread() is threading.main_thread()))

    at_step(monkeypatch, 5, made.set)  # the second step after the first epoch
    at_sync(monkeypatch, 1, slow)
    train_fold.main(train_arguments(case, recipe(epochs=EPOCHS), out, out / "state"))
    assert seen == [(True, False)]
    assert contents(out) == contents(trained)


KILLED_WRITING = f"""
import os, sys, threading
sys.path[:0] = {sys.path!r}
import pytest, train_fold
from test_training import at_step, at_sync
made, patch = threading.Event(), pytest.MonkeyPatch()
at_step(patch, 8, made.set)
at_sync(patch, 2, lambda: made.wait(60) and os.kill(os.getpid(), 9))
train_fold.main()
"""


def test_killed_while_a_state_is_written_training_goes_on_from_the_one_before(
    case, trained, caplog
) -> None:
    out = case / "killed_writing"
    arguments = train_arguments(case, recipe(epochs=EPOCHS), out, out / "state")
    command = [sys.executable, "-c", KILLED_WRITING, *arguments]
    killed = subprocess.run(command, capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    (folder,) = (out / "state").glob("train_fold/*")
    state = load_checkpoint(folder)
    assert (state.epoch, state.step) == (1, 3)
    assert weights_file(folder, state.best_epoch).is_file()
    with caplog.at_level(logging.INFO):
        train_fold.main(arguments)
    assert "going on after epoch 1 (step 3)" in caplog.text
    assert not list(folder.glob(".*.part.*"))  # what was half written
    assert contents(out) == contents(trained)


def test_a_disk_that_is_full_while_training_goes_on_ends_it_in_words(
    case, trained, monkeypatch
) -> None:
    out = case / "full_disk"
    arguments = train_arguments(case, recipe(epochs=EPOCHS), out, out / "state")

    def full() -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        at_sync(patched, 2, full)
        with pytest.raises(InputError, match=r"cannot be written \(No space left on device; "):
            train_fold.main(arguments)
    (folder,) = (out / "state").glob("train_fold/*")
    assert load_checkpoint(folder).epoch == 1
    assert not (folder / "lease.json").exists()
    train_fold.main(arguments)
    assert contents(out) == contents(trained)


def test_a_lease_that_is_lost_while_a_state_is_written_leaves_it_unwritten(
    case, monkeypatch
) -> None:
    out = case / "lost_writing"
    state = out / "state"
    at_sync(monkeypatch, 2, lambda: next(state.glob("train_fold/*/lease.json")).unlink())
    with pytest.raises(InputError, match="lost its lease"):
        train_fold.main(train_arguments(case, recipe(epochs=EPOCHS), out, state))
    (folder,) = state.glob("train_fold/*")
    assert [path.stem for path in checkpoints(folder)] == ["checkpoint_0001_0000003"]


def test_a_signal_to_the_whole_job_reaches_the_program_and_spares_its_workers(
    case, trained, caplog
) -> None:
    # As Snakemake starts it and SLURM stops it: through a shell, to all processes at once.
    out = case / "whole_job"
    arguments = train_arguments(case, recipe(epochs=EPOCHS), out, out / "state")
    arguments[arguments.index("--workers") + 1] = "2"
    out.mkdir()
    command = shlex.join(program(arguments, 5, signal.SIGTERM, to="0"))
    shell = ["bash", "-c", f"set -euo pipefail;  exec {command} > {out}/log 2>&1"]
    job = subprocess.run(shell, start_new_session=True, check=False)
    assert job.returncode == TRY_AGAIN, (out / "log").read_text()
    caplog.set_level(logging.INFO)
    train_fold.main(arguments)
    assert "going on after epoch 1 (step 5)" in caplog.text
    assert contents(out) == contents(trained)


def test_a_damaged_checkpoint_costs_what_was_done_since_the_one_before(
    case, trained, caplog, monkeypatch
) -> None:
    out = case / "damaged_checkpoint"
    arguments = train_arguments(case, recipe(epochs=EPOCHS), out, out / "state")
    with monkeypatch.context() as patched, pytest.raises(SystemExit):
        at_step(patched, 8, terminate)
        train_fold.main(arguments)
    newest = checkpoints(next((out / "state").glob("train_fold/*")))[0]
    newest.write_bytes(newest.read_bytes()[:-1])
    caplog.set_level(logging.INFO)
    train_fold.main(arguments)
    assert f"{newest} is damaged" in caplog.text
    assert "going on after epoch 2 (step 6)" in caplog.text
    assert contents(out) == contents(trained)


def test_a_second_process_takes_over_from_a_silent_one_which_then_writes_nothing(
    case, trained, caplog
) -> None:
    caplog.set_level(logging.INFO)
    out = case / "silent"
    arguments = train_arguments(case, recipe(epochs=EPOCHS), out, out / "state")
    arguments += ["--lease-seconds", "1"]
    minutes = ["--checkpoint-minutes", "1e-9"]
    command = program([*arguments, *minutes], step=5, number=signal.SIGSTOP)
    silent = subprocess.Popen(command, stderr=subprocess.PIPE)
    os.waitpid(silent.pid, os.WUNTRACED)
    train_fold.main(arguments)
    assert f"waiting for process {silent.pid} on {socket.gethostname()}" in caplog.text
    assert "going on after epoch 1 (step 4)" in caplog.text
    assert contents(out) == contents(trained)

    def times() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}

    before = times()
    silent.send_signal(signal.SIGCONT)
    _, said = silent.communicate()
    assert silent.returncode == 1 and "lost its lease: it was removed" in said.decode()
    assert times() == before


def test_a_gpu_too_small_for_a_batch_trains_in_parts_and_says_so_once(
    case, trained, caplog, monkeypatch
) -> None:
    forward = Network.forward

    def short(network, images):
        if network.training and len(images) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(network, images)

    monkeypatch.setattr(Network, "forward", short)
    outs = case / "parts", case / "parts_resumed"
    for out in outs:
        arguments = train_arguments(case, recipe(epochs=2), out, out / "state")
        if out is outs[1]:
            with monkeypatch.context() as patched, pytest.raises(SystemExit):
                at_step(patched, 2, terminate)
                train_fold.main(arguments)
        caplog.clear()
        train_fold.main(arguments)
        assert caplog.text.count("micro-batches of at most 2") == 1
    (words,) = json.loads((outs[0] / "model.json").read_text())["warnings"]
    assert "did not hold the 4 images of step 1" in words
    model = json.loads((trained / "model.json").read_text())
    assert "warnings" not in model
    assert (model["arrays_size"], model["image_size"]) == (64, 64)
    assert contents(outs[0]) == contents(outs[1])


def test_deleted_outputs_are_restored_from_a_finished_state(case, trained, caplog) -> None:
    before = contents(trained)
    for name in FILES.values():
        (trained / name).unlink()
    with caplog.at_level(logging.INFO):
        train_fold.main(train_arguments(case, recipe(epochs=EPOCHS), trained, trained / "state"))
    assert "restored" in caplog.text and "training seresnext_small" not in caplog.text
    assert contents(trained) == before


@pytest.fixture
def at(monkeypatch, tmp_path):
    """Goes to a machine of a GPU and a commit, where Snakemake runs this; None: to one without."""

    def go(gpu: str | None, commit: str) -> None:
        config = tmp_path / "config.yaml"
        config.touch()
        run = {"run": "test", "commit": commit, "project": ".", "config": {"path": str(config)}}
        monkeypatch.setenv(provenance.VARIABLE, json.dumps(run))
        device = {"cpu": f"processor beside {gpu}", "gpu": gpu}
        monkeypatch.setattr(provenance, "_device", lambda gpus: device)

    return go


def record_in(out: Path) -> dict:
    return json.loads((out / "weights.provenance.json").read_text())


def test_a_restored_fold_is_recorded_as_the_work_of_who_trained_it(case, at) -> None:
    out = case / "recorded"
    arguments = train_arguments(case, recipe(epochs=1), out, out / "state")
    at("H100", "c0ffee")
    train_fold.main(arguments)
    trained = (out / "weights.provenance.json").read_bytes()
    about = record_in(out)
    assert (about["commit"], about["device"]["gpu"]) == ("c0ffee", "H100")
    assert about["versions"]["torch"] and about["earlier_makers"] == []
    for name in FILES.values():
        (out / name).unlink()
    at(None, "decaf")
    train_fold.main(arguments)
    assert (out / "weights.provenance.json").read_bytes() == trained


def test_a_fold_of_several_makers_names_each_that_has_a_part_in_it(case, at, monkeypatch) -> None:
    out = case / "several"
    arguments = train_arguments(case, recipe(epochs=EPOCHS), out, out / "state")

    def fail() -> None:
        raise RuntimeError("the node is gone")

    for gpu, step, happens, ends in (
        ("H100", 2, terminate, SystemExit),
        ("T4", 1, fail, RuntimeError),  # before it stored anything
        ("A100", 2, terminate, SystemExit),
        ("A100", 2, terminate, SystemExit),
        ("H100", 2, terminate, SystemExit),
    ):
        at(gpu, "c0ffee")
        with monkeypatch.context() as patched, pytest.raises(ends):
            at_step(patched, step, happens)
            train_fold.main(arguments)
    at("L4", "decaf")
    train_fold.main(arguments)
    about = record_in(out)
    assert (about["commit"], about["device"]["gpu"]) == ("decaf", "L4")
    assert [one["device"]["gpu"] for one in about["earlier_makers"]] == ["A100", "H100"]
    assert all(one["versions"] == about["versions"] for one in about["earlier_makers"])


def test_of_a_state_that_does_not_say_who_made_it_nothing_is_claimed(case, trained, at) -> None:
    out = case / "of_older_code"
    shutil.copytree(trained / "state", out / "state")
    (folder,) = (out / "state").glob("train_fold/*")
    for path in checkpoints(folder):
        values = torch.load(path, weights_only=True)
        del values["makers"]
        torch.save(values, path)
        write_digest(path, path.with_suffix(".sha256"))
    at("H100", "c0ffee")
    train_fold.main(train_arguments(case, recipe(epochs=EPOCHS), out, out / "state"))
    about = record_in(out)
    assert (about["commit"], about["versions"]) == (None, {})
    assert about["device"] == {"cpu": None, "gpu": None}


def test_a_state_that_lost_a_file_is_named(case, trained) -> None:
    state = case / "damaged_state"
    shutil.copytree(trained / "state", state)
    (folder,) = state.glob("train_fold/*")
    validation_file(folder, load_checkpoint(folder).best_epoch).unlink()
    with pytest.raises(InputError, match=r"validation_0\d+\.npy: this file .* is missing"):
        train_fold.main(train_arguments(case, recipe(epochs=EPOCHS), case / "damaged", state))


def test_only_states_that_nothing_refers_to_are_removed(case, trained, caplog) -> None:
    states = case / "states"
    shutil.copytree(trained / "state", states)
    (folder,) = states.glob("train_fold/*")
    digest = (case / "arrays" / "index.sha256").read_text().strip()
    job = {"name": "tiny", "fold": 1, "recipe": recipe(epochs=EPOCHS), "code": "abc"}

    def remove(job: dict, run: str = "test") -> None:
        arguments = ["--state", str(states), "--run", run, "--current", json.dumps([job])]
        list_states.main([*arguments, "--remove"])

    remove(job | {"arrays": digest})
    remove(job | {"fold": 2}, run="another")
    assert folder.exists()
    with caplog.at_level(logging.INFO):
        remove(job | {"arrays": "made again"})
    assert "another arrays" in caplog.text
    assert not folder.exists()


def test_a_full_gpu_is_told_in_words(case, monkeypatch) -> None:
    def full(*_) -> None:
        raise RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED")

    monkeypatch.setattr(train_fold, "train", full)
    with pytest.raises(InputError, match=r"smaller image_size.*DEVICE_ALLOCATION_FAILED"):
        train_fold.main(train_arguments(case, recipe(), case / "full", case / "full" / "state"))


def test_a_switch_of_the_loss_beyond_the_last_epoch_is_warned_of(case, caplog) -> None:
    out = case / "unswitched"
    train_fold.main(train_arguments(case, recipe(epochs=1), out, out / "state"))
    assert "do not reach the last loss (soft_f1_scaled)" in caplog.text


def test_steps_hold_every_step_with_the_nine_and_the_gradient(trained) -> None:
    steps = pd.read_parquet(trained / "steps.parquet")
    # Ten training images in batches of four.
    assert steps["step"].tolist() == list(range(1, 3 * EPOCHS + 1))
    assert steps["epoch"].tolist() == [1] * 3 + [2] * 3 + [3] * 3 + [4] * 3
    assert steps["phase"].tolist() == ["bce"] * 3 + ["soft_f1"] * 2 + ["soft_f1_scaled"] * 7
    factor = steps["phase"].map({"soft_f1": 1.0, "soft_f1_scaled": 50.0})
    total = (steps["soft_f1_loss"] + factor * steps["weighted_bce"]).fillna(steps["bce"])
    assert np.allclose(steps["loss_total"], total, rtol=1e-5)
    scores = ["macro_f1", "micro_precision", "micro_recall", "iou"]
    assert steps[scores].stack().between(0, 1).all()
    assert (steps["gradient_norm"] > 0).all() and (steps["focal_loss"] > 0).all()


def test_the_rate_falls_by_losses_that_have_come_whenever_they_came(case, monkeypatch) -> None:
    # Batches of one: ten steps an epoch, enough for the plateau to look twice.
    settings = recipe(batch_size=1, epochs=5, schedule=RECIPE["schedule"] | {"patience_steps": 1})
    out = case / "plateau"
    arguments = train_arguments(case, settings, out, out / "state")
    with monkeypatch.context() as patched, pytest.raises(SystemExit):
        at_step(patched, 37, terminate)  # all rows until there are stored, ahead of their time
        train_fold.main(arguments)
    train_fold.main(arguments)
    steps = pd.read_parquet(out / "steps.parquet")
    found = steps["soft_f1_loss"].tolist()
    plateau, rates = schedule.new_plateau(0.1), []
    for step in range(1, 51):
        rates.append(plateau["learning_rate"])
        if step in (32, 48):
            for loss in found[step - 32 : step - 16]:
                plateau = schedule.plateau_step(plateau, loss, settings["schedule"])
    assert steps["learning_rate"].tolist() == rates
    assert len(set(rates)) == 3


def test_epochs_hold_the_scores_of_the_kept_probabilities(case, trained) -> None:
    epochs = pd.read_parquet(trained / "epochs.parquet")
    validation = pd.read_parquet(trained / "validation.parquet")
    assert tuple(epochs.columns) == EPOCH_COLUMNS
    assert epochs["epoch"].tolist() == [1, 2, 3, 4]
    best = epochs.loc[epochs["validation_macro_f1"].idxmax()]  # the first of equals
    assert epochs.loc[epochs["exported"], "epoch"].tolist() == [best["epoch"]]
    last = best["epoch"]
    assert validation["epoch"].unique().tolist() == [e for e in (last - 1, last) if e > 0]
    data = fold_data(case / "arrays" / "index.parquet", case / "folds.parquet", 1, 0)
    probabilities = validation[validation["epoch"] == last]
    assert probabilities["image_id"].tolist() == [f"image{k:03d}" for k in (0, 3, 6, 9, 12)]
    called = call_labels(probabilities.filter(regex=r"^p\d\d$").to_numpy(), best["best_threshold"])
    truth = data.validation_labels
    assert best["validation_macro_f1"] == pytest.approx(macro_f1(truth, called))
    f1 = best.filter(regex="^f1_c").to_numpy(dtype=float)
    assert np.allclose(f1, f1_per_class(truth, called), equal_nan=True)
    thresholds = best.filter(regex="^threshold_c").to_numpy(dtype=float)
    assert (np.isnan(thresholds) == ~truth.any(axis=0)).all()


def test_every_fold_draws_its_own_weights(case, trained) -> None:
    out = case / "fold2"
    settings = recipe(epochs=1)
    train_fold.main(train_arguments(case, settings, out, out / "state", fold=2))
    first = safetensors.numpy.load_file(trained / "weights.safetensors")
    second = safetensors.numpy.load_file(out / "weights.safetensors")
    assert first.keys() == second.keys()
    assert not np.array_equal(first["head.weight"], second["head.weight"])


def test_a_loss_that_is_no_number_stops_with_step_and_advice(case) -> None:
    out = case / "diverged"
    settings = recipe(optimizer={"name": "sgd", "learning_rate": 1e18, "weight_decay": 0.0})
    with pytest.raises(InputError, match=r"stopped at step \d+ \(epoch 1\).*learning_rate"):
        train_fold.main(train_arguments(case, settings, out, out / "state"))
    assert not (out / "weights.safetensors").exists()


def test_a_fold_that_is_not_there_is_named(case) -> None:
    with pytest.raises(InputError, match="fold 4"):
        fold_data(case / "arrays" / "index.parquet", case / "folds.parquet", 4, 0)


def test_an_image_without_arrays_is_named(case, tmp_path) -> None:
    folds = pd.read_parquet(case / "folds.parquet")
    folds.loc[3, "image_id"] = "stranger"
    folds.to_parquet(tmp_path / "folds.parquet")
    with pytest.raises(InputError, match="stranger"):
        fold_data(case / "arrays" / "index.parquet", tmp_path / "folds.parquet", 1, 0)


def test_validation_images_are_not_trained_on(case) -> None:
    data = fold_data(case / "arrays" / "index.parquet", case / "folds.parquet", 2, 0)
    assert not set(data.rows) & set(data.validation_rows)
    assert len(data.rows) + len(data.validation_rows) == 15
    seen = [row for batch in data.training_batches(recipe(), 1) for row in batch.rows.tolist()]
    assert sorted(seen) == sorted(data.rows.tolist())
