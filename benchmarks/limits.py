"""What a device can do at most, and what that makes of a network: its roofline."""

import time
from typing import Any, NamedTuple

import torch
from torch import nn

from hpaloc.compute import Compute

# Values to copy and the side of matrices where little memory is free: they fit into caches, and
# their kernels are too short to be limits.
SMALL = 2**20, 512


class Limits(NamedTuple):
    """As measured: bytes copied (read and written) and floating-point operations a second, with
    ``copied`` bytes at a time and matrices of ``side`` × ``side``."""

    bytes_per_second: float
    operations_per_second: float
    bytes_per_value: int
    copied: int
    side: int


def measure_limits(compute: Compute) -> Limits:
    on_gpu = compute.device.type == "cuda"
    count, side = 2**25, 2048
    # More is nearer to the limit, as long as it leaves most of the memory free.
    if on_gpu and torch.cuda.mem_get_info()[0] > 2**34:
        count, side = 2**28, 8192
    elif on_gpu and torch.cuda.mem_get_info()[0] < 2**30:
        count, side = SMALL
    source = torch.zeros(count, dtype=torch.float32, device=compute.device)
    target = torch.empty_like(source)
    factors = torch.randn((side, side), device=compute.device).to(compute.dtype)

    def best(work: Any) -> float:
        times = []
        for _ in range(8):
            if on_gpu:
                torch.cuda.synchronize()
            start = time.perf_counter()
            work()
            if on_gpu:
                torch.cuda.synchronize()
            times.append(time.perf_counter() - start)
        return min(times)

    copying = best(lambda: target.copy_(source))
    multiplying = best(lambda: factors @ factors)
    return Limits(
        8 * count / copying, 2 * side**3 / multiplying, compute.dtype.itemsize, 4 * count, side
    )


def sizes_of(limits: Limits) -> str:
    """What the limits were measured with, and that it says little where memory was short."""
    words = f"{limits.copied // 2**20:,} MiB and matrices of {limits.side:,} × {limits.side:,}"
    if limits.side == SMALL[1]:
        words += "; too little memory was free for more, so that these are NOT the device's limits"
    return words


@torch.no_grad()
def bounds(
    network: nn.Module, recipe: dict[str, Any], limits: Limits
) -> tuple[float, float, float]:
    """Images a second that the forward pass of a batch cannot exceed: where all that can be is fused
    into the convolutions, where every operation is a kernel of its own,
    and by arithmetic alone.

    A kernel takes as long as its bytes or its operations do, whichever is more: its inputs, its
    result and its weights, each once.
    """
    fused = single = arithmetic = 0.0
    size, batch = recipe["image_size"], recipe["batch_size"]

    def count(module: nn.Module, inputs: tuple[torch.Tensor, ...], result: torch.Tensor) -> None:
        nonlocal fused, single, arithmetic
        values = inputs[0].numel() + result.numel()
        weights = sum(parameter.numel() for parameter in module.parameters())
        seconds = limits.bytes_per_value * (values + weights / batch) / limits.bytes_per_second
        if isinstance(module, nn.Conv2d | nn.Linear):
            operations = 2 * result.numel() * module.weight[0].numel()
            work = operations / limits.operations_per_second
            fused += max(seconds, work)
            single += max(seconds, work)
            arithmetic += work
        elif isinstance(module, nn.MaxPool2d):
            fused += seconds
            single += seconds
        elif isinstance(module, nn.BatchNorm2d | nn.ReLU | nn.Sigmoid):
            single += seconds

    def add_block(
        module: nn.Module, inputs: tuple[torch.Tensor, ...], result: torch.Tensor
    ) -> None:
        # The attention's factors are known when the last convolution's map is written: it is read
        # again to be multiplied and added to the shortcut. As kernels of their own these read and
        # write three maps each.
        nonlocal fused, single
        seconds = limits.bytes_per_value * 3 * result.numel() / limits.bytes_per_second
        fused += seconds
        single += 2 * seconds

    hooks = [
        module.register_forward_hook(add_block if hasattr(module, "conv3") else count)
        for module in network.modules()
        if hasattr(module, "conv3") or not list(module.children())
    ]
    network.eval()(torch.zeros((1, size, size, 4), dtype=torch.uint8))
    for hook in hooks:
        hook.remove()
    return 1 / fused, 1 / single, 1 / arithmetic
