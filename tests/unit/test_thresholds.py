import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from hpaloc.metrics import f1_per_class, macro_f1
from hpaloc.thresholds import (
    best_global_threshold,
    best_threshold,
    best_thresholds_per_class,
    call_labels,
    frequency_matched_thresholds,
    smoothed_threshold,
)

# Few distinct values make ties; the last two are neighbours in float32.
GRID = np.array([0, 0.1, 0.25, 0.5, 0.75, 1, 0.3, np.nextafter(np.float32(0.3), 1)], np.float32)


@st.composite
def tables(draw, n_classes=3):
    n = draw(st.integers(1, 12))
    truth = draw(hnp.arrays(bool, (n, n_classes)))
    ties = hnp.arrays(np.float32, (n, n_classes), elements=st.sampled_from(list(GRID)))
    free = hnp.arrays(np.float32, (n, n_classes), elements=st.floats(0, 1, width=32))
    return truth, draw(st.one_of(ties, free))


def brute_force(score, values):
    """Best score and midpoint of the widest interval, by trying one threshold per interval."""
    edges = np.unique(np.append(values.astype(np.float64), 0.0))
    intervals = list(itertools.pairwise(edges))
    if edges[0] in values.astype(np.float64):
        intervals.insert(0, (0.0, 0.0))
    tried = [score(high) for _, high in intervals]
    best = max(tried)
    joined = []
    for (low, high), value in zip(intervals, tried, strict=True):
        if abs(value - best) < 1e-12:
            if joined and joined[-1][1] == low:
                joined[-1] = (joined[-1][0], high)
            else:
                joined.append((low, high))
    return best, joined


@settings(max_examples=300, deadline=None)
@given(tables())
def test_threshold_of_each_class_is_the_best_of_all(table):
    truth, probability = table
    thresholds, best = best_thresholds_per_class(truth, probability)
    for number in range(truth.shape[1]):
        target, values = truth[:, number], probability[:, number]
        if not target.any():
            assert np.isnan(thresholds[number]) and np.isnan(best[number])
            continue

        def score(threshold, target=target, values=values):
            return f1_per_class(target[:, None], call_labels(values, threshold)[:, None])[0]

        expected, joined = brute_force(score, values)
        assert best[number] == pytest.approx(np.nan_to_num(expected), abs=1e-12)
        assert score(thresholds[number]) == pytest.approx(expected, abs=1e-12)
        widest = max(high - low for low, high in joined)
        assert any(
            high - low == widest and thresholds[number] == (low + high) / 2 for low, high in joined
        )
        assert best_threshold(target, values) == (thresholds[number], best[number])


@settings(max_examples=300, deadline=None)
@given(tables())
def test_global_threshold_is_the_best_of_all(table):
    truth, probability = table
    threshold, best = best_global_threshold(truth, probability)
    if not truth.any():
        assert np.isnan(threshold) and np.isnan(best)
        return

    def score(value):
        return macro_f1(truth, call_labels(probability, value))

    expected, joined = brute_force(score, probability.ravel())
    assert best == pytest.approx(expected, abs=1e-12)
    assert score(threshold) == pytest.approx(expected, abs=1e-12)
    widest = max(high - low for low, high in joined)
    assert any(high - low == widest and threshold == (low + high) / 2 for low, high in joined)


def test_midpoint_of_the_widest_interval():
    truth = np.array([True, True, False, False])
    probability = np.array([0.9, 0.8, 0.2, 0.1], np.float32)
    threshold, f1 = best_threshold(truth, probability)
    assert threshold == pytest.approx(0.5) and f1 == 1


def test_neighbouring_float32_probabilities_are_told_apart():
    low = np.float32(0.3)
    high = np.nextafter(low, np.float32(1))
    truth, probability = np.array([True, False]), np.array([high, low])
    threshold, f1 = best_threshold(truth, probability)
    assert f1 == 1
    assert call_labels(probability, threshold).tolist() == [True, False]


@pytest.mark.parametrize("bad", [np.nan, -0.1, 1.5])
def test_what_is_no_probability_is_refused(bad):
    with pytest.raises(ValueError, match="0 to 1"):
        best_threshold(np.array([True, False]), np.array([0.5, bad], np.float32))


def test_frequency_matched_calls_as_many_as_are_positive():
    rng = np.random.default_rng(0)
    probability = rng.random((500, 4), dtype=np.float32)
    truth = rng.random((500, 4)) < np.array([0.5, 0.1, 0.01, 0.0])
    thresholds = frequency_matched_thresholds(truth, probability)
    called = call_labels(probability, thresholds).sum(axis=0)
    assert called[:3].tolist() == truth.sum(axis=0)[:3].tolist()
    assert np.isnan(thresholds[3])


def test_frequency_matched_takes_the_nearest_number_where_probabilities_tie():
    probability = np.array([0.9, 0.4, 0.4, 0.4, 0.4, 0.1], np.float32)[:, None]
    truth = np.array([1, 1, 0, 0, 0, 0], bool)[:, None]
    threshold = frequency_matched_thresholds(truth, probability)[0]
    assert call_labels(probability, threshold).sum() == 1


def test_frequency_matched_can_call_every_image():
    probability = np.array([0.9, 0.4], np.float32)[:, None]
    thresholds = frequency_matched_thresholds(np.ones((2, 1), bool), probability)
    assert thresholds[0] == pytest.approx(0.2)


def test_smoothed_goes_from_the_oldest_to_the_newest():
    assert smoothed_threshold([0.2, 0.4, 0.6], 0.3) == pytest.approx(
        0.3 * 0.6 + 0.7 * (0.3 * 0.4 + 0.7 * 0.2)
    )
    assert smoothed_threshold([np.nan, 0.5], 0.3) == 0.5
    assert np.isnan(smoothed_threshold([np.nan], 0.3))
