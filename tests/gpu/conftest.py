"""The GPU paths of training and prediction, on a stand-in for the CUDA runtime, without a GPU.

Real is torch's host code for CUDA: allocator, streams, events, pinned memory, copies, autograd,
optimizers, GradScaler, sync debug mode, CUDA graphs, torch.compile down to PTX. Not real is what
kernels compute (memory stays zero), cuDNN, cuBLAS, NCCL and time.
"""

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

TESTS = Path(__file__).resolve().parents[1]
STAND_IN = TESTS.parents[1] / "shared" / "tools" / "fake_cuda"
_MODULES = (TESTS / "gpu", TESTS / "unit", TESTS.parent / "workflow" / "scripts")
_OPTIONS = {"devices": 1, "capability": 90, "memory_gb": 80, "lag": -1}


@pytest.fixture(scope="session")
def stand_in(tmp_path_factory) -> Path:
    """The folder of the library that is preloaded, built once."""
    if not torch.version.cuda:
        pytest.skip(f"torch {torch.__version__} is built without CUDA")
    if not STAND_IN.is_dir():
        pytest.skip(f"the stand-in for a CUDA runtime is not here: {STAND_IN}")
    folder = tmp_path_factory.mktemp("fake_cuda")
    subprocess.run([sys.executable, STAND_IN / "build.py", folder], check=True)
    return folder


@pytest.fixture
def gpu_environment(stand_in, tmp_path) -> Callable[..., dict[str, str]]:
    """Variables of a process on the stand-in: ``devices``, ``capability``, ``memory_gb``, ``lag``
    (pieces of work that the device is behind; -1: none), and the switches of its README."""

    def environment(**settings: Any) -> dict[str, str]:
        options = {key: settings.pop(key, value) for key, value in _OPTIONS.items()}
        # Other tests of this process may have set where compiled code is kept.
        kept = {key: value for key, value in os.environ.items() if not key.endswith("_CACHE_DIR")}
        return kept | {
            "LD_PRELOAD": str(stand_in / "libcuda.so.1"),
            "LD_LIBRARY_PATH": str(stand_in),
            "TRITON_LIBCUDA_PATH": str(stand_in),
            "FAKE_CUDA_DEVICES": str(options["devices"]),
            "FAKE_CUDA_CAPABILITY": str(options["capability"]),
            "FAKE_CUDA_MEMORY": str(int(options["memory_gb"] * 2**30)),
            "FAKE_CUDA_LAG": str(options["lag"]),
            "PYTHONPATH": os.pathsep.join(map(str, (*_MODULES, STAND_IN))),
            "TMPDIR": str(tmp_path),
            "XDG_CACHE_HOME": str(tmp_path / "cache"),
            "HPALOC_GPUS_CLAIMED": "1",
            **{key.upper(): str(value) for key, value in settings.items()},
        }

    return environment


@pytest.fixture
def on_gpu(gpu_environment) -> Callable[..., tuple[dict[str, Any], str]]:
    """Runs code on the stand-in, as a program's ``main``; gives what it handed to ``result`` and
    its log. It is to end with the status ``ends``: 1 for an InputError, 70 for a defect."""

    def run(code: str, *, ends: int = 0, timeout: int = 300, **settings: Any) -> Any:
        body = textwrap.indent(textwrap.dedent(code), "    ")
        program = (
            "import torch, fake_gpu\nfrom gpu_case import *\nfrom hpaloc.log import run_program\n"
            f"def main():\n{body}\nrun_program(main)\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", program],
            env=gpu_environment(**settings), capture_output=True, text=True, timeout=timeout,
            check=False,
        )  # fmt: skip
        assert done.returncode == ends, done.stderr[-3000:]
        results = [line[7:] for line in done.stdout.splitlines() if line.startswith("RESULT ")]
        return (json.loads(results[-1]) if results else {}), done.stderr

    return run
