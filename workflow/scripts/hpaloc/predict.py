"""Probabilities of networks, averaged over the views of test-time augmentation."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from hpaloc.classes import N_CLASSES
from hpaloc.compute import Compute
from hpaloc.device_batches import on_device
from hpaloc.feed import Batch, n_draws, n_views
from hpaloc.geometry import N_DIHEDRAL
from hpaloc.gradient import Forward


def mean_probabilities(
    forwards: Sequence[Forward],
    batches: Iterator[Batch],
    n_images: int,
    views: dict[str, Any],
    compute: Compute,
    done: Callable[[int], None] = lambda images: None,
) -> np.ndarray:
    """Mean over the views of every network's probabilities: float32 networks × n × 28.

    ``batches`` are those of hpaloc.feed.view_batches, of all n images in order: a batch is read
    once, and all its views go through all networks (``forwards``, in evaluation mode, on the
    device). ``done`` is told the images of every view that was worked on. Nothing waits for the
    device before the end.
    """
    total = torch.zeros(
        (len(forwards), n_images, N_CLASSES), dtype=torch.float64, device=compute.device
    )
    draws, start, drawn = n_draws(views), 0, 0
    for batch in on_device(batches, compute):
        stop = start + len(batch.images)
        for images in exact_views(batch.images, views):
            for number, forward in enumerate(forwards):
                total[number, start:stop] += probabilities(forward, images, compute)
            done(len(images))
        drawn += 1
        if drawn == draws:
            start, drawn = stop, 0
    if start != n_images:
        raise ValueError(f"there are {start} images where {n_images} are wanted")
    return (total / n_views(views)).float().cpu().numpy()


def probabilities(forward: Forward, images: torch.Tensor, compute: Compute) -> torch.Tensor:
    """Sigmoid of the logits of one batch (uint8 N × S × S × 4): float32 N × 28 on the device."""
    with torch.inference_mode(), compute.autocast():
        logits = forward(images)
    return logits.float().sigmoid()


def exact_views(images: torch.Tensor, views: dict[str, Any]) -> Iterator[torch.Tensor]:
    """The exact flips and turns of a batch that ``views`` asks for, beside the draws that were
    made on the CPU: the eight of hpaloc.geometry.dihedral in their order, or the batch itself."""
    if views["kind"] != "dihedral8":
        yield images
        return
    for view in range(N_DIHEDRAL):
        turned = images.transpose(1, 2) if view & 4 else images
        axes = [axis for axis, bit in ((1, 2), (2, 1)) if view & bit]
        turned = turned.flip(axes) if axes else turned
        yield turned.contiguous()
