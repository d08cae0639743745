"""Kaggle's competition as a training source and as a submission, from archives that are there."""

import shutil
import subprocess
import zipfile

import pandas as pd
import pytest
from workspace import copy_project

from hpaloc.simulate.cells import CELL_LINES
from hpaloc.simulate.source import make_source

CELLS = {
    "delivery": "kaggle", "size": 96, "imbalance": 0.2, "images_per_antibody": 1,
    "cells": [4, 8], "field_um": 70.0, "cell_lines": list(CELL_LINES),
}  # fmt: skip
KAGGLE = {"kind": "kaggle", "folder": "data/kaggle"}


def pack(folder, archive):
    with zipfile.ZipFile(archive, "w") as packed:
        for path in sorted(folder.glob("*.png")):
            packed.write(path, path.name)


@pytest.fixture(scope="module")
def competition(tmp_path_factory):
    """A project with the competition's four files, of simulated cells, where a user puts them."""
    workspace = copy_project(tmp_path_factory.mktemp("kaggle") / "project")
    folder = workspace.path / "data/kaggle"
    folder.mkdir(parents=True)
    made = tmp_path_factory.mktemp("cells")
    for part, images, seed in (("train", 60, 1), ("test", 12, 3)):
        index = make_source(part, CELLS | {"images": images, "seed": seed}, made / part, 2)
        pack(made / part / "train", folder / f"{part}.zip")
    shutil.copy(made / "train/train.csv", folder)
    # An order of its own, as the competition's.
    ids = index["image_id"].sample(frac=1, random_state=1)
    pd.DataFrame({"Id": ids, "Predicted": 0}).to_csv(folder / "sample_submission.csv", index=False)
    workspace.configure(
        {
            "train_source": "kaggle",
            "sources": {
                "kaggle": {**KAGGLE, "images": 60},
                "kaggle_test": {**KAGGLE, "part": "test", "images": 12},
            },
            "folds": {"n": 3, "train": [1], "group_by": ["duplicates"]},
        }
    )
    return workspace


def without_network(workspace, *arguments):
    done = subprocess.run(["unshare", "-rn", "true"], check=False, capture_output=True)
    before = ["unshare", "-rn"] if done.returncode == 0 else []
    return workspace.run(*arguments, "--cores", "2", before=before)


def test_what_the_user_has_is_used_in_place_and_without_a_network(competition):
    done = without_network(competition, "submission")
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-6000:]
    results = competition.path / "results"
    assert not (results / "downloads").exists()
    assert not list(competition.path.rglob("*_green.png"))
    order = pd.read_csv(competition.path / "data/kaggle/sample_submission.csv")["Id"]
    answers = pd.read_csv(
        results / "tiny/predictions/tiny/kaggle_test/kaggle_submission.csv", dtype=str
    )
    assert list(answers.columns) == ["Id", "Predicted"]
    assert list(answers["Id"]) == list(order)
    called = pd.read_csv(results / "tiny/predictions/tiny/kaggle_test/submission.csv", dtype=str)
    joined = answers.merge(called, on="Id", how="left", validate="1:1")
    assert joined["Predicted_x"].equals(joined["Predicted_y"])


def test_archives_may_be_deleted_once_the_arrays_are_made(competition):
    kept = {path: path.read_bytes() for path in (competition.path / "data/kaggle").iterdir()}
    shutil.rmtree(competition.path / "data/kaggle")
    try:
        assert competition.planned("submission", "folds") == {}
    finally:
        (competition.path / "data/kaggle").mkdir()
        for path, data in kept.items():
            path.write_bytes(data)


def test_a_broken_archive_is_named_with_what_to_do(competition, tmp_path):
    other = copy_project(tmp_path / "project")
    shutil.copytree(competition.path / "data", other.path / "data")
    archive = other.path / "data/kaggle/train.zip"
    archive.write_bytes(archive.read_bytes()[:-2000])
    other.configure({"train_source": "kaggle", "sources": {"kaggle": {**KAGGLE, "images": 60}}})
    done = without_network(other, "arrays")
    said = done.stdout + done.stderr
    assert done.returncode != 0
    assert "data/kaggle/train.zip" in said
    assert "Traceback" not in said
    assert archive.is_file()  # it is the user's


def test_without_a_token_the_steps_are_told(competition, tmp_path):
    other = copy_project(tmp_path / "project")
    other.configure({"train_source": "kaggle", "sources": {"kaggle": {**KAGGLE, "images": 60}}})
    command = other.command("fetch", "--cores", "1")
    environment = other.environment() | {"HOME": str(tmp_path)}
    done = subprocess.run(
        command, check=False, cwd=other.path, env=environment, capture_output=True, text=True,
        timeout=300,
    )  # fmt: skip
    said = done.stdout + done.stderr
    assert done.returncode != 0
    assert "KAGGLE_API_TOKEN" in said
    assert "access_token" in said
    assert "data/kaggle" in said  # the way without any token
    assert "Traceback" not in said
