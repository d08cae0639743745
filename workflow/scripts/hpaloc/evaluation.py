"""Evaluation of predictions: tables of scores, constant answers and curves.

Tables hold scores rounded to six decimals, enough to compare and the same on every machine.
"""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from hpaloc.classes import CLASS_NAMES, N_CLASSES
from hpaloc.log import InputError
from hpaloc.metrics import (
    area_of_steps,
    average_precision_per_class,
    precision_recall,
    scores,
    scores_per_class,
)
from hpaloc.predictions import probabilities_of
from hpaloc.thresholds import call_labels

log = logging.getLogger("hpaloc")

DECIMALS = 6

# Table II of the paper: the name that it publishes a score under. Its "precision" is the micro
# recall and its "recall" the micro precision (recomputed from the published predictions).
PUBLISHED_NAMES = {
    "correct_labels": "Correct Label",
    "total_labels": "Total Label",
    "binary_accuracy": "Binary Accuracy",
    "macro_f1": "F1-Macro",
    "micro_recall": "Precision",
    "micro_precision": "Recall",
    "iou": "IOU",
}

RECALL_STEPS = 500


def labelled_images(index: pd.DataFrame, where: str) -> pd.DataFrame:
    """The rows of ``index`` that have labels; how many have none goes to the log."""
    labelled = index[index["labels"].notna()]
    if labelled.empty:
        raise InputError(
            f"{where}: none of the {len(index)} images has labels, so that predictions cannot be"
            " scored. Give the source labels, or leave it out of `evaluate`."
        )
    if len(labelled) < len(index):
        log.warning(
            "%s: %d of %d images have no labels and are not scored",
            where, len(index) - len(labelled), len(index),
        )  # fmt: skip
    return labelled


def joined_probabilities(
    predictions: pd.DataFrame, image_ids: Sequence[str], where: str
) -> np.ndarray:
    """Probabilities of the images as float32 n × 28, joined by id; every image must have some."""
    missing = ~pd.Index(image_ids).isin(predictions["image_id"])
    if missing.any():
        raise InputError(
            f"{where}: {missing.sum()} of {len(missing)} images have no prediction, the first is"
            f" {np.asarray(image_ids)[missing][0]!r}. Delete the table and predict again."
        )
    return probabilities_of(predictions.set_index("image_id").loc[image_ids])


def metrics_table(truth: np.ndarray, called: dict, probability: dict) -> pd.DataFrame:
    """Scores of every fold and strategy: fold, strategy, metric, published_name, value.

    ``called`` maps (fold, strategy) to bool n × 28, ``probability`` maps fold to float n × 28.
    mean_average_precision is the mean over the classes with positives, micro_average_precision
    that of all cells together; they do not depend on the strategy.
    """
    tables = []
    ranking = {fold: _ranking_scores(truth, values) for fold, values in probability.items()}
    for (fold, strategy), predicted in called.items():
        values = scores(truth, predicted) | ranking[fold]
        table = scores_table(values).assign(fold=fold, strategy=strategy)
        tables.append(table[["fold", "strategy", "metric", "published_name", "value"]])
    return pd.concat(tables, ignore_index=True)


def read_audit(path: str | Path, image_ids: Sequence[str]) -> pd.DataFrame:
    """What the audit knows of the images, joined by id, see ``hpaloc.audit.leakage.test_images``.

    Columns twin_in_training, antibody_seen and gene_seen: True, False or missing. Raises
    InputError for another table, and for an image that was not audited.
    """
    columns = ["twin_in_training", "antibody_seen", "gene_seen"]
    try:
        table = pd.read_parquet(path, columns=["image_id", *columns])
        table = table.astype(dict.fromkeys(columns, "boolean"))
    except (OSError, ValueError, TypeError, pa.ArrowException) as error:
        raise InputError(f"{path}: not a table of audited images ({error}).") from error
    if table["image_id"].duplicated().any() or table["twin_in_training"].isna().any():
        raise InputError(
            f"{path}: not a table of audited images: an image stands twice, or it is not said"
            " whether it has a twin. Delete the table and audit again."
        )
    missing = ~pd.Index(image_ids).isin(table["image_id"])
    if missing.any():
        raise InputError(
            f"{path}: {missing.sum()} of {len(missing)} images were not audited, the first is"
            f" {np.asarray(image_ids)[missing][0]!r}. Delete the table and audit again."
        )
    return table.set_index("image_id").loc[list(image_ids), columns]


