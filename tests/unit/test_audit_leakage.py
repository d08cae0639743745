import cv2
import pandas as pd
import pytest
from audit_case import audit, find_duplicates, hash_source, write_source
from planted_twins import BEYOND, CHANGES, at_size, with_gain

from hpaloc.audit.leakage import seen
from hpaloc.classes import CHANNELS
from hpaloc.convert import convert_shard, index_arrays
from hpaloc.file_facts import file_columns, image_size, scan_files
from hpaloc.log import InputError
from hpaloc.simulate.delivery import encode
from hpaloc.simulate.render import render

SIDE = 128
SETTINGS = {
    "seed": 9, "delivery": "kaggle", "imbalance": 0.5, "images_per_antibody": 1, "size": 192,
    "cells": [8, 16], "field_um": 120.0, "cell_lines": ["U-2 OS"],
}  # fmt: skip


@pytest.fixture(scope="module")
def fields():
    return [render(SETTINGS, number)[1] for number in range(12)]


def second(field):
    return CHANGES["gains of 0.5 to 2"](field, SIDE)


@pytest.fixture(scope="module")
def tables(fields, tmp_path_factory):
    """Training: fields 0 to 5 and 0 again; test: 0 and 1 turned, 6 twice, 7, and a blank one."""
    folder = tmp_path_factory.mktemp("audit")
    train = write_source(
        folder / "train",
        [at_size(field, SIDE) for field in fields[:6]] + [second(fields[0])],
        image_id=[f"train_{number}" for number in range(7)],
        labels=[[0], [1], [2], [3], [4], [5], [0, 25]],
        antibody=["A0", "A1", "A2", "A3", "A4", "A5", "A0"],
        gene=["G0", "G1", "G2", "G3", "G3", "G5", "G0"],
    )
    blank = at_size(fields[0], SIDE) // 200
    test = write_source(
        folder / "test",
        [
            CHANGES["rotated 90"](fields[0], SIDE),
            CHANGES["other delivery"](fields[1], SIDE),
            at_size(fields[6], SIDE),
            second(fields[6]),
            at_size(fields[7], SIDE),
            blank,
        ],
        image_id=["turned", "recoded", "six", "six_again", "seven", "black"],
        labels=[[0], [7, 1], [6], [6], None, [8]],
        antibody=["A0", "B1", "B6", "B6", None, "A5"],
        gene=["G0", "G1", "H6", "H6", "H7", "G5"],
    )
    find_duplicates(hash_source(train))
    out = folder / "out"
    return audit(train, hash_source(test), out) | {"train": train, "test": test, "out": out}


def summary(tables):
    return tables["leakage"].set_index("what")[["count", "of", "note"]]


def test_twins_of_test_images(tables):
    columns = ["pair", "image_id_a", "image_id_b", "orientation", "same_labels"]
    rows = tables["twins"][columns].fillna("").to_numpy().tolist()
    assert rows == [
        ["within test", "six", "six_again", "same", True],
        ["test and training", "turned", "train_0", "rotated 270", True],
        ["test and training", "turned", "train_6", "rotated 270", False],
        ["test and training", "recoded", "train_1", "same", False],
    ]


def test_conflicting_labels_of_twins(tables):
    rows = tables["conflicts"].to_numpy().tolist()
    assert rows == [
        ["test and training", "turned", "0", "train_6", "0 25", "", "25"],
        ["test and training", "recoded", "1 7", "train_1", "1", "7", ""],
        ["within training", "train_0", "0", "train_6", "0 25", "", "25"],
    ]


def test_every_test_image_has_its_row(tables):
    images = tables["images"].set_index("image_id")
    assert images.index.tolist() == ["turned", "recoded", "six", "six_again", "seven", "black"]
    assert images["twin_in_training"].tolist() == [True, True, False, False, False, False]
    assert images["twin"].fillna("").tolist() == ["train_0", "train_1", "", "", "", ""]
    assert images["blank"].tolist() == [False] * 5 + [True]
    assert images["antibody_seen"].tolist() == [True, False, False, False, pd.NA, True]
    assert images["gene_seen"].tolist() == [True, True, False, False, False, True]


