"""Real images, where they lie beside the project: five of Kaggle's at full size, one of HPA v18."""

import csv
import json

import cv2
import numpy as np
import pandas as pd
import pytest
from workspace import copy_project

RUN = {
    "run": "real",
    "train_source": "cells",
    "test_source": "atlas",
    "arrays": {"size": 128},
    "folds": {"n": 2, "train": [1, 2]},
    "train": ["few_steps"],
    "evaluate": ["few_steps"],
    "generations": ["few_steps"],
    "recipes": {
        "few_steps": {
            "inherit": "demo", "image_size": 64, "batch_size": 16, "epochs": 2,
            "loss": {"bce_epochs": 1, "scale_up_at": None},
            "tta": {"validation": {"views": 1}},
        },
    },
    "gpus_per_fold": 0,
}  # fmt: skip


def rows_of(table, ids):
    with open(table, newline="") as file:
        return [row for row in csv.DictReader(file) if row["Id"] in ids]


@pytest.fixture(scope="module")
def real_run(shared, tmp_path_factory):
    """The whole workflow on tiles of the five images, tested on the image of the atlas."""
    workspace = copy_project(tmp_path_factory.mktemp("real") / "project")
    kaggle, atlas = shared / "data/kaggle", shared / "data/hpa_v18"
    for name, table, ids in (
        ("cells", kaggle / "train.csv", {p.name[:36] for p in (kaggle / "full_size").iterdir()}),
        ("atlas", atlas / "HPAv18RBGY_wodpl.csv", {"10008_57_F11_1"}),
    ):
        rows = rows_of(table, ids)
        assert len(rows) == len(ids)
        pd.DataFrame(rows).to_csv(workspace.path / f"{name}.csv", index=False)
    tiles = {"size": 512, "pixel_size": 0.08, "source_pixel_size": 0.08}
    cells = {"kind": "local", "folder": str(kaggle / "full_size"), "labels": "cells.csv"}
    images = {"kind": "local", "folder": str(atlas / "images"), "labels": "atlas.csv"}
    images["pattern"] = "{id}/{any}_{channel}"
    workspace.configure(
        RUN | {"sources": {"cells": cells | {"tiles": tiles}, "atlas": images}}, overlay="real"
    )
    done = workspace.run("--cores", "2", overlay="real")
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-6000:]
    return workspace.path / "results"


def test_tiles_cover_the_images_and_keep_their_labels(real_run, shared):
    index = pd.read_parquet(real_run / "sources/cells/arrays_128/index.parquet")
    # Four images of 2048 px are 16 tiles of 512 px each, the one of 3072 px is 36.
    assert sorted(index.groupby("parent").size()) == [16, 16, 16, 16, 36]
    rows = rows_of(shared / "data/kaggle/train.csv", set(index["parent"]))
    labels = {row["Id"]: row["Target"] for row in rows}
    for tile in index.itertuples():
        assert " ".join(map(str, tile.labels)) == labels[tile.parent]


def test_tiles_of_an_image_stay_in_one_fold(real_run):
    index = pd.read_parquet(real_run / "sources/cells/arrays_128/index.parquet")
    folds = pd.read_parquet(real_run / "real/folds/folds.parquet")
    assert set(folds["fold"]) == {1, 2}
    parents = index.merge(folds, on="image_id", validate="1:1").groupby("parent")["fold"]
    assert (parents.nunique() == 1).all()


def test_the_atlas_image_is_converted_plane_by_plane(real_run, shared):
    arrays = real_run / "sources/atlas/arrays_128"
    index = pd.read_parquet(arrays / "index.parquet")
    assert list(index["image_id"]) == ["10008_57_F11_1"]
    array = np.load(arrays / "shard_000.npy", allow_pickle=False)[0]
    folder = shared / "data/hpa_v18/images/10008_57_F11_1"
    for position, (channel, plane) in enumerate(
        {"red": 0, "green": 1, "blue": 2, "yellow": 0}.items()
    ):
        bgr = cv2.imread(str(folder / f"57_F11_1_{channel}.jpg"), cv2.IMREAD_COLOR)
        # 1728 px to 128 px: each pixel is the mean of 13.5 × 13.5.
        expected = cv2.resize(bgr[..., 2 - plane], (128, 128), interpolation=cv2.INTER_AREA)
        error = array[..., position] - expected.astype(float)
        assert np.sqrt((error**2).mean()) < 1.5, channel
        assert array[..., position].std() > 5, channel


def test_every_result_is_there_and_nothing_is_called_simulated(real_run):
    results = real_run / "real"
    predictions = pd.read_parquet(results / "predictions/few_steps/atlas/labels.parquet")
    assert list(predictions["image_id"]) == ["10008_57_F11_1"]
    assert (results / "figures/human_vs_machine.png").stat().st_size > 10_000
    assert (results / "tables/summary.csv").exists()
    settings = json.loads((real_run / "sources/atlas/raw/settings.json").read_text())
    assert settings["simulated"] is False
