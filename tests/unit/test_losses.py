import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hpaloc import losses
from hpaloc.metrics import label_iou, scores


def random_batch(seed: int, n: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(n, 28, generator=generator)
    return logits, (torch.rand(n, 28, generator=generator) < 0.1).float()


def test_bce_is_the_mean_of_the_negative_logarithms() -> None:
    logits, targets = torch.tensor([[0.0, 2.0]]), torch.tensor([[1.0, 0.0]])
    p = 1 / (1 + math.exp(-2.0))
    expected = (-math.log(0.5) - math.log(1 - p)) / 2
    assert losses.bce(logits, targets).item() == pytest.approx(expected, rel=1e-6)


def test_class_weights_are_inverse_counts_and_zero_without_an_image() -> None:
    labels = np.zeros((10, 28), dtype=bool)
    labels[:5, 0] = True
    labels[:2, 1] = True
    weights = losses.class_weights(labels, 11)
    assert weights.dtype == np.float32
    assert weights[:3].tolist() == pytest.approx([11 / 5, 11 / 2, 0.0])


def test_weighted_bce_weighs_cells_by_their_class() -> None:
    logits, targets = random_batch(0)
    weights = torch.zeros(28)
    weights[4] = 2.0
    expected = 2.0 * losses.bce(logits[:, 4], targets[:, 4]) / 28
    assert losses.weighted_bce(logits, targets, weights).item() == pytest.approx(
        expected.item(), rel=1e-6
    )
    ones = torch.ones(28)
    assert torch.equal(losses.weighted_bce(logits, targets, ones), losses.bce(logits, targets))


def test_soft_f1_over_samples_by_hand() -> None:
    probabilities = torch.tensor([[0.5, 0.5, 0.0], [0.2, 0.3, 0.0]])
    targets = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    # 2 × 0.5 / (1 + 1), and 1 / (1 + 0.5) for the image without labels.
    expected = 1 - (0.5 + 1 / 1.5) / 2
    assert losses.soft_f1_loss(probabilities, targets, "samples").item() == pytest.approx(expected)


def test_soft_f1_over_classes_leaves_out_absent_classes() -> None:
    probabilities = torch.tensor([[0.5, 0.9], [0.5, 0.9]])
    targets = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    loss = losses.soft_f1_loss(probabilities, targets, "classes")
    assert loss.item() == pytest.approx(1 - 2 * 0.5 / (1.0 + 1.0))


@pytest.mark.parametrize("over", ["samples", "classes"])
def test_soft_f1_of_certain_answers_is_the_f1(over: str) -> None:
    _, targets = random_batch(1)
    assert losses.soft_f1_loss(targets, targets, over).item() == pytest.approx(0, abs=1e-6)
    wrong = losses.soft_f1_loss(1 - targets, targets, over)
    assert wrong.item() > 0.95


@pytest.mark.parametrize("over", ["samples", "classes"])
def test_an_empty_batch_of_labels_has_finite_gradients(over: str) -> None:
    logits = torch.zeros(4, 28, requires_grad=True)
    losses.soft_f1_loss(logits.sigmoid(), torch.zeros(4, 28), over).backward()
    assert torch.isfinite(logits.grad).all()
    # A negative sample teaches to call nothing; a class that the batch lacks teaches nothing.
    assert (logits.grad > 0).all() if over == "samples" else (logits.grad == 0).all()


def test_focal_loss_by_hand() -> None:
    logits, targets = torch.tensor([[0.0, 1.0]]), torch.tensor([[1.0, 0.0]])
    p = 1 / (1 + math.exp(-1.0))
    expected = (0.25 * 0.5**5 * -math.log(0.5) + 0.75 * p**5 * -math.log(1 - p)) / 2
    assert losses.focal_loss(logits, targets, 0.25, 5).item() == pytest.approx(expected, rel=1e-5)


def test_focal_loss_without_focus_is_half_the_bce() -> None:
    logits, targets = random_batch(2)
    assert losses.focal_loss(logits, targets, 0.5, 0).item() == pytest.approx(
        losses.bce(logits, targets).item() / 2, rel=1e-6
    )


@given(st.integers(0, 10_000), st.floats(-2, 2))
def test_batch_scores_agree_with_the_scores_of_evaluation(seed: int, cut: float) -> None:
    logits, targets = random_batch(seed)
    called = (logits > cut).float()
    macro_f1, precision, recall, iou = (
        value.item() for value in losses.batch_scores(called, targets)
    )
    truth, answer = targets.bool().numpy(), called.bool().numpy()
    expected = scores(truth, answer)
    occurring = (truth | answer).any(axis=0).sum()
    assert macro_f1 == pytest.approx(expected["macro_f1"] * 28 / max(occurring, 1), abs=1e-6)
    assert precision == pytest.approx(expected["micro_precision"], abs=1e-6)
    assert recall == pytest.approx(expected["micro_recall"], abs=1e-6)
    assert iou == pytest.approx(label_iou(truth, answer), abs=1e-6)
