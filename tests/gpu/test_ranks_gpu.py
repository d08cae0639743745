"""Two processes with a GPU each that train a fold together; NCCL sends nothing on the stand-in."""

import json
import re
import subprocess
import sys

BOTH = "import sys; from hpaloc.ranks import run_ranks; sys.exit(run_ranks(2, sys.argv[1:]))"
PROGRAM = """
import fake_gpu, torch
from functools import partial
from gpu_case import *
from hpaloc.batch_norm import SharedBatchNorm
from hpaloc.log import run_program
from hpaloc.ranks import join, leave

def main():
    ranks = join(2)
    settings, data, compute = fold(images=120)
    setups = []
    set_up = training.set_up
    # Otherwise it sends a table of parameters through the GPU after the first step, once, and what
    # comes back is not real here.
    training.DistributedDataParallel = partial(
        training.DistributedDataParallel, find_unused_parameters=True
    )
    training.set_up = lambda *arguments: setups.append(set_up(*arguments)) or setups[-1]
    with fake_gpu.syncs() as found:
        folder = Path(tempfile.mkdtemp())
        state = training.train(settings, 1, data, Checkpoint(), folder, None, compute, None, ranks)
    layers = sum(isinstance(module, SharedBatchNorm) for module in setups[0].network.modules())
    counters = fake_gpu.counters()
    result(
        number=ranks.number, device=torch.cuda.current_device(), steps=state.step, layers=layers,
        waits=[place for place in found if "train_step" in place],
        reduced=counters.get("ncclAllReduce", 0),
        deprecated=[place for place in found if "broadcast_buffers" in place],
    )
    leave(ranks)

run_program(main)
"""


def test_a_step_of_several_processes_does_not_wait_for_the_gpu(gpu_environment, tmp_path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    done = subprocess.run(
        [sys.executable, "-c", BOTH, str(program)], env=gpu_environment(devices=2),
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    # Both may write to one line.
    results = map(json.loads, re.findall(r"RESULT (\{.*?\})", done.stdout))
    found = sorted(results, key=lambda one: one["number"])
    assert [one["device"] for one in found] == [0, 1]
    for one in found:
        assert one["steps"] == 10 and one["layers"] > 10
        assert one["reduced"] >= one["steps"] * 2 * one["layers"]  # there and back
        assert not one["waits"] and not one["deprecated"]
    assert "synchronizing CUDA operation" not in done.stderr  # in threads of autograd
