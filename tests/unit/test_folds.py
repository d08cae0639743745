import csv

import numpy as np
import pandas as pd
import pytest

import make_folds as program
from hpaloc.classes import multi_hot
from hpaloc.folds import connected_units, fold_counts, make_folds
from hpaloc.index import write_index
from hpaloc.log import InputError


def index_of(labels, **columns):
    ids = [f"image_{number:05d}" for number in range(len(labels))]
    return pd.DataFrame({"image_id": ids, "parent": ids, "labels": labels} | columns)


def random_index(n_antibodies=300, seed=0):
    """Antibodies of one to six images, all images of one antibody labelled alike."""
    rng = np.random.default_rng(seed)
    labels, antibody = [], []
    for number in range(n_antibodies):
        own = sorted({int(label) for label in rng.choice(28, 2, p=np.arange(1, 29) / 406)})
        for _ in range(rng.integers(1, 7)):
            labels.append(own)
            antibody.append(f"HPA{number:06d}")
    return index_of(labels, antibody=antibody)


@pytest.fixture
def kaggle(shared):
    path = shared / "data" / "kaggle" / "train.csv"
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    ids = [row["Id"] for row in rows]
    labels = [[int(word) for word in row["Target"].split()] for row in rows]
    return pd.DataFrame({"image_id": ids, "parent": ids, "labels": labels})


@pytest.mark.parametrize("seed", [0, 1, 2018])
def test_real_labels_are_split_to_less_than_one_image(kaggle, seed):
    folds = make_folds(kaggle, 10, seed, [])
    counts = fold_counts(folds, kaggle, 10)
    validation = counts[counts["split"] == "validation"]
    assert len(kaggle) == 31072
    assert (validation["count"] > 0).all()
    assert counts["deviation"].abs().max() < 1


def test_every_image_is_in_one_fold_and_counts_add_up():
    index = random_index()
    folds = make_folds(index, 5, 3, [])
    assert sorted(folds["image_id"]) == sorted(index["image_id"])
    assert set(folds["fold"]) == {1, 2, 3, 4, 5}
    counts = fold_counts(folds, index, 5)
    total = multi_hot(index["labels"]).sum(axis=0)
    both = counts.groupby(["fold", "class"])["count"].sum().unstack()
    assert (both == total).all(axis=None)
    first = counts[(counts["fold"] == 1) & (counts["split"] == "validation")]
    members = folds.loc[folds["fold"] == 1, "image_id"]
    inside = multi_hot(index.set_index("image_id")["labels"].loc[members]).sum(axis=0)
    assert first["count"].tolist() == inside.tolist()
    assert first["expected"].tolist() == pytest.approx(total / 5)


def test_same_seed_same_folds_whatever_the_order_of_the_index():
    index = random_index()
    once = make_folds(index, 5, 3, ["antibody"])
    again = make_folds(index.sample(frac=1, random_state=1), 5, 3, ["antibody"])
    pd.testing.assert_frame_equal(once, again)
    assert (make_folds(index, 5, 4, ["antibody"])["fold"] != once["fold"]).any()


def test_antibodies_do_not_straddle_folds_and_stay_balanced():
    index = random_index()
    folds = make_folds(index, 5, 0, ["antibody"]).merge(index, on="image_id")
    assert (folds.groupby("antibody")["fold"].nunique() == 1).all()
    ungrouped = make_folds(index, 5, 0, []).merge(index, on="image_id")
    assert (ungrouped.groupby("antibody")["fold"].nunique() > 1).any()
    # No class is off by more than the largest unit, and the folds are of similar size.
    counts = fold_counts(folds, index, 5)
    assert counts["deviation"].abs().max() < 6
    sizes = np.bincount(folds["fold"])[1:]
    assert sizes.max() - sizes.min() < 0.1 * sizes.mean()


def test_counts_of_units_matter_not_only_their_presence():
    # Two antibodies of 40 images and 40 of two: half of the images in each of two folds.
    sizes = [40, 40] + [2] * 40
    antibody = np.repeat([f"A{number}" for number in range(len(sizes))], sizes)
    index = index_of([[0]] * len(antibody), antibody=antibody)
    folds = make_folds(index, 2, 0, ["antibody"])
    assert np.bincount(folds["fold"])[1:].tolist() == [80, 80]


def test_units_join_through_any_shared_key_and_null_joins_nothing():
    index = index_of(
        [[0]] * 6,
        antibody=["A", "A", "B", None, None, "C"],
        gene=[None, "g", "g", "h", None, None],
    )
    units = connected_units(index, ["parent", "antibody", "gene"])
    assert units[0] == units[1] == units[2]
    assert len(set(units)) == 4


