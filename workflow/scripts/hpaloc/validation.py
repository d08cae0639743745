"""Scores of an epoch on the validation images."""

from typing import Any

import numpy as np
import torch

from hpaloc import losses
from hpaloc.history import EPOCH_SCORES, F1_COLUMNS, PHASES, STEP_NUMBERS, THRESHOLD_COLUMNS
from hpaloc.metrics import f1_per_class
from hpaloc.thresholds import best_global_threshold, best_thresholds_per_class, call_labels


def epoch_row(
    epoch: int,
    steps: list[list[float]],
    train_f1: float,
    probabilities: np.ndarray,
    labels: np.ndarray,
    recipe: dict[str, Any],
) -> dict[str, Any]:
    """The row of EPOCH_COLUMNS (less ``exported``) of an epoch.

    The validation losses are those of the averaged probabilities, held 1e-7 away from 0 and 1.
    """
    logits = torch.from_numpy(probabilities).double().logit(eps=1e-7)
    targets = torch.from_numpy(labels).double()
    loss = recipe["loss"]
    focal = losses.focal_loss(logits, targets, loss["focal_alpha"], loss["focal_gamma"])
    threshold, macro_f1 = best_global_threshold(labels, probabilities)
    f1 = f1_per_class(labels, call_labels(probabilities, threshold))
    thresholds, _ = best_thresholds_per_class(labels, probabilities)
    table = dict(zip(STEP_NUMBERS, np.array(steps).T, strict=True))
    scores = (
        macro_f1,
        1 - float(focal),
        float(losses.bce(logits, targets)),
        threshold,
        train_f1,
        float(table["soft_f1_loss"].mean()),
        float(table["learning_rate"][-1]),
    )
    return {
        "epoch": epoch,
        "phase": PHASES[int(table["phase"][-1])],
        **dict(zip(EPOCH_SCORES, scores, strict=True)),
        **dict(zip(F1_COLUMNS, f1.tolist(), strict=True)),
        **dict(zip(THRESHOLD_COLUMNS, thresholds.tolist(), strict=True)),
    }
