"""The eight views of a square image: rotations by quarter turns, and their mirror images.

A view is a transposition or none, then a flip of the rows or none, then of the columns or none.
The cosine coefficients of a view are those of the image, transposed and with the signs of odd
frequencies changed by a flip, so that hashes of signs are turned without the image.
"""

from typing import NamedTuple

import numpy as np


class View(NamedTuple):
    name: str
    transpose: bool
    flip_rows: bool
    flip_columns: bool


# The names say how an image is turned (counter-clockwise) or mirrored to become the view.
VIEWS = (
    View("same", False, False, False),
    View("rotated 90", True, True, False),
    View("rotated 180", False, True, True),
    View("rotated 270", True, False, True),
    View("mirrored left-right", False, False, True),
    View("mirrored top-bottom", False, True, False),
    View("transposed", True, False, False),
    View("transposed and rotated 180", True, True, True),
)

# The number of the view that undoes a view: all but the quarter turns undo themselves.
INVERSE = np.array([0, 3, 2, 1, 4, 5, 6, 7])


# Coefficients below this frequency on both axes are the smooth part of an image: illumination
# and focus more than cells, which also differ between deliveries.
SMOOTH = 3


def _frequencies() -> list[tuple[int, int]]:
    """The 64 lowest pairs of frequencies (half cycles per side) above the smooth part."""
    pairs = [(u, v) for u in range(9) for v in range(9) if max(u, v) >= SMOOTH]
    return sorted(pairs, key=lambda pair: (pair[0] ** 2 + pair[1] ** 2, pair))[:64]


FREQUENCIES = _frequencies()


def view_of_planes(planes: np.ndarray, view: View) -> np.ndarray:
    """The view of … × S × S planes: another look at the same memory."""
    if view.transpose:
        planes = planes.swapaxes(-1, -2)
    if view.flip_rows:
        planes = planes[..., ::-1, :]
    if view.flip_columns:
        planes = planes[..., ::-1]
    return planes


def pack(positive: np.ndarray) -> np.ndarray:
    """Signs of the coefficients FREQUENCIES, bool … × 64, as uint64 …."""
    packed = np.ascontiguousarray(np.packbits(positive, axis=-1))
    return packed.view("<u8")[..., 0].astype(np.uint64)


def view_of_bits(bits: np.ndarray, view: View) -> np.ndarray:
    """Hashes (uint64, any shape) of the same images seen in another view."""
    packed = np.ascontiguousarray(bits, "<u8")[..., None].view(np.uint8)
    positive = np.unpackbits(packed, axis=-1).astype(bool)
    place = {pair: number for number, pair in enumerate(FREQUENCIES)}
    source = [place[(v, u) if view.transpose else (u, v)] for u, v in FREQUENCIES]
    changed = [
        bool((view.flip_rows and u % 2) ^ (view.flip_columns and v % 2)) for u, v in FREQUENCIES
    ]
    return pack(positive[..., source] ^ np.array(changed))
