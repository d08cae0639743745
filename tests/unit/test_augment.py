"""Schemes of augmentation: what is valid, what each transform does, and how draws are seeded."""

import os
from pathlib import Path

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # it asks a server for newer versions

import albumentations as A
import cv2
import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from hpaloc.augment import GREEN, augment, augmented, build, draw, is_negative, stream
from hpaloc.geometry import N_DIHEDRAL, dihedral, resized
from hpaloc.log import InputError
from hpaloc.scheme import TRANSFORMS, Choice, Flag, Interval, Whole, check_scheme, kind_of
from hpaloc.transforms import (
    DRAWS,
    GRID,
    Affine,
    Filter,
    Holes,
    Place,
    Resize,
    Tables,
    Turn,
    Warp,
    apply_steps,
    displacement_maps,
    draw_step,
)

SIDE = 64
CONFIG = yaml.safe_load((Path(__file__).parents[2] / "config.yaml").read_text(encoding="utf-8"))
PAPER = CONFIG["recipes"]["paper"]["augmentation"]


def group(*steps, channels="all"):
    """A group of one transform, or of parallel ones."""
    choice = {"apply": steps[0]} if len(steps) == 1 else {"one_of": list(steps)}
    return {"name": "a group", "channels": channels, **choice}


def scheme(*groups, negative=0):
    return {"negative": negative, "groups": list(groups)}


def middle(name):
    """Valid parameters of a transform: the middle two thirds of each interval."""
    if name == "albumentations":
        return {name: {"transform": "GaussNoise", "arguments": {"std_range": [0.05, 0.1]}}}
    parameters = {}
    for key, known in TRANSFORMS[name].parameters.items():
        if isinstance(known, Flag):
            parameters[key] = True
        elif isinstance(known, Interval):
            sixth = (known.highest - known.lowest) / 6
            parameters[key] = [known.lowest + sixth, known.highest - sixth]
        elif isinstance(known, Choice):
            parameters[key] = list(known.options)
        elif isinstance(known, Whole):
            parameters[key] = 3
        else:
            parameters[key] = (known.lowest + known.highest) / 2
    return {name: parameters}


@pytest.fixture(scope="module")
def image():
    rng = np.random.default_rng(3)
    noise = rng.integers(0, 256, (SIDE, SIDE, 4), dtype=np.uint8)
    return cv2.GaussianBlur(noise, (0, 0), 1.5)


def one(step, image, number=0, channels="all"):
    return augment(
        build(scheme(group(step, channels=channels))), image, stream(1, "t", 1, 0, str(number))
    )


# What a scheme may say


