"""Transforms of images: what each one draws, and the drawn steps applied to uint8 images.

Drawing and applying are apart: a draw is a list of small records, and may be looked at, or
applied elsewhere. Steps that follow each other are applied together where that saves passes over
the image:

- Affine steps and a warp after them become one map, so that pixels are interpolated once where
  one step after the other would blur them at each. What leaves the frame between two steps is
  lost either way. Nothing else differs.
- Tables of pixel values become one table, with the same bytes.
- A turn after all else is made after the resize, which is an area average and symmetric.

Sharpening and edges stay at the array's size: clipped to 8 bit, they and the resize don't commute.
"""

from collections.abc import Callable, Iterable
from functools import lru_cache
from itertools import groupby
from typing import Any, NamedTuple

import cv2
import numpy as np

from hpaloc.albumentations_transforms import apply_library
from hpaloc.files import canonical_json
from hpaloc.geometry import N_DIHEDRAL, dihedral, resized

GRID = 4
MID_GREY = 128.0
GREYS = np.arange(256)
LAPLACE = np.array([[0, 1, 0], [1, -4, 1], [0, 1, 0]], np.float32)
SHARP = np.array([[-1, -1, -1], [-1, 9, -1], [-1, -1, -1]], np.float32)
UNCHANGED = np.array([[0, 0, 0], [0, 1, 0], [0, 0, 0]], np.float32)

Interval = tuple[float, float]
Channels = tuple[int, ...]


class Affine(NamedTuple):
    """``matrix`` (float64 3×3): the place in the image before (x, y, 1) of a pixel's centre."""

    matrix: np.ndarray


class Warp(NamedTuple):
    """``offsets`` (float32 2 (x, y) × 4 × 4): displacements of a grid's points in pixels."""

    offsets: np.ndarray


class Turn(NamedTuple):
    """One of the eight exact views of hpaloc.geometry.dihedral."""

    view: int


class Tables(NamedTuple):
    """A new value for each grey value: uint8 256 for each of ``channels``."""

    channels: Channels
    tables: list[np.ndarray]


class Filter(NamedTuple):
    """``kernel`` (float32 3×3, symmetric) over each of ``channels``."""

    channels: Channels
    kernel: np.ndarray


class Holes(NamedTuple):
    """Black rectangles at ``corners`` (n × (x, y)), ``width`` × ``height`` pixels each."""

    channels: Channels
    corners: np.ndarray
    width: int
    height: int


class Library(NamedTuple):
    """One draw, by its seed, of a transform of the albumentations library (see hpaloc.albumentations_transforms)."""

    channels: Channels
    transform: str
    arguments: str  # JSON
    seed: int


Step = Affine | Warp | Turn | Tables | Filter | Holes | Library


class Place(NamedTuple):
    """What a draw may use: the generator, the image's height and width, the group's channels."""

    rng: np.random.Generator
    height: int
    width: int
    channels: Channels


def _crop_and_pad(place: Place, share: Interval) -> Affine:
    """Each side is padded with black or cropped by its own share, whole pixels."""
    top, right, bottom, left = place.rng.uniform(*share, 4)
    left, right = int(left * place.width), int(right * place.width)
    top, bottom = int(top * place.height), int(bottom * place.height)
    scale_x = (place.width + left + right) / place.width
    scale_y = (place.height + top + bottom) / place.height
    # Pixels' centres are at whole numbers, the image's corner at −0.5.
    return Affine(
        np.array(
            [
                [scale_x, 0, (scale_x - 1) / 2 - left],
                [0, scale_y, (scale_y - 1) / 2 - top],
                [0, 0, 1],
            ]
        )
    )


def _affine(
    place: Place,
    degrees: Interval = (0, 0),
    scale: Interval = (1, 1),
    shear: Interval = (0, 0),
    shift: Interval = (0, 0),
) -> Affine:
    """Magnifies and rotates about the centre, shears along the rows, shifts by whole pixels."""
    uniform = place.rng.uniform
    angle, slant = np.deg2rad(uniform(*degrees)), np.tan(np.deg2rad(uniform(*shear)))
    factor = uniform(*scale)
    moved = np.trunc(uniform(*shift, 2) * (place.width, place.height))
    cos, sin = np.cos(angle), np.sin(angle)
    # The inverse of: scale, rotate, shear.
    linear = np.array([[cos, -sin], [sin, cos]]) @ np.array([[1, slant], [0, 1]]) / factor
    centre = np.array([place.width - 1, place.height - 1]) / 2
    matrix = np.eye(3)
    matrix[:2, :2] = linear
    matrix[:2, 2] = centre - linear @ (centre + moved)
    return Affine(matrix)


def _piecewise_affine(place: Place, scale: Interval) -> Warp:
    """Displaces each point of a 4×4 grid along each axis by a normal deviate.

    Its standard deviation is the drawn ``scale`` times the side; between the points it is linear.
    """
    deviation = np.float32(place.rng.uniform(*scale))
    offsets = place.rng.standard_normal((2, GRID, GRID), dtype=np.float32)
    offsets *= deviation * np.array([place.width, place.height], np.float32)[:, None, None]
    return Warp(offsets)


