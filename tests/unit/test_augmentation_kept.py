"""Schemes written before a parameter or transform was added keep their random numbers and pixels.

A network that was trained with a scheme is resumed, validated and used with the same draws: new
parameters must have defaults that draw nothing. The numbers below were computed by the code before
``resize``, ``border``, ``clip``, ``lightness`` and ``grid_dropout`` were added (commit e3101cc).

They are means and moments of images, which stay within a small part of a grey value where another
processor or OpenCV rounds single pixels the other way, and move by whole values where a draw does.
"""

import os

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # it asks a server for newer versions

import numpy as np
import pytest

from hpaloc.augment import augmented, build, draw, stream

SIDE, SIZE, DRAWS = 64, 48, 6
WITHIN = 0.06  # grey values

FLIPS = {"name": "flip and rotate", "channels": "all", "apply": {"flip_and_rotate90": {}}}


def affine(degrees, scale, shift):
    parameters = {"degrees": degrees, "scale": scale, "shear": [-5, 5], "shift": shift}
    steps = [{"none": {}}, {"affine": parameters}]
    return {"name": "rotate and scale", "channels": "all", "one_of": steps}


BRIGHTNESS = {
    "name": "brightness",
    "channels": "all",
    "apply": {"multiply": {"factor": [0.75, 1.3], "per_channel": True}},
}


def single(name, channels="all", **parameters):
    """One transform and then factors that any further number drawn for it would change."""
    group = {"name": name, "channels": channels, "apply": {name: parameters}}
    return {"negative": 0, "groups": [group, BRIGHTNESS]}


DEMO = {
    "negative": 0.02,
    "groups": [FLIPS, affine([-15, 15], [0.9, 1.15], [-0.05, 0.05]), BRIGHTNESS],
}
HPA_MINI = {
    "negative": 0,
    "groups": [FLIPS, affine([-45, 45], [0.9, 1.2], [-0.1, 0.1]), BRIGHTNESS],
}
REFERENCE = ["red", "blue", "yellow"]
# The paper's recipe as it was: everything at the array's size, black borders.
PAPER = {
    "negative": 0.035,
    "groups": [
        {"name": "pad", "channels": "all", "apply": {"crop_and_pad": {"share": [0, 0.1]}}},
        {
            "name": "warp, rotate or shear",
            "channels": "all",
            "one_of": [
                {"none": {}},
                {"piecewise_affine": {"scale": [0, 0.02]}},
                {"rotate": {"degrees": [-10, 10]}},
                {"shear": {"degrees": [-10, 10]}},
            ],
        },
        {"name": "warp", "channels": "all", "apply": {"piecewise_affine": {"scale": [0, 0.05]}}},
        {
            "name": "reference",
            "channels": REFERENCE,
            "one_of": [{"none": {}}, {"edge_detect": {"alpha": [0, 0.1]}}],
        },
        {
            "name": "drop",
            "channels": REFERENCE,
            "apply": {"coarse_dropout": {"share": [0, 0.02], "hole": 0.05}},
        },
        {"name": "sharpen", "channels": ["green"], "apply": {"sharpen": {"alpha": [0.24, 0.26]}}},
        FLIPS,
    ],
}

