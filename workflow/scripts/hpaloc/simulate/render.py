"""One image: from its number and the source's settings to four channels and a record."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from hpaloc.simulate.cells import CELL_LINES, Bridge, Cell, draw_cells, touching_pairs
from hpaloc.simulate.cytoplasm import endoplasmic_reticulum
from hpaloc.simulate.cytoskeleton import microtubules
from hpaloc.simulate.labels import antibody_labels, antibody_name, gene_name
from hpaloc.simulate.nuclear import dna
from hpaloc.simulate.optics import CAMERAS, take_picture
from hpaloc.simulate.patterns import (
    CELL_JUNCTIONS,
    CYTOKINETIC_BRIDGE,
    MITOTIC_SPINDLE,
    pattern,
)
from hpaloc.simulate.scene import Scene, build_scene
from hpaloc.simulate.streams import ANTIBODY, CAMERA, CELLS, MARKERS, PATTERN, stream

# What a field holds must not tell its labels: the protein's channel is to be read, not the others.
# A class that is seen in dividing cells needs such cells in its images, so most other images hold
# them too, with their proteins elsewhere, as in a culture that is enriched in dividing cells. Of
# the images without the label this share holds them; the share without them, halved, is what the
# reference channels are better than chance in telling the label (area under the ROC curve 0.60).
_CHANCE_DIVIDING = 0.8
# Share of the images whose cells seek contact though their line does not grow in islands.
_CHANCE_GATHERED = 0.5
# Cell junctions are seen where at least so many pairs of cells touch.
_PAIRS_FOR_JUNCTIONS = 2
_TRIES = 20


class Record(NamedTuple):
    """What is known of image ``number`` before it is drawn."""

    number: int
    antibody_number: int
    antibody: str
    gene: str
    cell_line: str
    labels: list[int]


def record(settings: Mapping[str, Any], number: int) -> Record:
    """Antibody, labels and cell line of image ``number`` (from 0)."""
    seed, delivery = settings["seed"], settings["delivery"]
    antibody, within = divmod(number, settings["images_per_antibody"])
    # Consecutive images of an antibody are of different lines, as far as there are lines.
    lines = stream(seed, delivery, ANTIBODY, antibody, 1).permutation(settings["cell_lines"])
    return Record(
        number=number,
        antibody_number=antibody,
        antibody=antibody_name(seed, delivery, antibody),
        gene=gene_name(seed, delivery, antibody),
        cell_line=str(lines[within % len(lines)]),
        labels=antibody_labels(seed, delivery, antibody, settings["imbalance"]),
    )


def cells_of(settings: Mapping[str, Any], known: Record) -> tuple[list[Cell], list[Bridge]]:
    """The cells of an image and the bridges between them.

    Labels whose protein is seen in some cells only make sure that there is one of these; what
    else the image holds is drawn alike for all labels.
    """
    rng = stream(settings["seed"], settings["delivery"], CELLS, known.number)
    metaphases, telophases = _divisions(rng, known.labels, settings["cells"][1])
    gather = bool(rng.random() < _CHANCE_GATHERED)
    line, field = CELL_LINES[known.cell_line], settings["field_um"]

    def draw(gather: bool) -> tuple[list[Cell], list[Bridge]]:
        return draw_cells(
            rng, line, field, *settings["cells"], metaphases=metaphases, telophases=telophases,
            gather=gather,
        )  # fmt: skip

    cells, bridges = draw(gather)
    if CELL_JUNCTIONS in known.labels:
        for _ in range(_TRIES):
            if touching_pairs(cells, field) >= _PAIRS_FOR_JUNCTIONS:
                break
            cells, bridges = draw(gather=True)
    return cells, bridges


def scene_of(settings: Mapping[str, Any], known: Record) -> Scene:
    """The cells of an image as pixel maps, before anything is stained."""
    cells, bridges = cells_of(settings, known)
    return build_scene(cells, bridges, settings["size"], settings["field_um"])


def _divisions(rng: np.random.Generator, labels: list[int], at_most: int) -> tuple[int, int]:
    """How many cells of the image are in metaphase, and how many pairs end their division.

    What no label asks for is left out where it would leave no resting cell among ``at_most``.
    """
    spindle, bridge = MITOTIC_SPINDLE in labels, CYTOKINETIC_BRIDGE in labels
    # Drawn whatever the labels are, so that these move nothing else.
    chances, several = rng.random(2), int(rng.integers(1, 3))
    metaphases = several if spindle or chances[0] < _CHANCE_DIVIDING else 0
    telophases = int(bridge or chances[1] < _CHANCE_DIVIDING)
    room = at_most - 1
    if metaphases + 2 * telophases > room:
        metaphases = min(metaphases, 1)
    if metaphases + 2 * telophases > room and not bridge:
        telophases = 0
    if metaphases + 2 * telophases > room and not spindle:
        metaphases = 0
    return metaphases, telophases


def draw_markers(scene: Scene, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """The three reference channels, and the part of the red one that is not of division."""
    network, dividing = microtubules(scene, rng)
    return {
        "red": network + dividing,
        "blue": dna(scene, rng),
        "yellow": endoplasmic_reticulum(scene, rng),
        "microtubules": network,
    }


def render(settings: Mapping[str, Any], number: int) -> tuple[Record, np.ndarray]:
    """The record of image ``number`` and its picture, uint8 size × size × 4 (red, green, blue,
    yellow). Depends on the settings (less ``images``) and the number only."""
    seed, delivery = settings["seed"], settings["delivery"]
    known = record(settings, number)
    scene = scene_of(settings, known)

    markers = draw_markers(scene, stream(seed, delivery, MARKERS, number))
    rng = stream(seed, delivery, ANTIBODY, known.antibody_number, 2)
    strengths = rng.uniform(0.7, 1.0, len(known.labels))
    unspecific = rng.uniform(0.015, 0.08)
    green = unspecific * scene.inside
    for label, strength in zip(known.labels, strengths, strict=True):
        rng = stream(seed, delivery, PATTERN, number, label)
        green = green + np.float32(strength) * pattern(label, scene, markers, rng)
    signals = {**markers, "green": green * scene.brightness}

    rng = stream(seed, delivery, CAMERA, number)
    camera = CAMERAS[delivery]
    planes = [
        take_picture(signals[channel].astype(np.float32, copy=False), scene.px, camera, rng)
        for channel in ("red", "green", "blue", "yellow")
    ]
    return known, np.stack(planes, axis=2)
