"""Transforms of images that albumentations lacks, or has only slowly."""

from functools import lru_cache
from typing import Any

import albumentations as A
import cv2
import numpy as np
from albumentations.core.type_definitions import Targets

from hpaloc.geometry import N_DIHEDRAL, dihedral

GRID = 4
MID_GREY = 128.0
LAPLACE = np.array([[0, 1, 0], [1, -4, 1], [0, 1, 0]], np.float32)


class PiecewiseAffine(A.DualTransform):
    """Displaces the points of a 4×4 grid over the image, and what lies between them bilinearly.

    Each point moves along each axis by a normal deviate with a standard deviation of ``scale``
    times the side; ``scale`` is drawn anew for each image from ``[scale[0], scale[1]]``. What
    comes from outside the image is black. A.PiecewiseAffine estimates a transform for every
    triangle and takes seconds at 512 px; here two 4×4 grids of displacements are spread
    linearly over the image, and cv2.remap does the rest.
    """

    _targets = (Targets.IMAGE, Targets.MASK)

    def __init__(self, scale: tuple[float, float], p: float = 1.0):
        super().__init__(p=p)
        self.scale = scale
        self.interpolation = cv2.INTER_LINEAR

    def get_params_dependent_on_data(
        self, params: dict[str, Any], data: dict[str, Any]
    ) -> dict[str, Any]:
        """The drawn displacements: ``offsets``, float32, 2 (x, y) × 4 × 4, in pixels."""
        height, width = params["shape"][:2]
        scale = self.random_generator.uniform(*self.scale)
        offsets = self.random_generator.standard_normal((2, GRID, GRID), dtype=np.float32)
        return {
            "offsets": offsets
            * np.float32(scale)
            * np.array([width, height], np.float32)[:, None, None]
        }

    def apply(
        self, img: np.ndarray, offsets: np.ndarray, interpolation: int, **params: Any
    ) -> np.ndarray:
        map_x, map_y = displacement_maps(offsets, *img.shape[:2])
        warped = cv2.remap(img, map_x, map_y, interpolation, borderMode=cv2.BORDER_CONSTANT)
        return warped.reshape(img.shape)


def displacement_maps(
    offsets: np.ndarray, height: int, width: int
) -> tuple[np.ndarray, np.ndarray]:
    """Where each pixel of the result is taken from: two float32 arrays height × width (x, y).

    ``offsets``: 2 × 4 × 4 displacements in pixels of a grid whose outer points are the centres
    of the corner pixels.
    """
    points = offsets + _grid_points(height, width)
    map_x, map_y = (_stretch(_stretch(axis.T, height).T, width) for axis in points)
    return map_x, map_y


def _stretch(values: np.ndarray, side: int) -> np.ndarray:
    """``values`` at the grid's points, n × 4, as n × side, linear in between.

    Not a matrix product: the threads of NumPy's would spin on the cores of other workers.
    """
    slopes = np.diff(values, axis=1)
    starts, shares = _cells(side)
    stretched = np.empty((len(values), side), np.float32)
    for cell in range(GRID - 1):
        columns = slice(starts[cell], starts[cell + 1])
        part = stretched[:, columns]
        np.multiply(slopes[:, cell, None], shares[columns], out=part)
        part += values[:, cell, None]
    return stretched


@lru_cache(maxsize=8)
def _cells(side: int) -> tuple[np.ndarray, np.ndarray]:
    """Of pixels 0..side − 1: where each of the grid's cells starts, and the place in the cell, 0 to 1."""
    positions = np.linspace(0, GRID - 1, side)
    cells = np.minimum(positions.astype(int), GRID - 2)
    return np.searchsorted(cells, np.arange(GRID)), (positions - cells).astype(np.float32)


@lru_cache(maxsize=8)
def _grid_points(height: int, width: int) -> np.ndarray:
    """The grid at rest, float32 2 (x, y) × 4 × 4, in pixels."""
    x, y = np.linspace(0, width - 1, GRID), np.linspace(0, height - 1, GRID)
    return np.stack(np.meshgrid(x, y)).astype(np.float32)


class Dihedral(A.ImageOnlyTransform):
    """One of the eight exact flips and rotations by 90°, faster than A.D4."""

    def get_params(self) -> dict[str, Any]:
        return {"view": self.py_random.randrange(N_DIHEDRAL)}

    def apply(self, img: np.ndarray, view: int, **params: Any) -> np.ndarray:
        return dihedral(img, view)


class Contrast(A.ImageOnlyTransform):
    """Stretches pixel values about mid-grey (A.RandomBrightnessContrast does it about black)."""

    def __init__(self, factor: tuple[float, float], p: float = 1.0):
        super().__init__(p=p)
        self.factor = factor

    def get_params(self) -> dict[str, Any]:
        return {"factor": self.py_random.uniform(*self.factor)}

    def apply(self, img: np.ndarray, factor: float, **params: Any) -> np.ndarray:
        return _look_up(img, MID_GREY + factor * (np.arange(256) - MID_GREY))


class Gamma(A.ImageOnlyTransform):
    """Raises pixel values, as shares of 255, to a power (A.RandomGamma rounds down: it darkens)."""

    def __init__(self, exponent: tuple[float, float], p: float = 1.0):
        super().__init__(p=p)
        self.exponent = exponent

    def get_params(self) -> dict[str, Any]:
        return {"exponent": self.py_random.uniform(*self.exponent)}

    def apply(self, img: np.ndarray, exponent: float, **params: Any) -> np.ndarray:
        return _look_up(img, 255 * (np.arange(256) / 255) ** exponent)


def _look_up(image: np.ndarray, values: np.ndarray) -> np.ndarray:
    """``image`` with each pixel value v replaced by ``values[v]``, rounded and clipped to 8 bit."""
    table = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    return cv2.LUT(image, table).reshape(image.shape)


class EdgeDetect(A.ImageOnlyTransform):
    """Blends the image with its edges: (1 − alpha) · image + alpha · Laplace filter."""

    def __init__(self, alpha: tuple[float, float], p: float = 1.0):
        super().__init__(p=p)
        self.alpha = alpha

    def get_params(self) -> dict[str, Any]:
        return {"alpha": self.py_random.uniform(*self.alpha)}

    def apply(self, img: np.ndarray, alpha: float, **params: Any) -> np.ndarray:
        kernel = alpha * LAPLACE
        kernel[1, 1] += 1 - alpha
        return cv2.filter2D(img, -1, kernel).reshape(img.shape)


class OnChannels(A.SelectiveChannelTransform):
    """Transforms some channels and leaves the others; nine times faster than its base at 512 px."""

    def __call__(self, *args: Any, force_apply: bool = False, **data: Any) -> dict[str, Any]:
        image = data["image"]
        count = len(self.channels)
        part = np.empty((*image.shape[:2], count), np.uint8)
        cv2.mixChannels([image], [part], _pairs(self.channels, range(count)))
        for transform in self.transforms:
            part = transform(image=part)["image"]
        result = image.copy()
        cv2.mixChannels([part], [result], _pairs(range(count), self.channels))
        return {**data, "image": result}


def _pairs(sources: Any, targets: Any) -> list[int]:
    return [index for pair in zip(sources, targets, strict=True) for index in pair]
