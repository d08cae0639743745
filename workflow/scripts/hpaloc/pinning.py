"""Pinned memory: what the GPU copies from in the background. Where the system refuses to pin,
batches are copied from pageable memory, which costs time and nothing else."""

import logging
from collections.abc import Iterable
from contextlib import suppress
from functools import cache

import numpy as np
import torch

log = logging.getLogger("hpaloc")

# Whether this process still tries to copy tensors to pinned memory.
_can_copy = True


def register(memory: np.ndarray) -> bool:
    """Pins memory in place where CUDA is in use; returns whether it is pinned.

    Call it after the last fork: a forked process has no use for it.
    """
    if not (torch.cuda.is_available() and torch.cuda.is_initialized()):
        return False
    cudart = torch.cuda.cudart()
    status = cudart.cudaHostRegister(memory.ctypes.data, memory.nbytes, 0)
    if int(status) == 0:
        return True
    _clear_error()
    _warn(cudart.cudaGetErrorString(status))
    return False


def unregister(memory: np.ndarray, copies: Iterable[torch.cuda.Event] | None = None) -> None:
    """Ends the pinning of ``register``, after the ``copies`` from it (None: after all work).

    It raises nothing: if the GPU has failed, whoever uses it next reports that.
    """
    with suppress(RuntimeError):
        if copies is None:
            torch.cuda.synchronize()
        else:
            for copy in copies:
                copy.synchronize()
    with suppress(RuntimeError):
        status = torch.cuda.cudart().cudaHostUnregister(memory.ctypes.data)
        if int(status):
            _clear_error()


def pinned(tensor: torch.Tensor) -> torch.Tensor:
    """Returns the tensor itself if it is pinned, else a pinned copy; itself where that fails."""
    global _can_copy
    if not _can_copy or tensor.is_pinned():
        return tensor
    try:
        return tensor.pin_memory()
    except RuntimeError as error:
        _can_copy = False  # each further attempt would cost more than a pageable copy
        _warn(str(error).splitlines()[0])
        return tensor


def _clear_error() -> None:
    """Takes the error that a failed call left to the next kernel launch, which reports it."""
    with suppress(RuntimeError):
        torch.ones(1, device="cuda")


@cache
def _warn(reason: str) -> None:
    """Once for each reason."""
    log.warning(
        "memory cannot be pinned for copies to the GPU (%s): batches are copied from pageable"
        " memory, which is slower. Raise the limit of locked memory: ulimit -l unlimited before the"
        " job, docker run --ulimit memlock=-1, or LimitMEMLOCK=infinity for slurmd.",
        reason,
    )
