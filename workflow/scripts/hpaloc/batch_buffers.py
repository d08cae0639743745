"""Batches filled by worker processes into a few buffers that all of them share."""

import mmap
import multiprocessing
import signal
import sys
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from multiprocessing.connection import wait
from typing import Any

import cv2
import numpy as np
import torch

from hpaloc.memory import keep_freed_memory

# Buffers: two with whoever takes the batches, two that are being filled.
SLOTS = 4
# The most images that a worker takes at a time; a batch is shared out among all workers.
_MOST_AT_A_TIME = 8

# Writes the image at a position into its place in a buffer.
Write = Callable[[int, np.ndarray], None]


def filled(
    parts: list[range], shape: tuple[int, ...], write: Write, workers: int
) -> Iterator[torch.Tensor]:
    """For each of ``parts`` a uint8 tensor n × ``shape`` with the images at these positions.

    The worker processes fill SLOTS buffers of the largest part's size, made once and shared by
    all; on a machine whose GPU is in use they are pinned. A buffer is filled again when nothing
    refers to its tensor any more: whoever keeps more than two of them is given copies. An error
    of a worker is raised here. Without workers each tensor is filled here when it is asked for.
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
    memory = mmap.mmap(-1, SLOTS * largest * int(np.prod(shape)))  # shared with forked processes
    buffers = np.frombuffer(memory, np.uint8).reshape(SLOTS, largest, *shape)
    pinned = _pin(buffers)
    # Ends OpenCV's threads: a fork would inherit them dead, and wait for them for ever.
    # The workers are the threads.
    cv2.setNumThreads(1)
    context = multiprocessing.get_context("fork")
    tasks, done = context.SimpleQueue(), context.SimpleQueue()
    processes = [
        context.Process(target=_work, args=(tasks, done, buffers, write), daemon=True)
        for _ in range(workers)
    ]
    at_a_time = max(1, min(_MOST_AT_A_TIME, largest // workers))
    free: deque[tuple[int, Any]] = deque((slot, None) for slot in range(SLOTS))
    waiting, filling, left = deque(parts), deque(), [0] * SLOTS
    try:
        for process in processes:
            process.start()
        while waiting or filling:
            while waiting and (slot := _next_free(free, must=not filling)) is not None:
                part = waiting.popleft()
                pieces = [part[k : k + at_a_time] for k in range(0, len(part), at_a_time)]
                left[slot] = len(pieces)
                filling.append((slot, part))
                for number, piece in enumerate(pieces):
                    tasks.put((slot, number * at_a_time, piece))
            slot, part = filling.popleft()
            while left[slot]:
                left[_next_done(done, processes)] -= 1
            images = buffers[slot, : len(part)]
            # One buffer stays with whoever takes them, one is being filled.
            if len(free) + len(filling) < SLOTS - 2:
                yield torch.from_numpy(images.copy())
                free.append((slot, None))
                continue
            given_back = weakref.finalize(images, _give_back, free, slot, pinned)
            given_back.atexit = False
            tensor = torch.from_numpy(images)
            del images
            yield tensor
            del tensor
    finally:
        for process in processes:
            if process.pid is not None:
                process.kill()  # they keep nothing
                process.join()
        if pinned:
            torch.cuda.synchronize()
            torch.cuda.cudart().cudaHostUnregister(buffers.ctypes.data)


def _work(tasks: Any, done: Any, buffers: np.ndarray, write: Write) -> None:
    # Whoever ends the program by a signal ends its first process, and that one its workers.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    # The only other end is the first process: when it is gone, the queue ends too.
    tasks._writer.close()
    keep_freed_memory()
    try:
        while True:
            slot, start, piece = tasks.get()
            try:
                _write_all(write, piece, buffers[slot, start : start + len(piece)])
            except Exception as error:  # noqa: BLE001 - it is raised where the batch is taken
                done.put(error)
            else:
                done.put(slot)
    except (EOFError, OSError):
        return


def _write_all(write: Write, positions: range, images: np.ndarray) -> None:
    for position, image in zip(positions, images, strict=True):
        write(position, image)


def _next_done(done: Any, processes: list[Any]) -> int:
    """The buffer of which another piece is filled."""
    ready = wait([done._reader, *(process.sentinel for process in processes)])
    if done._reader not in ready:
        (ended, *_) = (process for process in processes if process.sentinel in ready)
        ended.join()
        raise RuntimeError(
            f"a process that makes batches has ended (exit code {ended.exitcode}; -9: killed, most"
            " often for want of memory)"
        )
    result = done.get()
    if isinstance(result, Exception):
        raise result
    return result


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
        event = torch.cuda.Event()
        event.record()
    free.append((slot, event))


def _pin(buffers: np.ndarray) -> bool:
    """Locks the memory for transfers in the background, if a GPU is in use."""
    if not (torch.cuda.is_available() and torch.cuda.is_initialized()):
        return False
    status = torch.cuda.cudart().cudaHostRegister(buffers.ctypes.data, buffers.nbytes, 0)
    return int(status) == 0