def _coarse_dropout(place: Place, share: Interval, hole: float) -> Holes:
    fewest, most = (max(1, round(end / hole**2)) for end in share)
    count = place.rng.integers(fewest, most + 1)
    width, height = int(place.width * hole), int(place.height * hole)
    ends = (place.width - width + 1, place.height - height + 1)
    return Holes(place.channels, place.rng.integers(0, ends, (count, 2)), width, height)


def _contrast(place: Place, factor: Interval) -> Tables:
    """Stretches pixel values about mid-grey."""
    return _same_table(place, MID_GREY + place.rng.uniform(*factor) * (GREYS - MID_GREY))


def _multiply(place: Place, factor: Interval, per_channel: bool) -> Tables:
    if not per_channel:
        return _same_table(place, place.rng.uniform(*factor) * GREYS)
    factors = place.rng.uniform(*factor, len(place.channels))
    return Tables(place.channels, [_table(each * GREYS) for each in factors])


def _gamma(place: Place, exponent: Interval) -> Tables:
    """Raises pixel values, as shares of 255, to a power."""
    return _same_table(place, 255 * (GREYS / 255) ** place.rng.uniform(*exponent))


def _edge_detect(place: Place, alpha: Interval) -> Filter:
    """(1 − alpha) · image + alpha · Laplace filter."""
    return _blend(place, alpha, LAPLACE)


def _sharpen(place: Place, alpha: Interval) -> Filter:
    """(1 − alpha) · image + alpha · (9 · image − its eight neighbours)."""
    return _blend(place, alpha, SHARP)


def _library(place: Place, transform: str, arguments: dict[str, Any]) -> Library:
    seed = int(place.rng.integers(2**32))
    return Library(place.channels, transform, canonical_json(arguments), seed)


def _blend(place: Place, alpha: Interval, kernel: np.ndarray) -> Filter:
    share = np.float32(place.rng.uniform(*alpha))
    return Filter(place.channels, (1 - share) * UNCHANGED + share * kernel)


def _same_table(place: Place, values: np.ndarray) -> Tables:
    return Tables(place.channels, [_table(values)] * len(place.channels))


