"""A shortage of the GPU's memory: how it is recognized, cleaned up after and reported."""

import gc
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from textwrap import shorten
from typing import Any

import torch

from hpaloc.log import InputError

# torch raises OutOfMemoryError where its own allocator finds no room. Kernels whose code is loaded
# at their first launch, cuBLAS, cuDNN, NCCL and Triton allocate beside it, and fail with errors
# that only their messages tell from others. Not a shortage of memory: Triton's "out of resource"
# (shared memory or registers of one kernel, whatever the batch), and a compiler on the host that
# finds no memory.
_SHORTAGE = re.compile(
    r"CUDA out of memory"
    r"|CUDA (driver )?error: out of memory"
    r"|Triton Error \[CUDA\]: out of memory"
    r"|cudaErrorMemoryAllocation|CUDA_ERROR_OUT_OF_MEMORY"
    r"|CU\w+_STATUS_\w*ALLOC(ATION)?_FAILED"
    r"|unable to find an engine to execute this computation"
    r"|[Cc]uda failure (\d+ )?'out of memory'|Failed to CUDA \w*alloc"
)
# Libraries that find no memory for their own start or code may say no more than this. So they do
# where they are broken: it is a shortage only where hardly any memory is free.
_PERHAPS = re.compile(r"CU(BLAS|DNN)_STATUS_(NOT_INITIALIZED|INTERNAL_ERROR)\b")
_HARDLY_ANY = 2**30


def is_shortage(error: BaseException) -> bool:
    """Whether an exception says that the GPU's memory is short, so that fewer images may fit.

    Errors after which a GPU can do nothing more in this process (an illegal address, a failed
    launch) are not among them.
    """
    if isinstance(error, torch.OutOfMemoryError):
        return True
    if not isinstance(error, RuntimeError):
        return False
    words = str(error)
    if _SHORTAGE.search(words):
        return True
    return bool(_PERHAPS.search(words)) and _free_bytes() < _HARDLY_ANY


def make_room(device: torch.device) -> None:
    """Frees what an attempt that ran short of memory has left, for the next one.

    To be called when nothing refers to the exception any more: its frames hold tensors. Raises
    the GPU's error if that failure was more than a shortage of memory.
    """
    gc.collect()
    if device.type != "cuda":
        return
    torch.cuda.empty_cache()
    try:
        # CUDA keeps an error that nobody has fetched: the next launch of a kernel, whichever it
        # is, raises it and thereby clears it.
        torch.zeros(1, device=device).add_(1)
    except RuntimeError as error:
        if not is_shortage(error):
            raise
    torch.cuda.synchronize(device)


@contextmanager
def shortage_in_words(what: str, advice: str) -> Iterator[None]:
    """Raises InputError where the GPU's memory is short: ``what`` it does not hold, ``advice``."""
    try:
        yield
    except RuntimeError as error:
        if not is_shortage(error):
            raise
        reason = shorten(str(error), 160)
        raise InputError(
            f"the GPU's memory does not hold {what}. {advice} {_in_use()}({reason})"
        ) from None


def prediction_in_words(networks: int, recipe: dict[str, Any]) -> AbstractContextManager[None]:
    """``shortage_in_words`` of a prediction with so many networks of a recipe."""
    many = f"{networks} networks" if networks > 1 else "the network"
    return shortage_in_words(
        f"{many} ({recipe['network']}) and one image of {recipe['image_size']} px",
        "End what else runs on this GPU, use one with more memory, or predict on the CPU (--gpus 0;"
        " in a workflow's configuration, gpus_per_fold: 0).",
    )


def _in_use() -> str:
    try:
        free, total = torch.cuda.mem_get_info()
        mine = torch.cuda.memory_reserved()
    except (RuntimeError, AssertionError):  # no GPU, or one that does nothing more
        return ""
    others = max(0, total - free - mine)
    return (
        f"Of its {total / 2**30:.2f} GiB torch holds {mine / 2**30:.2f} in this program, CUDA's"
        f" libraries and other programs {others / 2**30:.2f}. "
    )


def _free_bytes() -> int:
    try:
        return torch.cuda.mem_get_info()[0]
    except (RuntimeError, AssertionError):
        return _HARDLY_ANY
