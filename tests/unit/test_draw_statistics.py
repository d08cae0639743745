"""Draws have the distributions that a scheme states: measured on the drawn steps.

The paper's recipe is measured as config.yaml has it; every bound is so many standard errors wide
that a right program fails less than once in 100,000 times, and the draws are seeded.
"""

import re
from pathlib import Path

import numpy as np
import pytest
import yaml

from hpaloc.draw_statistics import APPLIED, measured
from hpaloc.scheme import transforms_of

CONFIG = yaml.safe_load((Path(__file__).parents[2] / "config.yaml").read_text(encoding="utf-8"))
PAPER = CONFIG["recipes"]["paper"]
DRAWS = 3000


@pytest.fixture(scope="module")
def paper():
    size = PAPER["image_size"]
    return measured(PAPER["augmentation"], CONFIG["arrays"]["size"], size, 1, DRAWS)


def one(table, group, quantity, transform=None):
    rows = table[(table["group"] == group) & (table["quantity"] == quantity)]
    if transform:
        rows = rows[rows["transform"] == transform]
    (row,) = rows.to_dict("records")
    return row


PARAMETERS = [
    (1, "crop_and_pad", "share", 0, 0.1),
    (2, "rotate", "degrees", -10, 10),
    (2, "shear", "degrees", -10, 10),
    (6, "edge_detect", "alpha", 0, 0.1),
    (6, "multiply", "factor", 0.8, 1.3),
    (6, "contrast", "factor", 0.95, 1.05),
    (8, "sharpen", "alpha", 0, 0.25),
    (8, "sharpen", "lightness", 0, 0.45),
    (9, "multiply", "factor", 1, 1.15),
    (10, "sharpen", "alpha", 0.24, 0.26),
    (10, "sharpen", "lightness", 0.44, 0.46),
]


@pytest.mark.parametrize(("group", "transform", "quantity", "low", "high"), PARAMETERS)
def test_parameters_are_uniform_in_their_intervals(paper, group, transform, quantity, low, high):
    row = one(paper, group, quantity, transform)
    width, n = high - low, row["draws"]
    assert (row["stated_from"], row["stated_to"]) == (low, high)
    assert row["stated_mean"] == pytest.approx((low + high) / 2)
    # Whole pixels and grey values round: a pixel of 512, and a hundredth of the interval.
    rounding = max(1 / 512 if transform == "crop_and_pad" else 0, 0.01 * width)
    standard_error = width / np.sqrt(12 * n)
    assert row["mean"] == pytest.approx((low + high) / 2, abs=5 * standard_error + rounding)
    assert row["sd"] == pytest.approx(width / np.sqrt(12), rel=0.08)
    assert low - rounding <= row["lowest"] < low + 0.03 * width
    assert high - 0.03 * width < row["highest"] <= high + rounding


@pytest.mark.parametrize(("group", "scale"), [(2, 0.02), (3, 0.05)])
def test_warps_displace_by_normal_deviates_of_a_drawn_scale(paper, group, scale):
    row = one(paper, group, "displacement")
    expected = scale / np.sqrt(3)  # the root of the mean square of a scale from 0 to it
    assert row["stated_sd"] == pytest.approx(expected)
    assert row["sd"] == pytest.approx(expected, rel=0.05)
    assert abs(row["mean"]) < 5 * expected / np.sqrt(row["draws"] / 8)
    assert row["highest"] > 2.5 * expected and row["lowest"] < -2.5 * expected


def test_the_slight_contrast_is_within_its_interval_as_far_as_8_bits_tell(paper):
    for group in (4, 9):
        row = one(paper, group, "factor", "contrast")
        assert row["mean"] == pytest.approx(1.005, abs=0.0012)
        assert row["lowest"] >= 1 and row["highest"] < 1.0103


def test_parallel_transforms_borders_interpolations_and_views_are_equally_likely(paper):
    choices = paper[(paper["measure"] == "choice") & (paper["quantity"] != "no cell blank")]
    assert len(choices) == 4 + 4 + 3 + 3 * 2 + 4 + 8
    for row in choices.to_dict("records"):
        share, n = row["stated_mean"], row["draws"]
        within = 4.8 * np.sqrt(share * (1 - share) / n)
        assert row["mean"] == pytest.approx(share, abs=within), row
    assert (
        choices.groupby(["group", choices["quantity"].str.split(" ").str[0]])["mean"].sum().max()
        < 2.001
    )
    parallel = choices[choices["quantity"] == "chosen"].groupby("group")
    assert parallel["mean"].sum().to_dict() == pytest.approx({2: 1, 6: 1, 9: 1})
    assert (1 / parallel["stated_mean"].first()).round().to_dict() == {2: 4, 6: 4, 9: 3}


def test_dropout_blanks_a_hundredth_of_the_cells_and_often_none(paper):
    """Three channels of 16 cells, each with a probability from 0 to 0.02 that is drawn first."""
    cells = one(paper, 7, "share of cells")
    assert cells["stated_mean"] == pytest.approx(0.01)
    assert cells["mean"] == pytest.approx(0.01, abs=5 * cells["stated_sd"] / np.sqrt(DRAWS))
    assert cells["sd"] == pytest.approx(cells["stated_sd"], rel=0.1)
    none = one(paper, 7, "no cell blank")
    # (1 − 0.98⁴⁹) / (49 · 0.02)
    assert none["stated_mean"] == pytest.approx(0.6412, abs=1e-4)
    assert none["mean"] == pytest.approx(0.6412, abs=5 * np.sqrt(0.64 * 0.36 / DRAWS))


