"""Cell lines and the geometry of the cells in one field of view (micrometres, no pixels)."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

ANGLES = 256  # directions in which the radius of an outline is stored


class CellLine(NamedTuple):
    """How the cells of a line look; the names are HPA's, the numbers plausible, not measured."""

    radius: float  # µm, of a circle of the cell's area
    elongation: float  # long axis by short axis
    raggedness: float  # relative waviness of the outline
    protrusions: int  # thin extensions at most
    nucleus: float  # share of the cell's radius
    coverage: float  # share of the field that the cells would cover
    islands: bool  # cells seek neighbours


CELL_LINES = {
    "U-2 OS": CellLine(17.0, 1.5, 0.11, 2, 0.45, 0.95, False),
    "A-431": CellLine(13.5, 1.2, 0.05, 0, 0.53, 0.95, True),
    "HeLa": CellLine(14.0, 1.4, 0.08, 1, 0.50, 0.80, False),
    "MCF7": CellLine(14.5, 1.15, 0.04, 0, 0.50, 0.90, True),
    "U-251 MG": CellLine(16.0, 2.2, 0.10, 2, 0.46, 0.80, False),
    "HEK 293": CellLine(12.0, 1.3, 0.12, 1, 0.56, 0.60, True),
    "Hep G2": CellLine(12.5, 1.1, 0.05, 0, 0.55, 0.80, True),
    "SH-SY5Y": CellLine(11.5, 1.6, 0.08, 3, 0.57, 0.50, False),
    "BJ": CellLine(18.0, 2.8, 0.05, 1, 0.42, 0.80, False),
    "RT4": CellLine(10.5, 1.05, 0.02, 0, 0.62, 0.55, True),
}


@dataclass(frozen=True)
class Cell:
    """One cell. Points are float64 arrays (x, y) in µm, outlines of ANGLES radii around a centre."""

    centre: np.ndarray
    radii: np.ndarray
    angle: float  # of the long axis; of the spindle or bridge in a dividing cell
    phase: str  # "interphase", "metaphase" or "telophase"
    nucleus_centre: np.ndarray
    nucleus_radii: np.ndarray | None  # None without a nuclear envelope
    organising_centre: np.ndarray
    nucleoli: tuple[tuple[float, float, float], ...]  # x, y, radius
    brightness: float  # of the protein, relative to the other cells


class Bridge(NamedTuple):
    """The cytokinetic bridge from one daughter cell to the other."""

    start: np.ndarray
    end: np.ndarray


def radius_at(radii: np.ndarray, angles: np.ndarray) -> np.ndarray:
    """Radii of an outline in the directions ``angles`` (radians)."""
    return radii[np.asarray(angles / (2 * np.pi) * ANGLES).astype(int) % ANGLES]


def outline_points(centre: np.ndarray, radii: np.ndarray, step: int = 4) -> np.ndarray:
    """The outline as a polygon, float64 n × 2."""
    angles = np.arange(0, ANGLES, step) * 2 * np.pi / ANGLES
    return centre + radii[::step, None] * _directions(angles)


def draw_cells(
    rng: np.random.Generator,
    line: CellLine,
    field: float,
    at_least: int,
    at_most: int,
    metaphases: int = 0,
    telophases: int = 0,
    gather: bool = False,
) -> tuple[list[Cell], list[Bridge]]:
    """The cells of a square field of side ``field``, and the bridges between daughter cells.

    The dividing cells that are asked for are always drawn, first and well inside the field; a
    pair of daughters counts as two cells. The other cells fill what these leave of the ground:
    at least one where ``at_most`` allows it, and fewer than wished where there is no room.
    ``gather`` makes the cells seek contact, as those of a line that grows in islands do.
    """
    dividing = metaphases + 2 * telophases
    ground = (
        metaphases * _metaphase_radius(line) ** 2 + 2 * telophases * _daughter_radius(line) ** 2
    )
    wished = line.coverage * rng.uniform(0.8, 1.2) * field**2 / np.pi
    resting = max(round((wished - ground) / line.radius**2), 1)
    resting = int(np.clip(dividing + resting, at_least, at_most)) - dividing
    cells: list[Cell] = []
    bridges: list[Bridge] = []

    def place(inside: bool, near: bool = False) -> np.ndarray | None:
        # The middle of a bridge is kept free too: no cell grows between two daughters.
        taken = [cell.centre for cell in cells]
        taken += [(bridge.start + bridge.end) / 2 for bridge in bridges]
        return _place(rng, np.array(taken).reshape(-1, 2), field, line, near, inside)

    for _ in range(telophases):
        daughters, bridge = _daughters(rng, line, place(inside=True))
        cells += daughters
        bridges.append(bridge)
    for _ in range(metaphases):
        cells.append(_metaphase_cell(rng, line, place(inside=True)))
    for number in range(resting):
        spot = place(inside=number == 0, near=gather or line.islands)
        if spot is None:
            break
        cells.append(_cell(rng, line, spot))
    return cells, bridges


def touching_pairs(cells: list[Cell], field: float) -> int:
    """How many pairs of cells overlap or touch within the field, whose border they then share."""
    pairs = 0
    for number, one in enumerate(cells):
        for other in cells[:number]:
            apart = other.centre - one.centre
            angle = np.arctan2(apart[1], apart[0])
            reach = radius_at(one.radii, angle)
            middle = one.centre + apart * reach / (reach + radius_at(other.radii, angle + np.pi))
            overlap = reach + radius_at(other.radii, angle + np.pi) - np.linalg.norm(apart)
            pairs += bool(overlap > 0 and (middle > 0).all() and (middle < field).all())
    return pairs