def test_every_known_transform_can_be_built_and_keeps_shape_and_type(image):
    assert set(DRAWS) == set(TRANSFORMS)
    for name in TRANSFORMS:
        before = image.copy()
        result = one(middle(name), image)
        assert result.shape == image.shape and result.dtype == np.uint8, name
        assert np.array_equal(image, before), f"{name} changed its input"


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        (name, {key: known.identity for key, known in drawn.items()})
        for name, entry in TRANSFORMS.items()
        if (drawn := {k: v for k, v in entry.parameters.items() if isinstance(v, Interval)})
        and all(v.default is not None for k, v in entry.parameters.items() if k not in drawn)
    ],
)
def test_a_transform_at_its_identity_changes_nothing(name, parameters, image):
    step = {name: {key: [value, value] for key, value in parameters.items()}}
    assert np.array_equal(one(step, image), image)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s.pop("negative"), "'negative' is missing"),
        (lambda s: s.update(negative=1.5), "not a number from 0 to 1"),
        (lambda s: s.update(negativ=0), "unknown key 'negativ'"),
        (lambda s: s["groups"][0].update(channels=["cyan"]), "'all' nor a list"),
        (lambda s: s["groups"][0].update(channels=["green"]), "shift the channels"),
        (lambda s: s["groups"][0].update(apply={"rotat": {}}), "unknown transform 'rotat'"),
        (lambda s: s["groups"][0].update(apply={"rotate": {}}), "'degrees' is missing"),
        (
            lambda s: s["groups"][0].update(apply={"rotate": {"degrees": [10, -10]}}),
            "from the larger to the smaller",
        ),
        (
            lambda s: s["groups"][0].update(apply={"rotate": {"degrees": [-200, 0]}}),
            "-200 is not a number from -180 to 180",
        ),
        (lambda s: s["groups"][0].update(apply={"rotate": {"degrees": 10}}), "an interval"),
        (
            lambda s: s["groups"][0].update(apply={"rotate": {"degrees": [0, float("nan")]}}),
            "nan is not a number",
        ),
        (lambda s: s["groups"][0].update(one_of=[{"none": {}}]), "unknown key 'apply'"),
        (lambda s: s["groups"][0].pop("apply"), "'apply' is missing"),
        (lambda s: s["groups"].append("none"), r"groups\[1\]: a map"),
        (
            lambda s: s["groups"][0].update(
                apply={"multiply": {"factor": [1, 2], "per_channel": 1}}
            ),
            "neither true nor false",
        ),
        (lambda s: s["groups"][0]["apply"]["rotate"].update(border="wrap"), "constant, reflect"),
        (lambda s: s["groups"][0]["apply"]["rotate"].update(border=[]), "constant, reflect"),
        (
            lambda s: s["groups"][0]["apply"]["rotate"].update(border=["reflect", "reflect"]),
            "a list of different ones",
        ),
        (lambda s: s["groups"][0]["apply"]["rotate"].update(border=[["reflect"]]), "neither one"),
        (lambda s: s["groups"][0]["apply"]["rotate"].update(clip=True), "unknown key 'clip'"),
        (
            lambda s: s["groups"][0].update(
                apply={"piecewise_affine": {"scale": [0, 0.1], "clip": "yes"}}
            ),
            "neither true nor false",
        ),
        (
            lambda s: s["groups"][0].update(
                apply={"sharpen": {"alpha": [0, 0.1], "lightness": [0, 9]}}
            ),
            "9 is not a number from 0 to 4",
        ),
        (
            lambda s: s["groups"][0].update(
                apply={"grid_dropout": {"probability": [0, 1], "cells": 2.5, "per_channel": True}}
            ),
            "2.5 is not a whole number",
        ),
        (
            lambda s: s["groups"].extend([group({"resize": {}})] * 2),
            r"groups\[2\]: the image is resized in groups\[1\] already",
        ),
        (
            lambda s: s["groups"].append(group({"resize": {}}, {"none": {}})),
            "every image is resized",
        ),
        (
            lambda s: s["groups"].append(group({"resize": {}}, channels=["red"])),
            "shift the channels",
        ),
    ],
)
def test_a_fault_is_named_with_its_place(change, words):
    faulty = scheme(group({"rotate": {"degrees": [-10, 10]}}))
    check_scheme(faulty)
    change(faulty)
    with pytest.raises(InputError, match=words) as caught:
        build(faulty)
    assert str(caught.value).startswith("augmentation")


def test_sharpening_green_alone_is_a_kind_of_its_own():
    step = {"sharpen": {"alpha": [0, 0.25]}}
    assert kind_of(group(step, channels=["green"]), "sharpen") == "sharpening"
    assert kind_of(group(step, channels=["red", "blue"]), "sharpen") == "values"


# What the transforms do


def place(height=SIDE, width=SIDE, channels=(0, 1, 2, 3), seed=0):
    return Place(np.random.default_rng(seed), height, width, channels)


