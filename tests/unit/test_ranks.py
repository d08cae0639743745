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
from hpaloc.preemption import TRY_AGAIN
from hpaloc.ranks import Ranks

SCRIPTS = Path(train_fold.__file__).parent
SCORES = ["loss_total", "bce", "weighted_bce", "soft_f1_loss", "focal_loss", "gradient_norm"]

# Shares of six images and of five, in float32 and bfloat16, and then one image for both.
BATCH_NORM = """
import copy, torch
from hpaloc.batch_norm import share_batch_norm
from hpaloc.ranks import join, leave
ranks = join(2)
for total, dtype, tolerance in ((11, torch.float32, 2e-5), (11, torch.bfloat16, 0.04), (1, torch.float32, 2e-5)):
    torch.manual_seed(total)
    images = (100 + 3 * torch.randn(total, 4, 9, 9)).to(dtype).to(memory_format=torch.channels_last)
    images[0] += 5
    weights = torch.randn(total, 4, 9, 9)
    whole = torch.nn.Sequential(torch.nn.BatchNorm2d(4))
    torch.nn.init.normal_(whole[0].weight)
    shared = copy.deepcopy(whole)
    share_batch_norm(shared, ranks)
    assert list(shared.state_dict()) == list(whole.state_dict())
    mine = ranks.share(total)
    ones = [images.clone().requires_grad_(), images[mine].clone().requires_grad_()]
    out, out_shared = whole(ones[0]), shared(ones[1])
    assert out_shared.dtype == dtype and out_shared.stride() == out[mine].stride()
    same = dict(rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(out_shared, out[mine], **same)
    (out.float() * weights).sum().backward()
    (out_shared.float() * weights[mine]).sum().backward()
    torch.testing.assert_close(ones[1].grad, ones[0].grad[mine], **same)
    sums = [p.grad for p in shared.parameters()]
    if ranks.splits(total):
        for gradient in sums:
            torch.distributed.all_reduce(gradient)
    torch.testing.assert_close(sums, [p.grad for p in whole.parameters()], rtol=10 * tolerance, atol=10 * tolerance)
    if not ranks.splits(total):  # n / (n - 1), with every image counted twice
        same = dict(rtol=0.01, atol=0.01)
    torch.testing.assert_close(list(shared.buffers()), list(whole.buffers()), **same)
    torch.testing.assert_close(shared.eval()(images), whole.eval()(images), **same)
leave(ranks)
"""

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
        together = DistributedDataParallel(shared)
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
together = DistributedDataParallel(shared)
mine = IMAGES[:1][ranks.share(1)]
backward(shared, together, mine, one, seed, SCALER, CPU, 11, ranks, 1)
torch.testing.assert_close(gradients(shared), gradients(whole))
leave(ranks)
"""


BOTH = "import sys; from hpaloc.ranks import run_ranks; sys.exit(run_ranks(2, sys.argv[1:]))"


def both(*arguments: str) -> subprocess.Popen:
    """Two processes of a program."""
    paths = os.pathsep.join([str(SCRIPTS), str(Path(__file__).parent)])
    return subprocess.Popen(
        [sys.executable, "-c", BOTH, *arguments],
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


# Ten images: two steps an epoch. Dropout draws for each share by itself.
SETTINGS = recipe(batch_size=5, epochs=9, stop_after=9, dropout=0.0)


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
    assert first.returncode == TRY_AGAIN, said
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


def test_two_processes_train_as_one(case, shared_out) -> None:
    """But for rounding, which grows with the steps, and for what dropout draws."""
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


def test_batch_norm_is_that_of_the_whole_batch(tmp_path) -> None:
    program = tmp_path / "batch_norm.py"
    program.write_text(BATCH_NORM)
    succeeds(both(str(program)))


def test_more_gpus_start_as_many_processes_and_end_with_their_status(monkeypatch) -> None:
    done = []

    def run(count: int, command: list[str]) -> int:
        done.append((count, command))
        return TRY_AGAIN

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(ranks, "claim_gpus", done.append)
    monkeypatch.setattr(ranks, "run_ranks", run)
    with pytest.raises(SystemExit) as ended:
        ranks.relaunched("train_fold.py", ["--gpus", "3"], 3)
    assert ended.value.code == TRY_AGAIN
    assert done == [3, (3, ["train_fold.py", "--gpus", "3"])]
    ranks.relaunched("train_fold.py", [], 1)
    assert len(done) == 2


def test_where_one_fails_the_others_end_and_its_status_is_given(tmp_path, monkeypatch) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "import os, signal, sys, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "if os.environ['HPALOC_RANK'] == '1': sys.exit(7)\n"
        "time.sleep(600)\n"
    )
    monkeypatch.setattr(ranks, "_ENDING_S", 0.5)
    begun = time.monotonic()
    assert ranks.run_ranks(3, [str(program)]) == 7
    assert time.monotonic() - begun < 60


def test_told_to_stop_processes_have_the_time_that_they_need(tmp_path, monkeypatch) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "import os, signal, sys, time\n"
        "came = []\n"
        "signal.signal(signal.SIGTERM, lambda *_: came.append(1))\n"
        "ready = __file__ + '.ready'\n"
        "if os.environ['HPALOC_RANK'] == '0': open(ready, 'w').close()\n"
        "while not os.path.exists(ready): time.sleep(0.01)\n"
        "if os.environ['HPALOC_RANK'] == '1': os.kill(os.getppid(), signal.SIGTERM)\n"
        "while not came: time.sleep(0.01)\n"
        "time.sleep(1)\n"  # a state is stored
        "sys.exit(75)\n"
    )
    monkeypatch.setattr(ranks, "_ENDING_S", 5.0)
    assert ranks.run_ranks(2, [str(program)]) == TRY_AGAIN


def test_processes_end_when_who_started_them_is_killed(case) -> None:
    out = case / "orphans"
    settings = recipe(batch_size=5, epochs=4000, stop_after=4000)
    arguments = train_arguments(case, settings, out, out / "state")
    arguments[arguments.index("--gpus") + 1] = "2"
    process = both(str(SCRIPTS / "train_fold.py"), *arguments)
    folder = out / "state" / "train_fold"
    while not list(folder.glob("*/checkpoint_0001_*")):
        assert process.poll() is None
        time.sleep(0.05)
    process.kill()
    said, _ = process.communicate(timeout=120)  # until nobody writes to it any more
    assert said.count("told to stop") == 2
    assert not list(folder.glob("*/lease.json"))
