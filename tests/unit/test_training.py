import json
import logging
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import safetensors.numpy
import torch
from training_case import FILES, make_case, recipe, train_arguments

import list_states
import train_fold
from hpaloc import schedule
from hpaloc.checkpoint import checkpoints, load_checkpoint, validation_file
from hpaloc.compute import choose_compute
from hpaloc.fold_data import fold_data
from hpaloc.history import EPOCH_COLUMNS
from hpaloc.log import InputError
from hpaloc.metrics import f1_per_class, macro_f1
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


def test_killed_in_an_epoch_training_goes_on_to_the_same_bytes(case, trained, caplog) -> None:
    out = case / "killed"
    arguments = train_arguments(case, recipe(epochs=EPOCHS), out, out / "state")
    process = subprocess.Popen(
        [sys.executable, train_fold.__file__, *arguments], stderr=subprocess.PIPE
    )
    while epochs_done(out / "state") < 2 and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    _, said = process.communicate()
    assert process.returncode == -signal.SIGKILL, said.decode()
    assert not (out / "weights.safetensors").exists()
    with caplog.at_level(logging.INFO):
        train_fold.main(arguments)
    assert "going on after epoch" in caplog.text
    assert contents(out) == contents(trained)


def epochs_done(state: Path) -> int:
    """As the names of the checkpoints tell."""
    stored = [path for folder in state.glob("train_fold/*") for path in checkpoints(folder)]
    return max((int(path.stem.split("_")[1]) for path in stored), default=0)


def test_deleted_outputs_are_restored_from_a_finished_state(case, trained, caplog) -> None:
    before = contents(trained)
    for name in FILES.values():
        (trained / name).unlink()
    with caplog.at_level(logging.INFO):
        train_fold.main(train_arguments(case, recipe(epochs=EPOCHS), trained, trained / "state"))
    assert "restored" in caplog.text and "training seresnext_small" not in caplog.text
    assert contents(trained) == before


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


def test_a_gpu_that_only_emulates_bfloat16_runs_in_float16(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Tesla P100")
    for native, dtype in ((False, torch.float16), (True, torch.bfloat16)):
        monkeypatch.setattr(
            torch.cuda,
            "is_bf16_supported",
            lambda including_emulation=True, native=native: including_emulation or native,
        )
        assert choose_compute("auto", 1).dtype is dtype


def test_a_full_gpu_is_told_in_words(case, monkeypatch) -> None:
    def full(*_) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(train_fold, "train", full)
    with pytest.raises(InputError, match="smaller image_size"):
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
    plateau, rates = schedule.new_plateau(0.1), []
    for loss in steps["soft_f1_loss"]:
        rates.append(plateau["learning_rate"])
        plateau = schedule.plateau_step(plateau, loss, recipe()["schedule"])
    assert steps["learning_rate"].tolist() == rates


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
