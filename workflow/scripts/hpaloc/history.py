"""The tables of training: one row per step, one row per epoch."""

import numpy as np
import pandas as pd

from hpaloc.classes import N_CLASSES
from hpaloc.schedule import BCE, SOFT_F1, SOFT_F1_SCALED

PHASES = (BCE, SOFT_F1, SOFT_F1_SCALED)

# Of every step, all on the training batch as it was augmented, before the step is made.
# loss_total is what was minimised; weighted_bce stands without its factor. The scores call a
# class from probability 0.5 on (see losses.batch_scores).
STEP_SCORES = (
    "loss_total",
    "bce",
    "weighted_bce",
    "soft_f1_loss",
    "focal_loss",
    "macro_f1",
    "micro_precision",
    "micro_recall",
    "iou",
    "gradient_norm",
)
# A row of numbers, as checkpoints keep it; phase is the place in PHASES.
STEP_NUMBERS = ("step", "epoch", *STEP_SCORES, "learning_rate", "phase")

F1_COLUMNS = tuple(f"f1_c{number:02d}" for number in range(N_CLASSES))
THRESHOLD_COLUMNS = tuple(f"threshold_c{number:02d}" for number in range(N_CLASSES))
EPOCH_SCORES = (
    "validation_macro_f1",
    "validation_focal_score",
    "validation_bce",
    "best_threshold",
    "train_macro_f1",
    "train_soft_f1_loss",
    "learning_rate",
)
EPOCH_COLUMNS = ("epoch", *EPOCH_SCORES, "phase", "exported", *F1_COLUMNS, *THRESHOLD_COLUMNS)


def steps_table(rows: list[list[float]]) -> pd.DataFrame:
    """Rows of STEP_NUMBERS as steps.parquet has them: step int64, epoch int32, phase by name."""
    frame = pd.DataFrame(rows, columns=list(STEP_NUMBERS))
    kinds = {"step": np.int64, "epoch": np.int32, "learning_rate": np.float64}
    kinds |= dict.fromkeys(STEP_SCORES, np.float32)
    frame["phase"] = [PHASES[int(phase)] for phase in frame["phase"]]
    return frame.astype(kinds)


def epochs_table(rows: list[dict], exported: int) -> pd.DataFrame:
    """Rows as epochs.parquet has them: epoch int32, scores float64, exported bool."""
    frame = pd.DataFrame(rows).assign(exported=[row["epoch"] == exported for row in rows])
    numbers = (*EPOCH_SCORES, *F1_COLUMNS, *THRESHOLD_COLUMNS)
    kinds = {"epoch": np.int32} | dict.fromkeys(numbers, np.float64)
    return frame[list(EPOCH_COLUMNS)].astype(kinds)
