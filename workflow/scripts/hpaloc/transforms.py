"""Transforms of images: what each one draws, and the drawn steps applied to uint8 images.

Drawing and applying are apart: a draw is a list of small records, and may be looked at, or
applied elsewhere. Steps that follow each other are applied together where that saves passes over
the image:

- Affine steps and a warp after them become one map, so that pixels are interpolated once where
  one step after the other would blur them at each. What leaves the frame between two steps is
  lost either way. Nothing else differs.
- Tables of pixel values become one table, with the same bytes.
- A turn after all else is made after the resize, which is an area average and symmetric.

Sharpening and edges stay on their side of the resize: clipped to 8 bit, they don't commute with it.
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
Choice = str | list[str]
Channels = tuple[int, ...]


class Affine(NamedTuple):
    """``matrix`` (float64 3×3): the place in the image before (x, y, 1) of a pixel's centre.

    Beyond the edge of the image before is black (``border`` "constant"), or the image reflected at
    the centres of its outer pixels ("reflect").
    """

    matrix: np.ndarray
    border: str = "constant"


class Warp(NamedTuple):
    """``offsets`` (float32 2 (x, y) × 4 × 4): displacements of a grid's points in pixels.

    ``clipped``: no point leaves the image, so that nothing beyond its edge is seen.
    """

    offsets: np.ndarray
    clipped: bool = False


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


class Cells(NamedTuple):
    """Black cells of a grid over the image: ``black`` is bool n×n for each of ``channels``."""

    channels: Channels
    black: np.ndarray


class Resize(NamedTuple):
    """A resize to size×size, by one of hpaloc.geometry.INTERPOLATIONS."""

    size: int
    interpolation: str


class Library(NamedTuple):
    """One draw, by its seed, of a transform of the albumentations library (see hpaloc.albumentations_transforms)."""

    channels: Channels
    transform: str
    arguments: str  # JSON
    seed: int


Step = Affine | Warp | Turn | Tables | Filter | Holes | Cells | Library | Resize


class Place(NamedTuple):
    """What a draw may use: the generator, the image's height and width, the group's channels, and
    the side to which a resize brings the image."""

    rng: np.random.Generator
    height: int
    width: int
    channels: Channels
    size: int = 0


def _chosen(place: Place, names: Choice) -> str:
    """The one word, or one of several, all equally likely; for one word nothing is drawn."""
    return names if isinstance(names, str) else names[place.rng.integers(len(names))]


def _crop_and_pad(place: Place, share: Interval, border: Choice = "constant") -> Affine:
    """Each side is padded or cropped by its own share, whole pixels."""
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
        ),
        _chosen(place, border),
    )


def _affine(
    place: Place,
    degrees: Interval = (0, 0),
    scale: Interval = (1, 1),
    shear: Interval = (0, 0),
    shift: Interval = (0, 0),
    border: Choice = "constant",
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
    return Affine(matrix, _chosen(place, border))


def _piecewise_affine(place: Place, scale: Interval, clip: bool = False) -> Warp:
    """Displaces each point of a 4×4 grid along each axis by a normal deviate.

    Its standard deviation is the drawn ``scale`` times the side; between the points it is linear.
    With ``clip``, a point that would leave the image stops at its outer pixels' centres.
    """
    deviation = np.float32(place.rng.uniform(*scale))
    offsets = place.rng.standard_normal((2, GRID, GRID), dtype=np.float32)
    offsets *= deviation * np.array([place.width, place.height], np.float32)[:, None, None]
    if clip:
        rest = _grid_points(place.height, place.width)
        ends = np.array([place.width - 1, place.height - 1], np.float32)[:, None, None]
        offsets = np.clip(rest + offsets, 0, ends) - rest
    return Warp(offsets, clip)


def _resize(place: Place, interpolation: Choice = "area") -> Resize:
    return Resize(place.size, _chosen(place, interpolation))


def _coarse_dropout(place: Place, share: Interval, hole: float) -> Holes:
    fewest, most = (max(1, round(end / hole**2)) for end in share)
    count = place.rng.integers(fewest, most + 1)
    width, height = int(place.width * hole), int(place.height * hole)
    ends = (place.width - width + 1, place.height - height + 1)
    return Holes(place.channels, place.rng.integers(0, ends, (count, 2)), width, height)


def _grid_dropout(place: Place, probability: Interval, cells: int, per_channel: bool) -> Cells:
    """Draws a probability for the image, then with it whether each cell is black."""
    chance = place.rng.uniform(*probability)
    if per_channel:
        black = place.rng.random((len(place.channels), cells, cells)) < chance
    else:
        black = np.stack([place.rng.random((cells, cells)) < chance] * len(place.channels))
    return Cells(place.channels, black)


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
    return _blend(place, place.rng.uniform(*alpha), LAPLACE)


def _sharpen(place: Place, alpha: Interval, lightness: Interval | None = None) -> Filter:
    """(1 − alpha) · image + alpha · ((8 + lightness) · image − its eight neighbours).

    Without ``lightness`` it is 1, which keeps the brightness, and nothing is drawn for it.
    """
    share = place.rng.uniform(*alpha)
    sharp = SHARP
    if lightness is not None:
        sharp = SHARP + np.float32(place.rng.uniform(*lightness) - 1) * UNCHANGED
    return _blend(place, share, sharp)


def _library(place: Place, transform: str, arguments: dict[str, Any]) -> Library:
    seed = int(place.rng.integers(2**32))
    return Library(place.channels, transform, canonical_json(arguments), seed)


def _blend(place: Place, alpha: float, kernel: np.ndarray) -> Filter:
    share = np.float32(alpha)
    return Filter(place.channels, (1 - share) * UNCHANGED + share * kernel)


def _same_table(place: Place, values: np.ndarray) -> Tables:
    return Tables(place.channels, [_table(values)] * len(place.channels))


def _table(values: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


DRAWS: dict[str, Callable[..., Step | None]] = {
    "none": lambda place: None,
    "crop_and_pad": _crop_and_pad,
    "coarse_dropout": _coarse_dropout,
    "grid_dropout": _grid_dropout,
    "piecewise_affine": _piecewise_affine,
    "rotate": _affine,
    "shear": lambda place, degrees, **border: _affine(place, shear=degrees, **border),
    "affine": _affine,
    "flip_and_rotate90": lambda place: Turn(int(place.rng.integers(N_DIHEDRAL))),
    "resize": _resize,
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
    for apply, run in groupby(steps, key=_applied_by):
        image = apply(image, run)
    return dihedral(resized(image, size), view)


def _applied_by(step: Step) -> Callable[[np.ndarray, Iterable[Any]], np.ndarray]:
    if isinstance(step, Resize):
        return _brought_to_size
    return _moved if isinstance(step, Affine | Warp | Turn) else _revalued


def _brought_to_size(image: np.ndarray, steps: Iterable[Resize]) -> np.ndarray:
    for step in steps:
        image = resized(image, step.size, step.interpolation)
    return image


def _moved(image: np.ndarray, steps: Iterable[Affine | Warp | Turn]) -> np.ndarray:
    matrices: list[np.ndarray] = []
    shape = image.shape[:2]
    for step in steps:
        if isinstance(step, Affine):
            matrix = step.matrix
            if step.border == "reflect":
                # What is reflected is what the steps before show.
                image = _sampled(image, matrices, shape)
                image, matrix = _reflected(image, matrix)
                matrices = []
            matrices.append(matrix)
            continue
        if isinstance(step, Warp):
            image = _sampled(image, matrices, shape, step)
        else:
            image = dihedral(_sampled(image, matrices, shape), step.view)
            shape = image.shape[:2]
        matrices = []
    return _sampled(image, matrices, shape)


def _reflected(image: np.ndarray, matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """``image``, reflected at its edges as far as an affine step sees, and the step's matrix there."""
    height, width = image.shape[:2]
    places = (matrix @ _corners(height, width))[:2]
    (left, top), (right, bottom) = np.floor(places.min(axis=1)), np.ceil(places.max(axis=1))
    left, top = max(0, int(-left)), max(0, int(-top))
    right, bottom = max(0, int(right) - width + 1), max(0, int(bottom) - height + 1)
    if not (left or top or right or bottom):
        return image, matrix
    image = cv2.copyMakeBorder(image, top, bottom, left, right, cv2.BORDER_REFLECT_101)
    shift = np.array([[1, 0, left], [0, 1, top], [0, 0, 1]])
    return image, shift @ matrix


