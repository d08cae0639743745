"""The forward pass of a network, compiled where that works."""

import logging
import os
import time
from collections.abc import Callable

import torch

from hpaloc.compile_cache import (
    compile_twice,
    count_compiled,
    use_folder,
    what_is_missing,
)
from hpaloc.compute import Compute
from hpaloc.gpu_memory import is_shortage

log = logging.getLogger("hpaloc")

# The value of a recipe's ``compile`` that asks for CUDA graphs too.
GRAPHS = "graphs"


def wanted(setting: str | bool, compute: Compute) -> bool:
    """Whether a recipe's ``compile`` asks for it: ``auto`` and ``graphs`` do on a GPU."""
    return compute.device.type == "cuda" if setting in ("auto", GRAPHS) else bool(setting)


def compiled(
    network: torch.nn.Module,
    images: torch.Tensor,
    compute: Compute,
    mode: str | None = None,
    in_parts: bool = False,
) -> Callable[[torch.Tensor], torch.Tensor]:
    """``network`` compiled for batches of the shape of ``images`` (uint8 N × S × S × 4, on the
    device). In evaluation mode any number of images goes through in batches of that shape, the last
    one filled up with zeros, which takes less memory than the network as it is. Other batches, such
    as the last one of an epoch of training, go through the network as it is: batch norm would
    normalise by the filling too.

    All that will be asked of it is tried on ``images`` at once: in evaluation mode the forward pass
    of ``probabilities``; in training mode the way back and the validation too, and with
    ``in_parts`` the pass without a graph. Where the compiler is missing or fails, a warning says so
    and the network itself comes back. Parameters, gradients and running averages stay what they
    were. ``mode`` is torch.compile's. Raises the error where the GPU's memory does not hold the
    batch (see hpaloc.gpu_memory.is_shortage).
    """
    # What Triton does where nothing is said, with a warning that later versions will not.
    os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")
    folder = use_folder()
    if missing := what_is_missing(compute.device.type):
        _warn(missing)
        return network
    log.info(
        "compiling for %d images of %d px: minutes without a word the first time on this kind of"
        " machine, then less, for the code is kept in %s", *images.shape[:2], folder,
    )  # fmt: skip
    started = time.monotonic()
    training = network.training
    buffers = [buffer.clone() for buffer in network.buffers()]
    # The networks of all folds are compiled from the same lines of code, and each counts. With
    # fullgraph a limit is an error that is seen here, and no silent return to what is slow.
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 256)
    fast = torch.compile(network, dynamic=False, fullgraph=True, mode=mode)

    def attempt() -> None:
        network.train(training)
        with compute.autocast():
            if training:
                fast(images).float().sum().backward()
                if in_parts:
                    with torch.no_grad():
                        fast(images)
                network.eval()
            with torch.inference_mode():
                fast(images)

    before = count_compiled()
    try:
        compile_twice(attempt, folder, is_shortage)
    except Exception as error:
        # Anything else: a compiler fails in ways of its own.
        if is_shortage(error):
            raise
        _warn(_first_reason(error))
        return network
    finally:
        network.train(training)
        for buffer, former in zip(network.buffers(), buffers, strict=True):
            buffer.copy_(former)
        network.zero_grad(set_to_none=True)
    log.info(
        "compiled in %.0f s%s",
        time.monotonic() - started, "" if count_compiled() > before else " (code that was kept)",
    )  # fmt: skip
    shape = images.shape

    def forward(images: torch.Tensor) -> torch.Tensor:
        if images.shape == shape:
            return fast(images)
        if network.training or images.shape[1:] != shape[1:]:
            return network(images)
        if len(images) > shape[0]:
            # Copies: a CUDA graph writes its next result over the last one.
            return torch.cat([forward(batch).clone() for batch in images.split(shape[0])])
        with torch.inference_mode(False):  # a tensor like those of full batches, else compiled anew
            filled = images.new_zeros(shape)
            filled[: len(images)] = images
        return fast(filled)[: len(images)]

    return forward


def _first_reason(error: Exception) -> str:
    """The first line of an error that is a reason: torch puts ``backend='…' raised:`` before it."""
    lines = [line.strip() for line in str(error).splitlines()]
    reasons = [line for line in lines if line and not line.endswith("raised:")]
    return reasons[0].rstrip(".") if reasons else type(error).__name__


def _warn(reason: str) -> None:
    log.warning(
        "not compiled, which may take half of the speed: %s. `compile: false` in the recipe leaves"
        " it out",
        reason,
    )
