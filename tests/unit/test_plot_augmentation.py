"""The figure of the augmentation is drawn from the configured scheme."""

import json

import matplotlib.image
import numpy as np
import pandas as pd
import pytest

from hpaloc.draw_statistics import measured
from hpaloc.figures import augmentation, style
from hpaloc.index import write_index
from hpaloc.log import InputError
from plot_augmentation import main

SCHEME = {
    "negative": 0.035,
    "groups": [
        {"name": "pad", "channels": "all", "apply": {"crop_and_pad": {"share": [0, 0.1]}}},
        {
            "name": "warp",
            "channels": "all",
            "one_of": [{"none": {}}, {"rotate": {"degrees": [-10, 5]}}],
        },
        {
            "name": "brightness",
            "channels": ["red", "yellow"],
            "apply": {"multiply": {"factor": [0.5, 1.3], "per_channel": True}},
        },
        {"name": "sharpen", "channels": ["green"], "apply": {"sharpen": {"alpha": [0.2, 0.3]}}},
    ],
}
RECIPE = {"augmentation": SCHEME, "image_size": 16, "seed": 1}


@pytest.fixture(scope="module")
def image():
    return np.random.default_rng(0).integers(1, 256, (32, 32, 4), dtype=np.uint8)


def arguments(folder, recipe):
    return [
        "--arrays", str(folder / "index.parquet"), "--recipe", json.dumps(recipe),
        "--table", str(folder / "augmentation.csv"),
        "--statistics", str(folder / "statistics.csv"), "--png", str(folder / "a.png"),
        "--pdf", str(folder / "a.pdf"), "--simulated",
    ]  # fmt: skip


@pytest.fixture
def arrays(tmp_path, image):
    np.save(tmp_path / "shard_000.npy", np.stack([image, image]))
    frame = pd.DataFrame(
        {
            "image_id": ["a", "b"], "parent": ["a", "b"], "source": "test", "labels": [[0], [1, 2]],
            "x": 0, "y": 0, "width": 32, "height": 32, "shard": 0, "row": [0, 1],
        }
    )  # fmt: skip
    write_index(frame, tmp_path / "index.parquet")
    return tmp_path


def test_the_program_writes_figure_and_table(arrays):
    main(arguments(arrays, RECIPE))
    table = pd.read_csv(arrays / "augmentation.csv", keep_default_na=False)
    assert table["transform"].tolist() == [
        "crop_and_pad", "none", "rotate", "multiply", "sharpen", "negative",
    ]  # fmt: skip
    assert table["kind"].tolist() == [
        "removal", "", "geometry", "values", "sharpening", "negative",
    ]  # fmt: skip
    assert table["group"].tolist() == [1, 2, 2, 3, 4, 5]
    assert table["parameters"][2] == "degrees -10 to 5"
    statistics = pd.read_csv(arrays / "statistics.csv")
    assert set(statistics["group"]) == {1, 2, 3, 4}
    assert set(statistics["measure"]) == {"parameter", "choice", "black"}
    width = matplotlib.image.imread(arrays / "a.png").shape[1]
    assert width == pytest.approx(style.DOUBLE_MM / style.MM_PER_INCH * style.DPI, abs=1)
    assert (arrays / "a.pdf").read_bytes().startswith(b"%PDF")


def test_a_faulty_scheme_is_refused_in_words(arrays):
    with pytest.raises(InputError, match="unknown transform"):
        faulty = {"name": "x", "channels": "all", "apply": {"rotated": {}}}
        main(arguments(arrays, {**RECIPE, "augmentation": {"negative": 0, "groups": [faulty]}}))
    assert not (arrays / "a.png").exists()


def test_parallel_transforms_share_a_unit_and_each_has_its_colour(image):
    units = augmentation.units(RECIPE, image)
    assert [len(unit.examples) for unit in units] == [1, 1, 2, 1, 1, 1, augmentation.COLUMNS]
    assert [unit.examples[-1].colour for unit in units] == [
        "grey", "blue", "orange", "red", "green", "purple", "grey",
    ]  # fmt: skip
    assert "one of" in units[2].title and "red, yellow" in units[3].title


def test_examples_show_the_channels_that_they_change(image):
    units = augmentation.units(RECIPE, image)
    sharpened, negative = units[4].examples[0].rgb, units[5].examples[0].rgb
    assert sharpened[..., 1].any() and not sharpened[..., [0, 2]].any()
    assert negative[..., 2].any() and not np.array_equal(negative, units[0].examples[0].rgb)


def test_the_place_of_the_resize_is_drawn_and_what_follows_acts_at_its_size(image):
    groups = [
        {"name": "resize", "channels": "all", "apply": {"resize": {"interpolation": "nearest"}}},
        SCHEME["groups"][3],
    ]
    recipe = {**RECIPE, "augmentation": {"negative": 0, "groups": groups}}
    units = augmentation.units(recipe, image)
    assert "32 → 16 px" in units[1].examples[0].text
    assert "interpolation nearest" in units[1].examples[0].text
    sides = [len(unit.examples[0].rgb) for unit in units]
    assert sides == [32, 16, 16, 16]


def test_one_word_of_several_is_told_and_the_first_is_drawn():
    step = ("rotate", {"degrees": [-10, 10], "border": ["constant", "reflect"]})
    assert augmentation.strongest(step)["rotate"]["border"] == "constant"
    table = augmentation.tidy(
        {"negative": 0, "groups": [{"name": "x", "channels": "all", "apply": dict([step])}]}
    )
    assert table["parameters"].tolist() == ["degrees ±10; border constant or reflect"]


@pytest.mark.parametrize(
    "groups",
    [
        [],
        [SCHEME["groups"][3]],
        [{"name": "none", "channels": "all", "apply": {"none": {}}}],
        [{"name": "x", "channels": "all", "one_of": [{"none": {}}, {"none": {}}]}],
        [{"name": "x", "channels": "all", "apply": {"rotate": {"degrees": [5, 5]}}}],
    ],
)
def test_a_scheme_without_something_to_measure_is_drawn_too(groups, image, tmp_path):
    recipe = {**RECIPE, "augmentation": {"negative": 0, "groups": groups}}
    statistics = measured(recipe["augmentation"], 32, 16, 1, draws=20)
    look = style.apply()
    fig = augmentation.draw(augmentation.units(recipe, image), statistics, look, "a")
    style.save(fig, tmp_path / "a.png", tmp_path / "a.pdf")


def test_the_strongest_setting_is_the_end_farthest_from_no_change():
    step = ("multiply", {"factor": [0.5, 1.3], "per_channel": True})
    assert augmentation.strongest(step) == {"multiply": {"factor": [0.5, 0.5], "per_channel": True}}
    assert augmentation.strongest(("rotate", {"degrees": [-10, 10]})) == {
        "rotate": {"degrees": [10, 10]}
    }