def test_piecewise_affine_displaces_by_its_standard_deviation():
    height, width, scale = 200, 100, 0.05
    where = place(height, width)
    offsets = np.stack(
        [
            draw_step("piecewise_affine", {"scale": (scale, scale)}, where).offsets
            for _ in range(4000)
        ]
    )
    assert offsets.shape == (4000, 2, GRID, GRID) and offsets.dtype == np.float32
    # The standard error of a deviation from n draws is 1/√(2n) of it: 1.1 % for each point.
    np.testing.assert_allclose(offsets[:, 0].std(axis=0), scale * width, rtol=0.06)
    np.testing.assert_allclose(offsets[:, 1].std(axis=0), scale * height, rtol=0.06)
    assert np.abs(offsets[:, 0].mean(axis=0)).max() < 5 * scale * width / np.sqrt(4000)
    independent = np.corrcoef(offsets.reshape(4000, -1).T) - np.eye(2 * GRID**2)
    assert np.abs(independent).max() < 0.08


def test_piecewise_affine_draws_its_scale_for_each_image():
    where = place(100, 100)
    spreads = [
        draw_step("piecewise_affine", {"scale": (0.0, 0.1)}, where).offsets.std()
        for _ in range(2000)
    ]
    # The deviation of 32 draws is that of the scale within 12.5 %; the scale is uniform.
    assert np.mean(spreads) == pytest.approx(5.0, rel=0.05)
    assert np.mean(np.array(spreads) < 2.5) == pytest.approx(0.25, abs=0.05)


def test_displacements_reach_the_grid_points_and_are_linear_between(image):
    height, width = 31, 61
    offsets = np.zeros((2, GRID, GRID), np.float32)
    offsets[0, 1, 2], offsets[1, 1, 2] = 6.0, -3.0
    map_x, map_y = displacement_maps(offsets, height, width)
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    moved_x, moved_y = map_x - x, map_y - y
    assert moved_x[10, 40] == pytest.approx(6.0) and moved_y[10, 40] == pytest.approx(-3.0)
    assert moved_x[10, 30] == pytest.approx(3.0)  # halfway along the row
    assert moved_x[5, 30] == pytest.approx(1.5)  # and halfway up: bilinear
    assert np.abs(moved_x[:, :20]).max() < 1e-4 and np.abs(moved_x[20:]).max() < 1e-4


def test_piecewise_affine_moves_the_pixels_by_the_map():
    y, x = np.mgrid[0:128, 0:128].astype(np.uint8)
    ramps = np.stack([x, y, x, y], axis=-1)
    warp = draw_step("piecewise_affine", {"scale": (0.02, 0.02)}, place(128, 128, seed=1))
    warped = apply_steps([warp], ramps, 128).astype(float)
    map_x, map_y = displacement_maps(warp.offsets, 128, 128)
    inside = (map_x > 1) & (map_x < 126) & (map_y > 1) & (map_y < 126)
    assert np.abs(warped[..., 0] - map_x)[inside].max() <= 0.6
    assert np.abs(warped[..., 1] - map_y)[inside].max() <= 0.6


def test_the_eight_views_are_exact_and_different(image):
    views = [dihedral(image, view) for view in range(N_DIHEDRAL)]
    for expected in [np.rot90(image, turns) for turns in range(4)] + [
        np.rot90(image[:, ::-1], turns) for turns in range(4)
    ]:
        assert sum(np.array_equal(expected, view) for view in views) == 1
    assert np.array_equal(views[0], image)
    assert np.array_equal(dihedral(image[..., :1], 6), np.rot90(image[..., :1]))


def test_flips_and_rotations_are_equally_likely(image):
    pipeline = build(scheme(group({"flip_and_rotate90": {}})))
    views = {dihedral(image, view).tobytes(): view for view in range(N_DIHEDRAL)}
    drawn = [
        views[augment(pipeline, image, stream(1, "train", 1, 0, str(number))).tobytes()]
        for number in range(1600)
    ]
    counts = np.bincount(drawn, minlength=N_DIHEDRAL)
    assert counts.min() > 140 and counts.max() < 260  # 200 ± 4.5 standard deviations


