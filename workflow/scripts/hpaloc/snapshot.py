"""A copy of a training state that stays what it is while training goes on, to be written meanwhile."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from hpaloc.checkpoint import Checkpoint

_ALIGNMENT = 64  # bytes: of any type, and of a processor's cache lines


class Snapshots:
    """Takes one copy at a time, into the same memory of the host.

    From a GPU the copies are made by the stream that changes the tensors, before it changes them
    again, so that the program does not wait for them: the memory is pinned (as much as the state
    has, rounded up to a power of two by torch: 1 GB for SE-ResNeXt-101). Where it cannot be, the program waits for the copies.
    """

    def __init__(self) -> None:
        self._memory = torch.empty(0, dtype=torch.uint8)

    def take(self, state: Checkpoint) -> tuple[Checkpoint, Callable[[], None]]:
        """A copy of ``state``, and a function that waits until it is whole: call it before the
        tensors are read. The next call overwrites them."""
        trees = {name: getattr(state, name) for name in ("network", "optimizer", "counts")}
        tensors: list[torch.Tensor] = []
        _copied(trees, lambda tensor: tensors.append(tensor))
        on_gpu = any(tensor.is_cuda for tensor in tensors)
        starts = np.cumsum([0, *(_room(tensor) for tensor in tensors)]).tolist()
        if starts[-1] > len(self._memory):
            self._memory = _memory(starts[-1], on_gpu)
        places = iter(starts)

        def copy(tensor: torch.Tensor) -> torch.Tensor:
            # An array of its own, not a view of the whole: torch.save() writes what a view is of.
            start = next(places)
            part = self._memory.numpy()[start : start + tensor.nbytes]
            dense = torch.empty_like(tensor, device="meta")
            made = (
                torch.from_numpy(part).view(tensor.dtype).as_strided(dense.size(), dense.stride())
            )
            return made.copy_(tensor.detach(), non_blocking=True)

        copies = _copied(trees, copy)
        wait: Callable[[], None] = lambda: None
        if on_gpu:
            event = torch.cuda.Event()
            event.record()
            wait = event.synchronize
        # Training adds to these lists; their elements stay.
        lists = {name: list(getattr(state, name)) for name in ("steps", "epochs", "warnings")}
        return replace(state, **copies, **lists), wait


def _memory(size: int, pinned: bool) -> torch.Tensor:
    if pinned:
        try:
            return torch.empty(size, dtype=torch.uint8, pin_memory=True)
        except RuntimeError:  # the system lets no more memory be locked
            pass
    return torch.empty(size, dtype=torch.uint8)


def _room(tensor: torch.Tensor) -> int:
    return -(-tensor.nbytes // _ALIGNMENT) * _ALIGNMENT


def _copied(tree: Any, copy: Callable[[torch.Tensor], Any]) -> Any:
    """Dictionaries and lists made anew, with a ``copy`` of every tensor."""
    if isinstance(tree, torch.Tensor):
        return copy(tree)
    if isinstance(tree, dict):
        return {key: _copied(value, copy) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_copied(value, copy) for value in tree]
    return tree
