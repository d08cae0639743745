"""Where the time of a training step goes, by names that its parts have in the code.

The code marks its parts; only while ``clocked`` runs are they timed. On a GPU that is the time
between two points of its stream: when the GPU did the part's work, not when it was told to.
"""

import itertools
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from hpaloc.compute import Compute

# In the order of a step.
WAIT, FORWARD, LOSSES, BACKWARD, OPTIMIZER, SCORES = (
    "wait for the batch", "forward", "losses", "backward", "optimizer", "scores",
)  # fmt: skip
PARTS = (WAIT, FORWARD, LOSSES, BACKWARD, OPTIMIZER, SCORES)


_Point = float | torch.cuda.Event


class Clock:
    """Times of parts and of steps, in seconds; read them when all is done."""

    def __init__(self, compute: Compute):
        self._on_gpu = compute.device.type == "cuda"
        # Of each part that ran: step, name, seconds in which the program was at it, its two points.
        self._parts: list[tuple[int, str, float, _Point, _Point]] = []
        self._ends: list[_Point] = []

    def point(self) -> _Point:
        """Now, on the device."""
        if not self._on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def add(self, name: str, seconds: float, begin: _Point, end: _Point) -> None:
        self._parts.append((len(self._ends), name, seconds, begin, end))

    def step(self) -> None:
        """Here a step ends, or begins."""
        self._ends.append(self.point())

    def steps(self) -> list[float]:
        """Seconds between one end and the next, on the device."""
        return [_between(*ends) for ends in itertools.pairwise(self._ends)]

    def parts(self, name: str) -> tuple[list[float], list[float]]:
        """Seconds of a part in each of ``steps``: on the device, and of the program."""
        device, program = ([0.0] * len(self._ends) for _ in range(2))
        for step, other, seconds, begin, end in self._parts:
            if other == name and step < len(self._ends):
                device[step] += _between(begin, end)
                program[step] += seconds
        return device[1:], program[1:]


_clock: Clock | None = None


@contextmanager
def part(name: str) -> Iterator[None]:
    """Marks a part of a step."""
    clock = _clock
    if clock is None:
        yield
        return
    begin, started = clock.point(), time.perf_counter()
    yield
    seconds = time.perf_counter() - started
    clock.add(name, seconds, begin, clock.point())


@contextmanager
def clocked(compute: Compute) -> Iterator[Clock]:
    """Times all parts that are run within."""
    global _clock
    _clock = Clock(compute)
    try:
        yield _clock
    finally:
        _clock = None


def _between(begin: _Point, end: _Point) -> float:
    if isinstance(begin, float):
        return end - begin
    end.synchronize()
    return begin.elapsed_time(end) / 1000
