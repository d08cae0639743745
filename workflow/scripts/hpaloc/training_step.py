"""The parts of training steps in time: steps of the real loop, made and thrown away."""

import time
from dataclasses import replace
from statistics import median
from typing import Any

import pandas as pd

from hpaloc import schedule
from hpaloc.checkpoint import Checkpoint
from hpaloc.compute import Compute, describe
from hpaloc.fold_data import FoldData
from hpaloc.ranks import ALONE
from hpaloc.step_clock import PARTS, clocked
from hpaloc.training import set_up, train_epoch

# Steps that warm up: memory is found, and algorithms are chosen.
_WARM_UP = 3
_FEWEST, _MOST = 3, 100


class _Enough(Exception):
    """Of steps."""


def time_steps(
    recipe: dict[str, Any], fold: int, data: FoldData, compute: Compute, seconds: float
) -> pd.DataFrame:
    """Steps of the fold's training for about so many ``seconds``.

    A row for each of PARTS, and "rest" for what is between them: part, milliseconds (median over
    the steps, on the device), program_milliseconds (in which the program was at it, or waited),
    share of the step; then what is the same in all rows. While a GPU works the program runs ahead
    of it, so that its own times do not add up to a step.
    """
    state = Checkpoint(plateau=schedule.new_plateau(recipe["optimizer"]["learning_rate"]))
    setup = set_up(recipe | {"pretrained": None}, fold, data, compute, None, ALONE, state)
    begun, made = time.monotonic(), 0
    with clocked(compute) as clock:

        def pause(_: bool) -> None:
            nonlocal made
            clock.step()
            made += 1
            timed = made - 1 - _WARM_UP
            late = time.monotonic() - begun > seconds
            if timed >= _MOST or (timed >= _FEWEST and late):
                raise _Enough

        try:
            while True:
                train_epoch(setup, state, pause)
                state = replace(state, epoch=state.epoch + 1, counts=None)
        except _Enough:
            pass
    # The first end is that of the first step.
    whole = 1000 * median(clock.steps()[_WARM_UP:])
    rows = []
    for name in PARTS:
        device, program = (1000 * median(times[_WARM_UP:]) for times in clock.parts(name))
        rows.append({"part": name, "milliseconds": device, "program_milliseconds": program})
    rest = whole - sum(row["milliseconds"] for row in rows)
    rows.append({"part": "rest", "milliseconds": max(0.0, rest)})
    table = pd.DataFrame(rows)
    return table.assign(
        share=table["milliseconds"] / whole,
        step_milliseconds=whole,
        images_per_second=1000 * recipe["batch_size"] / whole,
        steps=made - 1 - _WARM_UP,
        network=recipe["network"],
        image_size=recipe["image_size"],
        batch_size=recipe["batch_size"],
        workers=data.workers,
        device=describe(compute.device),
    )
