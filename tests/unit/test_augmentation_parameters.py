"""The place of the resize, borders, clipped warps, lightness and dropout by cells."""

import os

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # it asks a server for newer versions

import albumentations as A
import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpaloc.augment import augment, augmented, build, draw, stream
from hpaloc.geometry import INTERPOLATIONS, N_DIHEDRAL, dihedral, resized
from hpaloc.transforms import (
    GRID,
    Affine,
    Cells,
    Filter,
    Holes,
    Place,
    Resize,
    Turn,
    apply_steps,
    displacement_maps,
    draw_step,
)

SIDE = 128
RESIZE = {"name": "resize", "channels": "all", "apply": {"resize": {}}}


def group(step, channels="all"):
    return {"name": next(iter(step)), "channels": channels, "apply": step}


def pipeline_of(*groups):
    return build({"negative": 0, "groups": list(groups)})


def key(number):
    return stream(1, "train", 1, 0, str(number))


def place(side=SIDE, channels=(0, 1, 2, 3), seed=0, size=0):
    return Place(np.random.default_rng(seed), side, side, channels, size)


@pytest.fixture(scope="module")
def smooth():
    """Smooth enough that two interpolations of it are close; nowhere black."""
    noise = np.random.default_rng(4).integers(0, 256, (SIDE, SIDE, 4), dtype=np.uint8)
    blurred = cv2.GaussianBlur(noise, (0, 0), 4).astype(np.float32)
    return np.clip(128 + 4 * (blurred - 128), 20, 255).astype(np.uint8)


def assert_alike(ours, reference, at_most, share=1.0):
    """All pixels but a ``share`` of (at borders) differ by ``at_most`` grey values."""
    difference = np.abs(ours.astype(int) - reference)
    assert np.mean(difference <= at_most) >= share, (difference.max(), difference.mean())


# The place of the resize


@pytest.mark.parametrize(
    "step",
    [
        {"sharpen": {"alpha": [0.25, 0.25]}},
        {"edge_detect": {"alpha": [0.1, 0.1]}},
        {"coarse_dropout": {"share": [0.1, 0.1], "hole": 0.1}},
        {"grid_dropout": {"probability": [0.5, 0.5], "cells": 4, "per_channel": True}},
        {"multiply": {"factor": [0.5, 2], "per_channel": True}},
        {"rotate": {"degrees": [10, 10]}},
    ],
)
def test_what_follows_the_resize_acts_on_the_resized_image(step, smooth):
    first = pipeline_of(RESIZE, group(step))
    alone = pipeline_of(group(step))
    for number in range(5):
        resized_first, _ = augmented(first, smooth, 56, key(number))
        assert np.array_equal(resized_first, augment(alone, resized(smooth, 56), key(number)))


def test_the_place_of_the_resize_counts(smooth):
    sharpen = group({"sharpen": {"alpha": [0.25, 0.25]}})
    before, after = pipeline_of(sharpen, RESIZE), pipeline_of(RESIZE, sharpen)
    last = pipeline_of(sharpen)
    results = [augmented(each, smooth, 56, key(0))[0] for each in (before, last, after)]
    assert np.array_equal(results[0], results[1])  # without a place it comes last
    assert not np.array_equal(results[0], results[2])


def test_sharpening_after_the_resize_restores_more_contrast_than_before_it():
    """What the paper sharpens the protein for: the blur of resizing."""
    noise = np.random.default_rng(0).integers(0, 256, (512, 512, 4), dtype=np.uint8)
    image = cv2.GaussianBlur(noise, (0, 0), 3)
    sharpen = group({"sharpen": {"alpha": [0.25, 0.25], "lightness": [1, 1]}})
    contrast = {
        name: cv2.Laplacian(augmented(each, image, 224, key(0))[0], cv2.CV_64F).std()
        for name, each in {
            "none": pipeline_of(RESIZE),
            "before": pipeline_of(sharpen, RESIZE),
            "after": pipeline_of(RESIZE, sharpen),
        }.items()
    }
    assert contrast["none"] < contrast["before"] < contrast["after"]


