"""Cells, patterns and optics: the protein of each class lies where a biologist looks for it."""

import cv2
import numpy as np
import pytest

from hpaloc.classes import CLASS_NAMES, N_CLASSES
from hpaloc.simulate.cells import CELL_LINES, draw_cells
from hpaloc.simulate.optics import CAMERAS, take_picture
from hpaloc.simulate.patterns import PATTERNS, pattern
from hpaloc.simulate.render import draw_markers, record, scene_of
from hpaloc.simulate.scene import build_scene

FIELD = 70.0
NUCLEAR = range(6)
CYTOPLASMIC = [7, 8, 9, 10, 11, 13, 15, 18, 19, 20, 21, 23, 24, 25, 26, 27]


@pytest.fixture(scope="module")
def scene():
    """A field with a metaphase, a pair of daughters, and neighbours that touch."""
    rng = np.random.default_rng(5)
    cells, bridges = draw_cells(rng, CELL_LINES["A-431"], FIELD, 7, 9, 1, 1, True)
    return build_scene(cells, bridges, 192, FIELD)


@pytest.fixture(scope="module")
def markers(scene):
    return draw_markers(scene, np.random.default_rng(6))


@pytest.fixture(scope="module")
def greens(scene, markers):
    return [
        pattern(label, scene, markers, np.random.default_rng([7, label]))
        for label in range(N_CLASSES)
    ]


def structures(picture, scene):
    """A pattern without the even glow of the cells."""
    glow = np.median(picture[(scene.inside > 0) & (scene.nucleus == 0)])
    return np.clip(picture - 1.5 * glow, 0, None) if glow < 0.2 else picture


def share(picture, where):
    return float((picture * where).sum() / picture.sum())


def test_there_is_a_pattern_for_each_class():
    assert len(PATTERNS) == N_CLASSES


@pytest.mark.parametrize("label", range(N_CLASSES), ids=CLASS_NAMES)
def test_patterns_are_bright_maps_without_holes(label, scene, greens):
    green = greens[label]
    assert green.shape == (scene.size, scene.size)
    assert green.dtype == np.float32
    assert np.isfinite(green).all()
    assert green.min() > -0.3
    assert np.percentile(green, 99.8) > 0.4


@pytest.mark.parametrize("label", NUCLEAR)
def test_nuclear_proteins_lie_in_the_nucleus(label, scene, greens):
    # Half of the envelope's light falls just outside the mask.
    near = scene.nucleus_distance < (1.2 if label == 1 else 0.3)
    assert share(structures(greens[label], scene), near) > 0.95


@pytest.mark.parametrize("label", CYTOPLASMIC)
def test_cytoplasmic_proteins_lie_in_the_cell_outside_the_nucleus(label, scene, greens):
    green = structures(greens[label], scene)
    # The organising centre lies beside the nucleus, and its aster reaches over it.
    assert share(green, scene.nucleus) < (0.25 if label == 18 else 0.16)
    assert share(green, (scene.inside == 0) & (scene.depth == 0)) < 0.2


def test_nucleoli_are_dark_in_the_nucleoplasm_and_hold_the_fibrillar_centres(scene, greens):
    inner = scene.nucleoli > 0.8
    outer = (scene.nucleus > 0) & (scene.nucleoli < 0.05)
    assert greens[0][inner].mean() < 0.5 * greens[0][outer].mean()
    assert greens[2][inner].mean() > 4 * greens[2][outer].mean()
    around = scene.nucleoli > 0.15
    assert share(structures(greens[3] - 0.05 * scene.nucleus, scene), around) > 0.75


def test_the_envelope_is_a_rim(scene, greens):
    deep = scene.nucleus_depth > 2
    rim = (scene.nucleus_depth > 0) & (scene.nucleus_depth < 0.6)
    assert greens[1][rim].mean() > 4 * greens[1][deep].mean()


def test_membrane_and_junctions_lie_at_borders(scene, greens):
    border = (scene.depth < 1.2) & (scene.inside > 0)
    assert greens[21][border].mean() > 3 * greens[21][scene.depth > 4].mean()
    shared = scene.contact < 0.8
    free = border & (scene.contact > 3)
    assert greens[22][shared].mean() > 4 * greens[22][free].mean()
    assert greens[21][free].mean() > 3 * greens[22][free].mean()


def test_spindle_and_bridge_belong_to_dividing_cells(scene, greens, markers):
    phases = [cell.phase for cell in scene.cells]
    assert phases.count("metaphase") == 1
    assert phases.count("telophase") == 2
    dividing = scene.owner == phases.index("metaphase")
    assert share(structures(greens[17], scene), dividing) > 0.9
    bridge = scene.bridges[0]
    y, x = np.mgrid[: scene.size, : scene.size] / scene.px
    middle = (bridge.start + bridge.end) / 2
    length = np.linalg.norm(bridge.end - bridge.start)
    near = np.hypot(x - middle[0], y - middle[1]) < length / 2 + 1
    assert share(structures(greens[16], scene), near) > 0.9
    # The chromosomes of the metaphase are condensed: brighter than any nucleus at rest.
    resting = (scene.nucleus > 0) & (scene.owner == phases.index("interphase"))
    assert markers["blue"][dividing].max() > np.percentile(markers["blue"][resting], 95)


