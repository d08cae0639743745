"""Brushes: smooth noise, round spots, rings, curved strokes, and where to put them in a cell."""

import cv2
import numpy as np

from hpaloc.simulate.cells import Cell, radius_at
from hpaloc.simulate.scene import Scene, to_pixels


def blur(picture: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur of a float32 map, ``sigma`` in pixels."""
    return cv2.GaussianBlur(picture, (0, 0), max(sigma, 0.05), borderType=cv2.BORDER_REFLECT)


def noise(scene: Scene, rng: np.random.Generator, scale: float) -> np.ndarray:
    """Smooth noise with bumps of about ``scale`` µm, mean 0, deviation near 1, float32.

    It is drawn on a grid of ``scale`` µm: the same at any number of pixels.
    """
    points = int(np.ceil(scene.size / scene.px / scale)) + 2
    grid = rng.standard_normal((points, points), dtype=np.float32)
    side = round(points * scale * scene.px)
    full = cv2.resize(grid, (side, side), interpolation=cv2.INTER_CUBIC)
    return full[: scene.size, : scene.size] * np.float32(1.4)


def spots(scene: Scene, centres, radii, values=1.0, ring: float = 0.0) -> np.ndarray:
    """Discs at ``centres`` (n × 2), or rings of width ``ring`` µm, values 0..1, float32."""
    canvas = np.zeros((scene.size, scene.size), dtype=np.uint8)
    centres = to_pixels(np.reshape(centres, (-1, 2)), scene.px)
    radii = np.broadcast_to(np.asarray(radii, dtype=float) * scene.px, len(centres))
    values = np.broadcast_to(np.asarray(values, dtype=float), len(centres))
    width = max(round(ring * scene.px), 1) if ring else -1
    for (x, y), radius, value in zip(
        centres.tolist(), radii.tolist(), values.tolist(), strict=True
    ):
        # A disc under a pixel keeps its light: it is drawn a pixel wide and fainter.
        drawn = max(radius, 0.75)
        grey = round(255 * min(value * (radius / drawn) ** 2, 1))
        cv2.circle(canvas, (x, y), round(drawn * 16), grey, width, cv2.LINE_AA, 4)
    return canvas.astype(np.float32) / 255


def strokes(scene: Scene, paths, width: float, values=1.0) -> np.ndarray:
    """Curves (arrays n × 2 in µm) of ``width`` µm with values 0..1, float32."""
    canvas = np.zeros((scene.size, scene.size), dtype=np.uint8)
    thickness = max(round(width * scene.px), 1)
    if np.ndim(values) == 0:
        curves = [to_pixels(path, scene.px) for path in paths]
        if curves:
            cv2.polylines(canvas, curves, False, round(255 * values), thickness, cv2.LINE_AA, 4)
    else:
        for path, value in zip(paths, values, strict=True):
            curve = [to_pixels(path, scene.px)]
            cv2.polylines(canvas, curve, False, round(255 * value), thickness, cv2.LINE_AA, 4)
    return canvas.astype(np.float32) / 255


def look_up(scene: Scene, field: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Values of a map at points (… × 2, µm); points off the picture take its border's value."""
    index = np.clip((points * scene.px).astype(int), 0, scene.size - 1)
    return field[index[..., 1], index[..., 0]]


def crowd(scene: Scene, number: int, count: float) -> int:
    """How many organelles the visible cytoplasm of cell ``number`` holds, if 450 µm² hold ``count``."""
    area = np.count_nonzero((scene.owner == number) & (scene.nucleus == 0)) / scene.px**2
    return round(count * area / 450)


def cytoplasm_points(
    scene: Scene,
    number: int,
    rng: np.random.Generator,
    count: int,
    near_nucleus: float = np.inf,
    near_border: float = np.inf,
    clearance: float = 0.5,
) -> np.ndarray:
    """At most ``count`` random points of cell ``number`` outside its nucleus, n × 2, in µm.

    ``near_nucleus`` and ``near_border`` are the lengths over which the density falls
    by e with the distance from the nucleus and from the cell's border; ``clearance``
    is kept from both.
    """
    cell = scene.cells[number]
    tries = 12 * count + 20
    angles = rng.uniform(0, 2 * np.pi, tries)
    reach = np.sqrt(rng.random(tries)) * radius_at(cell.radii, angles)
    chance = rng.random(tries)
    points = cell.centre + reach[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    distance = look_up(scene, scene.nucleus_distance, points)
    depth = look_up(scene, scene.depth, points)
    good = (
        _on_picture(scene, points)
        & (look_up(scene, scene.owner, points) == number)
        & (distance > (clearance if cell.nucleus_radii is not None else -1))
        & (depth > clearance)
        & (chance < np.exp(-distance / near_nucleus - depth / near_border))
    )
    return points[good][:count]


def nucleus_points(cell: Cell, rng: np.random.Generator, count: int, reach: float) -> np.ndarray:
    """Random points of a nucleus, up to the share ``reach`` of its radius, count × 2, in µm."""
    angles = rng.uniform(0, 2 * np.pi, count)
    radii = reach * np.sqrt(rng.random(count)) * radius_at(cell.nucleus_radii, angles)
    return cell.nucleus_centre + radii[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def walks(rng, starts, headings, points: int, step, wobble: float) -> np.ndarray:
    """Persistent random walks from ``starts``: n × points × 2; ``wobble`` radians a step."""
    turns = rng.normal(0, wobble, (len(starts), points - 1))
    angles = np.reshape(headings, (-1, 1)) + np.cumsum(turns, axis=1)
    steps = np.reshape(step, (-1, 1, 1)) * np.stack([np.cos(angles), np.sin(angles)], axis=2)
    path = np.concatenate([np.zeros((len(starts), 1, 2)), np.cumsum(steps, axis=1)], axis=1)
    return np.reshape(starts, (-1, 1, 2)) + path


def within_cell(scene: Scene, number: int, paths: np.ndarray, in_nucleus: bool) -> list[np.ndarray]:
    """The paths (n × points × 2) cut where they leave cell ``number`` or enter a nucleus."""
    good = (look_up(scene, scene.owner, paths) == number) | ~_on_picture(scene, paths)
    if not in_nucleus:
        good &= look_up(scene, scene.nucleus_depth, paths) < 0.6
    lengths = np.logical_and.accumulate(good, axis=1).sum(axis=1)
    return [path[:length] for path, length in zip(paths, lengths, strict=True) if length > 1]


def _on_picture(scene: Scene, points: np.ndarray) -> np.ndarray:
    side = scene.size / scene.px
    return ((points >= 0) & (points < side)).all(axis=-1)