def subsets_of(audit: pd.DataFrame) -> dict[str, np.ndarray | None]:
    """The images of the three scores, bool n; None where nobody knows which they are.

    ``audit`` is that of ``read_audit``. An image of which it is not known whether its antibody or
    gene is in training is not among those without. What is unknown or empty goes to the log.
    """
    unseen = ~audit["antibody_seen"] & ~audit["gene_seen"]
    unknown = int(unseen.isna().sum())
    if unknown:
        log.warning(
            "of %d of %d test images it is not known whether their antibody or gene is in training;"
            " they are left out of the score without seen ones",
            unknown, len(audit),
        )  # fmt: skip
    subsets = {
        "all": np.ones(len(audit), dtype=bool),
        "without_twins": ~audit["twin_in_training"].to_numpy(dtype=bool),
        "without_seen_antibodies_and_genes": (
            None if unseen.isna().all() else unseen.fillna(False).to_numpy(dtype=bool)
        ),
    }
    for name, kept in subsets.items():
        if kept is not None and not kept.any():
            log.warning("no test image is left for the scores %r: they are empty", name)
    return subsets


def subsets_table(
    truth: np.ndarray, called: dict, probability: dict, subsets: dict[str, np.ndarray | None]
) -> pd.DataFrame:
    """``metrics_table`` of subsets of the images (``subsets_of``), one after the other.

    Columns subset, images, classes, fold, strategy, metric, published_name, value. classes counts
    those with at least one image in the subset: macro averages take the others as 0, but
    macro_f1_present, so that macro averages of subsets with other classes do not compare.
    Values are empty in a subset without images, and so are images and classes in an unknown one.
    """
    tables = []
    complete = metrics_table(truth, called, probability)
    for name, kept in subsets.items():
        if kept is None:
            table, images, classes = complete.assign(value=""), "", ""
        elif not kept.any():
            table, images, classes = complete.assign(value=""), 0, 0
        else:
            table = complete
            if not kept.all():
                table = metrics_table(
                    truth[kept],
                    {key: values[kept] for key, values in called.items()},
                    {key: values[kept] for key, values in probability.items()},
                )
            images, classes = int(kept.sum()), int(truth[kept].any(axis=0).sum())
        about = pd.DataFrame({"subset": name, "images": images, "classes": classes}, table.index)
        tables.append(pd.concat([about, table], axis=1))
    return pd.concat(tables, ignore_index=True)


def per_class_table(truth: np.ndarray, called: dict, probability: dict) -> pd.DataFrame:
    """Scores of every class, fold and strategy, as ``metrics_table``; undefined ones are NaN.

    Columns fold, strategy, class, name, support, predicted, precision, recall, f1, iou,
    average_precision.
    """
    tables = []
    ranking = {
        fold: average_precision_per_class(truth, values) for fold, values in probability.items()
    }
    for (fold, strategy), predicted in called.items():
        tables.append(
            pd.DataFrame(
                {
                    "fold": fold,
                    "strategy": strategy,
                    "class": range(N_CLASSES),
                    "name": CLASS_NAMES,
                    **scores_per_class(truth, predicted),
                    "average_precision": ranking[fold],
                }
            )
        )
    return pd.concat(tables, ignore_index=True).round(DECIMALS)


def constant_answers(positives: np.ndarray) -> dict[str, np.ndarray]:
    """Label sets (bool 28) that answer every image alike, by name.

    ``positives`` int 28: labels among the images that were trained on, for the most frequent.
    """
    answers = {
        "nothing": [],
        "most frequent class": [int(np.argmax(positives))],
        "Nucleoplasm and Cytosol": [CLASS_NAMES.index("Nucleoplasm"), CLASS_NAMES.index("Cytosol")],
        "all 28 classes": list(range(N_CLASSES)),
    }
    return {name: np.isin(np.arange(N_CLASSES), labels) for name, labels in answers.items()}