def test_summary_counts_what_leaks(tables):
    table = summary(tables)
    expected = {
        "test images with a twin in training": (2, 6),
        "test images with a twin in the test set": (2, 6),
        "training images with a twin in the test set": (3, 7),
        "training images with a twin in training": (2, 7),
        "test images too blank to be compared": (1, 6),
        "training images too blank to be compared": (0, 7),
        "pairs: twins of test and training, whose labels differ": (2, 3),
        "pairs: twins within the test set, whose labels differ": (0, 1),
        "pairs: images of training and the first twin of their group, whose labels differ": (1, 1),
        "test antibodies seen in training": (2, 4),
        "test images of antibodies seen in training": (2, 6),
        "test genes seen in training": (3, 5),
        "test images of genes seen in training": (3, 6),
        "test images of antibodies and genes not seen in training": (2, 6),
    }
    for what, counts in expected.items():
        assert tuple(table.loc[what, ["count", "of"]]) == counts, what
    assert table.loc["test antibodies seen in training", "note"] == (
        "at least: 1 test images have no known antibody"
    )
    assert tables["leakage"]["share"].iloc[0] == pytest.approx(2 / 6, abs=1e-6)


def test_tables_are_the_same_bytes_again(tables, tmp_path):
    audit(tables["train"], tables["test"], tmp_path)
    for path in tmp_path.iterdir():
        assert path.read_bytes() == (tables["out"] / path.name).read_bytes(), path.name


def test_what_training_does_not_know_is_said_to_be_unknown(fields, tmp_path):
    images = [at_size(field, SIDE) for field in fields[:4]]
    train = write_source(
        tmp_path / "train", images[:2], image_id=["a", "b"], labels=[[0], [1]]
    )  # as Kaggle's: no antibody, no gene
    test = write_source(
        tmp_path / "test", images[2:], image_id=["c", "d"], antibody=["A", "B"], gene=["G", None]
    )
    find_duplicates(hash_source(train))
    tables = audit(train, hash_source(test), tmp_path)
    table = summary(tables)
    for what in (
        "test antibodies seen in training",
        "test images of antibodies seen in training",
        "test genes seen in training",
        "test images of antibodies and genes not seen in training",
    ):
        assert pd.isna(table.loc[what, "count"]) and "unknown" in table.loc[what, "note"]
    assert "no training image has a known antibody" in table["note"].str.cat()
    assert tables["images"][["antibody_seen", "gene_seen"]].isna().all(axis=None)
    assert len(tables["twins"]) == len(tables["conflicts"]) == 0


def test_an_antibody_is_the_same_by_its_name_and_by_its_number(fields, tmp_path):
    images = [at_size(field, SIDE) for field in fields[:4]]
    train = write_source(
        tmp_path / "train", images[:2], image_id=["a", "b"], labels=[[0], [1]],
        antibody=["HPA004109", "CAB000020"], gene=["G", "H"],
    )  # fmt: skip
    test = write_source(
        tmp_path / "test", images[2:], image_id=["c", "d"], antibody=["4109", "41"], gene=["I", "I"]
    )
    find_duplicates(hash_source(train))
    tables = audit(train, hash_source(test), tmp_path)
    assert tables["images"]["antibody_seen"].tolist() == [True, False]
    assert tuple(summary(tables).loc["test antibodies seen in training", ["count", "of"]]) == (1, 2)


@pytest.mark.parametrize(
    "train, expected",
    [
        (["a", "b"], [True, False, None]),
        (["a", None], [True, None, None]),
        ([None, None], [None, None, None]),
    ],
)
def test_an_antibody_is_unseen_only_where_all_of_training_is_known(train, expected):
    values = seen(pd.Series(["a", "c", None]), pd.Series(train, dtype="string"))
    assert [None if value is pd.NA else value for value in values] == expected