def _sampled(
    image: np.ndarray,
    matrices: list[np.ndarray],
    shape: tuple[int, int],
    warp: Warp | None = None,
) -> np.ndarray:
    """``image`` after affine steps and then a warp, interpolated once.

    ``shape`` is that of the frames of all steps, and of the result; the image may be larger.
    """
    if not matrices and warp is None:
        return image
    height, width = shape
    total = np.eye(3)
    frames = []
    for matrix in matrices:
        total = total @ matrix
        frames.append(total)
    # The last frame is the result's own, or a clipped warp stays within it.
    left = frames if warp is not None and not warp.clipped else frames[:-1]
    image = _within(image, left, shape)
    if warp is None:
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        return cv2.warpAffine(image, total[:2], (width, height), flags=flags)
    # Maps of floats: OpenCV 5 is faster with them (0.5 ms at 512 px) than with fixed-point ones.
    map_x, map_y = displacement_maps(warp.offsets, height, width, total)
    return cv2.remap(image, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)


def _corners(height: int, width: int) -> np.ndarray:
    """The centres of the four outer pixels as columns (x, y, 1)."""
    x, y = width - 1, height - 1
    return np.array([[0, x, x, 0], [0, 0, y, y], [1, 1, 1, 1]])


def _within(image: np.ndarray, frames: list[np.ndarray], shape: tuple[int, int]) -> np.ndarray:
    """``image`` without what lies outside of a frame between two steps, and is lost there.

    A frame of ``shape`` is given by the matrix (3×3) from its places to those of the image.
    """
    height, width = shape
    all_of_it, of_frame = _corners(*image.shape[:2]), _corners(height, width)
    for frame in frames:
        places = np.linalg.solve(frame, all_of_it)[:2]
        (left, top), (right, bottom) = places.min(axis=1), places.max(axis=1)
        if min(left, top) >= -0.5 and right <= width - 0.5 and bottom <= height - 0.5:
            continue  # all of the image is within
        mask = np.zeros(image.shape[:2], np.uint8)
        # OpenCV counts in sixteenths of a pixel, and fills the pixels on the outline too.
        polygon = np.rint((frame @ of_frame)[:2].T * 16).astype(np.int32)
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