def test_one_draw_has_the_same_steps_up_to_the_resize_at_any_size():
    rotate = group({"rotate": {"degrees": [-10, 10]}})
    holes = group({"coarse_dropout": {"share": [0.1, 0.1], "hole": 0.25}})
    pipeline = pipeline_of(rotate, RESIZE, holes)
    small, large = (draw(pipeline, (SIDE, SIDE), key(0), size) for size in (32, 64))
    assert [type(step) for step in small] == [Affine, Resize, Holes]
    assert np.array_equal(small[0].matrix, large[0].matrix)
    assert (small[1].size, small[2].width) == (32, 8)
    assert (large[1].size, large[2].width) == (64, 16)
    assert draw(pipeline, (SIDE, SIDE), key(0))[1].size == SIDE  # of none, the image's own


@pytest.mark.parametrize("view", range(N_DIHEDRAL))
@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_a_turn_after_the_resize_is_exact(view, interpolation, smooth):
    sharp = draw_step("sharpen", {"alpha": (0.2, 0.2)}, place())
    steps = [Resize(50, interpolation), sharp]
    straight = apply_steps(steps, smooth, 50)
    assert np.array_equal(apply_steps([*steps, Turn(view)], smooth, 50), dihedral(straight, view))


def test_the_interpolation_is_drawn_of_those_named(smooth):
    names = ["nearest", "cubic", "linear"]
    pipeline = pipeline_of(group({"resize": {"interpolation": names}}))
    images = {resized(smooth, 50, name).tobytes(): name for name in INTERPOLATIONS}
    drawn = [images[augmented(pipeline, smooth, 50, key(n))[0].tobytes()] for n in range(300)]
    counts = {name: drawn.count(name) for name in INTERPOLATIONS}
    assert counts["area"] == 0
    assert all(70 < counts[name] < 130 for name in names)  # 100 ± 3.7 standard deviations


def test_interpolations_are_those_of_opencv(smooth):
    for name, number in INTERPOLATIONS.items():
        reference = cv2.resize(smooth, (48, 48), interpolation=number)
        assert_alike(resized(smooth, 48, name), reference, 1)
        assert resized(smooth, SIDE, name) is smooth


# Borders


@pytest.mark.parametrize(
    ("step", "reference"),
    [
        ({"rotate": {"degrees": [10, 10]}}, {"rotate": (10, 10)}),
        ({"rotate": {"degrees": [-137, -137]}}, {"rotate": (-137, -137)}),
        ({"shear": {"degrees": [10, 10]}}, {"shear": {"x": (10, 10), "y": (0, 0)}}),
    ],
)
def test_reflected_borders_are_those_of_albumentations(step, reference, smooth):
    name, parameters = next(iter(step.items()))
    ours = augment(pipeline_of(group({name: {**parameters, "border": "reflect"}})), smooth, key(0))
    theirs = A.Affine(**reference, border_mode=cv2.BORDER_REFLECT_101, p=1)(image=smooth)
    assert_alike(ours, theirs["image"], 2, share=0.999)


def test_reflected_padding_is_that_of_albumentations(smooth):
    step = {"crop_and_pad": {"share": [0.08, 0.08], "border": "reflect"}}
    ours = augment(pipeline_of(group(step)), smooth, key(0))
    reference = A.CropAndPad(percent=(0.08, 0.08), border_mode=cv2.BORDER_REFLECT_101, p=1)
    assert_alike(ours, reference(image=smooth)["image"], 3, share=0.99)


