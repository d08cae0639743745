"""Losses and scores of a batch: logits and targets (0 or 1) are float32 N × 28."""

import numpy as np
import torch
from torch.nn.functional import binary_cross_entropy_with_logits


def bce(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Binary cross-entropy −[y log p + (1 − y) log(1 − p)], mean over all cells."""
    return binary_cross_entropy_with_logits(logits, targets)


def weighted_bce(
    logits: torch.Tensor, targets: torch.Tensor, class_weights: torch.Tensor
) -> torch.Tensor:
    """Binary cross-entropy of every cell times its class's weight, mean over all cells.

    The weight stands before both terms, as in the paper's recipe: the positives and the
    negatives of a rare class count more than those of a common one.
    """
    return binary_cross_entropy_with_logits(logits, targets, weight=class_weights)


def class_weights(labels: np.ndarray, class_weight: float) -> np.ndarray:
    """w_c = class_weight / n_c (the paper's: 11 / n_c, n_c the positives among the training rows).

    ``labels`` bool n × 28; float32 of 28. A class without a training image gets weight 0: the
    quotient has no value there, and there is nothing to learn for it but to be silent, which the
    other losses teach.
    """
    positives = labels.sum(axis=0)
    weights = np.where(positives > 0, class_weight / np.maximum(positives, 1), 0.0)
    return weights.astype(np.float32)


def soft_f1_loss(probabilities: torch.Tensor, targets: torch.Tensor, over: str) -> torch.Tensor:
    """1 − mean of F1 = 2 Σ p y / (Σ p + Σ y), with probabilities in place of calls.

    ``samples`` (the paper's): sums over the classes of one image, mean over images. An image
    without labels, such as a negative sample, has Σ p y = 0 whatever p is, hence no gradient:
    its F1 is taken as 1 / (1 + Σ p), which is 1 when nothing is called.
    ``classes``: sums over the images of the batch, mean over the classes that occur in it; what
    a batch of 64 lacks says nothing about a class.
    """
    axis = 1 if over == "samples" else 0
    common = (probabilities * targets).sum(axis)
    true = targets.sum(axis)
    total = probabilities.sum(axis) + true
    some = true > 0
    f1 = 2 * common / torch.where(some, total, 1.0)
    if over == "samples":
        return 1 - torch.where(some, f1, 1 / (1 + total)).mean()
    return 1 - (f1 * some).sum() / some.sum().clamp_min(1)


def focal_loss(
    logits: torch.Tensor, targets: torch.Tensor, alpha: float, gamma: float
) -> torch.Tensor:
    """−α_t (1 − p_t)^γ log p_t, mean over all cells (Lin et al. 2017, equation 5).

    p_t is the probability of the true answer; α_t is α for positives and 1 − α for negatives.
    """
    cross_entropy = binary_cross_entropy_with_logits(logits, targets, reduction="none")
    balance = alpha * targets + (1 - alpha) * (1 - targets)
    return (balance * (1 - torch.exp(-cross_entropy)) ** gamma * cross_entropy).mean()


def batch_scores(
    called: torch.Tensor, targets: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Macro F1, micro precision, micro recall and IOU of one batch.

    ``called`` and ``targets`` are float32 0 or 1. Macro F1 is the mean over the classes that
    occur in the batch, as labels or as calls: with 28 in the denominator it would follow the
    number of classes in the batch. IOU is the mean over images of |intersection| / |union|,
    1 where both are empty. 0 / 0 counts as 0 elsewhere.
    """
    hits = called * targets
    class_hits = hits.sum(0)
    class_sizes = called.sum(0) + targets.sum(0)
    f1 = 2 * class_hits / class_sizes.clamp_min(1)
    macro_f1 = f1.sum() / (class_sizes > 0).sum().clamp_min(1)
    all_hits = class_hits.sum()
    image_hits = hits.sum(1)
    union = called.sum(1) + targets.sum(1) - image_hits
    iou = torch.where(union > 0, image_hits / union.clamp_min(1), 1.0).mean()
    precision = all_hits / called.sum().clamp_min(1)
    recall = all_hits / targets.sum().clamp_min(1)
    return macro_f1, precision, recall, iou
