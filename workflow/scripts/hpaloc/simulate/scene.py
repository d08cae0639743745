"""The pixel maps of one field of cells, which every pattern draws from."""

from dataclasses import dataclass

import cv2
import numpy as np

from hpaloc.simulate.cells import ANGLES, Bridge, Cell, outline_points

_GRID = 128  # points a side at which the smooth distance of a cell's outline is computed


@dataclass(frozen=True)
class Scene:
    """Maps of size × size pixels; distances in µm, float32."""

    size: int
    px: float  # pixels per µm
    cells: list[Cell]
    bridges: list[Bridge]
    owner: np.ndarray  # int16: number of the cell, -1 between the cells
    inside: np.ndarray  # float32 0..1: in a cell
    depth: np.ndarray  # from the nearest cell border, 0 between the cells
    contact: np.ndarray  # from the nearest border that two cells share (large without one)
    nucleus: np.ndarray  # float32 0..1: in a nucleus
    nucleus_depth: np.ndarray  # from the nuclear envelope inwards, 0 outside
    nucleus_distance: np.ndarray  # from the nearest nucleus, 0 inside
    nucleoli: np.ndarray  # float32 0..1
    brightness: np.ndarray  # float32: of the cell that owns the pixel, 1 between the cells


def to_pixels(points: np.ndarray, px: float) -> np.ndarray:
    """Points in µm as OpenCV's fixed-point pixels (4 fractional bits), int32."""
    return np.round((np.asarray(points) * px - 0.5) * 16).astype(np.int32)


def build_scene(cells: list[Cell], bridges: list[Bridge], size: int, field: float) -> Scene:
    """Rasterises the cells of a field of side ``field`` µm. Where cells overlap, they share
    the ground along the line on which both outlines are relatively equally far."""
    px = size / field
    owner = _owners(cells, size, field)
    inside = owner >= 0
    border, shared = _borders(owner)
    nucleus = _nuclei(cells, owner, px)
    brightness = np.array([*(cell.brightness for cell in cells), 1.0], dtype=np.float32)
    return Scene(
        size=size,
        px=px,
        cells=cells,
        bridges=bridges,
        owner=owner,
        inside=inside.astype(np.float32),
        depth=np.where(inside, _distance(~border, px), np.float32(0)),
        contact=_distance(~shared, px),
        nucleus=nucleus.astype(np.float32),
        nucleus_depth=_distance(nucleus, px),
        nucleus_distance=_distance(~nucleus, px),
        nucleoli=_nucleoli(cells, nucleus, px),
        brightness=brightness[owner],
    )


def _owners(cells: list[Cell], size: int, field: float) -> np.ndarray:
    axis = ((np.arange(_GRID) + 0.5) * field / _GRID).astype(np.float32)
    nearest = np.ones((size, size), dtype=np.float32)
    owner = np.full((size, size), -1, dtype=np.int16)
    for number, cell in enumerate(cells):
        x, y = np.meshgrid(axis - np.float32(cell.centre[0]), axis - np.float32(cell.centre[1]))
        distance, angle = cv2.cartToPolar(x, y)
        direction = (angle * np.float32(ANGLES / (2 * np.pi))).astype(np.int32) % ANGLES
        relative = distance / cell.radii.astype(np.float32)[direction]
        relative = cv2.resize(relative, (size, size), interpolation=cv2.INTER_LINEAR)
        closer = relative < nearest
        owner[closer] = number
        np.copyto(nearest, relative, where=closer)
    return owner


def _borders(owner: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pixels at a border of a cell, and those where two cells meet."""
    border = np.zeros(owner.shape, dtype=bool)
    shared = np.zeros(owner.shape, dtype=bool)
    for axis in (0, 1):
        one = owner[1:] if axis == 0 else owner[:, 1:]
        two = owner[:-1] if axis == 0 else owner[:, :-1]
        differ = one != two
        both = differ & (one >= 0) & (two >= 0)
        part = (slice(1, None), slice(None)) if axis == 0 else (slice(None), slice(1, None))
        border[part] |= differ
        shared[part] |= both
    return border, shared


def _distance(mask: np.ndarray, px: float) -> np.ndarray:
    """Distance in µm of the pixels of ``mask`` to the nearest pixel outside it."""
    distance = cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, 3)
    # Without a pixel outside the mask OpenCV returns huge numbers: any large distance serves.
    return np.minimum(distance, np.float32(mask.shape[0])) / np.float32(px)


def _nuclei(cells: list[Cell], owner: np.ndarray, px: float) -> np.ndarray:
    canvas = np.zeros(owner.shape, dtype=np.uint8)
    for number, cell in enumerate(cells):
        if cell.nucleus_radii is not None:
            polygon = to_pixels(outline_points(cell.nucleus_centre, cell.nucleus_radii), px)
            cv2.fillPoly(canvas, [polygon], number + 1, cv2.LINE_8, 4)
    return (canvas > 0) & (canvas == owner + 1)


def _nucleoli(cells: list[Cell], nucleus: np.ndarray, px: float) -> np.ndarray:
    canvas = np.zeros(nucleus.shape, dtype=np.uint8)
    for cell in cells:
        for x, y, radius in cell.nucleoli:
            centre = tuple(int(value) for value in to_pixels((x, y), px))
            cv2.circle(canvas, centre, max(round(radius * px * 16), 1), 255, -1, cv2.LINE_AA, 4)
    return cv2.GaussianBlur(canvas * nucleus, (0, 0), 0.3 * px).astype(np.float32) / 255
