"""Random streams: one per purpose and item, so that nothing drawn for one image moves another."""

import numpy as np

DELIVERIES = ("kaggle", "hpa_v18")

# The purposes; the numbers are part of the seed, so they never change.
ANTIBODY, CELLS, MARKERS, CAMERA, PATTERN = range(5)

# Words that no number is written as: the end of a list, and the start of a number of several words.
_END, _LONG = 2**32 - 1, 2**32 - 2


def stream(seed: int, delivery: str, purpose: int, *items: int) -> np.random.Generator:
    """The generator of one purpose and item (image or antibody number, class number …).

    The delivery is part of the seed: a training set and a test set of the same seed share nothing.
    No two different sets of arguments give the same generator.
    """
    return np.random.default_rng(entropy(seed, DELIVERIES.index(delivery), purpose, *items))


def entropy(seed: int, delivery: int, purpose: int, *items: int) -> list[int]:
    """The numbers as words of 32 bits from which they can be told again.

    numpy fills a list up to four words with zeros and takes a number of more than 32 bits for
    several, so that [1, 2] and [1, 2, 0], [2**32] and [0, 1] seed the same generator. Therefore a
    list of items that ends in 0 is closed with a word of its own, and a large number is announced
    with another one and its length.
    """
    words = []
    for number in (seed, delivery, purpose, *items):
        if number < 0:
            raise ValueError(f"{number} cannot seed a stream: it is below 0")
        if number < _LONG:
            words.append(number)
        else:
            parts = [(number >> shift) & 0xFFFFFFFF for shift in range(0, number.bit_length(), 32)]
            words += [_LONG, len(parts), *parts]
    if items and items[-1] == 0:
        words.append(_END)
    return words
