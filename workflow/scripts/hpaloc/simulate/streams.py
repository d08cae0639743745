"""Random streams: one per purpose and item, so that nothing drawn for one image moves another."""

import numpy as np

DELIVERIES = ("kaggle", "hpa_v18")

# The purposes; the numbers are part of the seed, so they never change.
ANTIBODY, CELLS, MARKERS, CAMERA, PATTERN = range(5)


def stream(seed: int, delivery: str, purpose: int, *items: int) -> np.random.Generator:
    """The generator of one purpose and item (image or antibody number, class number …).

    The delivery is part of the seed: a training set and a test set of the same seed share nothing.
    """
    return np.random.default_rng([seed, DELIVERIES.index(delivery), purpose, *items])
