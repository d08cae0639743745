import warnings

import numpy as np
import pytest
from sklearn import metrics as reference

from hpaloc.metrics import (
    area_of_steps,
    average_precision_per_class,
    f1_per_class,
    label_iou,
    macro_f1,
    precision_recall,
    scores,
    scores_per_class,
)


@pytest.fixture(params=[0, 1, 2])
def table(request):
    rng = np.random.default_rng(request.param)
    frequency = rng.random(28) * 0.5
    frequency[[3, 8]] = 0
    truth = rng.random((200, 28)) < frequency
    predicted = rng.random((200, 28)) < 0.3
    predicted[:, [3, 9]] = False
    truth[:5] = predicted[:5] = False
    return truth, predicted


@pytest.mark.parametrize("average", ["micro", "macro"])
def test_averages_agree_with_scikit_learn(table, average):
    truth, predicted = table
    ours = scores(truth, predicted)
    precision, recall, f1, _ = reference.precision_recall_fscore_support(
        truth, predicted, average=average, zero_division=0
    )
    assert ours[f"{average}_precision"] == pytest.approx(precision)
    assert ours[f"{average}_recall"] == pytest.approx(recall)
    assert ours[f"{average}_f1"] == pytest.approx(f1)


def test_scores_of_cells_and_images(table):
    truth, predicted = table
    ours = scores(truth, predicted)
    assert ours["correct_labels"] == (truth == predicted).sum()
    assert ours["total_labels"] == 200 * 28
    assert ours["binary_accuracy"] == pytest.approx((truth == predicted).mean())
    assert ours["n_images"] == 200
    assert ours["macro_f1"] == macro_f1(truth, predicted)
    assert ours["iou"] == pytest.approx(
        reference.jaccard_score(truth, predicted, average="samples", zero_division=1)
    )
    present = truth.any(axis=0)
    assert ours["macro_f1_present"] == pytest.approx(
        reference.f1_score(
            truth[:, present], predicted[:, present], average="macro", zero_division=0
        )
    )


def test_scores_of_classes(table):
    truth, predicted = table
    ours = scores_per_class(truth, predicted)
    precision, recall, f1, support = reference.precision_recall_fscore_support(
        truth, predicted, zero_division=np.nan
    )
    np.testing.assert_allclose(ours["precision"], precision)
    np.testing.assert_allclose(ours["recall"], recall)
    np.testing.assert_allclose(ours["f1"], f1)
    np.testing.assert_array_equal(ours["support"], support)
    np.testing.assert_array_equal(ours["predicted"], predicted.sum(axis=0))
    iou = reference.jaccard_score(truth, predicted, average=None, zero_division=0)
    np.testing.assert_allclose(np.nan_to_num(ours["iou"]), iou)
    assert np.isnan(ours["f1"][3]) and np.isnan(ours["iou"][3])


def test_a_class_that_is_called_but_never_true_scores_zero_not_nothing():
    truth = np.zeros((4, 2), bool)
    predicted = np.ones((4, 2), bool)
    assert f1_per_class(truth, predicted).tolist() == [0, 0]


def test_calling_nothing_scores_zero_without_a_warning():
    truth = np.array([[True, False], [False, False]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ours = scores(truth, np.zeros_like(truth))
    assert ours["micro_precision"] == ours["micro_recall"] == ours["macro_f1"] == 0
    assert ours["iou"] == 0.5


def test_two_empty_label_sets_agree():
    empty = np.zeros((3, 28), bool)
    assert label_iou(empty, empty) == 1


def test_average_precision_agrees_with_scikit_learn(table):
    truth, _ = table
    rng = np.random.default_rng(7)
    # Two decimals make many equal probabilities.
    probability = rng.random(truth.shape).round(2).astype(np.float32)
    ours = average_precision_per_class(truth, probability)
    for number in np.flatnonzero(truth.any(axis=0)):
        expected = reference.average_precision_score(truth[:, number], probability[:, number])
        assert ours[number] == pytest.approx(expected)
    assert np.isnan(ours[[3, 8]]).all()
    precision, recall, threshold = precision_recall(truth[:, 0], probability[:, 0])
    assert area_of_steps(precision, recall) == pytest.approx(ours[0])
    called = probability[:, 0] >= np.float32(threshold[4])
    assert precision[4] == pytest.approx(truth[called, 0].mean())
    assert recall[4] == pytest.approx(truth[called, 0].sum() / truth[:, 0].sum())
