"""Exact flips and rotations by 90°, and resizing by area average."""

import cv2
import numpy as np

N_DIHEDRAL = 8


def dihedral(image: np.ndarray, view: int) -> np.ndarray:
    """One of the eight exact views of a square: bit 2 of ``view`` transposes, then bit 1 turns
    upside down, then bit 0 mirrors left and right. View 0 is the image itself.

    ``image``: uint8, H×W×C with C ≤ 4. No pixel value changes.
    """
    if not 0 <= view < N_DIHEDRAL:
        raise ValueError(f"view {view} is not one of 0..{N_DIHEDRAL - 1}")
    shape = image.shape
    if view & 4:
        image = cv2.transpose(image)
        shape = (shape[1], shape[0], *shape[2:])
    upside_down, mirrored = bool(view & 2), bool(view & 1)
    if upside_down or mirrored:
        # OpenCV's code of a flip: 0 upside down, 1 left and right, -1 both.
        image = cv2.flip(image, -1 if upside_down and mirrored else int(mirrored))
    return image.reshape(shape)


def resized(image: np.ndarray, size: int) -> np.ndarray:
    """``image`` (uint8, H×W×4) at size×size: area average where it shrinks, else bilinear."""
    height, width = image.shape[:2]
    if (height, width) == (size, size):
        return image
    shrinks = size <= height and size <= width
    return cv2.resize(
        image, (size, size), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    )