def test_parallel_transforms_are_equally_likely_and_exclude_each_other(image):
    factors = ([0.5, 0.5], [0.25, 0.25])
    steps = [{"multiply": {"factor": factor, "per_channel": False}} for factor in factors]
    pipeline = build(scheme(group({"none": {}}, *steps)))
    flat = np.full((8, 8, 4), 200, np.uint8)
    drawn = [
        augment(pipeline, flat, stream(1, "train", 1, 0, str(number)))[0, 0, 0]
        for number in range(1500)
    ]
    values, counts = np.unique(drawn, return_counts=True)
    assert values.tolist() == [50, 100, 200]
    assert counts.min() > 410 and counts.max() < 590


@pytest.mark.parametrize("channels", [["red", "blue", "yellow"], ["green"], ["yellow", "red"]])
def test_a_group_changes_its_channels_and_no_other(channels, image):
    planes = {"red": 0, "green": 1, "blue": 2, "yellow": 3}
    for step in (
        {"multiply": {"factor": [0.5, 0.5], "per_channel": False}},
        {"edge_detect": {"alpha": [0.5, 0.5]}},
        {"sharpen": {"alpha": [0.5, 0.5]}},
        {"contrast": {"factor": [0.5, 0.5]}},
        {"gamma": {"exponent": [2, 2]}},
        {"coarse_dropout": {"share": [0.5, 0.5], "hole": 0.2}},
    ):
        result, everywhere = one(step, image, channels=channels), one(step, image)
        for name, plane in planes.items():
            same = np.array_equal(result[..., plane], image[..., plane])
            assert same == (name not in channels), (step, name)
            if name in channels and "coarse_dropout" not in step:
                assert np.array_equal(result[..., plane], everywhere[..., plane])


def test_pixel_values_change_as_the_parameters_say():
    flat = np.full((32, 32, 4), 100, np.uint8)
    assert np.all(one({"contrast": {"factor": [1.5, 1.5]}}, flat) == 86)  # 128 − 1.5 · 28
    assert np.all(one({"multiply": {"factor": [1.3, 1.3], "per_channel": True}}, flat) == 130)
    assert np.all(one({"sharpen": {"alpha": [0.25, 0.25]}}, flat) == 100)
    assert np.all(one({"edge_detect": {"alpha": [0.1, 0.1]}}, flat) == 90)


def test_multiplying_per_channel_draws_a_factor_for_each():
    flat = np.full((8, 8, 4), 100, np.uint8)
    apart = one({"multiply": {"factor": [0.5, 2], "per_channel": True}}, flat)[0, 0]
    alike = one({"multiply": {"factor": [0.5, 2], "per_channel": False}}, flat)[0, 0]
    assert len(set(apart.tolist())) == 4 and len(set(alike.tolist())) == 1


def test_rotation_stays_within_its_degrees_and_uses_all_of_them():
    bar = np.zeros((101, 101, 4), np.uint8)
    bar[49:52, 5:96] = 255
    pipeline = build(scheme(group({"rotate": {"degrees": [-10, 10]}})))
    angles = []
    for number in range(60):
        turned = augment(pipeline, bar, stream(1, "train", 1, 0, str(number)))[..., 0]
        y, x = np.nonzero(turned > 127)
        angles.append(np.degrees(np.arctan(np.polyfit(x, y, 1)[0])))
    assert -10.6 < min(angles) < -7 and 7 < max(angles) < 10.6


def test_padding_adds_black_within_its_share_and_keeps_the_size():
    white = np.full((100, 100, 4), 255, np.uint8)
    pipeline = build(scheme(group({"crop_and_pad": {"share": [0, 0.1]}})))
    margins = []
    for number in range(60):
        padded = augment(pipeline, white, stream(1, "train", 1, 0, str(number)))
        assert padded.shape == white.shape
        margins.append(int(np.argmax(padded[50, :, 0] > 127)))
    assert min(margins) <= 1 and 5 <= max(margins) <= 10


def test_dropout_blanks_its_share():
    white = np.full((100, 100, 4), 255, np.uint8)
    pipeline = build(scheme(group({"coarse_dropout": {"share": [0, 0.02], "hole": 0.05}})))
    shares = []
    for number in range(300):
        holed = augment(pipeline, white, stream(1, "train", 1, 0, str(number)))
        assert set(np.unique(holed)) <= {0, 255}
        shares.append(np.mean(holed[..., 0] == 0))
    assert 0 < min(shares) <= 0.0025 + 1e-9 and 0.015 < max(shares) <= 0.02 + 1e-9


