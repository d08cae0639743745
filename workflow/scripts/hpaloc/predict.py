"""Probabilities of networks, averaged over the views of test-time augmentation."""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch

from hpaloc.classes import N_CLASSES
from hpaloc.compute import Compute
from hpaloc.feed import Batch
from hpaloc.network import Network


def mean_probabilities(
    networks: Sequence[Network],
    batches_of_view: Callable[[int], Iterable[Batch]],
    n_images: int,
    n_views: int,
    compute: Compute,
) -> np.ndarray:
    """Mean over the views of every network's probabilities: float32 networks × n × 28.

    ``batches_of_view`` gives the batches of one view, all n images in order; each batch goes
    through all networks, so that an image is read once per view. The networks are in evaluation
    mode on the device.
    """
    total = np.zeros((len(networks), n_images, N_CLASSES), dtype=np.float64)
    for view in range(n_views):
        start = 0
        for batch in batches_of_view(view):
            images = to_device(batch.images, compute)
            stop = start + len(images)
            for number, network in enumerate(networks):
                total[number, start:stop] += probabilities(network, images, compute)
            start = stop
        if start != n_images:
            raise ValueError(f"view {view} has {start} images where there are {n_images}")
    return (total / n_views).astype(np.float32)


def probabilities(network: Network, images: torch.Tensor, compute: Compute) -> np.ndarray:
    """Sigmoid of the logits of one batch on the device: float32 N × 28."""
    with torch.inference_mode(), compute.autocast():
        logits = network(images)
    return logits.float().sigmoid().cpu().numpy()


def to_device(tensor: torch.Tensor, compute: Compute) -> torch.Tensor:
    """A part of a batch on the device; images travel as uint8, a quarter of float32's bytes."""
    if compute.device.type == "cpu":
        return tensor
    return tensor.pin_memory().to(compute.device, non_blocking=True)