def test_vesicles_differ_in_number_and_place(scene, greens):
    def areas(label):
        bright = (greens[label] > 0.35).astype(np.uint8)
        return cv2.connectedComponentsWithStats(bright, connectivity=4)[2][1:, cv2.CC_STAT_AREA]

    def parts(label):
        return len(areas(label))

    def size(label):
        return np.median(areas(label))

    assert parts(8) > parts(9) > 2 * parts(26)
    assert size(8) < size(9) < size(10) < size(24)

    def mean_of(field, label):
        bright = greens[label] > 0.35
        return field[bright].mean()

    assert mean_of(scene.nucleus_distance, 10) < mean_of(scene.nucleus_distance, 8)
    assert mean_of(scene.depth, 9) < mean_of(scene.depth, 10)


def test_no_two_classes_look_alike(scene, greens):
    # As a network sees them: blurred to a pixel of 0.7 µm, in the same cells.
    rows = np.stack([cv2.GaussianBlur(green, (0, 0), 0.35 * scene.px).ravel() for green in greens])
    alike = np.corrcoef(rows)
    np.fill_diagonal(alike, 0)
    first, second = np.unravel_index(alike.argmax(), alike.shape)
    assert alike.max() < 0.9, (CLASS_NAMES[first], CLASS_NAMES[second])


def test_microtubules_start_at_the_organising_centre(scene, markers):
    resting = [cell for cell in scene.cells if cell.phase == "interphase"]
    around = np.zeros((scene.size, scene.size), np.uint8)
    for cell in resting:
        x, y = np.round(cell.organising_centre * scene.px).astype(int)
        cv2.circle(around, (int(x), int(y)), round(1.5 * scene.px), 1, -1)
    near = (around > 0) & (scene.inside > 0) & (scene.nucleus == 0)
    far = (scene.inside > 0) & (scene.nucleus == 0) & (around == 0)
    assert markers["red"][near].mean() > 2 * markers["red"][far].mean()


@pytest.mark.parametrize("line", CELL_LINES)
def test_cells_of_every_line_have_a_nucleus_inside(line):
    rng = np.random.default_rng(8)
    cells, bridges = draw_cells(rng, CELL_LINES[line], FIELD, 3, 8)
    scene = build_scene(cells, bridges, 96, FIELD)
    assert 2 <= len(cells) <= 8
    assert scene.nucleus.sum() < 0.6 * scene.inside.sum()
    assert (scene.inside[scene.nucleus > 0] == 1).all()


def test_lines_differ_in_size_and_shape():
    def area(line):
        scene = build_scene(
            draw_cells(np.random.default_rng(9), CELL_LINES[line], FIELD, 1, 1)[0], [], 96, FIELD
        )
        return scene.inside.sum()

    assert area("U-2 OS") > 1.6 * area("RT4")


def test_geometry_does_not_depend_on_the_number_of_pixels():
    settings = {
        "seed": 1, "delivery": "kaggle", "imbalance": 0.5, "images_per_antibody": 1,
        "cells": [3, 8], "field_um": FIELD, "cell_lines": ["HeLa"],
    }  # fmt: skip
    small, large = (
        scene_of({**settings, "size": size}, record({**settings, "size": size}, 4))
        for size in (96, 192)
    )
    shrunk = cv2.resize(large.inside, (96, 96), interpolation=cv2.INTER_AREA)
    assert np.abs(shrunk - small.inside).mean() < 0.02


@pytest.mark.parametrize("delivery", CAMERAS)
def test_a_camera_blurs_counts_photons_and_keeps_the_ground_dark(delivery):
    signal = np.zeros((128, 128), np.float32)
    signal[:, 64:] = 0.5
    rng = np.random.default_rng(1)
    taken = [take_picture(signal, 3.0, CAMERAS[delivery], rng) for _ in range(8)]
    assert all(picture.dtype == np.uint8 for picture in taken)
    for picture in taken:
        dark, bright = picture[:, :50].astype(float), picture[:, 78:].astype(float)
        assert dark.mean() < 8
        assert 50 < bright.mean() < 230
        # Photon noise grows with the light.
        assert bright.std() > 1.5 * dark.std()
        column = picture[:, 60:68].mean(0)
        assert (np.diff(column) > -3).all()


def test_photon_noise_has_the_variance_of_poisson_counts():
    camera = CAMERAS["kaggle"]._replace(gain=(0.5, 0.5), background=(0, 0), read_noise=0.0)
    signal = np.full((256, 256), 1.0, np.float32)
    picture = take_picture(signal, 3.0, camera, np.random.default_rng(2)).astype(float)
    grey_per_photon = 255 / camera.photons
    assert picture.mean() == pytest.approx(127.5 - camera.offset, abs=0.5)
    # Rounding to whole grey levels adds 1/12.
    assert picture.var() == pytest.approx(127.5 * grey_per_photon + 1 / 12, rel=0.05)
