"""Batches filled by worker processes into a few buffers that all of them share."""

import mmap
import sys
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import cv2
import numpy as np
import torch

from hpaloc.log import InputError
from hpaloc.pinning import register, unregister
from hpaloc.workers import Piece, Workers

# Buffers: two with whoever takes the batches, two that are being filled.
SLOTS = 4
# The most images that a worker takes at a time; a batch is shared out among all workers.
_MOST_AT_A_TIME = 8
# The most pieces of a batch: those of all buffers fit into a pipe of one page, if it is read empty.
_MOST_PIECES = 64

# Writes the image at a position into its place in a buffer.
Write = Callable[[int, np.ndarray], None]


def filled(
    parts: list[range], shape: tuple[int, ...], write: Write, workers: int
) -> Iterator[torch.Tensor]:
    """For each of ``parts`` a uint8 tensor n × ``shape`` with the images at these positions.

    The worker processes fill SLOTS buffers of the largest part's size, made once and shared by
    all; on a machine whose GPU is in use they are pinned. A buffer is filled again when nothing
    refers to its tensor any more: whoever keeps more than two of them is given copies. An error
    of a worker is raised here, up to SLOTS batches early. Without workers each tensor is filled
    here when it is asked for. Raises InputError where memory or processes are short.
    """
    # Workers are forked: they start at once and share the memory maps. Where forking is not safe
    # (macOS) or unknown (Windows), batches are made in the process itself.
    if workers < 1 or sys.platform != "linux" or not parts:
        for part in parts:
            images = np.empty((len(part), *shape), np.uint8)
            _write_all(write, part, images)
            yield torch.from_numpy(images)
        return
    yield from _by_workers(parts, shape, write, workers)


def _by_workers(
    parts: list[range], shape: tuple[int, ...], write: Write, workers: int
) -> Iterator[torch.Tensor]:
    largest = max(map(len, parts))
    buffers = _shared_buffers(largest, shape)

    def work(piece: Piece) -> None:
        slot, number, start, stop = piece
        _write_all(write, parts[number][start:stop], buffers[slot, start:stop])

    # Ends OpenCV's threads: a fork would inherit them dead, and wait for them for ever.
    # The workers are the threads.
    cv2.setNumThreads(1)
    at_a_time = max(1, min(_MOST_AT_A_TIME, largest // workers), -(-largest // _MOST_PIECES))
    free: deque[tuple[int, Any]] = deque((slot, None) for slot in range(SLOTS))
    waiting, filling, left = deque(enumerate(parts)), deque(), [0] * SLOTS
    pinned: bool | None = None
    processes = Workers(workers, work)
    try:
        while waiting or filling:
            while waiting and (slot := _next_free(free, must=not filling)) is not None:
                number, part = waiting.popleft()
                starts = range(0, len(part), at_a_time)
                left[slot] = len(starts)
                filling.append((slot, part))
                for start in starts:
                    processes.put((slot, number, start, min(start + at_a_time, len(part))))
            if pinned is None:
                pinned = register(buffers)  # after the fork, and while the workers are at work
            slot, part = filling.popleft()
            while left[slot]:
                left[processes.next_done()] -= 1
            images = buffers[slot, : len(part)]
            # One buffer stays with whoever takes them, one is being filled.
            if len(free) + len(filling) < SLOTS - 2:
                yield torch.from_numpy(images.copy())
                free.append((slot, None))
                continue
            given_back = weakref.finalize(images, _give_back, free, slot, pinned)
            given_back.atexit = False
            tensors = [torch.from_numpy(images)]
            del images
            yield tensors.pop()  # nothing here refers to it meanwhile
    finally:
        processes.close()
        if pinned:
            # Of a buffer that is still out, nobody knows what copies it.
            copies = [copy for _, copy in free if copy is not None]
            unregister(buffers, copies if len(free) == SLOTS else None)


def _shared_buffers(images: int, shape: tuple[int, ...]) -> np.ndarray:
    """SLOTS buffers for so many images, in memory that is shared with forked processes."""
    size = SLOTS * images * int(np.prod(shape))
    try:
        memory = mmap.mmap(-1, size)
    except OSError as error:
        raise InputError(
            f"no memory for {SLOTS} batches of {images} images, {size / 2**20:,.0f} MiB"
            f" ({error.strerror}): give the job more memory, or use a smaller batch_size."
        ) from None
    return np.frombuffer(memory, np.uint8).reshape(SLOTS, images, *shape)


def _write_all(write: Write, positions: range, images: np.ndarray) -> None:
    for position, image in zip(positions, images, strict=True):
        write(position, image)


def _next_free(free: deque[tuple[int, Any]], must: bool) -> int | None:
    """A buffer that may be filled again; None if there is none yet, but wait if there ``must``."""
    for _ in range(len(free)):
        slot, event = free.popleft()
        if event is None or event.query():
            return slot
        free.append((slot, event))
    if must:
        slot, event = free.popleft()
        event.synchronize()
        return slot
    return None


def _give_back(free: deque[tuple[int, Any]], slot: int, pinned: bool) -> None:
    event = None
    if pinned:  # the GPU may still be reading it
        # A GPU that has failed reads nothing; whoever uses it next reports that.
        with suppress(RuntimeError):
            event = torch.cuda.Event(blocking=True)  # waiting for it takes no core
            event.record()
    free.append((slot, event))
