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

log = logging.getLogger("hpaloc")


def wanted(setting: str | bool, compute: Compute) -> bool:
    """Whether a recipe's ``compile`` asks for it: ``auto`` does on a GPU."""
    return compute.device.type == "cuda" if setting == "auto" else bool(setting)


def compiled(
    network: torch.nn.Module,
    images: torch.Tensor,
    compute: Compute,
    mode: str | None = None,
    in_parts: bool = False,
) -> Callable[[torch.Tensor], torch.Tensor]:
    """``network`` compiled for batches of the shape of ``images`` (uint8 N × S × S × 4, on the
    device); other shapes, such as an epoch's last batch, go through the network as it is.

    All that will be asked of it is tried on ``images`` at once: in evaluation mode the forward pass
    of ``probabilities``; in training mode the way back and the validation too, and with
    ``in_parts`` the pass without a graph. Where the compiler is missing or fails, a warning says so
    and the network itself comes back. Parameters, gradients and running averages stay what they
    were. ``mode`` is torch.compile's. Raises torch.OutOfMemoryError where the GPU's memory does
    not hold the batch.
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
        compile_twice(attempt, folder, lambda error: isinstance(error, torch.OutOfMemoryError))
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - a compiler fails in ways of its own
        _warn(str(error).strip().partition("\n")[0] or type(error).__name__)
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
        return fast(images) if images.shape == shape else network(images)

    return forward


def _warn(reason: str) -> None:
    log.warning(
        "not compiled, which may take half of the speed: %s. `compile: false` in the recipe leaves"
        " it out",
        reason,
    )
