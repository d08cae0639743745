"""Labels of simulated antibodies: shares of the classes, counts, names."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpaloc.classes import N_CLASSES, multi_hot
from hpaloc.simulate.labels import (
    LABELS_PER_IMAGE,
    TRAINING_COUNTS,
    antibody_labels,
    antibody_name,
    class_shares,
    expected_frequencies,
    first_shares,
)


def labels_of(count, seed=3, delivery="kaggle", imbalance=0.5):
    return [antibody_labels(seed, delivery, number, imbalance) for number in range(count)]


def test_training_counts_are_those_of_the_real_table(shared):
    rows = (shared / "data/kaggle/train.csv").read_text().splitlines()[1:]
    lists = [list(map(int, row.split(",")[1].split())) for row in rows]
    assert tuple(multi_hot(lists).sum(0)) == TRAINING_COUNTS
    counts = np.bincount([len(labels) for labels in lists])[1:5] / len(lists)
    assert np.allclose(counts, LABELS_PER_IMAGE, atol=1e-4)


@pytest.mark.parametrize("imbalance", [0, 0.5, 1])
def test_expected_frequencies_follow_the_counts(imbalance):
    expected = expected_frequencies(imbalance)
    ratio = expected / np.asarray(TRAINING_COUNTS, dtype=float) ** imbalance
    assert np.allclose(ratio, ratio[0])
    first = first_shares(imbalance)
    assert first.min() > 0
    assert first.sum() == pytest.approx(1)
    # At exponent 1 these are the frequencies of the real table itself.
    if imbalance == 1:
        assert np.allclose(expected, np.asarray(TRAINING_COUNTS) / 31072, rtol=2e-3)


@pytest.mark.parametrize("imbalance", [0.5, 1])
def test_drawn_frequencies_are_the_expected_ones(imbalance):
    count = 4000
    drawn = multi_hot(labels_of(count, imbalance=imbalance)).sum(0)
    expected = expected_frequencies(imbalance) * count
    # Four standard deviations of independent draws, and a whole image for the rarest classes.
    allowed = 4 * np.sqrt(expected * (1 - expected / count)) + 1
    assert (np.abs(drawn - expected) <= allowed).all()


def test_counts_of_labels_are_those_of_real_images():
    counts = np.bincount([len(labels) for labels in labels_of(4000)], minlength=5)[1:] / 4000
    assert np.allclose(counts, LABELS_PER_IMAGE, atol=0.03)


def test_a_small_set_holds_its_share_of_rare_classes():
    for seed in range(5):
        drawn = multi_hot(labels_of(600, seed=seed, imbalance=0.4)).sum(0)
        assert drawn.min() >= 2
        assert np.argmin(class_shares(0.4)) == 27


@given(st.integers(0, 2**32), st.integers(0, 10**6), st.floats(0, 1))
def test_labels_are_one_to_four_distinct_classes(seed, antibody, imbalance):
    labels = antibody_labels(seed, "hpa_v18", antibody, imbalance)
    assert 1 <= len(labels) <= 4
    assert labels == sorted(set(labels))
    assert set(labels) <= set(range(N_CLASSES))
    assert labels == antibody_labels(seed, "hpa_v18", antibody, imbalance)


@given(st.integers(0, 999), st.integers(0, 999), st.integers(0, 999), st.integers(0, 999))
def test_antibody_names_never_collide(seed, other_seed, number, other_number):
    name = antibody_name(seed, "kaggle", number)
    assert name != antibody_name(other_seed, "hpa_v18", other_number)
    same = (seed, number) == (other_seed, other_number)
    assert (name == antibody_name(other_seed, "kaggle", other_number)) == same
