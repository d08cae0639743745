"""The configuration: what is refused, and in which words."""

import copy
import json

import pytest
import yaml

from hpaloc.config import check_source, load_schema, resolve
from hpaloc.digest import SCRIPTS
from hpaloc.listing import IGNORED
from hpaloc.log import InputError

PROJECT = SCRIPTS.parents[1]


def read(name: str) -> dict:
    return yaml.safe_load((PROJECT / name).read_text())


@pytest.fixture
def config() -> dict:
    config = read("config.yaml")
    config["sources"]["mine"] = {"kind": "local", "folder": "data/mine", "labels": "labels.csv"}
    config["sources"]["unlabelled"] = {"kind": "local", "folder": "data/unlabelled"}
    return config


def set_key(config: dict, key: str, value: object) -> None:
    *path, last = key.split("/")
    for part in path:
        config = config.setdefault(part, {})
    config[last] = value


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("fold", {}, "unknown key 'fold'. Did you mean 'folds'?"),
        ("folds/train", [1, 12], "folds.train: [1, 12] names a fold above 10"),
        (
            "folds/train",
            [0],
            "folds.train.0: 0 is not allowed. Allowed: a whole number, at least 1",
        ),
        ("folds/train", [2, 2], "each once"),
        ("folds/n", "ten", 'folds.n: "ten" is not allowed. Allowed: a whole number'),
        (
            "arrays/size",
            -512,
            "arrays.size: -512 is not allowed. Allowed: a whole number, at least 32",
        ),
        ("arrays/quarantine", "skip", 'Allowed: "stop", "leave_out"'),
        (
            "train_source",
            "kagle",
            "train_source: there is no source 'kagle'. Sources: kaggle, hpa_v18, kaggle_test",
        ),
        ("test_source", "kaggle", "test data must never be trained on"),
        ("run", "state", "run: 'state' is a folder of results that is there for all runs"),
        ("recipes/logs", {"inherit": "paper"}, "recipes: 'logs' is a folder of results"),
        ("train", ["papr"], "train: there is no recipe 'papr'. Recipes: paper, bce"),
        ("evaluate", ["bce"], "evaluate: 'bce' is not in train"),
        ("recipes/bce/inherit", "papr", "recipes.bce.inherit: there is no recipe 'papr'"),
        ("recipes/paper/inherit", "bce", "is a circle"),
        ("recipes/paper/batch_size", True, "recipes.paper.batch_size: true is not allowed"),
        ("recipes/paper/schedule/patience", 3, "Did you mean 'patience_steps'?"),
        ("recipes/paper/schedule/name", "step", 'Allowed: "plateau", "cosine", "constant"'),
        ("recipes/paper/loss/soft_f1", "images", 'Allowed: "samples", "classes", null'),
        ("recipes/paper/network", "resnet50", "recipes.paper.network"),
        ("recipes/paper/network", "seresnext_small", "paper.pretrained: seresnext_small has no"),
        ("recipes/paper/augmentation/groups", [{"name": "x"}], "augmentation.groups[0]"),
        ("recipes/paper/pool", 8, "image_size: 224 is too small for pool 8"),
        ("recipes/paper/pretrained", "", "recipes.paper.pretrained"),
        ("recipes/paper/dropout", float("nan"), "recipes.paper.dropout: nan is no finite number"),
        ("thresholds/strategy", 1.5, "thresholds.strategy"),
        ("sources/kaggle/kind", "folder", 'sources.kaggle.kind: "folder" is not allowed'),
        ("train_source", "unlabelled", "a training source needs labels"),
        ("train_source", "kaggle_test", "sources.kaggle_test.part: the competition's test set has"),
        ("sources/kaggle/part", "both", 'Allowed: "train", "test"'),
        ("sources/hpa_v18/select/at_most", 5, "the paper's images are a fixed set; leave out at_"),
        ("sources/hpa_v18/index", "list.csv", "the paper's images are chosen from the atlas's"),
        ("sources/hpa_v18/select/genes", ["BRCA2"], "sources.hpa_v18.select.genes"),
        (
            "sources/other",
            {"kind": "hpa", "images": 5, "select": {"antibody_disjoint_from": "kagle"}},
            "sources.other.select.antibody_disjoint_from: there is no source 'kagle'",
        ),
        (
            "sources/other",
            {"kind": "hpa", "images": 5, "select": {"antibody_disjoint_from": "other"}},
            "other -> other is a circle",
        ),
        ("fetch/addresses/images", ["ftp://a/{n}"], "fetch.addresses.images"),
        # The address stands on command lines, where everybody sees it.
        ("fetch/addresses/genes", ["https://me:secret@a/genes"], "fetch.addresses.genes"),
        ("fetch/addresses/images", ["http://a/{n}.jpg"], "'http://a/{n}.jpg' lacks {antibody}"),
        ("fetch/addresses/entries", ["http://a/{ensembl}"], "holds {ensembl}. Allowed: gene"),
        ("fetch/addresses/entries", ["http://a/{gene"], "has braces that do not close"),
        ("fetch/requests_per_second", 0, "fetch.requests_per_second: 0 is not allowed"),
        ("sources/mine/colour", 1, "sources.mine: unknown key 'colour'"),
        ("sources/mine/folder", "./", "sources.mine.folder: name the folder of the images"),
        (
            "sources/mine/pattern",
            "{channel}",
            "sources.mine.pattern: '{channel}' must hold {id}",
        ),
        ("sources/mine/channels", {"red": "w1", "green": "w1"}, "a text of its own"),
        (
            "sources/mine/ignore",
            ["*.tmp.*", "[9-0]*"],
            "sources.mine.ignore: [9-0] in the pattern '[9-0]*' names no character: 0 comes before",
        ),
        (
            "sources/mine/grey_range",
            {"method": "percentile", "low": 60, "high": 50},
            "sources.mine.grey_range: low, 60, must be below high, 50",
        ),
        (
            "sources/mine/grey_range",
            {"method": "maximum", "value": {"red": 9}},
            "grey_range.value: the key 'green', 'blue', 'yellow' is missing",
        ),
        ("sources/mine/tiles", {"sise": 64}, "sources.mine.tiles: unknown key 'sise'"),
        (
            "sources/mine/tiles",
            {"size": 64, "pixel_size": 0.08},
            "sources.mine.tiles: state both pixel_size and source_pixel_size",
        ),
        (
            "sources/made",
            {"kind": "simulated", "delivery": "kaggle", "images": 4, "cells": [8, 4]},
            "sources.made.cells: [8, 4]",
        ),
        (
            "recipes/paper/loss/scale_up_at",
            {"epok": 3},
            "Allowed: null or a map of epoch or a map of step",
        ),
        (
            "sources/other",
            {"kind": "hpa", "images": 5, "select": {"genes": {"per_class": 2, "classes": [0]}}},
            "sources.other.select.genes: the key 'seed' is missing.",
        ),
        (
            "sources/other",
            {"kind": "hpa", "images": 5, "select": {"genes": {"per_clas": 2, "classes": [0]}}},
            "sources.other.select.genes: unknown key 'per_clas'. Did you mean 'per_class'?",
        ),
        (
            "sources/other",
            {"kind": "hpa", "images": 5, "select": {"ids": [7]}},
            "sources.other.select.ids.0: 7 is a number to YAML",
        ),
        (
            "recipes/paper/loss/scale_up_at",
            {"epoch": 0},
            "recipes.paper.loss.scale_up_at.epoch: 0 is not allowed. Allowed: a whole number",
        ),
        ("sources/mine/ignore", "thumbs", 'ignore: "thumbs" is not allowed. Allowed: a list'),
        ("sources/mine/ignore", ["/"], 'ignore.0: "/" is not allowed'),
        ("recipes/paper/pretrained", "a{b}/w.safetensors", "holds braces, which Snakemake takes"),
        (
            "evaluation/human_answers",
            [{"name": "me", "answers": "a.csv", "truth": "{t}.csv"}],
            "evaluation.human_answers.0.truth: '{t}.csv' holds braces",
        ),
        (
            "sources/other",
            {"kind": "hpa", "images": 5, "select": {"walk": "paper"}, "index": "l.TSV"},
            "the paper's images are chosen from the atlas's entries, not from a list",
        ),
        ("sources/ka ggle", {"kind": "local", "folder": "x"}, "ka ggle"),
    ],
)
def test_faults_name_the_key_and_what_is_allowed(config, key, value, said):
    set_key(config, key, value)
    with pytest.raises(InputError) as error:
        resolve(config)
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("01", "1 is a number to YAML, which drops leading zeros. If a text is meant, quote it"),
        ("01", 'quote it as it is written, such as "01". Allowed: a text, not empty.'),
        ("1.50", "1.5 is a number to YAML. If a text is meant, quote it"),
        ("12:30", "750 is a number to YAML"),
        ("yes", "true is a truth value to YAML, as are yes, no, on and off. If a text is meant,"),
        ("off", "false is a truth value to YAML"),
        ("2024-01-05", "2024-01-05 is a date to YAML. If a text is meant, quote it"),
        ("2024-01-05 10:00:00", "2024-01-05T10:00:00 is a date to YAML"),
        ("", "null is nothing, which YAML makes of an empty value, ~ and null. Write a text"),
        ("~", "null is nothing"),
    ],
)
def test_what_yaml_made_of_an_unquoted_text(config, text, said):
    config["sources"]["mine"]["channels"] = yaml.safe_load(f"red: {text}")
    with pytest.raises(InputError) as error:
        resolve(config)
    assert "sources.mine.channels.red: " in str(error.value)
    assert said in str(error.value)
    config["sources"]["mine"]["channels"] = yaml.safe_load(f"red: '{text or 'x'}'")
    assert resolve(config)["sources"]["mine"]["channels"]["red"] == (text or "x")