def _place(rng, places, field, line, gather, inside) -> np.ndarray | None:
    """The best of some random places: near a neighbour or far from all.

    ``inside`` keeps away from the field's border, and takes the place farthest from the others
    where all are taken; otherwise the answer is then None.
    """
    margin = 0.22 if inside else 0.02
    candidates = rng.uniform(margin * field, (1 - margin) * field, (20 if inside else 10, 2))
    if len(places) == 0:
        return candidates[0]
    nearest = np.linalg.norm(candidates[:, None] - places[None], axis=2).min(1)
    free = nearest > 2.3 * line.radius * line.nucleus
    if not free.any():
        return candidates[np.argmax(nearest)] if inside else None
    score = -np.abs(nearest - 1.45 * line.radius) if gather else nearest
    return candidates[np.argmax(np.where(free, score, -np.inf))]


def _directions(angles: np.ndarray) -> np.ndarray:
    return np.stack([np.cos(angles), np.sin(angles)], axis=-1)


def _outline(rng, radius, elongation, raggedness, angle, protrusions=0) -> np.ndarray:
    """An ellipse with low harmonics and thin extensions, as ANGLES radii."""
    angles = np.arange(ANGLES) * 2 * np.pi / ANGLES
    long, short = radius * elongation**0.5, radius / elongation**0.5
    radii = long * short / np.hypot(short * np.cos(angles - angle), long * np.sin(angles - angle))
    wave = np.zeros(ANGLES)
    for order in range(2, 7):
        wave += rng.normal() / order**0.5 * np.cos(order * angles + rng.uniform(0, 2 * np.pi))
    radii = radii * np.clip(1 + raggedness * wave, 0.6, 1.5)
    for _ in range(rng.integers(0, protrusions + 1)):
        away = np.angle(np.exp(1j * (angles - rng.uniform(0, 2 * np.pi))))
        reach = rng.uniform(0.3, 0.8) * radius
        radii = radii + reach * np.exp(-((away / rng.uniform(0.12, 0.22)) ** 2))
    return radii


def _nucleoli(rng, centre, radii) -> tuple[tuple[float, float, float], ...]:
    size = radii.mean()
    nucleoli = []
    for _ in range(rng.integers(2, 5)):
        angle = rng.uniform(0, 2 * np.pi)
        place = centre + rng.uniform(0.15, 0.62) * radius_at(radii, angle) * _directions(angle)
        nucleoli.append((*map(float, place), float(size * rng.uniform(0.16, 0.30))))
    return tuple(nucleoli)


def _cell(rng, line, centre) -> Cell:
    angle = rng.uniform(0, np.pi)
    radius = line.radius * rng.uniform(0.85, 1.15)
    nucleus_centre = centre + rng.normal(0, 0.06 * radius, 2)
    nucleus_radii = _outline(
        rng, line.radius * line.nucleus * rng.uniform(0.9, 1.1),
        min(line.elongation**0.5 * rng.uniform(1.0, 1.2), 1.7), 0.025, angle + rng.normal(0, 0.25),
    )  # fmt: skip
    towards = rng.uniform(0, 2 * np.pi)
    reach = radius_at(nucleus_radii, towards) + rng.uniform(0.9, 1.6)
    return Cell(
        centre=centre,
        radii=_outline(rng, radius, line.elongation * rng.uniform(0.9, 1.15), line.raggedness,
                       angle, line.protrusions),
        angle=angle,
        phase="interphase",
        nucleus_centre=nucleus_centre,
        nucleus_radii=nucleus_radii,
        organising_centre=nucleus_centre + reach * _directions(towards),
        nucleoli=_nucleoli(rng, nucleus_centre, nucleus_radii),
        brightness=float(np.exp(rng.normal(0, 0.3))),
    )  # fmt: skip


def _metaphase_radius(line: CellLine) -> float:
    return max(0.68 * line.radius, 8.5)


def _daughter_radius(line: CellLine) -> float:
    return max(0.60 * line.radius, 7.5)


def _metaphase_cell(rng, line, centre) -> Cell:
    angle = rng.uniform(0, np.pi)
    radius = _metaphase_radius(line)
    return Cell(
        centre=centre,
        radii=_outline(rng, radius, 1.08, 0.015, angle),
        angle=angle,
        phase="metaphase",
        nucleus_centre=centre,
        nucleus_radii=None,
        organising_centre=centre + 0.55 * radius * _directions(angle),
        nucleoli=(),
        brightness=float(np.exp(rng.normal(0.1, 0.15))),
    )


def _daughters(rng, line, middle) -> tuple[list[Cell], Bridge]:
    """Two cells at the end of division, and the bridge that still joins them."""
    angle = rng.uniform(0, np.pi)
    radius = _daughter_radius(line)
    gap = rng.uniform(3.5, 6.5)
    cells = []
    for side in (-1, 1):
        outward = side * _directions(angle)
        centre = middle + (gap / 2 + radius) * outward
        nucleus_centre = centre + 0.15 * radius * outward
        nucleus_radii = _outline(rng, 0.47 * radius, 1.45, 0.02, angle + np.pi / 2)
        cells.append(
            Cell(
                centre=centre,
                radii=_outline(rng, radius, 1.1, 0.03, angle + np.pi / 2),
                angle=angle,
                phase="telophase",
                nucleus_centre=nucleus_centre,
                nucleus_radii=nucleus_radii,
                organising_centre=nucleus_centre + (0.35 * radius + 1.0) * outward,
                nucleoli=_nucleoli(rng, nucleus_centre, nucleus_radii),
                brightness=1.0,
            )
        )
    half = (gap / 2 + 0.25 * radius) * _directions(angle)
    return cells, Bridge(middle - half, middle + half)
