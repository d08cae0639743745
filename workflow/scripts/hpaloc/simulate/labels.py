"""Which labels, gene and name an antibody has.

Every antibody has one to four labels. The first comes from a low-discrepancy
sequence over the antibodies, so that even a small set holds about its share of
every rare class; the others are drawn at random. The weights of the first draw
are chosen such that the expected number of images of a class is proportional to
its real number of training images to the power of ``imbalance``.
"""

import math

import numpy as np

from hpaloc.simulate.streams import ANTIBODY, DELIVERIES, stream

# Images per class in train.csv of the Kaggle competition Human Protein Atlas Image
# Classification (31,072 images), classes 0 to 27.
TRAINING_COUNTS = (
    12885, 1254, 3621, 1561, 1858, 2513, 1008, 2822, 53, 45, 28, 1093, 688, 537,
    1066, 21, 530, 210, 902, 1482, 172, 3777, 802, 2965, 322, 8228, 328, 11,
)  # fmt: skip

# Share of the images of the same table with one, two, three and four labels
# (two images in 31,072 have five; they are left out here).
LABELS_PER_IMAGE = (0.4868, 0.4018, 0.1017, 0.0097)

_GOLDEN = (math.sqrt(5) - 1) / 2


def class_shares(imbalance: float) -> np.ndarray:
    """Share of each class among all labels, float64 of 28, sum 1.

    ``imbalance`` 1 gives the real shares of the training set, 0 equal shares.
    """
    weights = np.asarray(TRAINING_COUNTS, dtype=float) ** imbalance
    return weights / weights.sum()


def expected_frequencies(imbalance: float) -> np.ndarray:
    """Expected share of images that carry each class, float64 of 28."""
    return class_shares(imbalance) * _mean_labels()


def first_shares(imbalance: float) -> np.ndarray:
    """Distribution of the first label that makes the expected frequencies exact, float64 of 28.

    Given the first label f, class c != f joins with probability (k - 1) s_c / (1 - s_f)
    for k labels and the shares s. The equations "first + joined = frequency" are linear.
    """
    shares = class_shares(imbalance)
    joined = (_mean_labels() - 1) * shares[:, None] / (1 - shares[None, :])
    np.fill_diagonal(joined, 0)
    return np.linalg.solve(np.eye(len(shares)) + joined, expected_frequencies(imbalance))


def antibody_labels(seed: int, delivery: str, antibody: int, imbalance: float) -> list[int]:
    """The labels (sorted class numbers) of antibody number ``antibody`` (from 0)."""
    rng = stream(seed, delivery, ANTIBODY, antibody)
    shift = stream(seed, delivery, ANTIBODY).random()
    position = (shift + antibody * _GOLDEN) % 1
    cumulative = np.cumsum(first_shares(imbalance))
    first = min(int(np.searchsorted(cumulative, position, side="right")), len(cumulative) - 1)
    counts = np.asarray(LABELS_PER_IMAGE) / sum(LABELS_PER_IMAGE)
    further = int(rng.choice(len(counts), p=counts))
    shares = class_shares(imbalance)
    shares[first] = 0
    return sorted([first, *_systematic_sample(rng, further * shares / shares.sum())])


def antibody_name(seed: int, delivery: str, antibody: int) -> str:
    """A number as in HPA's image addresses; unlike that of any other seed or delivery."""
    return f"{DELIVERIES.index(delivery) + 1}{seed}{antibody:06d}"


def gene_name(seed: int, delivery: str, antibody: int) -> str:
    return f"SIM{antibody_name(seed, delivery, antibody)}"


def _mean_labels() -> float:
    counts = np.asarray(LABELS_PER_IMAGE) / sum(LABELS_PER_IMAGE)
    return float(counts @ np.arange(1, len(counts) + 1))


def _systematic_sample(rng: np.random.Generator, inclusion: np.ndarray) -> list[int]:
    """Distinct items, each with its probability in ``inclusion`` (sum = how many are drawn).

    Systematic sampling in random order (W. G. Madow, Ann. Math. Stat. 20, 1949).
    """
    order = rng.permutation(len(inclusion))
    edges = np.concatenate([[0], np.cumsum(inclusion[order])])
    points = rng.random() + np.arange(round(edges[-1]))
    return [int(order[i]) for i in np.searchsorted(edges, points, side="right") - 1]
