"""What is recorded of every step: it stays on the device and comes in the background."""

from typing import Any

import torch

from hpaloc.compute import Compute
from hpaloc.history import STEP_NUMBERS, STEP_SCORES


class StepRecords:
    """Scores of steps on their way to the CPU, in order.

    Waiting for them in every step would leave a GPU without work while the next step is prepared.
    """

    def __init__(self, compute: Compute):
        self._on_gpu = compute.device.type == "cuda"
        self._made: list[tuple[dict[str, float], torch.Tensor]] = []
        self._sent: list[tuple[list[dict[str, float]], torch.Tensor, Any]] = []

    def add(self, numbers: dict[str, float], scores: dict[str, torch.Tensor]) -> None:
        """Of one step: what is known of it, and its STEP_SCORES on the device."""
        self._made.append((numbers, torch.stack([scores[name] for name in STEP_SCORES])))

    def send(self) -> None:
        """Starts the copy of all that was added."""
        if not self._made:
            return
        numbers, scores = zip(*self._made, strict=True)
        self._made, arrived = [], None
        table = torch.stack(scores)
        if self._on_gpu:
            table = torch.empty_like(table, device="cpu", pin_memory=True).copy_(
                table, non_blocking=True
            )
            arrived = torch.cuda.Event()
            arrived.record()
        self._sent.append((list(numbers), table, arrived))

    def received(self) -> list[list[float]]:
        """Rows of STEP_NUMBERS of all that was sent."""
        rows = []
        for numbers, table, arrived in self._sent:
            if arrived is not None:
                arrived.synchronize()
            for known, values in zip(numbers, table.tolist(), strict=True):
                row = known | dict(zip(STEP_SCORES, values, strict=True))
                rows.append([row[name] for name in STEP_NUMBERS])
        self._sent = []
        return rows

    def all(self) -> list[list[float]]:
        """Rows of STEP_NUMBERS of all that was added and not received."""
        self.send()
        return self.received()
