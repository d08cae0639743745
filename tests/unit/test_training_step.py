"""The clock of a training step, and the table and the marks that it makes."""

import json
import time

import pandas as pd
import pytest
import torch
from training_case import make_case, recipe

import measure_training_step
from hpaloc import step_clock
from hpaloc.compute import Compute
from hpaloc.step_clock import BACKWARD, FORWARD, PARTS, clocked, part

CPU = Compute(torch.device("cpu"), torch.float32)


def test_parts_are_timed_only_while_the_clock_runs() -> None:
    with part(FORWARD):
        pass
    with clocked(CPU) as clock:
        clock.step()
        for pauses in (1, 3):
            for _ in range(pauses):  # a part may come in pieces
                with part(FORWARD):
                    time.sleep(0.02)
            clock.step()
        with part(BACKWARD):  # of a step that has not ended
            pass
    device, program = clock.parts(FORWARD)
    assert len(device) == len(clock.steps()) == 2
    assert 0.02 <= device[0] < device[1] and device[1] >= 0.06
    assert program == pytest.approx(device, rel=0.2)
    assert all(whole >= forward for whole, forward in zip(clock.steps(), device, strict=True))
    assert clock.parts(BACKWARD) == ([0.0, 0.0], [0.0, 0.0])
    assert step_clock._clock is None


def test_the_table_has_every_part_of_real_steps(tmp_path) -> None:
    case = make_case(tmp_path / "case")
    out = tmp_path / "training_step.csv"
    measure_training_step.main(
        [
            "--arrays", f"{case}/arrays/index.parquet", "--folds", f"{case}/folds.parquet",
            "--fold", "1", "--recipe", json.dumps(recipe()), "--gpus", "0", "--workers", "0",
            "--seconds", "0", "--table", str(out),
        ]
    )  # fmt: skip
    table = pd.read_csv(out).set_index("part")
    assert table.index.tolist() == [*PARTS, "rest"]
    assert (table.loc[list(PARTS), "milliseconds"] > 0).all()
    assert (table["steps"] == 3).all()  # two epochs and more, of three steps each
    # Medians of the parts and of the whole steps differ a little.
    assert table["share"].sum() == pytest.approx(1, abs=0.3)
    assert table["images_per_second"].iloc[0] == pytest.approx(
        1000 * 4 / table["step_milliseconds"].iloc[0]
    )