@given(
    st.floats(-180, 180), st.floats(0.3, 3), st.floats(-40, 40), st.floats(-0.5, 0.5),
    st.floats(-0.4, 0.4), st.integers(2, 40), st.integers(0, 9),
)  # fmt: skip
@settings(max_examples=150, deadline=None)
def test_nothing_is_black_beyond_reflected_borders(degrees, scale, shear, shift, pad, side, seed):
    """Whatever affine step, of whatever size, follows whatever other, and a clipped warp them."""
    white = np.full((side, side, 4), 200, np.uint8)
    where = place(side, seed=seed)
    affine = {"degrees": (degrees,) * 2, "scale": (scale,) * 2, "shear": (shear,) * 2}
    steps = [
        draw_step("crop_and_pad", {"share": (pad, pad), "border": "reflect"}, where),
        draw_step("affine", {**affine, "shift": (shift, shift), "border": "reflect"}, where),
        draw_step("piecewise_affine", {"scale": (0.05, 0.05), "clip": True}, where),
    ]
    assert np.all(apply_steps(steps, white, side) == 200)


@pytest.mark.parametrize(
    "borders", [("constant", "reflect"), ("reflect", "constant"), ("reflect",) * 2]
)
def test_borders_in_one_map_are_those_of_one_step_after_the_other(borders, smooth):
    first, second = borders
    steps = [
        draw_step("crop_and_pad", {"share": (0.1, 0.1), "border": first}, place()),
        draw_step("rotate", {"degrees": (10, 10), "border": second}, place()),
        draw_step("piecewise_affine", {"scale": (0.05, 0.05), "clip": True}, place(seed=3)),
    ]
    together, one_by_one = apply_steps(steps, smooth, SIDE), smooth
    for step in steps:
        one_by_one = apply_steps([step], one_by_one, SIDE)
    assert_alike(together, one_by_one, 8, share=0.95)
    if borders == ("reflect", "reflect"):
        assert np.all(together > 0)
    else:
        # Half of an image pixel, at the darkest, is 10; edges agree within half a pixel.
        black = [np.mean(result < 10) for result in (together, one_by_one)]
        assert black[0] == pytest.approx(black[1], rel=0.1) and black[0] > 0.01


def test_one_border_of_several_is_drawn_for_each_image():
    step = {"rotate": {"degrees": [10, 10], "border": ["constant", "reflect"]}}
    pipeline, white = pipeline_of(group(step)), np.full((32, 32, 4), 200, np.uint8)
    black = [np.any(augment(pipeline, white, key(number)) == 0) for number in range(400)]
    assert 160 < sum(black) < 240  # 200 ± 4 standard deviations


# Clipped warps


@given(st.floats(0, 0.2), st.integers(2, 300), st.integers(2, 300), st.integers(0, 99))
@settings(max_examples=100, deadline=None)
def test_a_clipped_warp_takes_every_pixel_from_within_the_image(scale, height, width, seed):
    where = Place(np.random.default_rng(seed), height, width, (0, 1, 2, 3))
    warp = draw_step("piecewise_affine", {"scale": (scale, scale), "clip": True}, where)
    map_x, map_y = displacement_maps(warp.offsets, height, width)
    assert map_x.min() > -1e-3 and map_x.max() < width - 1 + 1e-3
    assert map_y.min() > -1e-3 and map_y.max() < height - 1 + 1e-3
    white = np.full((height, width, 4), 255, np.uint8)
    if height == width:
        assert np.all(apply_steps([warp], white, height) == 255)


def test_clipping_moves_only_the_points_that_leave():
    free, clipped = (
        draw_step("piecewise_affine", {"scale": (0.05, 0.05), **more}, place(100)).offsets
        for more in ({}, {"clip": True})
    )
    inner = slice(1, GRID - 1)
    np.testing.assert_allclose(clipped[:, inner, inner], free[:, inner, inner], atol=1e-4)
    # A corner may move into the image only; along an edge only the direction outwards is cut.
    np.testing.assert_allclose(clipped[0, :, 0], np.maximum(free[0, :, 0], 0), atol=1e-4)
    np.testing.assert_allclose(clipped[1, -1], np.minimum(free[1, -1], 0), atol=1e-4)
    np.testing.assert_allclose(clipped[1, inner, 0], free[1, inner, 0], atol=1e-4)
    assert (free[0, :, 0] < 0).any()


