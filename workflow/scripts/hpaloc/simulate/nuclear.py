"""Patterns of the nucleus: DNA and the classes 0 to 5. All return float32 maps, bright = 1."""

import numpy as np

from hpaloc.simulate.draw import blur, noise, nucleus_points, spots, strokes
from hpaloc.simulate.scene import Scene


def dna(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """The nuclear stain: chromatin, dark nucleoli, and chromosomes of dividing cells."""
    chromatin = 0.62 + 0.10 * noise(scene, rng, 1.0) + 0.08 * noise(scene, rng, 2.5)
    # Thinner towards the rim, as the nucleus is a flat ellipsoid.
    rise = np.minimum(0.55 + 0.25 * scene.nucleus_depth, 1)
    picture = scene.nucleus * rise * chromatin * (1 - 0.55 * scene.nucleoli)
    for number, cell in enumerate(scene.cells):
        if cell.phase == "metaphase":
            picture += _metaphase_plate(scene, number, rng)
        elif cell.phase == "telophase":
            picture *= np.where(scene.owner == number, np.float32(1.35), np.float32(1))
    return picture


def _metaphase_plate(scene: Scene, number: int, rng: np.random.Generator) -> np.ndarray:
    cell = scene.cells[number]
    across = cell.angle + np.pi / 2
    along = rng.uniform(-0.5, 0.5, 26) * 1.05 * cell.radii.mean()
    centres = cell.centre + along[:, None] * [np.cos(across), np.sin(across)]
    headings = cell.angle + rng.normal(0, 0.35, len(along))
    half = rng.uniform(0.7, 1.5, len(along))[:, None] * np.stack(
        [np.cos(headings), np.sin(headings)], axis=1
    )
    return strokes(scene, np.stack([centres - half, centres + half], axis=1), 0.9, 0.95)


def nucleoplasm(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    texture = 0.60 + 0.09 * noise(scene, rng, 0.9)
    return scene.nucleus * texture * (1 - 0.75 * scene.nucleoli)


def nuclear_membrane(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    away = np.where(scene.nucleus > 0, scene.nucleus_depth, scene.nucleus_distance)
    rim = np.exp(-((away / 0.55) ** 2)) * (0.85 + 0.12 * noise(scene, rng, 1.5))
    return rim + 0.10 * scene.nucleus


def nucleoli(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    return scene.nucleoli * (0.95 + 0.08 * noise(scene, rng, 0.8)) + 0.06 * scene.nucleus


def fibrillar_centres(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """Groups of small bright dots within the nucleoli."""
    centres, values = [], []
    for cell in scene.cells:
        for x, y, radius in cell.nucleoli:
            count = rng.integers(3, 7)
            angles = rng.uniform(0, 2 * np.pi, count)
            reach = 0.85 * radius * np.sqrt(rng.random(count))
            centres.append(np.stack([x + reach * np.cos(angles), y + reach * np.sin(angles)], 1))
            values.append(rng.uniform(0.75, 1, count))
    if not centres:
        return np.zeros_like(scene.nucleus)
    dots = spots(scene, np.concatenate(centres), 0.30, np.concatenate(values))
    return 1.2 * blur(dots, 0.1 * scene.px) * scene.nucleus + 0.05 * scene.nucleus


def nuclear_speckles(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """Some twenty to forty irregular patches between the nucleoli."""
    patches = np.clip((noise(scene, rng, 1.35) - 0.55) / 0.5, 0, 1)
    rim = np.minimum(scene.nucleus_depth / 0.8, 1)
    return scene.nucleus * rim * (1 - scene.nucleoli) * (0.95 * patches + 0.13)


def nuclear_bodies(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """A few round, sharp spots anywhere in the nucleoplasm."""
    centres, radii = [np.empty((0, 2))], [np.empty(0)]
    for cell in scene.cells:
        if cell.nucleus_radii is not None:
            points = nucleus_points(cell, rng, int(rng.integers(3, 9)), 0.82)
            clear = np.ones(len(points), dtype=bool)
            for x, y, radius in cell.nucleoli:
                clear &= np.hypot(points[:, 0] - x, points[:, 1] - y) > radius
            centres.append(points[clear])
            radii.append(rng.uniform(0.5, 0.85, len(points))[clear])
    return spots(scene, np.concatenate(centres), np.concatenate(radii)) + 0.07 * scene.nucleus
