"""From validation probabilities to the table of thresholds, and from thresholds to labels."""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from hpaloc.classes import CLASS_NAMES, N_CLASSES, PROBABILITY_COLUMNS, format_labels
from hpaloc.log import InputError
from hpaloc.predictions import probabilities_of, read_probabilities, truth_of
from hpaloc.tables import read_table
from hpaloc.thresholds import (
    best_global_threshold,
    best_thresholds_per_class,
    call_labels,
    frequency_matched_thresholds,
    smoothed_threshold,
)

log = logging.getLogger("hpaloc")

# Strategies, and the columns of the table of thresholds that they read.
GLOBAL = "global"
PER_CLASS = {
    "per_class_raw": "raw",
    "per_class_smoothed": "smoothed",
    "frequency_matched": "frequency_matched",
}


def pooled_validation(
    validations: Sequence[str | Path], epochs: Sequence[str | Path]
) -> list[pd.DataFrame]:
    """Out-of-fold probabilities of the last epochs, all folds together, exported epoch first.

    ``validations`` and ``epochs`` are the tables of the same folds. Entry k pools every fold's
    epoch k before its exported one, as far back as every fold goes: all entries hold the same
    images. Raises InputError where tables do not belong together.
    """
    folds = [
        _epochs_of_fold(validation, log_of_epochs)
        for validation, log_of_epochs in zip(validations, epochs, strict=True)
    ]
    depth = min(len(fold) for fold in folds)
    pools = [pd.concat([fold[back] for fold in folds], ignore_index=True) for back in range(depth)]
    doubled = pools[0].loc[pools[0]["image_id"].duplicated(), "image_id"]
    if len(doubled):
        raise InputError(
            f"{', '.join(map(str, validations))}: {len(doubled)} images are in the validation set"
            f" of two folds, the first is {doubled.iloc[0]!r}. The folds are not of one table of"
            " folds: train them again."
        )
    return pools


def threshold_table(
    pools: Sequence[pd.DataFrame], index: pd.DataFrame, alpha: float
) -> pd.DataFrame:
    """Thresholds of all classes together and of each class.

    ``pools`` as ``pooled_validation`` returns them. Rows: "all", then 0 to 27. Columns: class
    str, name, positives (labels in the pool), raw (best of the exported epoch), smoothed
    (exponential average over the epochs), frequency_matched (calls as many images as are
    positive; not for "all"), f1_raw (of raw; macro F1 for "all"), fallback: "global" where a
    class has no positives and therefore no threshold of its own (NaN), else "".
    """
    truth = truth_of(index, pools[0]["image_id"], "validation images")
    if not truth.any():
        raise InputError("the validation images have no labels of any class: no threshold exists.")
    raw, smoothed, f1 = _best_of_epochs(pools, truth, alpha)
    positives = truth.sum(axis=0)
    return pd.DataFrame(
        {
            "class": ["all", *map(str, range(N_CLASSES))],
            "name": ["all", *CLASS_NAMES],
            "positives": [positives.sum(), *positives],
            "raw": raw,
            "smoothed": smoothed,
            "frequency_matched": [
                np.nan,
                *frequency_matched_thresholds(truth, probabilities_of(pools[0])),
            ],
            "f1_raw": f1,
            "fallback": ["", *np.where(positives == 0, GLOBAL, "")],
        }
    )


def fold_thresholds(
    pools: Sequence[pd.DataFrame], index: pd.DataFrame, alpha: float, fold: int
) -> pd.DataFrame:
    """Columns raw_fold_<k> and smoothed_fold_<k>, rows as ``threshold_table``.

    ``pools`` are of this fold alone. Thresholds that its images do not give are NaN.
    """
    truth = truth_of(index, pools[0]["image_id"], "validation images")
    raw, smoothed, _ = _best_of_epochs(pools, truth, alpha)
    return pd.DataFrame({f"raw_fold_{fold}": raw, f"smoothed_fold_{fold}": smoothed})


