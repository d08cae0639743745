"""Several processes that train a fold together, on the CPU with gloo."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from training_case import make_case, recipe, train_arguments

import train_fold
from hpaloc import ranks
from hpaloc.checkpoint import Checkpoint
from hpaloc.ranks import Ranks

SCRIPTS = Path(train_fold.__file__).parent
SCORES = ["loss_total", "bce", "weighted_bce", "soft_f1_loss", "focal_loss", "gradient_norm"]

# Each process has a network of its own in the same state: one whole batch, and its share of it.
GRADIENTS = """
import json, sys, torch
from torch.nn.parallel import DistributedDataParallel
from hpaloc.gradient import backward
from hpaloc.ranks import join, leave
from test_gradient import CPU, IMAGES, SCALER, TARGETS, Small, gradients, losses, seed
ranks = join(2)
found = {}
for over in ("classes", "samples"):
    for part_size in (11, 3):
        whole, shared = Small().eval(), Small().eval()
        logits, scores = backward(whole, whole, IMAGES, losses(over), seed, SCALER, CPU, 11)
        together = DistributedDataParallel(shared, broadcast_buffers=False)
        mine = IMAGES[ranks.share(11)]
        shared_logits, shared_scores = backward(
            shared, together, mine, losses(over), seed, SCALER, CPU, part_size, ranks, 11
        )
        assert len(mine) < 11 and max(shared.tried) <= min(part_size, 6)
        torch.testing.assert_close(shared_logits, logits)
        torch.testing.assert_close(shared_scores, scores)
        torch.testing.assert_close(gradients(shared), gradients(whole))
# One image for both: each has all of it, and the same gradient.
whole, shared = Small().eval(), Small().eval()
one = lambda logits: losses().func(logits, **losses().keywords | {"targets": TARGETS[:1]})
backward(whole, whole, IMAGES[:1], one, seed, SCALER, CPU, 11)
together = DistributedDataParallel(shared, broadcast_buffers=False)
mine = IMAGES[:1][ranks.share(1)]
backward(shared, together, mine, one, seed, SCALER, CPU, 11, ranks, 1)
torch.testing.assert_close(gradients(shared), gradients(whole))
leave(ranks)
"""


def both(*arguments: str) -> subprocess.Popen:
    """Two processes of a program."""
    paths = os.pathsep.join([str(SCRIPTS), str(Path(__file__).parent)])
    return subprocess.Popen(
        [sys.executable, *ranks.torchrun(2), *arguments],
        env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.STDOUT,
        stdout=subprocess.PIPE,
        text=True,
    )


def succeeds(process: subprocess.Popen) -> str:
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said
    return said


@pytest.fixture(scope="module")
def case(tmp_path_factory) -> Path:
    return make_case(tmp_path_factory.mktemp("ranks") / "case")


SETTINGS = recipe(batch_size=5, epochs=9, stop_after=9)  # ten images: two steps an epoch


@pytest.fixture(scope="module")
def shared_out(case) -> Path:
    """The outputs of a fold that two processes trained, stopped on the way and went on."""
    out = case / "shared_out"
    arguments = train_arguments(case, SETTINGS, out, out / "state")
    arguments[arguments.index("--gpus") + 1] = "2"
    program = [str(SCRIPTS / "train_fold.py"), *arguments]
    first = both(*program)
    folder = out / "state" / "train_fold"
    while not list(folder.glob("*/checkpoint_0001_*")) and first.poll() is None:
        time.sleep(0.05)
    first.send_signal(signal.SIGTERM)  # as to a job that is preempted
    said, _ = first.communicate(timeout=300)
    assert first.returncode != 0, said
    assert said.count("told to stop") == 2 and not (out / "weights.safetensors").exists()
    (out / "log").write_text(succeeds(both(*program)))
    return out


def test_shares_are_those_of_a_split_tensor() -> None:
    for total in (0, 1, 5, 64):
        for count in (1, 2, 3, 7):
            parts = torch.arange(total).tensor_split(count)
            if total < count:  # a process without images has no batch norm
                parts = [torch.arange(total)] * count
            for number, part in enumerate(parts):
                share = Ranks(number, count).share(total)
                assert part.tolist() == list(range(total))[share]
            assert max(map(len, parts)) == Ranks(0, count).most(total)


def test_two_processes_have_the_gradient_of_the_whole_batch(tmp_path) -> None:
    program = tmp_path / "gradients.py"
    program.write_text(GRADIENTS)
    succeeds(both(str(program)))


def test_two_processes_train_as_one_that_normalises_each_half(
    case, shared_out, monkeypatch
) -> None:
    # One process that takes every batch in two parts: the same images in the same batch norm.
    def in_parts(folder):
        state = load_checkpoint(folder)
        return state if state.step else Checkpoint(part_size=3)

    load_checkpoint = train_fold.load_checkpoint
    monkeypatch.setattr(train_fold, "load_checkpoint", in_parts)
    out = case / "alone"
    train_fold.main(train_arguments(case, SETTINGS, out, out / "state"))
    alone, together = (pd.read_parquet(path / "steps.parquet") for path in (out, shared_out))
    assert together["step"].tolist() == list(range(1, 2 * 9 + 1))  # none twice, none left out
    first = slice(0, 4)
    np.testing.assert_allclose(together[SCORES][first], alone[SCORES][first], rtol=2e-3)
    assert (together["epoch"] == alone["epoch"]).all()


def test_what_two_began_one_goes_on_with(case, shared_out) -> None:
    log = (shared_out / "log").read_text()
    (_, step) = map(int, re.search(r"going on after epoch (\d+) \(step (\d+)\)", log).groups())
    assert step == 16  # where both look
    assert log.count("exported epoch") == 1  # one writer
    model = json.loads((shared_out / "model.json").read_text())
    assert model["epochs"] == 9


def test_more_gpus_start_torchrun_in_the_process_that_claimed_them(monkeypatch) -> None:
    done = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(ranks, "claim_gpus", done.append)
    monkeypatch.setattr(os, "execv", lambda *command: done.append(command))
    ranks.relaunched("train_fold.py", ["--gpus", "3"], 3)
    claimed, (program, words) = done
    assert claimed == 3 and program == words[0] == sys.executable
    assert words[1:-3] == ranks.torchrun(3)
    assert words[-3:] == ["train_fold.py", "--gpus", "3"]
    ranks.relaunched("train_fold.py", [], 1)
    assert len(done) == 2
