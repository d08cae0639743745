import copy
import os
import resource
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from hpaloc.checkpoint import (
    Checkpoint,
    checkpoints,
    disk_full_in_words,
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
from hpaloc.lease import leased
from hpaloc.log import InputError
from hpaloc.network import save_tensors
from hpaloc.provenance import maker
from hpaloc.snapshot import Snapshots
from hpaloc.state import read_meta, remove_state, state_folder, write_meta

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
        network=network.state_dict(), optimizer=optimizer.state_dict(), makers=[maker(0)],
    )  # fmt: skip
    save_checkpoint(tmp_path, saved)
    loaded = load_checkpoint(tmp_path)
    assert loaded.makers == saved.makers
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
    being_written = tmp_path / f".progress.{os.getpid()}.part.json"  # by another thread
    being_written.touch()
    # The best epoch is the sixth: the fifth and the sixth are to be kept, and all later ones,
    # for a later epoch may yet be the best. The checkpoint before it knows the fifth as the best.
    forget_old(tmp_path, best_epochs=(5, 6), keep=2)
    assert [epoch for epoch in range(1, 9) if validation_file(tmp_path, epoch).exists()] == [
        4, 5, 6, 7, 8,
    ]  # fmt: skip
    assert sorted(tmp_path.glob("weights_*")) == [
        weights_file(tmp_path, 5),
        weights_file(tmp_path, 6),
    ]
    assert not half_written.exists() and being_written.exists()
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


def test_the_last_two_checkpoints_are_kept(tmp_path: Path) -> None:
    for epoch, step in ((0, 3), (1, 5), (1, 9), (2, 10)):
        save_checkpoint(tmp_path, Checkpoint(epoch=epoch, step=step))
    assert [path.stem for path in checkpoints(tmp_path)] == [
        "checkpoint_0002_0000010",
        "checkpoint_0001_0000009",
    ]
    assert len(list(tmp_path.iterdir())) == 4  # each with its digest


def test_who_may_write_no_more_renames_nothing(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, Checkpoint(epoch=1))
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}

    def lost() -> None:
        raise InputError("lost its lease")

    for write in (
        lambda: save_checkpoint(tmp_path, Checkpoint(epoch=1, step=2), lost),
        lambda: save_checkpoint(tmp_path, Checkpoint(epoch=1, step=0), lost),  # there already
        lambda: save_validation(tmp_path, 1, np.zeros((2, 28), np.float32), lost),
        lambda: save_tensors({"weight": torch.zeros(3)}, weights_file(tmp_path, 1), lost),
    ):
        with pytest.raises(InputError, match="lost its lease"):
            write()
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_snapshot_stays_as_it_was_and_is_written_without_what_lies_beside_it(tmp_path) -> None:
    convolution = torch.nn.Conv2d(4, 8, 3).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(convolution.parameters())
    convolution(torch.rand(2, 4, 5, 5)).sum().backward()
    optimizer.step()
    state = Checkpoint(
        epoch=1, step=3, steps=[[1.0]], network=convolution.state_dict(),
        optimizer=optimizer.state_dict(), counts=torch.ones(3, 28, dtype=torch.int64),
    )  # fmt: skip
    former = copy.deepcopy(state)
    snapshots = Snapshots()
    snapshots.take(state)
    taken, wait = snapshots.take(state)
    state.steps.append([2.0])
    state.counts += 1
    convolution(torch.rand(2, 4, 5, 5)).sum().backward()
    optimizer.step()
    wait()
    assert taken.steps == [[1.0]] and torch.equal(taken.counts, former.counts)
    for name, tensor in former.network.items():
        assert torch.equal(taken.network[name], tensor)
        assert taken.network[name].stride() == tensor.stride()
        assert not torch.equal(taken.network[name], convolution.state_dict()[name])
    for name in ("step", "exp_avg"):
        assert torch.equal(taken.optimizer["state"][0][name], former.optimizer["state"][0][name])
    for folder, checkpoint in (("taken", taken), ("former", former)):
        save_checkpoint(tmp_path / folder, replace(checkpoint, steps=[]))
    (one,), (other,) = (checkpoints(tmp_path / folder) for folder in ("taken", "former"))
    assert one.stat().st_size <= other.stat().st_size