def _best_of_epochs(
    pools: Sequence[pd.DataFrame], truth: np.ndarray, alpha: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Raw thresholds, smoothed ones, and the F1 of the raw: of all classes, then of each."""
    thresholds, scores = [], []
    for pool in pools:
        # The same images in every epoch, but not necessarily in the same order.
        rows = pool.set_index("image_id").loc[pools[0]["image_id"], list(PROBABILITY_COLUMNS)]
        probability = rows.to_numpy(dtype=np.float32)
        overall, macro_f1 = best_global_threshold(truth, probability)
        per_class, f1 = best_thresholds_per_class(truth, probability)
        thresholds.append(np.append(overall, per_class))
        scores.append(np.append(macro_f1, f1))
    oldest_first = np.array(thresholds[::-1])
    smoothed = np.array([smoothed_threshold(column, alpha) for column in oldest_first.T])
    return thresholds[0], smoothed, scores[0]


def read_thresholds(path: str | Path) -> pd.DataFrame:
    """A table of ``threshold_table`` from a CSV file."""
    try:
        table = pd.read_csv(path, dtype={"class": str}, keep_default_na=False, na_values=[""])
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not a table of thresholds ({error}).") from error
    rows = ["all", *map(str, range(N_CLASSES))]
    needed = {"class", "positives", *PER_CLASS.values()}
    if not needed <= set(table.columns) or table["class"].tolist() != rows:
        raise InputError(
            f"{path}: not a table of thresholds: it must have the rows all, 0 to"
            f" {N_CLASSES - 1} and the columns {', '.join(sorted(needed))}."
        )
    return table


def strategy_thresholds(table: pd.DataFrame, strategy: str | float) -> np.ndarray:
    """Threshold of each class under a strategy: float64 28.

    ``strategy`` is "global", "per_class_raw", "per_class_smoothed", "frequency_matched" or one
    number from 0 to 1 for all classes. A class without a threshold takes the global one.
    """
    overall = float(table["raw"].iloc[0])
    if strategy == GLOBAL:
        return np.full(N_CLASSES, overall)
    if strategy in PER_CLASS:
        own = table[PER_CLASS[strategy]].to_numpy(dtype=np.float64)[1:]
        return np.where(np.isnan(own), overall, own)
    try:
        number = float(strategy)
    except ValueError:
        number = -1.0
    if not 0 <= number <= 1:
        raise InputError(
            f"{strategy!r} is not a threshold strategy: choose {GLOBAL}, {', '.join(PER_CLASS)}"
            " or a number from 0 to 1."
        )
    return np.full(N_CLASSES, number)


def labels_table(predictions: pd.DataFrame, thresholds: np.ndarray) -> pd.DataFrame:
    """``predictions`` with the columns labels (int8 arrays) and names ("Nucleoplasm; Cytosol")."""
    called = call_labels(probabilities_of(predictions), thresholds)
    labels = [np.flatnonzero(row).astype(np.int8) for row in called]
    names = ["; ".join(CLASS_NAMES[number] for number in row) for row in labels]
    return predictions.assign(labels=labels, names=names)


def submission_table(labels: pd.DataFrame) -> pd.DataFrame:
    """Kaggle's format: Id, Predicted (class numbers with blanks between)."""
    predicted = [format_labels(row) for row in labels["labels"]]
    return pd.DataFrame({"Id": labels["image_id"], "Predicted": predicted})


def _epochs_of_fold(validation: str | Path, epochs: str | Path) -> list[pd.DataFrame]:
    """Probabilities of one fold by epoch, the exported one first, then the one before it …"""
    table = read_probabilities(validation, "epoch")
    logged = read_table(epochs, ["epoch", "exported"])
    exported = logged.loc[logged["exported"], "epoch"].tolist()
    kept = sorted(table["epoch"].unique().tolist(), reverse=True)
    if len(exported) != 1 or kept != list(range(exported[0], exported[0] - len(kept), -1)):
        raise InputError(
            f"{validation}: holds the epochs {kept}, but the exported epoch in {epochs} is"
            f" {exported}. The tables are not of the same training: delete both and train again."
        )
    by_epoch = [
        table[table["epoch"] == epoch].drop(columns="epoch").reset_index(drop=True)
        for epoch in kept
    ]
    images = set(by_epoch[0]["image_id"])
    for epoch, frame in zip(kept, by_epoch, strict=True):
        if set(frame["image_id"]) != images:
            raise InputError(
                f"{validation}: epoch {epoch} has other images than epoch {kept[0]}."
                " Delete the table and train the fold again."
            )
    return by_epoch
