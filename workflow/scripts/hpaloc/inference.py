"""A trained network made ready to predict on a GPU."""

import copy
from typing import Any

import torch
from torch.fx.experimental.optimization import fuse

from hpaloc.classes import CHANNELS
from hpaloc.compiled import compiled, wanted
from hpaloc.compute import Compute
from hpaloc.gradient import Forward
from hpaloc.network import Network

# Up to this batch size the launches of kernels take longer than their work: recorded once as a
# CUDA graph, they are replayed at a stroke.
_SMALL_BATCH = 8


def on_gpu(network: Network, recipe: dict[str, Any], compute: Compute) -> Forward:
    """``network`` (in evaluation mode) on the GPU: from uint8 images N × S × S × 4 to logits.

    Its batch norm is folded into the convolutions, their weights are in the precision of
    ``compute``, and it is compiled for batches of the recipe's ``batch_size`` where its ``compile``
    asks for it.
    """
    network = folded(network).to(compute.device)
    network.body.to(compute.dtype)  # now, and not in every batch
    if not wanted(recipe["compile"], compute):
        return network
    count, size = recipe["batch_size"], recipe["image_size"]
    images = torch.zeros(
        (count, size, size, len(CHANNELS)), dtype=torch.uint8, device=compute.device
    )
    mode = "reduce-overhead" if count <= _SMALL_BATCH else None
    return compiled(network, images, compute, mode)


def folded(network: Network) -> Network:
    """A copy in evaluation mode whose batch norm is part of the convolutions before it, where it
    follows one directly: the same function, but for rounding."""
    network = copy.deepcopy(network).eval()
    network.body = fuse(network.body).eval()
    return network.to(memory_format=torch.channels_last)