@pytest.mark.parametrize("key", ["01", "yes", "2024-01-05", "~"])
@pytest.mark.parametrize("place", ["sources", "recipes", "figures", "sources.mine.channels"])
def test_keys_that_are_no_texts_are_refused(config, key, place):
    *path, last = place.split(".")
    part = config
    for name in path:
        part = part[name]
    part[last] = {**part.get(last, {}), **yaml.safe_load(f"{key}: {{}}")}
    with pytest.raises(InputError, match=rf"  - {place}: the key .* (to|makes of) .*quote it"):
        resolve(config)


def test_the_home_folder_is_expanded_in_every_path(config, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    given = {
        "sources/kaggle/folder": "~/kaggle",
        "sources/mine/folder": "~/mine~",
        "sources/mine/labels": "~/labels.csv",
        "sources/list": {
            "kind": "hpa", "images": 5, "index": "~/list.csv", "genes_table": "~/genes.tsv",
            "select": {"ids": "~/ids.txt"},
        },
        "recipes/paper/pretrained": "~/weights.safetensors",
        "evaluation/human_answers": [{"name": "~", "answers": "~/a.csv", "truth": "~/t.csv"}],
        "container": "~/image.sif",
    }  # fmt: skip
    for key, value in given.items():
        set_key(config, key, value)
    made = resolve(config)
    sources = made["sources"]
    assert sources["kaggle"]["folder"] == "/home/me/kaggle"
    assert (sources["mine"]["folder"], sources["mine"]["labels"]) == (
        "/home/me/mine~",
        "/home/me/labels.csv",
    )
    assert sources["list"]["index"] == "/home/me/list.csv"
    assert sources["list"]["genes_table"] == "/home/me/genes.tsv"
    assert sources["list"]["select"]["ids"] == "/home/me/ids.txt"
    assert made["recipes"]["bce"]["pretrained"] == "/home/me/weights.safetensors"
    assert made["evaluation"]["human_answers"] == [
        {"name": "~", "answers": "/home/me/a.csv", "truth": "/home/me/t.csv"}
    ]
    assert made["container"] == "/home/me/image.sif"
    assert "~/" not in repr(made)


def test_the_default_of_ignore_is_the_programs():
    assert load_schema()["$defs"]["local"]["properties"]["ignore"]["default"] == list(IGNORED)


def test_all_faults_are_told_at_once(config):
    set_key(config, "arrays/size", 1)
    set_key(config, "folds/n", 1)
    with pytest.raises(InputError) as error:
        resolve(config)
    assert "arrays.size" in str(error.value)
    assert "folds.n" in str(error.value)


@pytest.mark.parametrize(
    "overlay", sorted(path.name for path in (PROJECT / "config").glob("*.yaml"))
)
def test_every_overlay_is_valid(config, overlay):
    from snakemake.utils import update_config

    update_config(config, read(f"config/{overlay}"))
    resolve(config)


def test_resolving_twice_changes_nothing(config):
    once = resolve(config)
    assert resolve(once) == once


def test_the_paper_recipe_spells_out_every_default():
    # config.yaml shows every key of the recipe; its values are the schema's defaults.
    paper = read("config.yaml")["recipes"]["paper"]
    spelled = copy.deepcopy(read("config.yaml"))
    spelled["recipes"] = {"paper": {"augmentation": paper["augmentation"]}}
    spelled["generations"] = []
    assert resolve(spelled)["recipes"]["paper"] == paper


def test_inheritance_merges_maps_and_replaces_what_has_another_name(config):
    config["recipes"]["child"] = {
        "inherit": "bce",
        "optimizer": {"name": "adamw", "learning_rate": 0.001},
        "loss": {"bce_epochs": 3},
    }
    recipe = resolve(config)["recipes"]["child"]
    assert recipe["loss"]["soft_f1"] is None
    assert recipe["loss"]["bce_epochs"] == 3
    assert recipe["loss"]["focal_gamma"] == 5
    assert recipe["optimizer"] == {"name": "adamw", "learning_rate": 0.001, "weight_decay": 0.0001}
    assert "inherit" not in recipe


def test_a_recipe_may_scale_up_at_an_epoch_where_its_parent_does_at_a_step(config):
    config["recipes"]["child"] = {"inherit": "paper", "loss": {"scale_up_at": {"epoch": 9}}}
    recipe = resolve(config)["recipes"]["child"]
    assert recipe["loss"]["scale_up_at"] == {"epoch": 9}
    assert recipe["loss"]["scale_up"] == 50


def test_tiles_have_all_their_keys(config):
    config["sources"]["mine"]["tiles"] = {"size": 64}
    tiles = resolve(config)["sources"]["mine"]["tiles"]
    assert tiles == {"size": 64, "pixel_size": None, "source_pixel_size": None}


def test_every_key_is_described_and_has_a_default_unless_required():
    def walk(schema: dict, path: str):
        for name, part in schema.get("properties", {}).items():
            if "const" in part or (path.startswith("$defs.") and name in ("kind", "name")):
                continue
            assert "description" in part, f"{path}.{name} is not described"
            if name not in schema.get("required", []) and path not in (
                "$defs.source",
                "figures.colours",
            ):
                has_default = "default" in part or name == "inherit"
                assert has_default or (not path and name == "evaluate"), (
                    f"{path}.{name}: no default"
                )
            walk(part, f"{path}.{name}".strip("."))

    schema = load_schema()
    walk(schema, "")
    for name, part in schema["$defs"].items():
        walk(part, f"$defs.{name}")


def test_a_source_made_with_other_settings_is_refused_showing_both(tmp_path):
    record = tmp_path / "raw" / "settings.json"
    check_source("cells", {"images": 5}, record)
    record.parent.mkdir()
    record.write_text('{"settings": {"images": 5, "seed": 1}}')
    check_source("cells", {"seed": 1, "images": 5}, record)
    with pytest.raises(InputError) as error:
        check_source("cells", {"images": 6, "seed": 1}, record)
    assert "images: made with 5, the configuration says 6" in str(error.value)
    assert "seed" not in str(error.value)
    # Made by another version of the simulator: made again, so not refused for that.
    for version in (1, 2):
        record.write_text(json.dumps({"settings": {"images": 5, "seed": 1, "version": version}}))
        check_source("cells", {"images": 5, "seed": 1, "version": 2}, record)
        with pytest.raises(InputError) as error:
            check_source("cells", {"images": 6, "seed": 1, "version": 2}, record)
        assert "version:" not in str(error.value)


def test_the_schema_names_the_cell_lines_that_can_be_drawn():
    from hpaloc.simulate.cells import CELL_LINES

    lines = load_schema()["$defs"]["simulated"]["properties"]["cell_lines"]
    assert lines["items"]["enum"] == lines["default"] == list(CELL_LINES)


def test_defaults_are_filled_below_lists(config):
    set_key(config, "evaluation/human_answers", [{"name": "A. Person", "answers": "sheet.csv"}])
    assert resolve(config)["evaluation"]["human_answers"] == [
        {"name": "A. Person", "answers": "sheet.csv", "truth": None}
    ]
