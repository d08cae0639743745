"""Files of the user's that change after they were used: noticed by their contents, and told before."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest

from hpaloc.classes import CHANNELS
from hpaloc.contents import UNREADABLE, read_contents, write_contents

ARRAYS = "results/sources/mine/arrays_64/index.sha256"
CONVERSION = {"index_local", "convert_shard", "list_quarantine", "index_arrays"}


def draw(folder: Path, seed: int, names: str = "abcd") -> None:
    """Images whose files have the same names and lengths for any seed: uncompressed TIFF."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    for name in names:
        for channel in CHANNELS:
            pixels = rng.integers(0, 256, (64, 64), np.uint8)
            path = folder / f"{name}_{channel}.tif"
            cv2.imwrite(str(path), pixels, [cv2.IMWRITE_TIFF_COMPRESSION, 1])


@pytest.fixture
def mine(fresh):
    """A project with a folder of own images, which were converted."""
    draw(fresh.path / "images", 1)
    source = {"kind": "local", "folder": "images"}
    fresh.configure({"test_source": "mine", "sources": {"mine": source}})
    make(fresh, ARRAYS)
    return fresh


def make(workspace, target: str) -> str:
    done = workspace.run("--cores", "2", target)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def verified(workspace) -> subprocess.CompletedProcess:
    program = [sys.executable, "workflow/scripts/verify.py"]
    return subprocess.run(program, check=False, cwd=workspace.path, capture_output=True, text=True)


def test_images_that_are_exported_again_are_converted_again(mine):
    images, arrays = mine.path / "images", mine.path / ARRAYS
    first = arrays.read_text()
    kept = mine.path / "kept"
    shutil.copytree(images, kept)  # with their times of modification
    draw(images, 2)
    for path in images.iterdir():  # copied in with the old times
        shutil.copystat(kept / path.name, path)
    named = verified(mine)
    assert named.returncode == 1
    assert "results/sources/mine/raw/index.parquet: made of images/" in named.stdout
    assert "which was edited since" in named.stdout
    jobs, said = mine.plan(ARRAYS)
    assert "sources.mine: 16 files edited (a_" in said
    assert "It is indexed and converted again, and predicted." in said
    assert jobs.keys() == CONVERSION
    make(mine, ARRAYS)
    second = arrays.read_text()
    assert second != first
    assert verified(mine).returncode == 0

    # The same files in another place of the disk: compared once, and nothing runs.
    for path in images.iterdir():
        path.write_bytes(path.read_bytes())
    jobs, said = mine.plan(ARRAYS)
    assert "16 files have new time stamps and the same contents" in said
    assert jobs == {}
    jobs, said = mine.plan(ARRAYS)
    assert "time stamps" not in said
    assert jobs == {}

    # A job that fails is not forgotten, though its outputs are gone with what triggered it.
    shutil.copytree(kept, images, dirs_exist_ok=True)
    (images / "a_red.tif").rename(mine.path / "away.tif")
    done = mine.run("--cores", "2", ARRAYS)
    assert "a lacks red" in done.stdout + done.stderr
    assert not (mine.path / "results/sources/mine/raw/index.sha256").exists()
    (mine.path / "away.tif").rename(images / "a_red.tif")
    assert mine.planned(ARRAYS).keys() == CONVERSION
    make(mine, ARRAYS)
    assert arrays.read_text() == first
    assert mine.planned(ARRAYS) == {}

    # What is left of a source that was deleted in part is made again too.
    shutil.rmtree(mine.path / "results/sources/mine/raw")
    assert mine.planned(ARRAYS).keys() == CONVERSION


def test_a_training_image_that_changed_retrains_and_says_so_before(finished):
    draw(finished.path / "images", 1, "abcdefghijkl")
    table = "Id,Target\n" + "".join(f"{name},{k % 3}\n" for k, name in enumerate("abcdefghijkl"))
    (finished.path / "labels.csv").write_text(table)
    mine = {"kind": "local", "folder": "images", "labels": "labels.csv"}
    recipe = {"inherit": "tiny", "epochs": 1, "loss": {"bce_epochs": 1}}
    finished.configure(
        {
            "run": "own", "train_source": "mine", "sources": {"mine": mine},
            "recipes": {"own": recipe}, "train": ["own"], "evaluate": ["own"], "generations": [],
        }
    )  # fmt: skip
    make(finished, "train")

    path = finished.path / "images" / "c_green.tif"
    os.utime(path, (1, 1))
    assert finished.planned("train") == {}
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 255]))
    jobs, said = finished.plan("train")
    assert "sources.mine: 1 file edited (c_green.tif) since it was indexed." in said
    assert "every trained fold is trained again unless the arrays come out the same" in said
    assert "(2 of recipe own)" in said
    assert jobs["train_fold"] == 2
    path.write_bytes(data)
    assert finished.planned("train") == {}

    # Trained folds are restored from their states where the arrays come out the same.
    weights = finished.path / "results/own/models/own/fold1/weights.sha256"
    before = weights.read_text()
    shutil.rmtree(finished.path / "results/sources/mine")
    make(finished, "train")
    assert weights.read_text() == before
    log = finished.path / "results/own/logs/train_fold/own/fold1.log"
    assert "restored" in log.read_text()


