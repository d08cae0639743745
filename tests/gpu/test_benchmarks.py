"""The benchmarks for a GPU, on the stand-in: what they do where memory is short or values wrong."""

import argparse
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

PROJECT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(PROJECT / "benchmarks"))

SMALL = [
    "--networks", "seresnext_small", "--sizes", "64", "--images", "16", "--batch-size", "64",
    "--repeats", "1", "--seconds", "0.05", "--workers", "1", "--eager",
]  # fmt: skip


@pytest.fixture
def benchmark(gpu_environment, tmp_path) -> Callable[..., subprocess.CompletedProcess]:
    """Runs a benchmark on the stand-in, with all processes that it starts."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text("import fake_gpu\nfake_gpu.install()\n")

    def run(
        name: str, *options: str, timeout: int = 300, **settings
    ) -> subprocess.CompletedProcess:
        environment = gpu_environment(omp_num_threads=1, **settings)
        environment["PYTHONPATH"] = os.pathsep.join([str(site), environment["PYTHONPATH"]])
        return subprocess.run(
            [sys.executable, PROJECT / "benchmarks" / name, *map(str, options)],
            env=environment, capture_output=True, text=True, timeout=timeout, check=False,
        )  # fmt: skip

    return run


def test_what_the_memory_does_not_hold_is_a_row_and_the_others_go_on(benchmark, tmp_path) -> None:
    out, record = tmp_path / "table.md", tmp_path / "table.json"
    rows = ["--only", "training, baseline", "training, batch", "forward"]
    done = benchmark("train_step.py", *SMALL, *rows, "--out", out, "--json", record, memory_gb=0.1)
    assert done.returncode == 0, done.stderr[-2000:]
    (result,) = json.loads(record.read_text()).values()
    found = result["found"]
    assert found["training, baseline"] == "does not fit"
    assert found["training, batch on the device"][0] > 0
    assert re.match("of (32|16|8) images", found["training in parts"])
    assert found["forward"][0] > 0
    assert "| training, baseline | does not fit |" in out.read_text()


def test_a_process_of_together_that_dies_ends_it_with_words(tmp_path) -> None:
    import gpu_memory
    import train_step

    from hpaloc.log import InputError

    np.save(tmp_path / "shard.npy", np.zeros((2, 8, 8, 4), np.uint8))
    shards = [np.load(tmp_path / "shard.npy", mmap_mode="r")]
    frame = gpu_memory.made_fold(8, 1, 1, 0).arrays[0]
    data = train_step.fold_of((frame, shards), 0)
    arguments = argparse.Namespace(workers=1, gpus=0, repeats=1, seconds=0.1)
    recipe = train_step.paper_recipe() | {"network": "no_such_network", "pretrained": None}
    with pytest.raises(InputError, match="ended with exit code 1 and without an answer"):
        train_step.together(recipe, data, arguments)


def test_the_memory_of_a_small_network_is_counted_or_does_not_fit(benchmark, tmp_path) -> None:
    fits = tmp_path / "fits.json"
    options = ["--short", "--small", "--only", "eager", "--workers", "1"]
    done = benchmark("gpu_memory.py", *options, "--json", fits)
    assert done.returncode == 0, done.stderr[-2000:]
    training, prediction = json.loads(fits.read_text())
    assert training["part_size"] == 8
    assert training["reserved"] >= training["allocated"] > prediction["allocated"] > 1
    short = tmp_path / "short.md"
    done = benchmark("gpu_memory.py", *options, "--out", short, memory_gb=0.02)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "does not fit" in short.read_text()


def test_the_check_goes_on_after_a_part_that_finds_wrong_values(benchmark, tmp_path) -> None:
    """On the stand-in all values are zero: what compares values fails. All parts take some twenty
    minutes there, most of it compiling: gpu_check.py --small runs them."""
    out = tmp_path / "check.md"
    done = benchmark("gpu_check.py", "--small", "--parts", "images", "compare", "--out", out)
    assert done.returncode == 1, done.stderr[-2000:]
    parts = json.loads(out.with_suffix(".json").read_text())["parts"]
    assert {name: part["status"] for name, part in parts.items()} == {
        "images": "ok", "compare": "FAILED"
    }  # fmt: skip
    assert done.stdout.splitlines()[-1].startswith("NOT WELL; ok: images")
    # It failed by what it compares, and not by a fault of its own.
    assert "float32: loss of the first step" in parts["compare"]["said"]


def test_a_prediction_that_is_halved_is_not_the_memory_of_the_whole_batch(on_gpu) -> None:
    found, log = on_gpu(
        """
        import sys
        sys.path.insert(0, "benchmarks")
        import gpu_memory
        case = gpu_memory.Case("seresnext_small", 64, 256, "")
        peak = gpu_memory.peak(case, gpu_memory.paper_recipe(), choose_compute("auto", 1), 1)
        result(part_size=peak.part_size, row=gpu_memory.row(case, peak))
        """,
        memory_gb=0.1, omp_num_threads=1,
    )  # fmt: skip
    assert "does not hold a batch of 256" in log
    assert found["part_size"] < 256
    assert f"in parts of {found['part_size']}" in found["row"] and "not known" in found["row"]


def test_rates_of_what_was_not_compiled_say_so(benchmark, tmp_path) -> None:
    record, no_compiler = tmp_path / "table.json", {"cc": "/nonexistent", "cxx": "/nonexistent"}
    options = [option for option in SMALL if option != "--eager"]
    rows = ["--only", "training, batch", "--json", record]
    done = benchmark("train_step.py", *options, *rows, **no_compiler)
    assert done.returncode == 0, done.stderr[-2000:]
    (result,) = json.loads(record.read_text()).values()
    assert result["found"]["NOT COMPILED"].startswith("training: ")
    assert "| NOT COMPILED | training" in done.stdout
    done = benchmark(
        "gpu_check.py", "--small", "--part", "restart", "--folder", tmp_path, **no_compiler
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "NOT COMPILED" in json.loads((tmp_path / "restart.json").read_text())["said"]
