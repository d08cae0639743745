"""Batches on the device, each copied while the one before it is worked on."""

from collections import deque
from collections.abc import Iterator
from functools import cache

import torch

from hpaloc.compute import Compute
from hpaloc.feed import Batch
from hpaloc.pinning import pinned

# Batches whose work may be waiting for the GPU: more would only fill its memory.
_AHEAD = 2


def on_device(batches: Iterator[Batch], compute: Compute) -> Iterator[Batch]:
    """``batches`` with images and targets on the device; images travel as uint8, a quarter of
    float32's bytes. To a GPU they are copied one batch ahead, by a stream of its own."""
    if compute.device.type == "cpu":
        yield from batches
        return
    stream = _copies(compute.device)
    coming: tuple[Batch, torch.cuda.Event] | None = None
    at_work: deque[torch.cuda.Event] = deque()
    while True:
        # A buffer of batches is filled again after what the stream that let go of it had to do:
        # it is asked for, and let go of, in the stream that copies it.
        with torch.cuda.stream(stream):
            batch = next(batches, None)
            following = None if batch is None else _sent(batch, compute.device)
            del batch
        if coming is not None:
            yield _arrived(*coming)
            at_work.append(_event(blocking=True))  # the host waits for it, without taking a core
        if following is None:
            return
        coming = following
        if len(at_work) > _AHEAD:
            at_work.popleft().synchronize()


@cache
def _copies(device: torch.device) -> torch.cuda.Stream:
    """One for the whole process: memory that a stream was given is not used by another."""
    return torch.cuda.Stream(device)


def to_device(tensor: torch.Tensor, compute: Compute) -> torch.Tensor:
    """One tensor on the device."""
    if compute.device.type == "cpu":
        return tensor
    return pinned(tensor).to(compute.device, non_blocking=True)


def to_host(tensor: torch.Tensor) -> torch.Tensor:
    """One tensor on the CPU. Waits for the device without taking a core, as .cpu() would."""
    if tensor.device.type == "cuda":
        _event(blocking=True).synchronize()
    return tensor.cpu()


def _sent(batch: Batch, device: torch.device) -> tuple[Batch, torch.cuda.Event]:
    images, targets = (
        None if tensor is None else pinned(tensor).to(device, non_blocking=True)
        for tensor in (batch.images, batch.targets)
    )
    return batch._replace(images=images, targets=targets), _event()


def _arrived(batch: Batch, sent: torch.cuda.Event) -> Batch:
    stream = torch.cuda.current_stream()
    stream.wait_event(sent)
    for tensor in (batch.images, batch.targets):
        if tensor is not None:
            tensor.record_stream(stream)  # its memory is not given to the next copy before
    return batch


def _event(blocking: bool = False) -> torch.cuda.Event:
    """Where the current stream is now."""
    event = torch.cuda.Event(blocking=blocking)
    event.record()
    return event
