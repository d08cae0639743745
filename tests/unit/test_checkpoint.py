import multiprocessing
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from hpaloc.checkpoint import (
    Checkpoint,
    forget_old,
    kept_epochs,
    load_checkpoint,
    load_validation,
    save_checkpoint,
    save_validation,
    validation_file,
    weights_file,
)
from hpaloc.history import STEP_NUMBERS
from hpaloc.log import InputError
from hpaloc.state import held, read_meta, state_folder, write_meta

KEY = {"recipe": {"seed": 1, "loss": {"scale_up": 50}}, "fold": 1, "code": "abc"}


def test_a_checkpoint_comes_back_as_it_was(tmp_path: Path) -> None:
    network = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(network.parameters())
    network(torch.rand(4, 3)).sum().backward()
    optimizer.step()
    saved = Checkpoint(
        epoch=2, step=7, best_epoch=1, best_score=0.25, plateau={"best": float("inf")},
        steps=[[float(number) for number in range(len(STEP_NUMBERS))]],
        epochs=[{"epoch": 1, "phase": "bce", "best_threshold": 0.1}],
        network=network.state_dict(), optimizer=optimizer.state_dict(),
    )  # fmt: skip
    save_checkpoint(tmp_path, saved)
    loaded = load_checkpoint(tmp_path)
    assert (loaded.epoch, loaded.step, loaded.best_score) == (2, 7, 0.25)
    assert loaded.plateau == saved.plateau and loaded.epochs == saved.epochs
    assert loaded.steps == saved.steps
    assert torch.equal(loaded.network["weight"], network.weight)
    assert torch.equal(
        loaded.optimizer["state"][0]["exp_avg"], optimizer.state_dict()["state"][0]["exp_avg"]
    )
    assert not loaded.finished


def test_without_a_checkpoint_training_stands_at_the_beginning(tmp_path: Path) -> None:
    assert load_checkpoint(tmp_path) == Checkpoint()


def test_kept_epochs_are_the_last_ones_up_to_the_exported() -> None:
    assert list(kept_epochs(12, 10)) == list(range(3, 13))
    assert list(kept_epochs(2, 10)) == [1, 2]


def test_old_files_go_and_those_an_export_needs_stay(tmp_path: Path) -> None:
    for epoch in range(1, 9):
        save_validation(tmp_path, epoch, np.full((2, 28), epoch, np.float32))
        weights_file(tmp_path, epoch).touch()
    half_written = tmp_path / ".checkpoint.4711.part.pt"
    half_written.touch()
    # The best epoch is the sixth: the fifth and the sixth are to be kept, and all later ones,
    # for a later epoch may yet be the best.
    forget_old(tmp_path, best_epoch=6, keep=2)
    assert [epoch for epoch in range(1, 9) if validation_file(tmp_path, epoch).exists()] == [
        5, 6, 7, 8,
    ]  # fmt: skip
    assert list(tmp_path.glob("weights_*")) == [weights_file(tmp_path, 6)]
    assert not half_written.exists()
    assert load_validation(tmp_path, 5)[0, 0] == 5


def test_another_key_is_another_folder_and_the_order_of_keys_does_not_count() -> None:
    folder = state_folder("state", "train_fold", "paper_fold1", KEY)
    assert folder.parts[:2] == ("state", "train_fold")
    assert folder.name.startswith("paper_fold1_") and len(folder.name) == len("paper_fold1_") + 12
    turned = dict(reversed(KEY.items()))
    assert state_folder("state", "train_fold", "paper_fold1", turned) == folder
    for other in (KEY | {"code": "abd"}, KEY | {"recipe": {"seed": 2, "loss": {"scale_up": 50}}}):
        assert state_folder("state", "train_fold", "paper_fold1", other) != folder


def test_the_meta_file_says_what_a_state_belongs_to(tmp_path: Path) -> None:
    write_meta(tmp_path, KEY | {"run": "demo"})
    assert read_meta(tmp_path) == KEY | {"run": "demo"}


def _hold(folder: Path, worker, ready) -> None:
    with held(folder):
        # A worker as batches are made by: forked, and still there when its parent is killed.
        child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
        child.start()
        worker.value = child.pid
        ready.set()
        time.sleep(60)


def test_two_processes_do_not_share_a_state_and_a_killed_one_lets_go(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    ready, worker = context.Event(), context.Value("i", 0)
    other = context.Process(target=_hold, args=(tmp_path / "state", worker, ready))
    other.start()
    assert ready.wait(20)
    try:
        with pytest.raises(InputError, match="another process"), held(tmp_path / "state"):
            pass
        other.kill()
        other.join()
        with held(tmp_path / "state"):
            pass
    finally:
        os.kill(worker.value, signal.SIGKILL)