def test_own_weights_that_were_replaced_are_trained_from_again(finished):
    own = finished.path / "own.safetensors"
    models = finished.path / "results/tiny/models/tiny"
    one, other = ((models / f"fold{k}/weights.safetensors").read_bytes() for k in (1, 2))
    assert len(one) == len(other)
    own.write_bytes(one)
    finished.configure({"recipes": {"tiny_bce": {"pretrained": own.name}}})
    fold = "results/tiny/models/tiny_bce/fold1/weights.sha256"
    make(finished, fold)
    first = (finished.path / fold).read_text()
    os.utime(own)  # newer than what was made of it
    assert finished.planned(fold) == {}
    own.write_bytes(other)
    os.utime(own, (1, 1))
    assert finished.planned(fold) == {"train_fold": 1}
    make(finished, fold)
    assert (finished.path / fold).read_text() != first
    own.write_bytes(one)
    make(finished, fold)
    assert (finished.path / fold).read_text() == first  # from its state


def test_a_replaced_archive_or_table_of_the_competition_is_read_again(fresh):
    folder, target = fresh.path / "data/kaggle", "results/sources/kaggle/raw/index.sha256"
    folder.mkdir(parents=True)
    fresh.configure({"train_source": "kaggle"})

    def put(seed: int, label: int) -> None:
        draw(fresh.path / "drawn", seed, "ab")
        with zipfile.ZipFile(folder / "train.zip", "w") as archive:
            for name in "ab":
                for channel in CHANNELS:
                    pixels = cv2.imread(
                        str(fresh.path / f"drawn/{name}_{channel}.tif"), cv2.IMREAD_GRAYSCALE
                    )
                    data = cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, 0])[1]
                    archive.writestr(f"{name}_{channel}.png", data.tobytes())
        (folder / "train.csv").write_text(f"Id,Target\na,{label}\nb,3\n")

    put(1, 0)
    make(fresh, target)
    put(1, 0)
    assert fresh.planned(target) == {}
    indexed = {"fetch_kaggle": 1, "index_kaggle": 1}
    put(1, 5)
    assert fresh.planned(target) == indexed
    put(2, 0)
    jobs, said = fresh.plan(target)
    assert jobs == indexed
    assert "sources.kaggle: 1 file edited (data/kaggle/train.zip)" in said
    make(fresh, target)
    (folder / "train.zip").unlink()  # what was made of it stays
    assert fresh.planned(target) == {}


def test_another_answer_sheet_with_an_older_time_is_scored(finished):
    truth = finished.path / "truth.csv"
    truth.write_text("Id,Target\na,0\nb,25\n")
    sheet = finished.path / "answers.csv"
    sheet.write_text("Id,Predicted\na,0\nb,3\n")
    answers = {"name": "one", "answers": "answers.csv", "truth": "truth.csv"}
    finished.configure({"evaluation": {"human_answers": [answers]}})
    table = "results/tiny/tables/human_vs_machine.csv"
    make(finished, table)
    first = (finished.path / table).read_text()
    sheet.write_text("Id,Predicted\na,0\nb,25\n")
    os.utime(sheet, (1, 1))
    assert finished.planned(table) == {"tabulate_human_vs_machine": 1}
    make(finished, table)
    assert (finished.path / table).read_text() != first


def test_the_list_of_an_atlas_source_is_read_again_where_it_changed(fresh):
    path, target = fresh.path / "list.csv", "results/sources/atlas/atlas/index.sha256"
    path.write_text("Id,Target\n1_1_A1_1,0\n2_1_B1_1,25\n")
    source = {"kind": "hpa", "images": 10, "index": "list.csv"}
    fresh.configure({"test_source": "atlas", "sources": {"atlas": source}})
    make(fresh, target)
    os.utime(path, (1, 1))
    assert fresh.planned(target) == {}
    path.write_text("Id,Target\n1_1_A1_1,0\n2_1_B1_1,23\n")
    assert fresh.planned(target) == {"index_hpa": 1}
    make(fresh, target)
    record = fresh.path / "results/sources/atlas/atlas/contents.json"
    # A fault of the disk while it was read, which passed and left the time stamps.
    contents = read_contents(record)
    (state, _) = contents.files[""]
    write_contents(record, contents._replace(files={"": (state, UNREADABLE)}))
    assert fresh.planned(target) == {"index_hpa": 1}
    make(fresh, target)
    assert fresh.planned(target) == {}
    path.unlink()
    assert fresh.planned(target) == {}
    assert read_contents(record)