def baselines_table(truth: np.ndarray, positives: np.ndarray) -> pd.DataFrame:
    """Scores of the constant answers: answer, metric, published_name, value."""
    tables = []
    for name, answer in constant_answers(positives).items():
        predicted = np.broadcast_to(answer, truth.shape)
        table = scores_table(scores(truth, predicted)).assign(answer=name)
        tables.append(table[["answer", "metric", "published_name", "value"]])
    return pd.concat(tables, ignore_index=True)


def curves_table(truth: np.ndarray, probability: np.ndarray) -> pd.DataFrame:
    """Precision-recall curves, at most 501 points each: every 0.002 of recall.

    Columns curve ("micro", "macro", "0" … "27"; classes without positives are left out), positives
    (how many the curve rests on), recall, precision, threshold (NaN for macro), average_precision
    (of the whole curve, not of the points kept). micro pools the cells of image × class; macro is the mean over the classes of their
    precision at equal recall, so that its area is the mean average precision. No rows without any
    positive.
    """
    if not truth.any():
        return _curve("micro", 0, *np.empty((3, 0)), np.nan)
    grid = np.linspace(0, 1, RECALL_STEPS + 1)
    tables, at_grid, areas = [], [], []

    def add(curve: str, target: np.ndarray, values: np.ndarray) -> None:
        precision, recall, threshold = precision_recall(target, values)
        area = area_of_steps(precision, recall)
        # The first point that reaches each recall, as the sum of average precision takes it.
        # 1e-12: a recall of 0.3 is at times the float below that of the grid.
        first = np.searchsorted(recall, grid - 1e-12)
        if curve != "micro":
            at_grid.append(precision[first])
            areas.append(area)
        kept = np.unique(first)
        tables.append(
            _curve(curve, target.sum(), recall[kept], precision[kept], threshold[kept], area)
        )

    add("micro", truth.ravel(), probability.ravel())
    for number in np.flatnonzero(truth.any(axis=0)):
        add(str(number), truth[:, number], probability[:, number])
    mean = np.mean(at_grid, axis=0)
    macro = _curve("macro", truth.sum(), grid, mean, np.nan, float(np.mean(areas)))
    tables.insert(1, macro)
    return pd.concat(tables, ignore_index=True)


def call_all(
    probability: dict[str, np.ndarray], thresholds: dict[str, np.ndarray]
) -> dict[tuple[str, str], np.ndarray]:
    """Called labels of every fold under every strategy."""
    return {
        (fold, strategy): call_labels(values, cuts)
        for fold, values in probability.items()
        for strategy, cuts in thresholds.items()
    }


def _ranking_scores(truth: np.ndarray, probability: np.ndarray) -> dict[str, float]:
    if not truth.any():
        return {"mean_average_precision": 0.0, "micro_average_precision": 0.0}
    micro = area_of_steps(*precision_recall(truth.ravel(), probability.ravel())[:2])
    return {
        "mean_average_precision": float(
            np.nanmean(average_precision_per_class(truth, probability))
        ),
        "micro_average_precision": micro,
    }


def scores_table(values: dict[str, float]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "metric": list(values),
            "published_name": [PUBLISHED_NAMES.get(metric, "") for metric in values],
            "value": [format_score(value) for value in values.values()],
        }
    )


def format_score(value: float | None) -> str:
    """Counts as whole numbers, scores with six decimals, what is undefined as nothing."""
    if value is None or np.isnan(value):
        return ""
    if isinstance(value, (int, np.integer)):
        return str(value)
    return f"{value:.{DECIMALS}f}"


def _curve(
    curve: str,
    positives: int,
    recall: np.ndarray,
    precision: np.ndarray,
    threshold: np.ndarray,
    area: float,
) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "curve": curve,
            "positives": int(positives),
            "recall": recall,
            "precision": precision,
            "threshold": threshold,
            "average_precision": area,
        }
    )
