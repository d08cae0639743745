"""What the programs of these tests begin with: a fold of the tiny recipe on the device.

Only for processes that were started on the stand-in for a GPU, by the fixture ``on_gpu``.
"""

import json
import logging
import tempfile
from pathlib import Path
from typing import Any

import fake_gpu
from training_case import make_case, recipe

from hpaloc import training
from hpaloc.checkpoint import Checkpoint
from hpaloc.compute import Compute, choose_compute
from hpaloc.fold_data import FoldData, fold_data

fake_gpu.install()
logging.captureWarnings(True)


def fold(images: int = 200, **changes: Any) -> tuple[dict[str, Any], FoldData, Compute]:
    """The tiny recipe with some keys replaced, a fold of so many images, and the device."""
    settings = recipe(**({"compile": False, "epochs": 1, "batch_size": 8} | changes))
    case = make_case(Path(tempfile.mkdtemp()) / "case", images=images)
    compute = choose_compute(settings["precision"], 1, 1)
    return settings, fold_data(case / "arrays/index.parquet", case / "folds.parquet", 1, 2), compute


def trained(
    settings: dict[str, Any], data: FoldData, compute: Compute, state: Checkpoint | None = None
) -> Checkpoint:
    """The state after training to the recipe's end."""
    folder = Path(tempfile.mkdtemp())
    return training.train(settings, 1, data, state or Checkpoint(), folder, None, compute)


def result(**values: Any) -> None:
    """Hands values to the test."""
    print("RESULT " + json.dumps(values))
