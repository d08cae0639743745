"""What a field of simulated cells shows is not told by its labels: the protein's channel tells them.

Only the cells of a field can carry a label into the reference channels (their stains have a
stream of their own), so the cells are looked at, not pixels: what a network could tell from the
pixels is at most what these facts tell.
"""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from hpaloc.classes import CLASS_NAMES, N_CLASSES
from hpaloc.simulate import render as render_module
from hpaloc.simulate.cells import CELL_LINES, touching_pairs
from hpaloc.simulate.patterns import CELL_JUNCTIONS, CYTOKINETIC_BRIDGE, MITOTIC_SPINDLE, pattern
from hpaloc.simulate.render import cells_of, draw_markers, record, render, scene_of

SETTINGS = {
    "seed": 7, "delivery": "kaggle", "imbalance": 0.5, "images_per_antibody": 1, "size": 64,
    "cells": [4, 8], "field_um": 70.0, "cell_lines": list(CELL_LINES),
}  # fmt: skip
FIELDS = 500
SEEN_IN_SOME_CELLS = (CYTOKINETIC_BRIDGE, MITOTIC_SPINDLE, CELL_JUNCTIONS)
ELSEWHERE = 25  # Cytosol: is seen in every cell
MOST_AUC = 0.65


def field(number, *labels, **changes):
    settings = SETTINGS | changes
    known = record(settings, number)._replace(labels=sorted(labels))
    return cells_of(settings, known)


def facts(cells, bridges, side=SETTINGS["field_um"]):
    """What the reference channels show of a field that could tell a label."""
    phases = [cell.phase for cell in cells]
    centres = np.array([cell.centre for cell in cells])
    apart = np.linalg.norm(centres[:, None] - centres[None], axis=2)
    np.fill_diagonal(apart, np.inf)
    counts = [phases.count("metaphase"), len(bridges), phases.count("interphase")]
    return [
        *counts, counts[0] > 0, counts[0] > 1, len(cells), touching_pairs(cells, side),
        apart.min(), np.median(apart.min(1)), np.mean([cell.radii.mean() for cell in cells]),
    ]  # fmt: skip


def auc(truth, values):
    """Of the better direction."""
    area = roc_auc_score(truth, values)
    return max(area, 1 - area)


@pytest.fixture(scope="module")
def elsewhere():
    return np.array([facts(*field(number, ELSEWHERE)) for number in range(FIELDS)])


@pytest.mark.parametrize("label", SEEN_IN_SOME_CELLS, ids=lambda label: CLASS_NAMES[label])
def test_the_cells_of_a_field_do_not_tell_its_label(label, elsewhere):
    # Other fields than those of the other label: independent draws.
    labelled = np.array([facts(*field(number, label)) for number in range(FIELDS, 2 * FIELDS)])
    rows, truth = np.vstack([elsewhere, labelled]), np.repeat([False, True], FIELDS)
    for column in rows.T:
        assert auc(truth, column) <= MOST_AUC
    together = make_pipeline(StandardScaler(), LogisticRegression())
    told = cross_val_predict(together, rows, truth, cv=5, method="predict_proba")[:, 1]
    assert roc_auc_score(truth, told) <= MOST_AUC


@pytest.mark.parametrize("label", sorted(set(range(N_CLASSES)) - set(SEEN_IN_SOME_CELLS)))
def test_other_labels_move_nothing_but_the_protein(label, monkeypatch):
    settings = SETTINGS | {"size": 40}

    def reference(labels):
        monkeypatch.setattr(render_module, "antibody_labels", lambda *_: labels)
        return render(settings, 3)[1]

    one, other = reference([label]), reference([ELSEWHERE])
    assert np.array_equal(one[..., [0, 2, 3]], other[..., [0, 2, 3]])
    assert np.array_equal(one[..., 1], other[..., 1]) == (label == ELSEWHERE)


def test_dividing_cells_occur_with_their_labels_and_without(elsewhere):
    metaphases, bridges = elsewhere[:, 0], elsewhere[:, 1]
    for count in (0, 1, 2):
        assert (metaphases == count).mean() > 0.1
    assert 0.7 < (bridges == 1).mean() < 0.9
    assert abs(np.corrcoef(metaphases > 0, bridges)[0, 1]) < 0.15