def shortened(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def with_a_turned_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def without_digest(path: Path) -> None:
    path.with_suffix(".sha256").unlink()


@pytest.mark.parametrize("damage", [shortened, with_a_turned_bit, without_digest])
def test_of_a_damaged_checkpoint_the_one_before_is_taken(tmp_path: Path, damage, caplog) -> None:
    save_checkpoint(tmp_path, Checkpoint(epoch=1, step=4, steps=[[1.0] * len(STEP_NUMBERS)]))
    save_checkpoint(tmp_path, Checkpoint(epoch=2, step=8))
    damage(checkpoints(tmp_path)[0])
    loaded = load_checkpoint(tmp_path)
    assert (loaded.epoch, loaded.step) == (1, 4)
    assert "checkpoint_0002_0000008.pt is damaged" in caplog.text
    assert "going on from the checkpoint before it, checkpoint_0001_0000004.pt" in caplog.text

    # The damaged one is newer by its name than what is stored next, and goes.
    save_checkpoint(tmp_path, Checkpoint(epoch=1, step=6))
    assert [path.stem[-1] for path in checkpoints(tmp_path)] == ["6", "4"]
    caplog.clear()
    assert load_checkpoint(tmp_path).step == 6
    assert not caplog.text


def test_where_all_checkpoints_are_damaged_training_stops_in_words(tmp_path: Path) -> None:
    for epoch in (1, 2):
        save_checkpoint(tmp_path, Checkpoint(epoch=epoch))
    for path in checkpoints(tmp_path):
        shortened(path)
    with pytest.raises(InputError, match=r"0002_.* is damaged.*0001_.* is damaged.*Delete"):
        load_checkpoint(tmp_path)


class Weapon:
    def __reduce__(self):
        return (Path.touch, (Path("fired"),))


def test_a_checkpoint_that_runs_code_is_refused(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    save_checkpoint(tmp_path, Checkpoint(epoch=1, plateau={"best": Weapon()}))
    with pytest.raises(InputError, match="damaged"):
        load_checkpoint(tmp_path)
    assert not Path("fired").exists()


@pytest.fixture
def full_disk():
    """No file can grow beyond 100 kB: writing ends as on a full disk, in the middle."""
    former = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, former[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, former)
    signal.signal(signal.SIGXFSZ, ignored)


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path: Path, full_disk) -> None:
    save_checkpoint(tmp_path, Checkpoint(epoch=1, step=4))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    big = Checkpoint(epoch=2, step=8, network={"weight": torch.zeros(100_000)})
    with pytest.raises(InputError, match=r"cannot be written \(File too large; .*MB are free"):
        save_checkpoint(tmp_path, big)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert load_checkpoint(tmp_path).epoch == 1


def test_a_full_disk_is_told_of_every_file_and_no_other_error_is(tmp_path: Path, full_disk) -> None:
    with pytest.raises(InputError, match="cannot be written"), disk_full_in_words(tmp_path):
        save_validation(tmp_path, 1, np.zeros((1000, 28), np.float32))
    assert not list(tmp_path.iterdir())
    with pytest.raises(RuntimeError, match="of the device"), disk_full_in_words(tmp_path):
        raise RuntimeError("an error of the device")


def test_a_state_is_not_removed_while_a_process_works_in_it(tmp_path: Path, caplog) -> None:
    folder = tmp_path / "state"
    with leased(folder), pytest.raises(InputError, match=r"process \d+ on .* works in this state"):
        remove_state(folder)
    assert folder.exists()
    remove_state(folder)
    assert not folder.exists()
