import json

import pandas as pd
import pytest

import write_submission
from hpaloc.kaggle.files import read_found
from hpaloc.log import InputError


@pytest.fixture()
def labels(tmp_path):
    frame = pd.DataFrame({"image_id": ["a", "b", "c"], "labels": [[0, 25], [], [7]]})
    frame.to_parquet(tmp_path / "labels.parquet")
    (tmp_path / "submission.csv").write_text("Id,Predicted\na,0 25\nb,\nc,7\n")
    return tmp_path


def write(folder, order, labels="labels.parquet"):
    (folder / "sample.csv").write_text(order)
    write_submission.main(
        [
            *("--labels", str(folder / labels), "--order", str(folder / "sample.csv")),
            *("--submission", str(folder / "out.csv")),
        ]
    )
    return (folder / "out.csv").read_text()


@pytest.mark.parametrize("name", ["labels.parquet", "submission.csv"])
def test_rows_are_in_the_order_of_the_sample(labels, name):
    made = write(labels, "Id,Predicted\nc,0\na,0\nb,0\n", name)
    assert made == "Id,Predicted\nc,7\na,0 25\nb,\n"


def test_the_order_may_come_from_the_files_of_the_source(labels, inputs_of):
    (labels / "sample.csv").write_text("Id,Predicted\nb,0\nc,0\na,0\n")
    files = {"part": "test", "table": {"path": str(labels / "sample.csv")}, "images": {"path": ""}}
    (labels / "files.json").write_text(json.dumps(files))
    write_submission.main(
        [
            *("--labels", str(labels / "labels.parquet"), "--files", str(labels / "files.json")),
            *("--submission", str(labels / "out.csv")),
        ]
    )
    assert pd.read_csv(labels / "out.csv")["Id"].tolist() == ["b", "c", "a"]
    assert str(labels / "sample.csv") in inputs_of(labels / "out.csv")


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"part": "test", "table": {}}', None])
def test_files_that_fetch_kaggle_did_not_write_are_refused(tmp_path, text):
    path = tmp_path / "files.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError, match=r"files\.json: .* run fetch_kaggle again"):
        read_found(path)


@pytest.mark.parametrize(
    ("order", "message"),
    [
        ("Id,Predicted\na,0\nb,0\nc,0\nd,0\ne,0\n", r"2 of 5 images .* no prediction: d, e\."),
        ("Id,Predicted\na,0\n", r"2 images are not in .*sample\.csv: b, c\."),
        ("Id,Predicted\na,0\na,0\nb,0\nc,0\n", r"sample\.csv: 1 ids stand twice: a\."),
        ("Image;Predicted\na;0\n", r"sample\.csv: the columns are Image, Predicted"),
        ("", r"sample\.csv: the columns are none"),
        ("Id,Predicted\na,0,1\n", r"sample\.csv, line 2: 'a,0,1' has 3 cells"),
    ],
)
def test_other_images_than_those_of_the_sample_are_refused(labels, order, message):
    with pytest.raises(InputError, match=message):
        write(labels, order)
    assert not (labels / "out.csv").exists()


def test_images_that_could_not_be_used_get_no_label_and_are_told(labels, caplog):
    (labels / "sample.csv").write_text("Id,Predicted\nd,0\nc,0\nb,0\na,0\n")
    quarantine = labels / "quarantine.csv"
    arguments = [
        *("--labels", str(labels / "labels.parquet"), "--order", str(labels / "sample.csv")),
        *("--quarantine", str(quarantine), "--submission", str(labels / "out.csv")),
    ]
    quarantine.write_text("image_id,file,channel,reason\nd,d_red.png,red,blank\nx,x.png,red,cut\n")
    write_submission.main(arguments)
    assert (labels / "out.csv").read_text() == "Id,Predicted\nd,\nc,7\nb,\na,0 25\n"
    assert "1 of 4 images could not be used and are given no label: d" in caplog.text
    quarantine.write_text("image_id,file,channel,reason\n")
    with pytest.raises(InputError, match="1 of 4 images"):
        write_submission.main(arguments)


def test_a_table_that_has_no_labels_is_refused(labels):
    pd.DataFrame({"image_id": ["a"]}).to_parquet(labels / "labels.parquet")
    with pytest.raises(InputError, match="not a table of called labels"):
        write(labels, "Id,Predicted\na,0\n")


def test_the_order_of_the_real_sample(shared, tmp_path):
    sample = pd.read_csv(shared / "data/kaggle/sample_submission.csv")
    frame = pd.DataFrame({"image_id": sorted(sample["Id"]), "labels": [[3]] * len(sample)})
    frame.to_parquet(tmp_path / "labels.parquet")
    write_submission.main(
        [
            *("--labels", str(tmp_path / "labels.parquet")),
            *("--order", str(shared / "data/kaggle/sample_submission.csv")),
            *("--submission", str(tmp_path / "out.csv")),
        ]
    )
    made = pd.read_csv(tmp_path / "out.csv")
    assert made["Id"].tolist() == sample["Id"].tolist()
    assert set(made["Predicted"]) == {3}