def test_resizing_averages_areas(image):
    blocks = image.reshape(SIDE // 4, 4, SIDE // 4, 4, 4).astype(float).mean(axis=(1, 3))
    assert np.abs(resized(image, SIDE // 4) - blocks).max() <= 0.51
    assert resized(image, SIDE) is image
    assert resized(image, 2 * SIDE).shape == (2 * SIDE, 2 * SIDE, 4)


# How draws are seeded

WHOLE = scheme(
    group({"none": {}}, middle("piecewise_affine"), {"rotate": {"degrees": [-10, 10]}}),
    group({"multiply": {"factor": [0.8, 1.3], "per_channel": True}}, channels=["red", "blue"]),
    group({"coarse_dropout": {"share": [0, 0.02], "hole": 0.05}}, channels=["red", "blue"]),
    group({"flip_and_rotate90": {}}),
    negative=0.035,
)


def test_a_draw_depends_on_its_stream_alone(image):
    pipeline, other = build(WHOLE), build(WHOLE)
    keys = [stream(1, "train", 1, 0, f"image {number}") for number in range(20)]
    forwards = [augment(pipeline, image, key) for key in keys]
    backwards = [augment(other, image, key) for key in reversed(keys)][::-1]
    for first, second in zip(forwards, backwards, strict=True):
        assert np.array_equal(first, second)


def test_no_two_draws_have_equal_parameters():
    """Seeds, folds, purposes, epochs, views and images all count; transforms share no draws."""
    pipeline = build(
        scheme(
            group({"contrast": {"factor": [0.5, 2]}}),
            group({"multiply": {"factor": [0.5, 2], "per_channel": True}}),
            group({"edge_detect": {"alpha": [0, 1]}}),
            group({"rotate": {"degrees": [-10, 10]}}),
            group({"piecewise_affine": {"scale": [0, 0.1]}}),
        )
    )
    drawn, tables = [], []
    for seed in (1, 2):
        for fold in (0, 1, 2, 11):
            for purpose in ("train", "validation", "prediction"):
                for epoch in (1, 2, 11):
                    for view in (0, 1):
                        for image_id in ("a", "b", "1", "1/1"):
                            key = stream(seed, purpose, epoch, view, image_id, fold)
                            contrast, multiply, edges, turn, warp = draw(pipeline, (8, 8), key)
                            tables.append(
                                [t.sum() for t in (contrast.tables + multiply.tables)[3:]]
                            )
                            angle = turn.matrix[0, 1]
                            drawn.append([edges.kernel[0, 1], angle, *warp.offsets.ravel()])
    drawn = np.array(drawn)
    for column in drawn.T[1:]:
        assert len(np.unique(column)) == len(drawn)
    # Transforms seeded alike would draw alike; 5 standard errors at 576 draws.
    together = np.hstack([tables, drawn])
    assert np.abs(np.corrcoef(together.T) - np.eye(together.shape[1])).max() < 0.21


@given(
    st.integers(0, 2**32), st.sampled_from(["train", "validation"]), st.integers(0, 99),
    st.integers(0, 9), st.text(max_size=20),
)  # fmt: skip
@settings(max_examples=50)
def test_streams_are_32_bytes_and_reproducible(seed, purpose, epoch, view, image_id):
    key = stream(seed, purpose, epoch, view, image_id)
    assert len(key) == 32 and key == stream(seed, purpose, epoch, view, image_id)
    assert key != stream(seed, purpose, epoch, view + 1, image_id)
    assert key != stream(seed, purpose, epoch, view, image_id, fold=1)


def test_a_stream_is_the_same_on_every_machine():
    assert stream(1, "train", 1, 0, "a").hex()[:16] == "dd61a0ee3b5cbc52"


def test_negatives_come_at_their_share_and_lose_green_alone(image):
    keys = [stream(1, "train", 1, 0, str(number)) for number in range(20000)]
    share = np.mean([is_negative(0.035, key) for key in keys])
    assert share == pytest.approx(0.035, abs=0.006)
    assert not any(is_negative(0.0, key) for key in keys)
    assert all(is_negative(1.0, key) for key in keys)
    pipeline, key = build(scheme()), keys[0]
    blanked, negative = augmented(pipeline, image, SIDE, key, 1.0)
    kept, positive = augmented(pipeline, image, SIDE, key, 0.0)
    assert negative and not positive
    assert np.array_equal(kept, image)
    assert not blanked[..., GREEN].any()
    others = [0, 2, 3]
    assert np.array_equal(blanked[..., others], image[..., others])


def test_the_magnification_of_affine_keeps_shapes():
    image = np.zeros((96, 96, 4), np.uint8)
    image[33:63, 33:63] = 255
    step = {"affine": {"degrees": [0, 0], "scale": [0.5, 1.5], "shear": [0, 0], "shift": [0, 0]}}
    sides = []
    for number in range(20):
        lit = one(step, image, number)[..., 0] > 127
        height, width = (int(lit.any(axis=axis).sum()) for axis in (1, 0))
        assert abs(height - width) <= 1
        sides.append(height)
    assert max(sides) > 38
    assert min(sides) < 22


# The same as albumentations


@pytest.fixture(scope="module")
def smooth():
    """Smooth enough that two interpolations of it are close; its corners are not black."""
    noise = np.random.default_rng(4).integers(0, 256, (128, 128, 4), dtype=np.uint8)
    blurred = cv2.GaussianBlur(noise, (0, 0), 4).astype(np.float32)
    return np.clip(128 + 4 * (blurred - 128), 20, 255).astype(np.uint8)


def assert_alike(ours, reference, at_most, share=1.0):
    """All pixels but a ``share`` of (at borders) differ by ``at_most`` grey values."""
    difference = np.abs(ours.astype(int) - reference)
    assert np.mean(difference <= at_most) >= share, (difference.max(), difference.mean())


def test_affine_steps_are_those_of_albumentations(smooth):
    step = {"degrees": (17, 17), "scale": (1.3, 1.3), "shear": (8, 8), "shift": (0.1, 0.1)}
    reference = A.Affine(
        rotate=(17, 17), scale=(1.3, 1.3), keep_ratio=True, shear={"x": (8, 8), "y": (0, 0)},
        translate_percent={"x": (0.1, 0.1), "y": (0.1, 0.1)}, p=1,
    )  # fmt: skip
    ours = apply_steps([draw_step("affine", step, place(128, 128))], smooth, 128)
    assert_alike(ours, reference(image=smooth)["image"], 1)


@pytest.mark.parametrize("share", [0.08, -0.08])
def test_padding_and_cropping_are_those_of_albumentations(smooth, share):
    ours = apply_steps(
        [draw_step("crop_and_pad", {"share": (share, share)}, place(128, 128))], smooth, 128
    )
    reference = A.CropAndPad(percent=(share, share), fill=0, p=1)(image=smooth)["image"]
    assert_alike(ours[1:-1, 1:-1], reference[1:-1, 1:-1], 2, share=0.97)  # its edge is sharper


@pytest.mark.parametrize("per_channel", [True, False])
def test_values_are_those_of_albumentations(image, per_channel):
    factor = A.MultiplicativeNoise((1.17, 1.17), per_channel=per_channel, p=1)
    ours = one({"multiply": {"factor": [1.17, 1.17], "per_channel": per_channel}}, image)
    assert_alike(ours, factor(image=image)["image"], 1)
    sharp = A.Sharpen(alpha=(0.2, 0.2), lightness=(1, 1), p=1)
    assert_alike(one({"sharpen": {"alpha": [0.2, 0.2]}}, image), sharp(image=image)["image"], 1)


def test_holes_are_as_many_and_as_large_and_anywhere_as_those_of_albumentations():
    white = np.full((100, 100, 4), 255, np.uint8)
    reference = A.CoarseDropout((1, 8), (0.05, 0.05), (0.05, 0.05), fill=0, p=1)
    reference.set_random_seed(0)
    where, step = place(100, 100), {"share": (0, 0.02), "hole": 0.05}
    ours = [apply_steps([draw_step("coarse_dropout", step, where)], white, 100) for _ in range(600)]
    theirs = [reference(image=white)["image"] for _ in range(600)]
    ours, theirs = (np.mean(np.array(kind)[..., 0] == 0, axis=0) for kind in (ours, theirs))
    assert ours.mean() == pytest.approx(theirs.mean(), rel=0.07)
    # The share of images in which a pixel is black, along the rows: less at the edges.
    np.testing.assert_allclose(ours.mean(axis=0), theirs.mean(axis=0), atol=0.006)
    assert np.corrcoef(ours.mean(axis=0)[:6], theirs.mean(axis=0)[:6])[0, 1] > 0.9


# Transforms of the library itself


def library(transform, **arguments):
    return {"albumentations": {"transform": transform, "arguments": arguments}}


def test_a_transform_of_the_library_changes_its_channels_by_the_draw_s_own_seed(image):
    noise = library("GaussNoise", std_range=[0.05, 0.1])
    first = one(noise, image, channels=["green"])
    assert np.array_equal(first[..., [0, 2, 3]], image[..., [0, 2, 3]])
    assert not np.array_equal(first[..., 1], image[..., 1])
    assert np.array_equal(one(noise, image, channels=["green"]), first)
    assert not np.array_equal(one(noise, image, 1, channels=["green"]), first)


def test_a_transform_of_the_library_stands_in_its_place_among_the_others(image):
    blur = library("GaussianBlur", sigma_limit=[2, 2], blur_limit=0)
    double = {"multiply": {"factor": [2, 2], "per_channel": False}}
    steps = scheme(group(double), group(blur), group({"contrast": {"factor": [0.5, 0.5]}}))
    result = augment(build(steps), image, stream(1, "t", 1, 0, "a"))
    reference = A.GaussianBlur(sigma_limit=(2, 2), blur_limit=0, p=1)
    doubled = np.clip(image.astype(int) * 2, 0, 255).astype(np.uint8)
    blurred = reference(image=doubled)["image"].astype(float)
    assert_alike(result, np.rint(128 + (blurred - 128) / 2), 1)


@pytest.mark.parametrize(
    ("step", "channels", "words"),
    [
        (library("GausNoise"), "all", "no transform of that name"),
        (library("Rotate"), "all", "What moves pixels is among the workflow's own"),
        (library("os"), "all", "no transform of that name"),
        (library("GaussNoise", std_rang=[0, 1]), "all", "std_rang"),
        (library("GaussNoise", std_range=[0, 7]), "all", "cannot be its arguments"),
        (library("CLAHE"), "all", "CLAHE does not work on 4 channels"),
        (library("ToFloat"), "all", "images must stay what they are"),
        (library("GaussNoise", p=0.5), "all", r"arguments\.p: .*one_of"),
        (library("__import__('os')"), "all", "is no name"),
    ],
)
def test_what_the_library_cannot_do_is_told_before_training(step, channels, words):
    with pytest.raises(InputError, match=words):
        build(scheme(group(step, channels=channels)))


# Steps that are applied together


def apart(steps, image):
    """One step after the other."""
    for step in steps:
        image = apply_steps([step], image, step.size if isinstance(step, Resize) else len(image))
    return image


@pytest.mark.parametrize("size", [224, 384, 448])
def test_the_quick_area_average_is_that_of_opencv(size):
    noise = np.random.default_rng(1).integers(0, 256, (512, 512, 4), dtype=np.uint8)
    reference = cv2.resize(noise, (size, size), interpolation=cv2.INTER_AREA)
    quick = resized(noise, size)
    assert_alike(quick, reference, 1)
    assert np.mean(quick != reference) < 0.02  # halves, rounded either way
    white = np.full((512, 512, 4), 255, np.uint8)
    assert np.all(resized(white, size) == 255)


@pytest.mark.parametrize(
    "middle_step",
    [
        ("rotate", {"degrees": (10, 10)}),
        ("shear", {"degrees": (-10, -10)}),
        ("piecewise_affine", {"scale": (0.02, 0.02)}),
        ("crop_and_pad", {"share": (-0.2, -0.2)}),
    ],
)
def test_one_map_moves_as_one_step_after_the_other(smooth, middle_step):
    """They differ by interpolation only: what is lost at a frame in between stays lost."""
    where = place(128, 128, seed=3)
    steps = [
        draw_step("crop_and_pad", {"share": (0.0, 0.05)}, where),
        draw_step(*middle_step, where),
        draw_step("piecewise_affine", {"scale": (0.05, 0.05)}, where),
    ]
    together, one_by_one = apply_steps(steps, smooth, 128), apart(steps, smooth)
    assert_alike(together, one_by_one, 6, share=0.95)
    black = np.uint8(one_by_one[..., 0] == 0)
    # But for the edge of the black, as wide as a pixel that was magnified, or blurred twice.
    lost, kept = (
        cv2.erode(part, np.ones((7, 7)), borderType=cv2.BORDER_CONSTANT, borderValue=0) > 0
        for part in (black, 1 - black)
    )
    assert lost.any() and not together[lost].any()
    assert np.all(together[kept] > 0)


def test_tables_applied_together_are_the_same_bytes(image):
    where = place(channels=(0, 2, 3))
    steps = [
        draw_step("contrast", {"factor": (1.2, 1.2)}, place()),
        draw_step("multiply", {"factor": (0.5, 1.6), "per_channel": True}, where),
        draw_step("coarse_dropout", {"share": (0.1, 0.1), "hole": 0.1}, where),
        draw_step("gamma", {"exponent": (1.5, 1.5)}, where),
        draw_step("sharpen", {"alpha": (0.2, 0.2)}, where),
        draw_step("contrast", {"factor": (0.9, 0.9)}, place(channels=(1,))),
    ]
    assert [type(step) for step in steps] == [Tables, Tables, Holes, Tables, Filter, Tables]
    assert np.array_equal(apply_steps(steps, image, SIDE), apart(steps, image))


@pytest.mark.parametrize("view", range(N_DIHEDRAL))
def test_a_turn_at_the_end_and_the_resize_commute(image, view):
    turned_first = resized(apply_steps([Turn(view)], image, SIDE), 28)
    assert np.array_equal(apply_steps([Turn(view)], image, 28), turned_first)


def test_a_turn_in_between_is_made_in_its_place(image):
    shift = Affine(np.array([[1.0, 0, 5], [0, 1, 0], [0, 0, 1]]))
    steps = [Turn(5), shift, Turn(2), Warp(np.full((2, GRID, GRID), 3, np.float32))]
    assert np.array_equal(apply_steps(steps, image, SIDE), apart(steps, image))


def test_the_papers_augmentation_has_the_statistics_of_one_step_after_the_other(smooth):
    pipeline = build(PAPER)
    made = {"together": [], "apart": []}
    for number in range(150):
        steps = draw(pipeline, smooth.shape, stream(1, "train", 1, 0, str(number)), 56)
        made["together"].append(apply_steps(steps, smooth, 56))
        made["apart"].append(apart(steps, smooth))
    together, one_by_one = (np.array(images).astype(float) for images in made.values())
    assert np.abs(together - one_by_one).mean() < 3
    for statistic in (np.mean, np.std):
        ours, theirs = (statistic(images, axis=(0, 1, 2)) for images in (together, one_by_one))
        np.testing.assert_allclose(ours, theirs, rtol=0.02)
    assert np.mean(together == 0) == pytest.approx(np.mean(one_by_one == 0), rel=0.05)