def test_what_moves_pixels_blackens_what_geometry_says(paper):
    """Half of the padded, rotated and sheared images have black borders, warped ones none."""
    black = {
        (row["group"], row["transform"]): row
        for row in paper[paper["measure"] == "black"].to_dict("records")
    }
    assert black[2, "piecewise_affine"]["highest"] == black[3, "piecewise_affine"]["highest"] == 0
    angles = np.radians(np.linspace(0, 10, 1001))
    two_sides = np.add.outer(*[np.linspace(0, 0.1, 101)] * 2)
    expected = {
        (1, "crop_and_pad"): 1 - np.mean(1 / (1 + two_sides)) ** 2,
        # Of a unit square, what a rotated one does not cover; then what a sheared one does not.
        (2, "rotate"): np.mean(1 - 2 / (1 + np.sin(angles) + np.cos(angles))),
        (2, "shear"): np.mean(np.tan(angles)) / 4,
    }
    for key, share in expected.items():
        row = black[key]
        assert row["draws"] == APPLIED
        within = 5 * row["sd"] / np.sqrt(APPLIED) + 0.001
        assert row["mean"] == pytest.approx(share / 2, abs=within), key
        assert row["lowest"] == 0  # where it was reflected
    assert black[1, "crop_and_pad"]["highest"] < 1 - 1 / 1.2**2


def test_an_unclipped_warp_shows_black_and_a_clipped_one_none():
    """What was wrong with the paper's recipe before: 3 % of the images were black."""
    warp = {"scale": [0, 0.05]}
    free, clipped = (
        measured(
            {
                "negative": 0,
                "groups": [{"name": "w", "channels": "all", "apply": {"piecewise_affine": step}}],
            },
            128, 128, 1, 200,
        )
        for step in (warp, {**warp, "clip": True})
    )  # fmt: skip
    assert one(free, 1, "black pixels")["mean"] == pytest.approx(0.03, abs=0.01)
    assert one(clipped, 1, "black pixels")["highest"] == 0


def scheme(*steps, channels="all"):
    group = {"name": "x", "channels": channels}
    group |= {"apply": steps[0]} if len(steps) == 1 else {"one_of": list(steps)}
    return {"negative": 0, "groups": [group]}


@pytest.mark.parametrize(
    "step",
    [
        {"crop_and_pad": {"share": [-0.2, 0.1]}},
        {"rotate": {"degrees": [-170, -20]}},
        {"shear": {"degrees": [-30, 5]}},
        {
            "affine": {
                "degrees": [20, 70], "scale": [0.5, 1.5], "shear": [-20, 10], "shift": [-0.1, 0.3],
            }
        },
        {"contrast": {"factor": [0.3, 2]}},
        {"multiply": {"factor": [0.3, 2], "per_channel": True}},
        {"multiply": {"factor": [0.3, 2], "per_channel": False}},
        {"gamma": {"exponent": [0.4, 2.5]}},
        {"edge_detect": {"alpha": [0.2, 0.9]}},
        {"sharpen": {"alpha": [0.2, 0.9], "lightness": [0.5, 3]}},
    ],
)  # fmt: skip
def test_every_parameter_is_read_from_the_step_that_it_made(step):
    """A drawn step tells its parameters, whatever the interval: fixed ones are read back."""
    name, intervals = next(iter(step.items()))
    for end in (0, 1):
        fixed = {
            key: [value[end]] * 2 if isinstance(value, list) else value
            for key, value in intervals.items()
        }
        table = measured(scheme({name: fixed}), 600, 600, 1, 3)
        for key, value in fixed.items():
            if isinstance(value, list):
                row = one(table, 1, key)
                at_most = max(0.01 * abs(value[0]), 1.01 / 600)
                assert row["lowest"] == pytest.approx(value[0], abs=at_most), key
                assert row["highest"] == pytest.approx(value[0], abs=at_most), key


def test_a_table_has_its_rows_in_the_order_of_the_scheme(paper):
    groups = PAPER["augmentation"]["groups"]
    assert paper["group"].is_monotonic_increasing
    for number, group in enumerate(groups, 1):
        named = paper[paper["group"] == number]
        names = [name for name, _ in transforms_of(group)]
        assert [name for name in dict.fromkeys(named["transform"])] == names
        assert set(named["name"]) == {group["name"]}


def test_the_documented_recipe_is_that_of_the_config():
    """Every number of the recipe's scheme stands in the row of its step in docs/augmentation.md."""
    text = (Path(__file__).parents[2] / "docs" / "augmentation.md").read_text(encoding="utf-8")
    rows = [line.split(" | ") for line in text.splitlines() if re.match(r"\| \d+ ", line)]
    for number, group in enumerate(PAPER["augmentation"]["groups"], 1):
        recipe = " ".join(row[2] for row in rows if row[0].startswith(f"| {number} "))
        assert recipe, number
        for name, parameters in transforms_of(group):
            for key, value in parameters.items():
                for end in value if isinstance(value, list) else [value]:
                    if isinstance(end, bool):
                        continue
                    word = {"constant": "black", "reflect": "reflected"}.get(end, end)
                    shown = f"{abs(word):g}" if isinstance(word, int | float) else word
                    assert shown in recipe, (number, name, key, shown)
    assert f"{100 * PAPER['augmentation']['negative']:g} %" in text