def test_tiles_of_one_image_stay_together_without_being_asked():
    index = index_of([[number % 3] for number in range(60)])
    index["parent"] = [f"whole_{number // 6}" for number in range(60)]
    folds = make_folds(index, 5, 0, []).merge(index, on="image_id")
    assert (folds.groupby("parent")["fold"].nunique() == 1).all()
    assert (folds["group"] == folds["parent"]).all()


def test_images_of_no_class_are_spread_evenly():
    folds = make_folds(index_of([[]] * 20 + [[0]] * 20), 4, 0, [])
    assert np.bincount(folds["fold"])[1:].tolist() == [10] * 4


def test_unlabelled_images_are_refused_by_name():
    with pytest.raises(InputError, match=r"1 of 3 images have no labels.*image_00001"):
        make_folds(index_of([[0], None, []]), 2, 0, [])


def test_unknown_column_is_refused_with_the_known_ones():
    with pytest.raises(InputError, match=r"'plate'.*antibody"):
        make_folds(random_index(), 5, 0, ["plate"])


def test_more_folds_than_units_are_refused():
    with pytest.raises(InputError, match="too few for 5 folds"):
        make_folds(index_of([[0]] * 20, antibody=["A"] * 20), 5, 0, ["antibody"])


@pytest.mark.parametrize("n", [-1, 0, 1])
def test_fewer_than_two_folds_are_refused(n):
    with pytest.raises(InputError, match="at least two folds"):
        make_folds(random_index(20), n, 0, [])


def test_classes_that_cannot_be_everywhere_are_warned_of(caplog):
    make_folds(index_of([[0]] * 20 + [[27]] * 2), 5, 0, [])
    assert "Rods & rings" in caplog.text and "Nucleoplasm" not in caplog.text


def made_source(folder, n_antibodies=60):
    index = random_index(n_antibodies).assign(source="made", x=0, y=0, width=96, height=96, shard=0)
    write_index(index.assign(row=range(len(index))), folder / "index.parquet")
    return index


def split(folder, run, *arguments):
    outputs = [
        word
        for name, file in (("folds", "parquet"), ("digest", "sha256"), ("counts", "csv"))
        for word in (f"--{name}", str(folder / f"{run}_{name}.{file}"))
    ]
    program.main(
        ["--arrays", str(folder / "index.parquet"), "--n", "4", "--seed", "7", *arguments, *outputs]
    )


def test_duplicates_stay_in_one_fold_also_through_antibodies(tmp_path):
    index = made_source(tmp_path)
    # Pairs of images far apart, which join their antibodies; each other image is its own group.
    groups = index["image_id"].copy()
    groups.iloc[-20:] = groups.iloc[:20].to_numpy()
    table = pd.DataFrame({"image_id": index["image_id"], "duplicates": groups})
    table.sample(frac=1, random_state=1).to_parquet(tmp_path / "groups.parquet")
    both = ["--duplicates", str(tmp_path / "groups.parquet"), "--group-by"]
    split(tmp_path, "alone", *both, '["duplicates"]')
    split(tmp_path, "joined", *both, '["antibody", "duplicates"]')
    split(tmp_path, "without", "--group-by", "[]")
    index["duplicates"] = groups
    spread = {}
    for run in ("alone", "joined", "without"):
        folds = pd.read_parquet(tmp_path / f"{run}_folds.parquet").merge(index, on="image_id")
        spread[run] = [
            folds.groupby(column)["fold"].nunique().max() for column in ("duplicates", "antibody")
        ]
    assert spread["alone"][0] == 1 and spread["alone"][1] > 1
    assert spread["joined"] == [1, 1]
    assert spread["without"][0] > 1


def test_grouping_by_duplicates_needs_their_table(tmp_path):
    index = made_source(tmp_path)
    with pytest.raises(InputError, match="--duplicates"):
        split(tmp_path, "a", "--group-by", '["duplicates"]')
    table = pd.DataFrame({"image_id": index["image_id"], "duplicates": index["image_id"]})
    table.iloc[1:].to_parquet(tmp_path / "groups.parquet")
    with pytest.raises(InputError, match="other images than"):
        split(
            tmp_path, "a", "--group-by", '["duplicates"]',
            "--duplicates", str(tmp_path / "groups.parquet"),
        )  # fmt: skip


def test_program_writes_the_same_bytes_twice(tmp_path):
    made_source(tmp_path)
    for run in "ab":
        split(tmp_path, run, "--group-by", '["antibody"]')
    for name in ("folds.parquet", "digest.sha256", "counts.csv"):
        assert (tmp_path / f"a_{name}").read_bytes() == (tmp_path / f"b_{name}").read_bytes()
    counts = pd.read_csv(tmp_path / "a_counts.csv")
    assert len(counts) == 4 * 2 * 28
