"""Networks compiled for a GPU, and the code of them that is kept."""

import re
from pathlib import Path

import pytest

# A network of a few kernels, compiled as in training; what was found in the folder of code.
SMALL = """
from hpaloc.compiled import compiled
class Small(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = torch.nn.Conv2d(4, 8, 3), torch.nn.Linear(8, 28)
    def forward(self, images):
        return self.head(self.body(images.permute(0, 3, 1, 2) / 255).relu().mean((2, 3)))
compute = choose_compute("auto", 1, 1)
torch.manual_seed(SEED)
network = Small().to(compute.device, memory_format=torch.channels_last)
images = torch.zeros((8, 32, 32, 4), dtype=torch.uint8, device=compute.device)
forward = compiled(network, images, compute)
fake_gpu.reset()
forward(images)
from torch._dynamo.utils import counters
result(
    compiled=forward is not network,
    new=counters["inductor"]["fxgraph_cache_miss"] + counters["inductor"]["fxgraph_cache_bypass"],
    launches=fake_gpu.counters().get("LAUNCHES_OF_TRITON", 0),
)
"""


def _files(cache: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in cache.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_the_next_process_compiles_nothing_and_damaged_code_is_compiled_anew(
    on_gpu, tmp_path
) -> None:
    found, log = on_gpu("SEED = 1" + SMALL, timeout=900)
    assert found["compiled"] and found["new"] and found["launches"]
    (cache,) = (tmp_path / "cache/hpaloc").iterdir()
    assert f"the code is kept in {cache}" in log and re.search(r"compiled in \d+ s\n", log)
    # Triton's own question what to do about fused operations is answered.
    assert "FP_FUSION" not in log and "WARNING" not in log
    # torch makes its own folder at its import; nothing is in it.
    assert not [file for folder in tmp_path.glob("torchinductor_*") for file in _files(folder)]
    before = _files(cache)
    # Machine code for an H100.
    assert any(".target sm_90" in ptx.read_text() for ptx in cache.rglob("*.ptx"))
    assert list(cache.rglob("*.cubin"))

    # The next fold: other weights, the same shapes.
    found, log = on_gpu("SEED = 2" + SMALL, timeout=900)
    assert found["compiled"] and not found["new"] and found["launches"]
    assert "s (code that was kept)" in log and _files(cache) == before

    for file in before:
        content = file.read_bytes()
        file.write_bytes(content[: len(content) // 2])
    found, log = on_gpu("SEED = 1" + SMALL, timeout=900)
    assert found["compiled"] and found["launches"]
    assert f"the code kept in {cache} did not serve" in log and not set(before) & set(_files(cache))
    # Nor is anything left of the second attempt: the next fold compiles and keeps again.
    assert not list(tmp_path.glob("hpaloc-compiled-*"))


@pytest.mark.slow
def test_a_network_in_training_becomes_kernels(on_gpu) -> None:
    """Forward and backward pass, and validation: nothing falls back."""
    found, log = on_gpu(
        """
        settings, data, compute = fold(compile=True, images=60)
        state = trained(settings, data, compute)
        result(counters=fake_gpu.counters())
        """,
        timeout=900,
    )
    assert "compiled in" in log and "not compiled" not in log
    assert found["counters"]["LAUNCHES_OF_TRITON"] > 100


@pytest.mark.slow
def test_full_batches_are_trained_as_cuda_graphs_where_that_is_asked_for(on_gpu) -> None:
    """A forward and a backward graph a step, which nothing waits for; an epoch's last batch is not."""
    found, log = on_gpu(
        """
        steps, made = [], training.train_step
        def counted(setup, batch, *more):
            fake_gpu.reset()
            found = made(setup, batch, *more)
            counters = fake_gpu.counters()
            names = ("cudaGraphLaunch", "LAUNCHES_OF_TRITON")
            steps.append([len(batch.targets), *(counters.get(name, 0) for name in names)])
            return found
        training.train_step = counted
        settings, data, compute = fold(compile="graphs", images=66, epochs=2)
        with fake_gpu.syncs() as waits:
            state = trained(settings, data, compute)
        result(steps=steps, waits=[place for place in waits if "train_step" in place])
        """,
        timeout=900,
    )
    assert "not compiled" not in log
    assert [step for step in found["steps"][2:] if step[0] == 8] == [[8, 2, 0]] * 8
    assert found["steps"][5] == [4, 0, 0]
    assert not found["waits"]


@pytest.mark.slow
def test_the_networks_of_all_folds_are_compiled_once_and_small_batches_replayed(on_gpu) -> None:
    found, log = on_gpu(
        """
        from torch._dynamo.utils import counters
        from hpaloc.backends import ready
        from hpaloc.network import build_network
        from hpaloc.predict import probabilities
        settings, data, compute = fold(compile=True, batch_size=2, images=60)
        networks = []
        for number in range(10):
            torch.manual_seed(number)
            networks.append(build_network(settings).eval())
        forwards = ready(networks, settings, "torch", compute)
        images = torch.zeros((2, 64, 64, 4), dtype=torch.uint8, device="cuda")
        for forward in forwards * 3:
            probabilities(forward, images, compute)
        launches = []
        for forward in forwards:
            fake_gpu.reset()
            probabilities(forward, images, compute)
            launches.append(fake_gpu.counters())
        result(
            launches=launches,
            new=counters["inductor"]["fxgraph_cache_miss"],
            graphs=counters["stats"]["unique_graphs"],
        )
        """,
        timeout=900,
    )
    assert found["new"] == 1 and found["graphs"] == 10
    assert log.count("s (code that was kept)") == 9
    for counts in found["launches"]:
        assert counts["cudaGraphLaunch"] == 1 and counts["LAUNCHES"] < 6


@pytest.mark.parametrize(
    ("lacking", "words"),
    [
        (
            'import os; os.environ["PATH"] = "/nowhere"; os.environ.pop("CC", None)',
            "lacks a C compiler (no gcc or clang in PATH; CC is not set)",
        ),
        (
            'import sysconfig; sysconfig.get_paths = lambda **_: {"include": "/nowhere"}',
            "lacks Python's headers (no /nowhere/Python.h)",
        ),
    ],
    ids=["no compiler", "no headers"],
)
def test_what_a_node_lacks_is_named_at_once_and_the_network_runs(on_gpu, lacking, words) -> None:
    found, log = on_gpu(f"{lacking}\nSEED = 1{SMALL}")
    assert not found["compiled"]
    assert words in log and "python3-dev" in log and "compiling for" not in log
