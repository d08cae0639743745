"""Where and in which precision networks run: chosen by what is there, and logged."""

import logging
import os
import warnings
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch

from hpaloc.gpu_lock import claim_gpus
from hpaloc.gpu_support import has_usable_gpu
from hpaloc.log import InputError
from hpaloc.memory import keep_freed_memory

log = logging.getLogger("hpaloc")

_DTYPES = {
    "float32": torch.float32, "tf32": torch.float32,
    "bfloat16": torch.bfloat16, "float16": torch.float16,
}  # fmt: skip


@dataclass(frozen=True)
class Compute:
    device: torch.device
    dtype: torch.dtype

    def autocast(self) -> AbstractContextManager:
        """Convolutions and linear layers in ``dtype``; the parameters stay float32."""
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not torch.float32)


def choose_compute(precision: str, torch_threads: int, gpus: int = 1) -> Compute:
    """Returns the GPU if there is one and ``gpus`` is not 0, else the CPU, and the number type.

    ``auto`` is bfloat16 on a GPU (float16 where it has no bfloat16) and float32 on the CPU;
    ``float32`` is IEEE's on both, and ``tf32`` is float32 whose products are rounded to TF32 by
    GPUs that can.

    Sets torch's threads (their number decides the order of sums, hence bits) and deterministic
    algorithms where there are such. Of several GPUs the process gets ``gpus`` for itself, see
    ``claim_gpus``. Raises InputError for a GPU that torch cannot use (see ``has_usable_gpu``), for
    float16 without a GPU, and for too few GPUs.
    """
    claim_gpus(gpus)  # before anything starts CUDA
    # Read when CUDA starts; without it the matrix products of cuBLAS may differ between runs.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.set_num_threads(torch_threads)
    # On the CPU they make runs the same to the byte. On a GPU runs agree within rounding only, as
    # cuDNN chooses algorithms by their speed; there this keeps sums in an order that does not
    # change from step to step, so that what differs between two runs is no race.
    torch.use_deterministic_algorithms(True, warn_only=True)
    # Filling fresh memory finds reads of it that is not set; here it would only cost time.
    torch.utils.deterministic.fill_uninitialized_memory = False
    gpu = gpus > 0 and has_usable_gpu()
    if gpus > 0 and not gpu:
        log.info("no GPU that torch can use: running on the CPU")
    if precision == "auto":
        precision = "float32"
        if gpu:
            # GPUs before Ampere (8.0) answer that they have bfloat16, which they emulate slowly.
            # That is T4 and RTX 20 with any torch; V100, P100 and older only with a torch that is
            # still built for them: docs/gpus.md.
            native = torch.cuda.is_bf16_supported(including_emulation=False)
            precision = "bfloat16" if native else "float16"
    if precision == "float16" and not gpu:
        raise InputError("precision float16 needs a GPU: use auto, float32 or bfloat16.")
    if precision == "tf32" and not (gpu and torch.cuda.is_tf32_supported()):
        precision = "float32"  # which is at least as exact; the log says so
    if gpu:
        # The fastest of the deterministic algorithms for each shape; shapes do not change here.
        torch.backends.cudnn.benchmark = True
        # torch rounds float32 to TF32 (10 bits of 23) in convolutions unless it is told not to.
        rounding = "tf32" if precision == "tf32" else "ieee"
        torch.backends.cudnn.conv.fp32_precision = rounding
        torch.backends.cuda.matmul.fp32_precision = rounding
        if rounding == "ieee":  # torch 2.9's compiler advises against what was chosen here
            warnings.filterwarnings("ignore", message="TensorFloat32 tensor cores")
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