@pytest.mark.parametrize("cells", [[1, 1], [2, 4], [4, 8]], ids=str)
def test_what_a_label_needs_is_always_there(cells):
    for number in range(60):
        both, bridges = field(number, CYTOKINETIC_BRIDGE, MITOTIC_SPINDLE, cells=cells)
        assert any(cell.phase == "metaphase" for cell in both)
        assert len(bridges) == 1
        for cell in both[:3]:
            assert (cell.centre > 0).all()
            assert (cell.centre < 70).all()
        for point in bridges[0]:
            assert (point > 5).all()
            assert (point < 65).all()
        if cells[1] > 1:
            touching, _ = field(number, CELL_JUNCTIONS, cells=cells)
            assert touching_pairs(touching, 70) >= (2 if cells[1] > 4 else 1)


@pytest.mark.parametrize("cells", [[1, 1], [2, 4], [3, 3], [4, 8], [6, 6]], ids=str)
@pytest.mark.parametrize("labels", [(), (16,), (17,)], ids=str)
def test_a_resting_cell_is_left_for_the_other_proteins(cells, labels):
    for number in range(60):
        drawn, _ = field(number, *labels, cells=cells)
        phases = [cell.phase for cell in drawn]
        needed = 2 * (16 in labels) + (17 in labels)
        assert len(drawn) <= max(cells[1], needed)
        if cells[1] > needed:
            resting = drawn[phases.index("interphase")]
            assert (resting.centre > 0.2 * 70).all()
            assert (resting.centre < 0.8 * 70).all()


@pytest.mark.parametrize(
    ("label", "where"), [(MITOTIC_SPINDLE, "metaphase"), (CYTOKINETIC_BRIDGE, "bridge")]
)
def test_spindle_and_bridge_are_stained_where_they_are_labelled_only(label, where):
    """In the same field, with each class of which the protein is known to be elsewhere."""
    settings = SETTINGS | {"size": 128}
    for number in range(4):
        known = record(settings, number)._replace(labels=[CYTOKINETIC_BRIDGE, MITOTIC_SPINDLE])
        scene = scene_of(settings, known)
        markers = draw_markers(scene, np.random.default_rng(1))
        structure = markers["red"] - markers["microtubules"]
        near = _near_bridge(scene)
        structure = structure * (near if where == "bridge" else ~near)
        bright = structure > 0.3
        assert bright.any()

        def light(label, scene=scene, markers=markers, bright=bright):
            green = pattern(label, scene, markers, np.random.default_rng(2))
            return green[bright].mean()

        assert light(label) > 0.35
        others = set(range(N_CLASSES)) - {label}
        # Membranes, filaments and vesicles of the cell's body lie over and under a spindle; none
        # follows it. Of a microtubule protein nothing is there.
        assert light(14) < 0.15 * light(label)
        assert max(light(other) for other in others) < light(label)


def _near_bridge(scene):
    y, x = np.mgrid[: scene.size, : scene.size] / scene.px
    bridge = scene.bridges[0]
    middle = (bridge.start + bridge.end) / 2
    return (
        np.hypot(x - middle[0], y - middle[1]) < np.linalg.norm(bridge.end - bridge.start) / 2 + 1
    )


def test_no_nucleus_lies_across_a_bridge():
    crossed = 0
    for number in range(150):
        cells, [bridge] = field(number, CYTOKINETIC_BRIDGE)
        middle = (bridge.start + bridge.end) / 2
        resting = [cell for cell in cells if cell.phase == "interphase"]
        crossed += any(
            np.linalg.norm(cell.nucleus_centre - middle) < cell.nucleus_radii.max()
            for cell in resting
        )
    # Only where there was no room for the one resting cell that every field has.
    assert crossed <= 2


def test_junctions_are_seen_where_they_are_labelled():
    settings = SETTINGS | {"size": 128}
    for number in range(20):
        known = record(settings, number)._replace(labels=[CELL_JUNCTIONS])
        scene = scene_of(settings, known)
        green = pattern(CELL_JUNCTIONS, scene, {}, np.random.default_rng(3))
        assert (green > 0.4).sum() / scene.px > 15  # µm, at a line of about a micrometre