def _table(values: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


DRAWS: dict[str, Callable[..., Step | None]] = {
    "none": lambda place: None,
    "crop_and_pad": _crop_and_pad,
    "coarse_dropout": _coarse_dropout,
    "piecewise_affine": _piecewise_affine,
    "rotate": _affine,
    "shear": lambda place, degrees: _affine(place, shear=degrees),
    "affine": _affine,
    "flip_and_rotate90": lambda place: Turn(int(place.rng.integers(N_DIHEDRAL))),
    "contrast": _contrast,
    "multiply": _multiply,
    "gamma": _gamma,
    "edge_detect": _edge_detect,
    "sharpen": _sharpen,
    "albumentations": _library,
}


def draw_step(name: str, parameters: dict[str, Any], place: Place) -> Step | None:
    """What a transform of hpaloc.scheme, with valid parameters, does to one image; None: nothing."""
    return DRAWS[name](place, **parameters)


def apply_steps(steps: Iterable[Step], image: np.ndarray, size: int) -> np.ndarray:
    """``image`` (uint8, H×W×4) after the steps in their order, then at size×size.

    The image is left as it is; with no steps and no resize it is the result itself.
    """
    steps, view = list(steps), 0
    if steps and isinstance(steps[-1], Turn):
        view = steps.pop().view
    for moves, run in groupby(steps, key=lambda step: isinstance(step, Affine | Warp | Turn)):
        apply = _moved if moves else _revalued
        image = apply(image, run)
    return dihedral(resized(image, size), view)


def _moved(image: np.ndarray, steps: Iterable[Affine | Warp | Turn]) -> np.ndarray:
    matrices: list[np.ndarray] = []
    for step in steps:
        if isinstance(step, Affine):
            matrices.append(step.matrix)
            continue
        if isinstance(step, Warp):
            image = _sampled(image, matrices, step.offsets)
        else:
            image = dihedral(_sampled(image, matrices), step.view)
        matrices = []
    return _sampled(image, matrices)


def _sampled(
    image: np.ndarray, matrices: list[np.ndarray], offsets: np.ndarray | None = None
) -> np.ndarray:
    """``image`` after affine steps and then a warp by ``offsets``, interpolated once."""
    if not matrices and offsets is None:
        return image
    height, width = image.shape[:2]
    total = np.eye(3)
    frames = []
    for matrix in matrices:
        total = total @ matrix
        frames.append(total)
    # The last frame is the result's own.
    image = _within(image, frames if offsets is not None else frames[:-1])
    if offsets is None:
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        return cv2.warpAffine(image, total[:2], (width, height), flags=flags)
    # Maps of floats: OpenCV 5 is faster with them (0.5 ms at 512 px) than with fixed-point ones.
    map_x, map_y = displacement_maps(offsets, height, width, total)
    return cv2.remap(image, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)


def _within(image: np.ndarray, frames: list[np.ndarray]) -> np.ndarray:
    """``image`` without what lies outside of a frame between two steps, and is lost there.

    A frame is given by the matrix (3×3) from its places to those of the image.
    """
    height, width = image.shape[:2]
    x, y = width - 1, height - 1
    corners = np.array([[0, x, x, 0], [0, 0, y, y], [1, 1, 1, 1]])  # the outer pixels' centres
    for frame in frames:
        places = np.linalg.solve(frame, corners)[:2]
        (left, top), (right, bottom) = places.min(axis=1), places.max(axis=1)
        if min(left, top) >= -0.5 and right <= x + 0.5 and bottom <= y + 0.5:
            continue  # all of the image is within
        mask = np.zeros((height, width), np.uint8)
        # OpenCV counts in sixteenths of a pixel, and fills the pixels on the outline too.
        polygon = np.rint((frame @ corners)[:2].T * 16).astype(np.int32)
        cv2.fillConvexPoly(mask, polygon, 255, shift=4)
        image = cv2.bitwise_and(image, image, mask=mask)
    return image


def displacement_maps(
    offsets: np.ndarray, height: int, width: int, matrix: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Where each pixel of the result is taken from: two float32 arrays height × width (x, y).

    ``offsets``: 2 × 4 × 4 displacements in pixels of a grid whose outer points are the centres
    of the corner pixels. ``matrix`` (3×3) maps what they give to places in the image. Bilinear
    between the points, which an affine map leaves so: it is enough to map the points.
    """
    points = offsets + _grid_points(height, width)
    if matrix is not None:
        points = np.tensordot(matrix[:2, :2], points, 1) + matrix[:2, 2, None, None]
    rows, columns = _hats(height), _hats(width)
    # cv2.gemm has no threads, which NumPy's product would start beside other workers.
    map_x, map_y = (
        cv2.gemm(rows, cv2.gemm(axis, columns, 1, None, 0, flags=cv2.GEMM_2_T), 1, None, 0)
        for axis in points.astype(np.float32)
    )
    return map_x, map_y


@lru_cache(maxsize=8)
def _hats(side: int) -> np.ndarray:
    """The weight of each point of the grid along one axis at pixels 0..side − 1: float32 side × 4."""
    positions = np.linspace(0, GRID - 1, side)
    distances = np.abs(positions[:, None] - np.arange(GRID))
    return np.maximum(1 - distances, 0).astype(np.float32)


@lru_cache(maxsize=8)
def _grid_points(height: int, width: int) -> np.ndarray:
    """The grid at rest, float32 2 (x, y) × 4 × 4, in pixels."""
    x, y = np.linspace(0, width - 1, GRID), np.linspace(0, height - 1, GRID)
    return np.stack(np.meshgrid(x, y)).astype(np.float32)


def _revalued(image: np.ndarray, steps: Iterable[Tables | Filter | Holes | Library]) -> np.ndarray:
    # OpenCV looks up and filters single planes faster than all four at once.
    planes = list(cv2.split(image))
    waiting: dict[int, np.ndarray] = {}  # tables not yet applied, by channel

    def look_up(channel: int) -> None:
        table = waiting.pop(channel, None)
        if table is not None and not np.array_equal(table, GREYS):
            planes[channel] = cv2.LUT(planes[channel], table)

    for step in steps:
        if isinstance(step, Library):
            for channel in step.channels:
                look_up(channel)
            chosen = [planes[channel] for channel in step.channels]
            changed = apply_library(chosen, step.transform, step.arguments, step.seed)
            for channel, plane in zip(step.channels, changed, strict=True):
                planes[channel] = plane
            continue
        for number, channel in enumerate(step.channels):
            if isinstance(step, Tables):
                table = step.tables[number]
                waiting[channel] = table[waiting[channel]] if channel in waiting else table
                continue
            look_up(channel)
            if isinstance(step, Filter):
                planes[channel] = _filtered(planes[channel], step.kernel)
            else:
                for x, y in step.corners:
                    planes[channel][y : y + step.height, x : x + step.width] = 0
    for channel in range(len(planes)):
        look_up(channel)
    return cv2.merge(planes)


def _filtered(plane: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    if kernel[0, 0] != kernel[0, 1]:
        return cv2.filter2D(plane, -1, kernel)
    # All neighbours weigh the same: the sum of all nine in 16 bit, and the pixel itself. The same
    # bytes as those of filter2D in two thirds of the time.
    around, centre = float(kernel[0, 0]), float(kernel[1, 1])
    sums = cv2.boxFilter(plane, cv2.CV_16S, (3, 3), normalize=False)
    filtered = cv2.addWeighted(plane.astype(np.int16), centre - around, sums, around, 0)
    return np.clip(filtered, 0, 255, out=filtered).astype(np.uint8)
