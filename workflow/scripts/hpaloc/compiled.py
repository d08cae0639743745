"""The forward pass of a network, compiled where that works."""

import logging
import time
from collections.abc import Callable

import torch

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
) -> Callable[[torch.Tensor], torch.Tensor]:
    """``network`` compiled for batches of the shape of ``images`` (uint8 N × S × S × 4, on the
    device); other shapes, such as an epoch's last batch, go through the network as it is.

    It is tried on ``images`` at once, in training with the way back too: where the compiler is
    missing or fails, a warning says so and the network itself comes back. Parameters, gradients
    and running averages stay what they were. ``mode`` is torch.compile's. Raises
    torch.OutOfMemoryError where the GPU's memory does not hold the batch.
    """
    started = time.monotonic()
    buffers = [buffer.clone() for buffer in network.buffers()]
    fast = torch.compile(network, dynamic=False, mode=mode)
    try:
        with torch.set_grad_enabled(network.training), compute.autocast():
            logits = fast(images)
        if network.training:
            logits.float().sum().backward()
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - a compiler fails in ways of its own
        log.warning(
            "not compiled, which may take half of the speed: %s. torch.compile needs a C++ compiler"
            " on the CPU and Triton on a GPU; `compile: false` in the recipe leaves it out",
            str(error).strip().partition("\n")[0] or type(error).__name__,
        )
        return network
    finally:
        for buffer, former in zip(network.buffers(), buffers, strict=True):
            buffer.copy_(former)
        network.zero_grad(set_to_none=True)
    log.info("compiled in %.0f s", time.monotonic() - started)
    shape = images.shape

    def forward(images: torch.Tensor) -> torch.Tensor:
        return fast(images) if images.shape == shape else network(images)

    return forward
