"""A simulated source: determinism, the two deliveries, the index, going on after a kill."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from hpaloc.classes import CHANNELS, format_labels
from hpaloc.files import sha256_of_file
from hpaloc.index import read_index
from hpaloc.log import InputError
from hpaloc.simulate import delivery as delivery_module
from hpaloc.simulate import source as source_module
from hpaloc.simulate.cells import CELL_LINES
from hpaloc.simulate.delivery import encode
from hpaloc.simulate.render import record, render
from hpaloc.simulate.source import check_settings, make_source
from simulate_source import main

SCRIPT = Path(source_module.__file__).resolve().parents[2] / "simulate_source.py"

SETTINGS = {
    "images": 6, "size": 64, "seed": 4, "delivery": "kaggle", "imbalance": 0.5,
    "images_per_antibody": 2, "cells": [2, 4], "field_um": 60.0, "cell_lines": list(CELL_LINES),
}  # fmt: skip


def arguments(raw, settings, workers=1):
    return [
        "--name", "cells", "--settings", json.dumps(settings), "--raw", str(raw),
        "--index", str(raw / "index.parquet"), "--digest", str(raw / "index.sha256"),
        "--settings-out", str(raw / "settings.json"), "--workers", str(workers),
    ]  # fmt: skip


def contents(raw):
    return {
        path.relative_to(raw).as_posix(): path.read_bytes()
        for path in sorted(raw.rglob("*"))
        if path.is_file() and not path.name.startswith("rendered_")
    }


@pytest.fixture(scope="module", params=["kaggle", "hpa_v18"])
def made(request, tmp_path_factory):
    raw = tmp_path_factory.mktemp(request.param)
    settings = {**SETTINGS, "delivery": request.param}
    main(arguments(raw, settings))
    return raw, settings, read_index(raw / "index.parquet")


def test_image_k_does_not_depend_on_what_else_is_made():
    alone = render({**SETTINGS, "images": 1}, 5)
    for number in (0, 3):
        render(SETTINGS, number)
    among = render({**SETTINGS, "images": 1000}, 5)
    assert alone[0] == among[0]
    assert np.array_equal(alone[1], among[1])
    assert alone[1].shape == (64, 64, 4)
    assert alone[1].dtype == np.uint8


@pytest.mark.parametrize("change", [{"seed": 5}, {"delivery": "hpa_v18"}])
def test_another_seed_or_delivery_shows_other_cells(change):
    one, other = render(SETTINGS, 0), render({**SETTINGS, **change}, 0)
    assert one[0].antibody != other[0].antibody
    alike = np.corrcoef(one[1][..., 2].ravel(), other[1][..., 2].ravel())[0, 1]
    assert alike < 0.6


def test_images_of_an_antibody_share_labels_and_gene_but_not_cells():
    first, second, third = (render(SETTINGS, number) for number in (0, 1, 2))
    assert first[0].antibody == second[0].antibody != third[0].antibody
    assert first[0].labels == second[0].labels
    assert first[0].gene == second[0].gene
    assert first[0].cell_line != second[0].cell_line
    assert not np.array_equal(first[1], second[1])


def test_workers_and_repetition_give_the_same_bytes(tmp_path):
    settings = {**SETTINGS, "images": 20, "size": 48}
    main(arguments(tmp_path / "one", settings, workers=1))
    main(arguments(tmp_path / "two", settings, workers=2))
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_the_index_describes_the_files(made):
    raw, settings, index = made
    assert list(index["image_id"]) == sorted(set(index["image_id"]))
    assert len(index) == settings["images"]
    assert (index["parent"] == index["image_id"]).all()
    assert (index["source"] == "cells").all()
    records = [record(settings, number) for number in range(settings["images"])]
    assert sorted(index["labels"]) == sorted(known.labels for known in records)
    assert set(index["antibody"]) == {known.antibody for known in records}
    for row in index.to_dict("records"):
        assert (row["x"], row["y"], row["width"], row["height"]) == (0, 0, 64, 64)
        for channel in CHANNELS:
            path = raw / row[f"path_{channel}"]
            assert path.stat().st_size == row[f"bytes_{channel}"]
            assert sha256_of_file(path) == row[f"sha256_{channel}"]
            assert pd.isna(row[f"low_{channel}"])
    assert (raw / "index.sha256").read_text().strip() == sha256_of_file(raw / "index.parquet")
    about = json.loads((raw / "settings.json").read_text())
    assert about["settings"] == settings
    assert about["simulated"] and about["labelled"]
    assert (about["kind"], about["root"]) == ("simulated", ".")


def test_names_and_coding_are_those_of_the_delivery(made):
    raw, settings, index = made
    numbers = {}
    for number in range(settings["images"]):
        known, picture = render(settings, number)
        numbers[delivery_module.image_id(settings, known)] = picture
    for row in index.to_dict("records"):
        for plane, channel in enumerate(CHANNELS):
            path = raw / row[f"path_{channel}"]
            with Image.open(path) as image:
                pixels, mode, kind = np.asarray(image), image.mode, image.format
            truth = numbers[row["image_id"]][..., plane]
            if settings["delivery"] == "kaggle":
                assert path == raw / "train" / f"{row['image_id']}_{channel}.png"
                assert (mode, kind) == ("L", "PNG")
                assert np.array_equal(pixels, truth)
            else:
                antibody, rest = row["image_id"].split("_", 1)
                assert antibody == row["antibody"]
                assert path == raw / "images" / antibody / f"{rest}_{channel}.jpg"
                assert len(rest.split("_")) == 3
                assert (mode, kind) == ("RGB", "JPEG")


def test_train_csv_repeats_the_labels(made):
    raw, settings, index = made
    if settings["delivery"] == "hpa_v18":
        assert not (raw / "train.csv").exists()
        return
    table = pd.read_csv(raw / "train.csv")
    assert list(table.columns) == ["Id", "Target"]
    assert list(table["Id"]) == list(index["image_id"])
    assert list(table["Target"].astype(str)) == [format_labels(x) for x in index["labels"]]


def test_jpg_planes_carry_their_channel(tmp_path):
    _, picture = render({**SETTINGS, "size": 256, "delivery": "hpa_v18"}, 1)
    for plane, channel in enumerate(CHANNELS):
        (tmp_path / "x.jpg").write_bytes(encode(picture[..., plane], channel, "hpa_v18"))
        with Image.open(tmp_path / "x.jpg") as image:
            assert image.layer[0][1:3] == (2, 2)  # luma sampled twice as densely: 4:2:0
            assert image.layer[1][1:3] == (1, 1)
            assert 40 <= image.quantization[0][0] * 3 <= 60  # quality 50: the standard table, 16
            pixels = np.asarray(image)
        carried = {"red": [0], "green": [1], "blue": [2], "yellow": [0, 1]}[channel]
        # What the coding can keep is a blurred channel; chroma is halved in size.
        truth = cv2.GaussianBlur(picture[..., plane], (0, 0), 1.5).astype(float).ravel()
        for colour in range(3):
            seen = cv2.GaussianBlur(pixels[..., colour], (0, 0), 1.5).astype(float).ravel()
            if colour in carried:
                assert np.corrcoef(seen, truth)[0, 1] > 0.95
                assert seen.sum() == pytest.approx(truth.sum(), rel=0.25)
            else:
                assert seen.mean() < 0.35 * truth.mean() + 2


def test_deliveries_of_one_seed_share_no_antibody_and_no_image(tmp_path):
    train = make_source("a", SETTINGS, tmp_path / "a", 1)
    test = make_source("b", {**SETTINGS, "delivery": "hpa_v18"}, tmp_path / "b", 1)
    assert not set(train["antibody"]) & set(test["antibody"])
    assert not set(train["image_id"]) & set(test["image_id"])
    for index in (train, test):
        assert (
            index.groupby("antibody")["labels"].agg(lambda x: len(set(map(tuple, x)))) == 1
        ).all()
        assert (index.groupby("antibody").size() == 2).all()


def counted(monkeypatch):
    numbers = []

    def make(settings, number, raw):
        numbers.append(number)
        return delivery_module.make_image(settings, number, raw)

    monkeypatch.setattr(source_module, "make_image", make)
    return numbers


def test_a_second_run_mends_only_what_is_missing_or_damaged(tmp_path, monkeypatch):
    index = make_source("cells", SETTINGS, tmp_path, 1)
    before = contents(tmp_path)
    numbers = counted(monkeypatch)
    make_source("cells", SETTINGS, tmp_path, 1)
    assert numbers == []
    (tmp_path / index["path_green"][0]).unlink()
    damaged = tmp_path / index["path_red"][3]
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"x")
    make_source("cells", SETTINGS, tmp_path, 1)
    assert len(numbers) == 2
    assert contents(tmp_path) == before


def test_more_images_keep_the_first_and_fewer_remove_the_rest(tmp_path, monkeypatch):
    few, many = {**SETTINGS, "images": 3}, {**SETTINGS, "images": 5}
    make_source("cells", few, tmp_path, 1)
    first = contents(tmp_path)
    numbers = counted(monkeypatch)
    make_source("cells", many, tmp_path, 1)
    assert numbers == [3, 4]
    make_source("cells", few, tmp_path, 1)
    assert numbers == [3, 4]
    assert contents(tmp_path) == first


@pytest.mark.parametrize("change", [{"size": 48}, {"seed": 5}, {"delivery": "hpa_v18"}])
def test_other_settings_leave_nothing_stale(tmp_path, change):
    settings = {**SETTINGS, "images": 3}
    make_source("cells", settings, tmp_path / "changed", 1)
    make_source("cells", {**settings, **change}, tmp_path / "changed", 1)
    make_source("cells", {**settings, **change}, tmp_path / "fresh", 1)
    assert contents(tmp_path / "changed") == contents(tmp_path / "fresh")
    assert len(list((tmp_path / "changed").glob("rendered_*"))) == 1


def test_a_killed_run_goes_on_where_it_was(tmp_path):
    settings = {**SETTINGS, "images": 60}
    command = [sys.executable, str(SCRIPT), *arguments(tmp_path / "killed", settings)]
    running = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    journal_lines = 0
    deadline = time.monotonic() + 60
    while journal_lines < 10 and running.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
        for journal in (tmp_path / "killed").glob("rendered_*"):
            journal_lines = journal.read_text().count('"number"')
    os.kill(running.pid, signal.SIGKILL)
    running.wait()
    assert not (tmp_path / "killed" / "index.parquet").exists()
    done = {path: path.stat().st_mtime_ns for path in (tmp_path / "killed/train").glob("[!.]*.png")}
    assert 40 <= len(done) < 240
    # A line that the kill cut short.
    journal = next((tmp_path / "killed").glob("rendered_*"))
    journal.write_text(journal.read_text() + '{"number": 59, "by')
    main(arguments(tmp_path / "killed", settings))
    main(arguments(tmp_path / "whole", settings))
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
    kept = sum(path.stat().st_mtime_ns == written for path, written in done.items())
    assert kept >= 40


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"delivery": "tiff"}, "delivery"),
        ({"cell_lines": ["HeLa", "Hela"]}, "Hela"),
        ({"cell_lines": []}, "cell_lines"),
        ({"cells": [5, 3]}, "cells"),
        ({"images": 0}, "images"),
        ({"field_um": -1.0}, "field_um"),
    ],
)
def test_impossible_settings_are_refused(change, word, tmp_path):
    with pytest.raises(InputError, match=word):
        make_source("cells", {**SETTINGS, **change}, tmp_path / "raw", 1)
    assert not (tmp_path / "raw").exists()


def test_a_missing_setting_is_named():
    with pytest.raises(InputError, match="imbalance"):
        check_settings({key: value for key, value in SETTINGS.items() if key != "imbalance"})
