"""Trained networks made ready to predict on a GPU."""

import copy
import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch.fx.experimental.optimization import fuse

from hpaloc.classes import CHANNELS
from hpaloc.compiled import compiled, wanted
from hpaloc.compute import Compute
from hpaloc.gpu_memory import is_shortage, make_room
from hpaloc.gradient import Forward, halved
from hpaloc.network import Network

log = logging.getLogger("hpaloc")

# Up to this batch size the launches of kernels take longer than their work: recorded once as a
# CUDA graph, they are replayed at a stroke.
_SMALL_BATCH = 8


def on_gpu(networks: Sequence[Network], recipe: dict[str, Any], compute: Compute) -> list[Forward]:
    """``networks`` (in evaluation mode) on the GPU: from uint8 images N × S × S × 4 to logits.

    Their batch norm is folded into the convolutions, their weights are in the precision of
    ``compute``, and they are compiled for batches of the recipe's ``batch_size`` where its
    ``compile`` asks for it. Where memory is short, half as many images at a time go through, and
    so on (see ``in_batches_that_fit``); a warning says so, once for a size. Raises the error where the
    weights or one image do not fit (see hpaloc.gpu_memory.is_shortage).
    """
    networks = [folded(network) for network in networks]
    for network in networks:
        network.body.to(
            compute.dtype
        )  # now, and not in every batch; here, where memory is not short
        network.to(compute.device)
    size, fitting = recipe["image_size"], recipe["batch_size"]

    def smaller(count: int) -> None:
        nonlocal fitting
        if count < fitting:  # the first of the networks
            fitting = count
            log.warning(
                "the GPU's memory does not hold a batch of %d images: predicting %d at a time;"
                " probabilities are the same but for rounding", recipe["batch_size"], count,
            )  # fmt: skip

    def made(network: Network, count: int) -> Forward:
        if not wanted(recipe["compile"], compute):
            return network
        images = torch.zeros(
            (count, size, size, len(CHANNELS)), dtype=torch.uint8, device=compute.device
        )
        # A CUDA graph keeps its memory, which is what is short in a smaller batch.
        small = count == recipe["batch_size"] <= _SMALL_BATCH
        return compiled(network, images, compute, "reduce-overhead" if small else None)

    return [
        in_batches_that_fit(partial(made, network), fitting, compute, smaller)
        for network in networks
    ]


def in_batches_that_fit(
    made: Callable[[int], Forward], size: int, compute: Compute, smaller: Callable[[int], None]
) -> Forward:
    """The forward pass of any number of images, ``size`` at a time, or half as many whenever the
    GPU's memory is short.

    ``made`` gives the forward pass (of a network in evaluation mode) for at most so many images;
    it is called at once, and again for every smaller size; ``smaller`` is told the one that fits.
    The logits of an image do not depend on the size but for rounding. Raises the error where one
    image does not fit.
    """
    forward: Forward | None = None

    def in_batches(images: torch.Tensor) -> torch.Tensor:
        if len(images) <= size:
            return forward(images)
        # Copies: a CUDA graph writes its next result over the last one.
        return torch.cat([forward(batch).clone() for batch in images.split(size)])

    def until_it_fits(work: Callable[[], torch.Tensor | None]) -> torch.Tensor | None:
        nonlocal forward, size
        before = size
        while True:
            try:
                if forward is None:
                    with torch.inference_mode(False):  # else it is compiled again for the batches
                        forward = made(size)
                found = work()
                if size < before:
                    smaller(size)
                return found
            except RuntimeError as error:
                if size == 1 or not is_shortage(error):
                    raise
            # Not in the handler: the exception's frames hold what has to be freed.
            forward, size = None, halved(size)
            make_room(compute.device)

    until_it_fits(lambda: None)
    return lambda images: until_it_fits(lambda: in_batches(images))


def folded(network: Network) -> Network:
    """A copy in evaluation mode whose batch norm is part of the convolutions before it, where it
    follows one directly: the same function, but for rounding."""
    network = copy.deepcopy(network).eval()
    network.body = fuse(network.body).eval()
    return network.to(memory_format=torch.channels_last)
