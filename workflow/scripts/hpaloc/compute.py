"""Where and in which precision networks run: chosen by what is there, and logged."""

import logging
import os
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch

from hpaloc.gpu_lock import claim_gpus
from hpaloc.log import InputError
from hpaloc.memory import keep_freed_memory

log = logging.getLogger("hpaloc")

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Compute:
    device: torch.device
    dtype: torch.dtype

    def autocast(self) -> AbstractContextManager:
        """Convolutions and linear layers in ``dtype``; the parameters stay float32."""
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not torch.float32)


def choose_compute(precision: str, torch_threads: int, gpus: int = 1) -> Compute:
    """The GPU if there is one and ``gpus`` is not 0, else the CPU; ``auto`` is bfloat16 (float16
    where a GPU lacks it) on a GPU and float32 on the CPU.

    Sets torch's threads (their number decides the order of sums, hence bits) and deterministic
    algorithms where there are such. Of several GPUs the process gets ``gpus`` for itself, see
    ``claim_gpus``. Raises InputError for float16 without a GPU, and for too few GPUs.
    """
    claim_gpus(gpus)  # before anything starts CUDA
    # Read when CUDA starts; without it the matrix products of cuBLAS may differ between runs.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.set_num_threads(torch_threads)
    torch.use_deterministic_algorithms(True, warn_only=True)
    # Filling fresh memory finds reads of it that is not set; here it would only cost time.
    torch.utils.deterministic.fill_uninitialized_memory = False
    gpu = gpus > 0 and torch.cuda.is_available()
    if gpus > 0 and not gpu:
        log.info("no GPU that torch can use: running on the CPU")
    if precision == "auto":
        precision = "float32"
        if gpu:
            # Emulation is slow: a P100 or V100 would answer that it has bfloat16.
            native = torch.cuda.is_bf16_supported(including_emulation=False)
            precision = "bfloat16" if native else "float16"
    if precision == "float16" and not gpu:
        raise InputError("precision float16 needs a GPU: use auto, float32 or bfloat16.")
    if gpu:
        # The fastest of the deterministic algorithms for each shape; shapes do not change here.
        torch.backends.cudnn.benchmark = True
    else:
        keep_freed_memory()
    compute = Compute(torch.device("cuda" if gpu else "cpu"), _DTYPES[precision])
    log.info("running on %s in %s, channels last", describe(compute.device), precision)
    return compute


def describe(device: torch.device) -> str:
    """``NVIDIA H100 (cuda)``, or ``the CPU (2 threads)``."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)} (cuda)"
    threads = torch.get_num_threads()
    return f"the CPU ({threads} thread{'s' if threads > 1 else ''})"