# Of each scheme: mean of red, green, blue, yellow; standard deviation; mean weighted from left to
# right and from top to bottom, over DRAWS draws of one image.
KEPT = {
    "demo": (
        DEMO,
        [120.74, 117.02, 119.43, 119.45, 60.48, 2.07, 1.32],
    ),
    "hpa_mini": (
        HPA_MINI,
        [115.85, 111.90, 113.85, 115.58, 64.04, 2.22, 2.95],
    ),
    "paper": (
        PAPER,
        [108.43, 118.22, 104.36, 105.56, 64.36, 1.11, -2.50],
    ),
    "crop_and_pad": (
        single("crop_and_pad", share=[-0.3, 0.3]),
        [106.47, 107.45, 101.50, 100.52, 72.44, -6.93, 4.72],
    ),
    "coarse_dropout": (
        single("coarse_dropout", REFERENCE, share=[0, 0.3], hole=0.1),
        [128.74, 136.57, 123.52, 113.76, 69.76, -0.48, 0.92],
    ),
    "piecewise_affine": (
        single("piecewise_affine", scale=[0, 0.1]),
        [140.08, 118.08, 127.63, 118.91, 63.85, -0.32, 0.79],
    ),
    "rotate": (
        single("rotate", degrees=[-90, 90]),
        [121.39, 122.53, 109.62, 122.73, 64.99, -0.62, 1.26],
    ),
    "shear": (
        single("shear", degrees=[-30, 30]),
        [124.65, 124.95, 113.85, 124.70, 65.00, -1.20, 1.58],
    ),
    "affine": (
        single("affine", degrees=[-60, 60], scale=[0.5, 2], shear=[-20, 20], shift=[-0.3, 0.3]),
        [102.96, 106.09, 92.66, 102.38, 75.56, -4.88, 4.75],
    ),
    "flip_and_rotate90": (
        single("flip_and_rotate90"),
        [137.69, 132.89, 120.73, 131.71, 60.86, 0.40, 0.14],
    ),
    "contrast": (
        single("contrast", ["green"], factor=[0.5, 2]),
        [137.69, 132.95, 120.73, 131.71, 65.14, -0.29, 1.39],
    ),
    "multiply": (
        single("multiply", factor=[0.5, 2], per_channel=True),
        [159.20, 166.91, 133.10, 130.07, 73.69, -0.41, 1.05],
    ),
    "multiply all": (
        single("multiply", factor=[0.5, 2], per_channel=False),
        [160.09, 159.93, 144.83, 160.93, 76.92, -0.39, 0.85],
    ),
    "gamma": (
        single("gamma", exponent=[0.5, 2]),
        [119.82, 112.51, 104.24, 112.44, 66.55, -0.42, 1.34],
    ),
    "edge_detect": (
        single("edge_detect", REFERENCE, alpha=[0, 0.5]),
        [98.04, 132.89, 85.52, 93.62, 52.46, -0.27, 1.18],
    ),
    "sharpen": (
        single("sharpen", alpha=[0, 0.5]),
        [135.09, 131.41, 119.95, 130.25, 71.93, -0.36, 1.22],
    ),
}
# Drawn for the albumentations transform of the last test.
SEED = 3462466600


def moments(scheme):
    blocks = np.random.default_rng(3).integers(30, 226, (8, 8, 4))
    image = np.kron(blocks, np.ones((SIDE // 8, SIDE // 8, 1), int)).astype(np.uint8)
    pipeline = build(scheme)
    keys = [stream(1, "train", 1, 0, str(number)) for number in range(DRAWS)]
    drawn = [augmented(pipeline, image, SIZE, key, scheme["negative"])[0] for key in keys]
    images = np.stack(drawn).astype(float)
    ramp = np.linspace(-1, 1, SIZE)
    return [
        *images.mean(axis=(0, 1, 2)),
        images.std(),
        np.mean(images * ramp[:, None]),
        np.mean(images * ramp[:, None, None]),
    ]


@pytest.mark.parametrize("name", KEPT)
def test_the_draws_and_pixels_of_older_schemes_stay(name):
    scheme, expected = KEPT[name]
    np.testing.assert_allclose(moments(scheme), expected, atol=WITHIN)


def test_the_seed_of_a_transform_of_the_library_stays():
    """Its pixels are the library's; the workflow draws its seed."""
    scheme = single("albumentations", transform="GaussNoise", arguments={"std_range": [0.1, 0.1]})
    step, _ = draw(build(scheme), (SIDE, SIDE), stream(1, "train", 1, 0, "0"))
    assert step.seed == SEED
