"""Scores of called labels and of probabilities.

Everywhere: ``truth`` and ``predicted`` bool n × classes, ``probability`` float n × classes.
Averages and totals count an undefined score (0 / 0) as 0, as the paper does; scores of single
classes leave it NaN.
"""

import numpy as np


def counts_per_class(
    truth: np.ndarray, predicted: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """True positives, false positives, false negatives of each class: int64."""
    support = truth.sum(axis=0)
    called = predicted.sum(axis=0)
    hits = (truth & predicted).sum(axis=0)
    return hits, called - hits, support - hits


def f1_per_class(truth: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """F1 = 2 TP / (2 TP + FP + FN) of each class: float64, NaN where never true nor called."""
    hits, extra, missed = counts_per_class(truth, predicted)
    return ratio(2 * hits, 2 * hits + extra + missed)


def macro_f1(truth: np.ndarray, predicted: np.ndarray) -> float:
    """Mean F1 of all classes, undefined = 0."""
    return float(np.nan_to_num(f1_per_class(truth, predicted)).mean())


def label_iou(truth: np.ndarray, predicted: np.ndarray) -> float:
    """Mean over images of intersection / union of the label sets; two empty sets agree: 1."""
    union = (truth | predicted).sum(axis=1)
    common = (truth & predicted).sum(axis=1)
    return float(np.where(union == 0, 1.0, common / np.maximum(union, 1)).mean())


def scores(truth: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """Every score of called labels, by name; counts are whole numbers.

    correct_labels of total_labels counts the cells of image × class that agree, their share is
    binary_accuracy. macro_* are means over all classes, macro_f1_present over those with at
    least one positive. iou is that of ``label_iou``. Needs at least one image.
    """
    hits, extra, missed = counts_per_class(truth, predicted)
    f1 = np.nan_to_num(ratio(2 * hits, 2 * hits + extra + missed))
    present = truth.any(axis=0)
    correct = int((truth == predicted).sum())
    tp, fp, fn = int(hits.sum()), int(extra.sum()), int(missed.sum())
    return {
        "correct_labels": correct,
        "total_labels": truth.size,
        "binary_accuracy": correct / truth.size,
        "macro_f1": float(f1.mean()),
        "macro_f1_present": float(f1[present].mean()) if present.any() else 0.0,
        "macro_precision": float(np.nan_to_num(ratio(hits, hits + extra)).mean()),
        "macro_recall": float(np.nan_to_num(ratio(hits, hits + missed)).mean()),
        "micro_f1": 2 * tp / max(2 * tp + fp + fn, 1),
        "micro_precision": tp / max(tp + fp, 1),
        "micro_recall": tp / max(tp + fn, 1),
        "iou": label_iou(truth, predicted),
        "n_images": len(truth),
    }


def scores_per_class(truth: np.ndarray, predicted: np.ndarray) -> dict[str, np.ndarray]:
    """Scores of each class, by name: support and predicted (counts), precision, recall, f1, iou.

    iou is TP / (TP + FP + FN). NaN where undefined.
    """
    hits, extra, missed = counts_per_class(truth, predicted)
    return {
        "support": hits + missed,
        "predicted": hits + extra,
        "precision": ratio(hits, hits + extra),
        "recall": ratio(hits, hits + missed),
        "f1": ratio(2 * hits, 2 * hits + extra + missed),
        "iou": ratio(hits, hits + extra + missed),
    }


def precision_recall(
    truth: np.ndarray, probability: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Precision, recall and threshold at every distinct probability, the highest first.

    ``truth`` bool n, ``probability`` float n. Empty without positives: recall is undefined.
    """
    if not truth.any():
        return np.empty(0), np.empty(0), np.empty(0)
    order = np.argsort(-probability, kind="stable")
    values = probability[order].astype(np.float64)
    cuts = np.flatnonzero(np.append(values[:-1] != values[1:], True))
    hits = np.cumsum(truth[order])[cuts]
    return hits / (cuts + 1), hits / hits[-1], values[cuts]


def area_of_steps(precision: np.ndarray, recall: np.ndarray) -> float:
    """Average precision of a curve of ``precision_recall``; NaN for an empty one.

    Σ (R_k − R_{k−1}) P_k, the step-wise sum of scikit-learn, without interpolation.
    """
    if not len(recall):
        return float("nan")
    return float((np.diff(recall, prepend=0.0) * precision).sum())


def average_precision_per_class(truth: np.ndarray, probability: np.ndarray) -> np.ndarray:
    """Average precision of each class: float64, NaN for a class without positives."""
    return np.array(
        [
            area_of_steps(*precision_recall(truth[:, number], probability[:, number])[:2])
            for number in range(truth.shape[1])
        ]
    )


def ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Quotient, NaN where the denominator is 0."""
    defined = np.maximum(denominator, 1)
    return np.where(denominator == 0, np.nan, numerator / defined)
