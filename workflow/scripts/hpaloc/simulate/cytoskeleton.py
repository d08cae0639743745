"""Patterns of filaments and of the cell's border: classes 11 to 19, 21 and 22."""

import numpy as np

from hpaloc.simulate.cells import Cell, radius_at
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


def microtubules(scene: Scene, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Curved filaments from the organising centre to the border; spindles and bridges apart."""
    layers: list[list[np.ndarray]] = [[], [], []]
    dividing = np.zeros_like(scene.inside)
    for number, cell in enumerate(scene.cells):
        if cell.phase == "metaphase":
            dividing += spindle(scene, cell, rng)
            continue
        paths = within_cell(scene, number, _radial_paths(cell, rng), in_nucleus=True)
        for layer, chosen in enumerate(layers):
            chosen += paths[layer::3]
    picture = sum(strokes(scene, paths, 0.25, 0.42) for paths in layers)
    # The focal plane cuts the nucleus, where there are none; the haze is what is out of focus.
    picture = picture * (1 - 0.8 * scene.nucleus)
    haze = 0.10 * scene.inside * np.exp(-scene.nucleus_distance / 7) * (1 - 0.6 * scene.nucleus)
    return picture + haze, dividing + 0.9 * _bridge_bars(scene, 0.0, 0.9)


def _radial_paths(cell: Cell, rng: np.random.Generator, count: int = 66) -> np.ndarray:
    """Arcs from the organising centre to points near the outline, count × 9 × 2."""
    angles = rng.uniform(0, 2 * np.pi, count)
    reach = radius_at(cell.radii, angles) * rng.uniform(0.6, 1.0, count)
    ends = cell.centre + reach[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    along = ends - cell.organising_centre
    sideways = along[:, ::-1] * [-1, 1] * rng.normal(0, 0.16, (count, 1))
    ripple = along[:, ::-1] * [-1, 1] * rng.normal(0, 0.03, (count, 1))
    t = np.linspace(0.02, 1, 9)[None, :, None]
    return (
        cell.organising_centre
        + along[:, None] * t
        + sideways[:, None] * np.sin(np.pi * t)
        + ripple[:, None] * np.sin(3 * np.pi * t)
    )


def spindle(scene: Scene, cell: Cell, rng: np.random.Generator) -> np.ndarray:
    """Fibres that bulge between two poles, and the poles."""
    axis = np.array([np.cos(cell.angle), np.sin(cell.angle)])
    half = cell.organising_centre - cell.centre
    bulge = rng.uniform(-1, 1, 22)[:, None, None] * 0.42 * cell.radii.mean()
    t = np.linspace(-1, 1, 11)[None, :, None]
    across = np.array([-axis[1], axis[0]])
    paths = cell.centre + half * t + bulge * np.cos(np.pi / 2 * t) ** 0.8 * across
    fibres = strokes(scene, list(paths[::2]), 0.3, 0.5) + strokes(
        scene, list(paths[1::2]), 0.3, 0.5
    )
    poles = spots(scene, [cell.centre - half, cell.centre + half], 0.7)
    return fibres + 0.6 * blur(poles, 0.3 * scene.px)


def _bridge_bars(scene: Scene, gap: float, width: float) -> np.ndarray:
    """Every bridge as a bar with a gap of ``gap`` µm at the midbody."""
    paths = []
    for bridge in scene.bridges:
        middle = (bridge.start + bridge.end) / 2
        along = bridge.end - bridge.start
        half_gap = along / np.linalg.norm(along) * gap / 2
        paths += [
            np.stack([bridge.start, middle - half_gap]),
            np.stack([middle + half_gap, bridge.end]),
        ]
    return strokes(scene, paths, width)


def mitotic_spindle(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    picture = 0.05 * scene.inside
    for cell in scene.cells:
        if cell.phase == "metaphase":
            picture = picture + 1.25 * spindle(scene, cell, rng)
    return picture


def cytokinetic_bridge(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """Two bright arms beside the midbody."""
    arms = blur(_bridge_bars(scene, 1.4, 1.1), 0.12 * scene.px)
    return 1.2 * arms + (0.05 + 0.01 * noise(scene, rng, 2.0)) * scene.inside


def intermediate_filaments(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """Wavy bundles that wind around the nucleus and thin out towards the border."""
    layers: list[list[np.ndarray]] = [[], []]
    for number, cell in enumerate(scene.cells):
        starts = cytoplasm_points(scene, number, rng, 42, near_nucleus=3.5)
        offsets = starts - cell.nucleus_centre
        tangent = np.arctan2(offsets[:, 1], offsets[:, 0]) + np.pi / 2
        headings = (
            tangent + rng.normal(0, 0.5, len(starts)) + np.pi * rng.integers(0, 2, len(starts))
        )
        paths = walks(rng, starts, headings, 13, rng.uniform(0.8, 1.4, len(starts)), 0.35)
        paths = within_cell(scene, number, paths, in_nucleus=False)
        for layer, chosen in enumerate(layers):
            chosen += paths[layer::2]
    bundles = sum(strokes(scene, paths, 0.5, 0.5) for paths in layers)
    cage = np.exp(-scene.nucleus_distance / 1.8) * (1 - scene.nucleus) * scene.inside
    return bundles * (0.75 + 0.25 * noise(scene, rng, 3.0)) + 0.28 * cage


def actin_filaments(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """Straight parallel stress fibres across each cell, and its cortex."""
    picture = 0.55 * np.exp(-scene.depth / 0.6) * scene.inside + 0.06 * scene.inside
    for number, cell in enumerate(scene.cells):
        if cell.phase != "interphase":
            continue
        heading = cell.angle + rng.normal(0, 0.25)
        reach = cell.radii.max()
        count = int(reach / 0.75)
        offsets = rng.uniform(-1, 1, count) * reach
        middles = cell.centre + offsets[:, None] * [-np.sin(heading), np.cos(heading)]
        angles = heading + rng.normal(0, 0.05, count)
        along = np.stack([np.cos(angles), np.sin(angles)], axis=1)
        starts = middles + rng.uniform(-1, 0.1, count)[:, None] * reach * along
        ends = starts + rng.uniform(0.6, 1.6, count)[:, None] * reach * along
        fibres = strokes(scene, np.stack([starts, ends], 1), 0.4, rng.uniform(0.35, 0.95, count))
        picture += np.where(scene.owner == number, fibres, np.float32(0))
    return picture


def focal_adhesions(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """Elongated plaques near the border that point outwards."""
    paths, values = [], []
    for number, cell in enumerate(scene.cells):
        if cell.phase == "interphase":
            starts = cytoplasm_points(
                scene, number, rng, crowd(scene, number, 26), near_border=1.6, clearance=0.7
            )
            offsets = cell.centre - starts
            headings = np.arctan2(offsets[:, 1], offsets[:, 0]) + rng.normal(0, 0.2, len(starts))
            lengths = rng.uniform(1.4, 3.0, len(starts))
            inward = lengths[:, None] * np.stack([np.cos(headings), np.sin(headings)], axis=1)
            paths += list(np.stack([starts, starts + inward], axis=1))
            values += list(rng.uniform(0.65, 1, len(starts)))
    return strokes(scene, paths, 0.6, values) + 0.07 * scene.inside


def microtubule_ends(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """Short comets in the outer half of the cell, bright at the outward end."""
    tails, heads, lines = [], [], 0.06 * scene.inside
    for number, cell in enumerate(scene.cells):
        points = cytoplasm_points(scene, number, rng, crowd(scene, number, 60), near_border=5.0)
        offsets = points - cell.organising_centre
        headings = np.arctan2(offsets[:, 1], offsets[:, 0]) + rng.normal(0, 0.25, len(points))
        length = rng.uniform(1.2, 2.2, len(points))
        inward = length[:, None] * np.stack([np.cos(headings), np.sin(headings)], axis=1)
        tails += list(np.stack([points - inward, points], axis=1))
        heads += list(points)
    lines = lines + strokes(scene, tails, 0.3, 0.6)
    return lines + 0.6 * spots(scene, np.reshape(heads, (-1, 2)), 0.3)


def organising_centre(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """A cloud around the organising centre with short filaments, an aster."""
    rays, clouds = [], []
    for cell in scene.cells:
        for centre in _poles(cell):
            angles = rng.uniform(0, 2 * np.pi, 16)
            reach = rng.uniform(1.8, 3.8, (16, 1))
            ends = centre + reach * np.stack([np.cos(angles), np.sin(angles)], axis=1)
            rays += [np.stack([centre, end]) for end in ends]
            clouds.append(centre)
    cloud = blur(spots(scene, clouds, 1.5), 0.6 * scene.px)
    return 0.95 * cloud + 0.45 * strokes(scene, rays, 0.3) + 0.05 * scene.inside


def centrosome(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """One or two sharp dots beside the nucleus, one at each pole of a spindle."""
    dots = []
    for cell in scene.cells:
        for centre in _poles(cell):
            angle = rng.uniform(0, np.pi)
            offset = 0.55 * np.array([np.cos(angle), np.sin(angle)])
            dots += [centre] if rng.random() < 0.35 else [centre - offset, centre + offset]
    return 1.15 * spots(scene, dots, 0.48) + 0.05 * scene.inside


def _poles(cell: Cell) -> list[np.ndarray]:
    if cell.phase == "metaphase":
        return [cell.organising_centre, 2 * cell.centre - cell.organising_centre]
    return [cell.organising_centre]


def plasma_membrane(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """The whole outline of every cell, with ruffles."""
    ruffles = np.clip(0.8 + 0.25 * noise(scene, rng, 2.0), 0.2, None)
    fringe = 0.25 * np.exp(-scene.depth / 1.8) * np.clip(noise(scene, rng, 0.7), 0, 1.5)
    return scene.inside * (np.exp(-scene.depth / 0.55) * ruffles + fringe + 0.10)


def cell_junctions(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """The borders that two cells share, beaded; free borders stay dark."""
    beads = np.clip(0.75 + 0.35 * noise(scene, rng, 0.9), 0.15, None)
    return np.exp(-((scene.contact / 0.6) ** 2)) * beads + 0.06 * scene.inside