def test_a_tile_has_a_twin_where_its_image_has_one(fields, tmp_path):
    train = write_source(
        tmp_path / "train",
        [at_size(field, SIDE) for field in fields[:2]],
        image_id=["a", "b"],
        labels=[[0], [1]],
    )
    # Two tiles of one image are no twins, even where they are alike.
    tiles = [at_size(fields[1], SIDE), at_size(fields[5], SIDE), second(fields[5])]
    test = write_source(
        tmp_path / "test",
        [*tiles, at_size(fields[6], SIDE)],
        image_id=["t_1", "t_2", "t_3", "other"],
        parent=["t", "t", "t", "other"],
    )
    find_duplicates(hash_source(train))
    tables = audit(train, hash_source(test), tmp_path)
    assert tables["images"]["twin_in_training"].tolist() == [True, True, True, False]
    assert tables["images"]["twin"].fillna("").tolist() == ["b", "b", "b", ""]
    assert tables["twins"]["pair"].tolist() == ["test and training"]


def converted(folder, files, size):
    """Arrays of the images of a folder of files, as the workflow makes them, hashed."""
    ids = sorted({path.stem.rpartition("_")[0] for path in files.iterdir()})
    names = {image_id: [f"{image_id}_{channel}" for channel in CHANNELS] for image_id in ids}
    paths = {path.stem: path.name for path in files.iterdir()}
    facts, bad = scan_files(lambda name: (files / name).read_bytes(), list(paths.values()), 2)
    assert not bad
    rows = []
    for image_id in ids:
        four = [paths[name] for name in names[image_id]]
        width, height = image_size(four, facts)
        about = {"image_id": image_id, "parent": image_id, "source": "s", "labels": [0]}
        box = {"x": 0, "y": 0, "width": width, "height": height}
        rows.append(about | box | file_columns(four, facts, {}))
    raw = pd.DataFrame(rows)
    folder.mkdir()
    made = folder / "rows.parquet"
    convert_shard(raw, files, CHANNELS, 0, 1, size, folder / "shard_000.npy", made, 2)
    index_arrays(
        raw, [made], folder / "bad.csv", "stop", folder / "index.parquet", folder / "index.sha256"
    )
    return hash_source(folder)


@pytest.mark.parametrize("size", [64, 128, 512])
def test_real_images_are_found_again_as_the_atlas_would_deliver_them(shared, tmp_path, size):
    files = shared / "data" / "kaggle" / "train_512"
    (tmp_path / "jpg").mkdir()
    for path in files.iterdir():
        image = at_size(cv2.imread(str(path), cv2.IMREAD_UNCHANGED), 432)  # 1728 for 2048 px
        channel = path.stem.rpartition("_")[2]
        gain = {"red": 0.5, "green": 2, "blue": 1.5, "yellow": 0.7}[channel]
        data = encode(with_gain(image, gain), channel, "hpa_v18")
        (tmp_path / "jpg" / f"again_{path.stem}.jpg").write_bytes(data)
    train = converted(tmp_path / "train", files, size)
    find_duplicates(train)
    tables = audit(train, converted(tmp_path / "test", tmp_path / "jpg", size), tmp_path)
    images = tables["images"]
    assert images["twin"].tolist() == images["image_id"].str.removeprefix("again_").tolist()
    assert len(images) == len(tables["twins"]) == 5


def test_twins_that_are_less_alike_are_counted_apart(fields, tmp_path):
    sources = []
    for name, images in (
        ("train", [at_size(field, SIDE) for field in fields[:3]]),
        ("test", [BEYOND["rotated by 2°"](fields[0], SIDE), second(fields[1])]),
    ):
        ids = [f"{name}_{number}" for number in range(len(images))]
        source = write_source(tmp_path / name, images, image_id=ids, labels=[[0]] * len(ids))
        sources.append(hash_source(source))
    find_duplicates(sources[0])
    table = summary(audit(*sources, tmp_path))
    assert tuple(table.loc["pairs: twins of test and training", ["count", "note"]]) == (
        2,
        "1 of them correlate less than 0.9 in a channel",
    )


def test_groups_of_another_source_are_refused(tables, tmp_path):
    other = pd.DataFrame({"image_id": ["x"], "duplicates": ["x"]})
    saved = tables["train"] / "duplicates.parquet"
    whole = saved.read_bytes()
    try:
        other.to_parquet(saved)
        with pytest.raises(InputError, match="other images than"):
            audit(tables["train"], tables["test"], tmp_path)
    finally:
        saved.write_bytes(whole)
