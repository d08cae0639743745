"""The green channel: one pattern per class, in the order of resources/classes.csv."""

from collections.abc import Callable, Mapping

import numpy as np

from hpaloc.simulate import cytoplasm, cytoskeleton, nuclear
from hpaloc.simulate.scene import Scene

Pattern = Callable[[Scene, np.random.Generator], np.ndarray]

# None: the protein lies where a marker does (see MARKER_OF_CLASS).
PATTERNS: tuple[Pattern | None, ...] = (
    nuclear.nucleoplasm,
    nuclear.nuclear_membrane,
    nuclear.nucleoli,
    nuclear.fibrillar_centres,
    nuclear.nuclear_speckles,
    nuclear.nuclear_bodies,
    None,
    cytoplasm.golgi_apparatus,
    cytoplasm.peroxisomes,
    cytoplasm.endosomes,
    cytoplasm.lysosomes,
    cytoskeleton.intermediate_filaments,
    cytoskeleton.actin_filaments,
    cytoskeleton.focal_adhesions,
    None,
    cytoskeleton.microtubule_ends,
    cytoskeleton.cytokinetic_bridge,
    cytoskeleton.mitotic_spindle,
    cytoskeleton.organising_centre,
    cytoskeleton.centrosome,
    cytoplasm.lipid_droplets,
    cytoskeleton.plasma_membrane,
    cytoskeleton.cell_junctions,
    cytoplasm.mitochondria,
    cytoplasm.aggresome,
    cytoplasm.cytosol,
    cytoplasm.cytoplasmic_bodies,
    cytoplasm.rods_and_rings,
)

# A protein of the microtubules that is not of the spindle or the bridge too leaves them in division,
# as several do that bind microtubules: classes 16 and 17 are seen where they are labelled only.
MARKER_OF_CLASS = {6: "yellow", 14: "microtubules"}
CYTOKINETIC_BRIDGE, MITOTIC_SPINDLE, CELL_JUNCTIONS = 16, 17, 22


def pattern(
    label: int, scene: Scene, markers: Mapping[str, np.ndarray], rng: np.random.Generator
) -> np.ndarray:
    """The protein of class ``label`` in the cells of ``scene``, float32, bright structures near 1."""
    draw = PATTERNS[label]
    picture = markers[MARKER_OF_CLASS[label]] if draw is None else draw(scene, rng)
    return picture.astype(np.float32, copy=False)