# Lightness


@pytest.mark.parametrize("lightness", [0.0, 0.45, 1.0, 2.0])
def test_lightness_is_that_of_albumentations(lightness, smooth):
    step = {"sharpen": {"alpha": [0.2, 0.2], "lightness": [lightness, lightness]}}
    reference = A.Sharpen(alpha=(0.2, 0.2), lightness=(lightness, lightness), p=1)
    ours = augment(pipeline_of(group(step)), smooth, key(0))
    assert_alike(ours, reference(image=smooth)["image"], 1)


def test_lightness_scales_even_places_and_one_is_the_default():
    flat = np.full((16, 16, 4), 100, np.uint8)
    # Of 100, 0.75 · 100 + 0.25 · lightness · 100.
    for lightness, value in ((0, 75), (0.4, 85), (1, 100)):
        step = {"sharpen": {"alpha": [0.25, 0.25], "lightness": [lightness, lightness]}}
        assert np.all(augment(pipeline_of(group(step)), flat, key(0)) == value)
    default, one = (
        draw_step("sharpen", {"alpha": (0.1, 0.3), **more}, place()).kernel
        for more in ({}, {"lightness": (1, 1)})
    )
    assert np.array_equal(default, one)


# Dropout by cells


@pytest.mark.parametrize("side", [8, 56, 57, 224])
def test_blank_cells_are_the_cells_of_the_grid(side):
    white = np.full((side, side, 4), 255, np.uint8)
    black = np.random.default_rng(side).random((2, 4, 4)) < 0.4
    result = apply_steps([Cells((0, 2), black)], white, side)
    rows = np.minimum((np.arange(side) + 0.5) * 4 // side, 3).astype(int)
    expected = black[:, rows][:, :, rows]
    # With a side that the grid does not divide, lines between cells are within a pixel of it.
    same = result[..., (0, 2)].transpose(2, 0, 1) == 0
    assert np.mean(same == expected) >= (1 if side % 4 == 0 else 0.95)
    assert np.all(result[..., (1, 3)] == 255)


def test_cells_are_drawn_for_each_channel_or_for_all():
    drawn = {
        per_channel: [
            draw_step(
                "grid_dropout",
                {"probability": (0.5, 0.5), "cells": 4, "per_channel": per_channel},
                place(seed=seed, channels=(0, 2, 3)),
            ).black
            for seed in range(200)
        ]
        for per_channel in (True, False)
    }
    alike, apart = np.array(drawn[False]), np.array(drawn[True])
    assert alike.shape == apart.shape == (200, 3, 4, 4)
    assert np.array_equal(alike[:, 0], alike[:, 2])
    pairs = np.corrcoef(apart.reshape(200, 3, 16).transpose(1, 0, 2).reshape(3, -1))
    assert np.abs(pairs - np.eye(3)).max() < 0.08


def test_tables_before_blank_cells_do_not_light_them_again():
    """Steps that are applied together: a cell blanked before a stretch is stretched too."""
    white = np.full((16, 16, 4), 200, np.uint8)
    cells = group({"grid_dropout": {"probability": [1, 1], "cells": 2, "per_channel": True}})
    stretch = group({"contrast": {"factor": [0.5, 0.5]}})
    assert np.all(augment(pipeline_of(stretch, cells), white, key(0)) == 0)
    assert np.all(augment(pipeline_of(cells, stretch), white, key(0)) == 64)
    assert [type(step) for step in draw(pipeline_of(cells), (16, 16), key(0))] == [Cells]
    sharpen = draw(pipeline_of(group({"sharpen": {"alpha": [0.1, 0.1]}})), (16, 16), key(0))
    assert isinstance(sharpen[0], Filter)