def _revalued(
    image: np.ndarray, steps: Iterable[Tables | Filter | Holes | Cells | Library]
) -> np.ndarray:
    steps = list(steps)
    table = _same_for_all(steps, image.shape[2])
    if table is not None:
        return image if np.array_equal(table, GREYS) else cv2.LUT(image, table)
    # OpenCV looks up and filters single planes faster than all four at once, but for one table.
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
            elif isinstance(step, Cells):
                _blank_cells(planes[channel], step.black[number])
            else:
                for x, y in step.corners:
                    planes[channel][y : y + step.height, x : x + step.width] = 0
    for channel in range(len(planes)):
        look_up(channel)
    return cv2.merge(planes)


def _same_for_all(steps: list[Any], n_channels: int) -> np.ndarray | None:
    """The one table of steps that are the same table for all channels; None if they aren't."""
    total = None
    for step in steps:
        if not isinstance(step, Tables) or len(step.channels) < n_channels:
            return None
        table = step.tables[0]
        if any(other is not table for other in step.tables):
            return None
        total = table if total is None else table[total]
    return total


def _blank_cells(plane: np.ndarray, black: np.ndarray) -> None:
    rows, columns = (
        np.linspace(0, side, len(black) + 1).round().astype(int) for side in plane.shape
    )
    for row, column in np.argwhere(black):
        plane[rows[row] : rows[row + 1], columns[column] : columns[column + 1]] = 0


def _filtered(plane: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    if kernel[0, 0] != kernel[0, 1]:
        return cv2.filter2D(plane, -1, kernel)
    # All neighbours weigh the same: the sum of all nine in 16 bit, and the pixel itself. The same
    # bytes as those of filter2D in two thirds of the time.
    around, centre = float(kernel[0, 0]), float(kernel[1, 1])
    sums = cv2.boxFilter(plane, cv2.CV_16S, (3, 3), normalize=False)
    filtered = cv2.addWeighted(plane.astype(np.int16), centre - around, sums, around, 0)
    return np.clip(filtered, 0, 255, out=filtered).astype(np.uint8)
