"""Exact search of the thresholds that turn probabilities into labels.

A class is called where probability >= threshold, compared in float64. The score of a set of
images changes only where the threshold passes one of their probabilities, so that sorting them
gives every score that any threshold can reach. Among the thresholds of the best score, which
form intervals, the midpoint of the widest interval is taken: new images land closest to the
score that was seen when the threshold lies far from the probabilities that change it.
"""

from collections.abc import Sequence

import numpy as np

# Scores of one threshold for all classes are sums of 28 fractions, each rounded to a multiple of
# 2**-52. Sums closer than this many multiples (1.4e-14) count as equal.
_FIXED_POINT = 2**52
_TIE = 64


def call_labels(probability: np.ndarray, thresholds: float | np.ndarray) -> np.ndarray:
    """Which classes are called: bool, of the shape of ``probability``.

    ``thresholds`` is one number or one per column. The comparison is made in float64: between
    two neighbouring float32 probabilities there is no float32 threshold.
    """
    return probability.astype(np.float64) >= np.asarray(thresholds, dtype=np.float64)


def best_threshold(truth: np.ndarray, probability: np.ndarray) -> tuple[float, float]:
    """Threshold of the best F1 of one class, and that F1.

    ``truth`` bool n, ``probability`` float32 n within 0 to 1. Both are NaN where no image is
    positive. Raises ValueError for a probability that is not within 0 to 1.
    """
    thresholds, f1 = best_thresholds_per_class(truth[:, None], probability[:, None])
    return float(thresholds[0]), float(f1[0])


def best_thresholds_per_class(
    truth: np.ndarray, probability: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Threshold of the best F1 of each class, and that F1: float64, one per column.

    ``truth`` bool n × classes, ``probability`` float32 n × classes within 0 to 1. A class
    without positives has neither: NaN.
    """
    values, positive = _sorted_by_probability(truth, probability)
    n_classes = truth.shape[1]
    thresholds = np.full(n_classes, np.nan)
    best = np.full(n_classes, np.nan)
    for number in range(n_classes):
        if positive[number].any():
            f1 = _f1_of_cuts(positive[number])
            score = np.where(_is_last_of_ties(values[number]), f1, -1.0)
            best[number] = score.max()
            thresholds[number] = _middle_of_widest(values[number], score, best[number])
    return thresholds, best


def best_global_threshold(truth: np.ndarray, probability: np.ndarray) -> tuple[float, float]:
    """The one threshold of the best macro F1 over all columns, and that macro F1.

    ``truth`` bool n × classes, ``probability`` float32 n × classes within 0 to 1. The F1 of a
    class without positives counts as 0. Without any positive both are NaN.
    """
    n_images, n_classes = truth.shape
    if not truth.any():
        return float("nan"), float("nan")
    values, positive = _sorted_by_probability(truth, probability)
    steps = np.empty((n_classes, n_images), dtype=np.int64)
    for number in range(n_classes):
        fixed = np.rint(_f1_of_cuts(positive[number]) * _FIXED_POINT).astype(np.int64)
        steps[number] = np.diff(fixed, prepend=0)
    # Whole numbers add up without rounding, in whatever order the probabilities come.
    order = np.argsort(-values, axis=None, kind="stable")
    values = values.ravel()[order]
    score = np.cumsum(steps.ravel()[order])
    score[~_is_last_of_ties(values)] = -1
    best = score.max()
    threshold = _middle_of_widest(values, score, best - _TIE)
    return threshold, float(best / _FIXED_POINT / n_classes)


def frequency_matched_thresholds(truth: np.ndarray, probability: np.ndarray) -> np.ndarray:
    """Threshold of each class that calls as many images as are positive: float64, one per column.

    Equal probabilities cannot be told apart: then the nearest number that can be reached, the
    smaller one of two. The threshold is the midpoint between the last probability that is called
    and the first that is not. A class without positives has none: NaN.
    """
    values, positive = _sorted_by_probability(truth, probability)
    thresholds = np.full(truth.shape[1], np.nan)
    for number in range(truth.shape[1]):
        wanted = positive[number].sum()
        if wanted:
            cuts = np.flatnonzero(_is_last_of_ties(values[number]))
            cut = cuts[np.abs(cuts + 1 - wanted).argmin()]
            below = values[number, cut + 1] if cut + 1 < values.shape[1] else 0.0
            thresholds[number] = (values[number, cut] + below) / 2
    return thresholds


def smoothed_threshold(thresholds: Sequence[float], alpha: float) -> float:
    """Exponential average of the best thresholds of some epochs, the oldest first.

    average = alpha × threshold + (1 − alpha) × average, beginning with the first threshold.
    Epochs without a threshold (NaN) are left out; NaN where none has one.
    """
    average = float("nan")
    for threshold in thresholds:
        if np.isnan(threshold):
            continue
        average = threshold if np.isnan(average) else alpha * threshold + (1 - alpha) * average
    return float(average)


def _sorted_by_probability(
    truth: np.ndarray, probability: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities (float64) and truth (bool) of each class, classes × n, the greatest first."""
    # Not "any outside": a NaN is neither inside nor outside.
    if not ((probability >= 0) & (probability <= 1)).all():
        raise ValueError("probabilities must be numbers from 0 to 1")
    # The bits of a float32 from 0 to 1 are below 2**30 and in the order of the numbers: with the
    # truth as the lowest bit one sort of whole numbers does what argsort does, several times
    # faster. Adding zero turns -0.0 into 0.0.
    bits = (probability.T.astype(np.float32) + np.float32(0)).view(np.uint32)
    keys = (bits << np.uint32(1)) | truth.T.astype(np.uint32)
    keys = np.sort(keys, axis=1)[:, ::-1]
    values = np.ascontiguousarray(keys >> np.uint32(1)).view(np.float32)
    return values.astype(np.float64), (keys & np.uint32(1)).astype(bool)


def _f1_of_cuts(positive: np.ndarray) -> np.ndarray:
    """F1 when the first 1, 2, … n of the sorted images are called; 0 without positives."""
    hits = np.cumsum(positive)
    # Equal fractions of whole numbers this small divide to equal floats: ties are exact.
    return 2 * hits / (hits[-1] + np.arange(1, len(positive) + 1))


def _is_last_of_ties(values: np.ndarray) -> np.ndarray:
    """Where a cut can be made: behind the last of equal probabilities."""
    last = np.ones(len(values), dtype=bool)
    last[:-1] = values[:-1] != values[1:]
    return last


def _middle_of_widest(values: np.ndarray, score: np.ndarray, least: float) -> float:
    """Midpoint of the widest interval of thresholds whose score is at least ``least``.

    ``values`` descend; ``score`` belongs to the cut behind each value and is negative where no
    cut can be made. The cut behind values[i] belongs to the thresholds between the next lower
    value (0 after the last) and values[i]; neighbouring intervals join. Of equally wide ones the
    highest is taken.
    """
    cuts = np.flatnonzero(score >= 0)
    upper = values[cuts]
    lower = np.append(upper[1:], 0.0)
    good = score[cuts] >= least
    first = np.flatnonzero(good & ~np.insert(good[:-1], 0, False))
    last = np.flatnonzero(good & ~np.append(good[1:], False))
    widest = np.argmax(upper[first] - lower[last])
    return float((upper[first[widest]] + lower[last[widest]]) / 2)
