"""One image: from its number and the source's settings to four channels and a record."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from hpaloc.simulate.cells import CELL_LINES, draw_cells
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

# Share of the images that hold a dividing cell whatever the protein is.
_CHANCE_METAPHASE, _CHANCE_TELOPHASE = 0.10, 0.06


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


def scene_of(settings: Mapping[str, Any], known: Record) -> Scene:
    """The cells of an image, before anything is stained."""
    rng = stream(settings["seed"], settings["delivery"], CELLS, known.number)
    metaphases = int(rng.random() < _CHANCE_METAPHASE)
    telophases = int(rng.random() < _CHANCE_TELOPHASE)
    if MITOTIC_SPINDLE in known.labels:
        metaphases = int(rng.integers(1, 3))
    if CYTOKINETIC_BRIDGE in known.labels:
        telophases = 1
    cells, bridges = draw_cells(
        rng, CELL_LINES[known.cell_line], settings["field_um"], *settings["cells"],
        metaphases=metaphases, telophases=telophases, touching=CELL_JUNCTIONS in known.labels,
    )  # fmt: skip
    return build_scene(cells, bridges, settings["size"], settings["field_um"])


def render(settings: Mapping[str, Any], number: int) -> tuple[Record, np.ndarray]:
    """The record of image ``number`` and its picture, uint8 size × size × 4 (red, green, blue,
    yellow). Depends on the settings (less ``images``) and the number only."""
    seed, delivery = settings["seed"], settings["delivery"]
    known = record(settings, number)
    scene = scene_of(settings, known)

    rng = stream(seed, delivery, MARKERS, number)
    markers = {
        "red": microtubules(scene, rng),
        "blue": dna(scene, rng),
        "yellow": endoplasmic_reticulum(scene, rng),
    }
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
