"""Patterns of membranes, vesicles and bodies: classes 6 to 10, 20 and 23 to 27."""

import numpy as np

from hpaloc.simulate.draw import (
    blur,
    crowd,
    cytoplasm_points,
    noise,
    spots,
    strokes,
    walks,
    within_cell,
)
from hpaloc.simulate.scene import Scene


def endoplasmic_reticulum(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """A net around the nucleus that thins out towards the border, and the nuclear rim."""
    net = np.clip(1 - np.abs(noise(scene, rng, 1.2)) * 0.9, 0, 1)
    sheet = 0.30 + 0.70 * net
    fall = 0.12 + 0.85 * np.exp(-scene.nucleus_distance / 5.5)
    edge = np.minimum(scene.depth / 2.0, 1)
    outside = scene.inside * (1 - 0.93 * scene.nucleus)
    return outside * fall * edge * sheet * (0.9 + 0.12 * noise(scene, rng, 5.0))


def cytosol(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """Even in the whole cell up to its border, without the nucleus."""
    texture = 0.52 + 0.04 * noise(scene, rng, 0.9) + 0.04 * noise(scene, rng, 4.0)
    edge = np.minimum(0.35 + scene.depth / 2.5, 1)
    return scene.inside * (1 - 0.85 * scene.nucleus) * texture * edge


def golgi_apparatus(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """A ribbon of stacks on the side of the nucleus where the organising centre lies."""
    paths: list[np.ndarray] = []
    for number, cell in enumerate(scene.cells):
        points = cytoplasm_points(scene, number, rng, 220, near_nucleus=2.2, clearance=0.5)
        offsets = points - cell.nucleus_centre
        towards = cell.organising_centre - cell.nucleus_centre
        angles = np.arctan2(offsets[:, 1], offsets[:, 0])
        away = np.angle(np.exp(1j * (angles - np.arctan2(towards[1], towards[0]))))
        starts = points[np.abs(away) < rng.uniform(0.55, 0.85)][:15]
        headings = np.arctan2(*(starts - cell.nucleus_centre).T[::-1]) + np.pi / 2
        curves = walks(rng, starts, headings, 6, rng.uniform(0.35, 0.7, len(starts)), 0.5)
        paths += within_cell(scene, number, curves, in_nucleus=False)
    values = rng.uniform(0.7, 1, len(paths))
    return strokes(scene, paths, 0.6, values) + 0.05 * scene.inside


def mitochondria(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """A net of short winding threads, densest around the nucleus."""
    paths: list[np.ndarray] = []
    for number, cell in enumerate(scene.cells):
        starts = cytoplasm_points(
            scene, number, rng, crowd(scene, number, 85), near_nucleus=6.0, clearance=0.6
        )
        outward = starts - cell.nucleus_centre
        headings = np.arctan2(outward[:, 1], outward[:, 0]) + rng.normal(0, 0.8, len(starts))
        curves = walks(rng, starts, headings, 9, rng.uniform(0.4, 0.95, len(starts)), 0.5)
        paths += within_cell(scene, number, curves, in_nucleus=False)
    return strokes(scene, paths, 0.4, rng.uniform(0.5, 1, len(paths))) + 0.04 * scene.inside


def peroxisomes(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """Very many fine dots of one size, all over the cytoplasm."""
    centres = _scatter(scene, rng, (95, 140), {})
    return spots(scene, centres, 0.30, rng.uniform(0.8, 1, len(centres))) + 0.04 * scene.inside


def endosomes(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """Vesicles of several sizes and brightnesses, rather towards the border."""
    centres = _scatter(scene, rng, (28, 45), {"near_border": 4.0})
    radii = rng.uniform(0.35, 0.72, len(centres))
    return spots(scene, centres, radii, rng.uniform(0.45, 1, len(centres))) + 0.05 * scene.inside


def lysosomes(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """Large bright vesicles crowded around the nucleus."""
    centres = _scatter(scene, rng, (22, 34), {"near_nucleus": 1.6})
    radii = rng.uniform(0.4, 0.95, len(centres))
    return spots(scene, centres, radii, rng.uniform(0.55, 1, len(centres))) + 0.05 * scene.inside


def lipid_droplets(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """Rings (the coat of the droplets) in groups."""
    centres = [np.empty((0, 2))]
    for number in range(len(scene.cells)):
        middles = cytoplasm_points(scene, number, rng, 4, clearance=1.5)
        for middle in middles:
            group = middle + rng.normal(0, 2.2, (int(rng.integers(4, 8)), 2))
            centres.append(group)
    places = np.concatenate(centres)
    places = places[_free_cytoplasm(scene, places)]
    radii = rng.uniform(0.7, 1.4, len(places))
    return spots(scene, places, radii, 0.95, ring=0.4) + 0.04 * scene.inside


def cytoplasmic_bodies(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """A few round bodies far apart in the cytoplasm."""
    centres = _scatter(scene, rng, (4, 9), {"clearance": 1.2})
    radii = rng.uniform(0.55, 0.95, len(centres))
    return spots(scene, centres, radii) + 0.09 * scene.inside * (1 - 0.5 * scene.nucleus)


def aggresome(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """One large irregular clump beside the nucleus of most cells."""
    centres, radii = [np.empty((0, 2))], [np.empty(0)]
    for cell in scene.cells:
        outward = cell.organising_centre - cell.nucleus_centre
        middle = cell.organising_centre + 1.2 * outward / np.linalg.norm(outward)
        if rng.random() < 0.85:
            centres.append(middle + rng.normal(0, 0.75, (7, 2)))
            radii.append(rng.uniform(0.9, 1.7, 7))
    clump = blur(spots(scene, np.concatenate(centres), np.concatenate(radii)), 0.3 * scene.px)
    return clump + 0.06 * scene.inside


def rods_and_rings(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """One or two straight rods and a ring of some micrometres in each cell."""
    rods, rings = [], [np.empty((0, 2))]
    for number in range(len(scene.cells)):
        points = cytoplasm_points(scene, number, rng, 2, near_nucleus=6.0, clearance=1.2)
        ring_count = int(rng.integers(0, 2))
        rings.append(points[:ring_count])
        for point in points[ring_count:]:
            angle = rng.uniform(0, np.pi)
            half = rng.uniform(2.2, 4.2) * np.array([np.cos(angle), np.sin(angle)])
            rods.append(np.stack([point - half, point + half]))
    centres = np.concatenate(rings)
    circles = spots(scene, centres, rng.uniform(1.5, 2.2, len(centres)), ring=0.7)
    return np.maximum(circles, strokes(scene, rods, 0.8)) + 0.05 * scene.inside


def _scatter(
    scene: Scene, rng: np.random.Generator, counts: tuple[int, int], where: dict[str, float]
) -> np.ndarray:
    """Random points of the cytoplasm of all cells, n × 2.

    ``counts`` are the fewest and the most in 450 µm² of cytoplasm, ``where`` keywords
    of ``cytoplasm_points``.
    """
    places = [np.empty((0, 2))]
    for number in range(len(scene.cells)):
        count = crowd(scene, number, rng.uniform(*counts))
        places.append(cytoplasm_points(scene, number, rng, count, **where))
    return np.concatenate(places)


def _free_cytoplasm(scene: Scene, points: np.ndarray) -> np.ndarray:
    index = (points * scene.px).astype(int)
    on_picture = ((index >= 0) & (index < scene.size)).all(axis=1)
    index = np.clip(index, 0, scene.size - 1)
    free = (scene.depth > 1.2) & (scene.nucleus_distance > 0.8)
    return on_picture & free[index[:, 1], index[:, 0]]
