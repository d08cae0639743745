import numpy as np
import pandas as pd
import pytest

import score_answers
from hpaloc.answers import ANSWERS, TRUTH, matched, read_sheet
from hpaloc.log import InputError

# FACTS of the published sheet of one person, recomputed from the author's public files.
PUBLISHED_PERSON = {
    "correct_labels": 2680,
    "total_labels": 2940,
    "binary_accuracy": 0.911565,
    "macro_f1": 0.112390,
    "micro_precision": 0.274590,
    "micro_recall": 0.446667,
    "iou": 0.272857,
    "n_images": 105,
}


def sheet(folder, name, content):
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def score(folder, truth, answers):
    paths = [sheet(folder, "truth.csv", truth), sheet(folder, "answers.csv", answers)]
    out = folder / "metrics.csv"
    score_answers.main(
        ["--truth", str(paths[0]), "--answers", str(paths[1]), "--metrics", str(out)]
    )
    table = pd.read_csv(out)
    assert table.columns.tolist() == ["metric", "value"]
    return dict(zip(table["metric"], table["value"], strict=True))


def test_a_person_of_the_paper(shared, tmp_path):
    human = shared / "data" / "human"
    ours = score(tmp_path, (human / "truth.csv").read_bytes(), (human / "answers.csv").read_bytes())
    for metric, value in PUBLISHED_PERSON.items():
        assert ours[metric] == pytest.approx(value, abs=5e-7), metric


def test_rows_are_joined_by_id_not_by_position(tmp_path):
    ours = score(tmp_path, "Id,Target\na,0\nb,1 2\nc,\n", "Id,Predicted\nc,\nb,2 1\na,0\n")
    assert ours["iou"] == ours["micro_f1"] == ours["binary_accuracy"] == 1
    assert ours["n_images"] == 3


def test_an_empty_answer_is_allowed_also_in_the_truth(tmp_path):
    ours = score(tmp_path, "Id,Target\na,0\nb,\n", "Id,Predicted\na,\nb,\n")
    assert ours["iou"] == 0.5 and ours["micro_recall"] == 0
    assert ours["correct_labels"] == 55 and ours["total_labels"] == 56


def test_a_spreadsheets_file_is_read(tmp_path):
    content = '﻿Id,Predicted\r\n"a, b",0 1\r\nc,2\r\n'
    table = read_sheet(sheet(tmp_path, "s.csv", content), ANSWERS)
    assert table["image_id"].tolist() == ["a, b", "c"]
    assert table["labels"].tolist() == [[0, 1], [2]] and table["line"].tolist() == [2, 3]


@pytest.mark.parametrize(
    ("content", "line", "value"),
    [
        ("Id,Target\na,0\n", 1, "the columns are Id, Target. "),
        ("Image,Names\na,0\n", 1, "no column predicted or"),
        ("a,0\nb,1\n", 1, "the columns are a, 0. The first line must be a header"),
        ("Id,Prediction,Answer\na,0,1\n", 1, "Prediction, Answer may all be the labels. Rename"),
        ("Id,Predicted,predicted\na,0,1\n", 1, "Predicted, predicted may all be the labels."),
        ("Image,Name,Predicted\na,b,1\n", 1, "Image, Name may all be the id. Rename"),
        ("Id,Predicted\na,0\nb,28\n", 3, "'28'"),
        ("Id,Predicted\na,0\nb,-1\n", 3, "'-1'"),
        ("Id,Predicted\na,0\nb,Nucleolus\n", 3, "'Nucleolus'"),
        ("Id,Predicted\na,0\nb,1.0\n", 3, "'1.0'"),
        pytest.param("Id,Predicted\na," + "1" * 5000 + "\n", 2, "'1111", id="endless number"),
        ("Id,Predicted\na,0\nb,1 1\n", 3, "'1 1'"),
        ("Id,Predicted\na,0\nb,1\na,2\n", 4, "'a'"),
        ("Id,Predicted\na,0\nb\n", 3, "'b'"),
        ("Id,Predicted\na,0\nb,1,2\n", 3, "'b,1,2'"),
        ("Id,Predicted\na,0\n\n,1\n", 4, "no image id"),
        ("sep=;\nId;Predicted\na;0\nb;28\n", 4, "'28'"),
        ('Id,Predicted\na,0\nb,"1\n', 3, "not a row"),
        ('Id,Predicted\n"a\nb",0\nc,99\n', 4, "'99'"),
        ("Id,Predicted\na,0\nb\x0bc,99\n", 3, "'99'"),
        (b"Id,Predicted\na,0\nb\xe9,1\n", 3, "xe9"),
        ("Id,Predicted\na,0\nb,28\n".encode("utf-16"), 3, "'28'"),
        ("Id,Predicted\na,0\n".encode("utf-16-le"), 1, "UTF-16 without a byte-order mark"),
    ],
)
def test_a_malformed_sheet_is_refused_with_file_line_and_value(tmp_path, content, line, value):
    path = sheet(tmp_path, "answers.csv", content)
    with pytest.raises(InputError) as error:
        read_sheet(path, ANSWERS)
    message = str(error.value)
    assert f"{path}, line {line}:" in message and value in message


@pytest.mark.parametrize(
    ("content", "said"), [("", "an empty table"), ("Id,Predicted\n", "a header and no rows")]
)
def test_a_sheet_without_rows_is_refused(tmp_path, content, said):
    with pytest.raises(InputError, match=f"answers.csv: {said}"):
        read_sheet(sheet(tmp_path, "answers.csv", content), ANSWERS)


def test_the_labels_of_the_programs_own_table_are_scored(tmp_path):
    labels = "Id,Predicted,Names\nb,16 0,Cytokinetic bridge;Nucleoplasm\na,,\nc,7,Golgi apparatus\n"
    truth = "Id;Target\na;25\nb;Nucleoplasm|Cytokinetic bridge\nc;7\n"
    ours = score(tmp_path, truth, labels)
    assert ours["n_images"] == 3 and ours["micro_precision"] == 1
    assert ours["micro_recall"] == pytest.approx(3 / 4)


@pytest.mark.parametrize(
    ("header", "column"),
    [
        ("Id,Name,Predicted", ANSWERS),
        ("Id,Answer,Predicted", ANSWERS),
        ("Id,Image,Target", TRUTH),
        ("Id,Label,Target", TRUTH),
        ("Id,gene,gene_name,Target", TRUTH),
        ("Id,antibody,antibody_id,Target", TRUTH),
        ("Id,cell_line,CellLine,Target", TRUTH),
        ("Image,x,Labels", TRUTH),
    ],
)
def test_other_columns_do_not_matter(tmp_path, header, column):
    row = ",".join(["a", *["TP53"] * (header.count(",") - 1), "1 2"])
    table = read_sheet(sheet(tmp_path, "s.csv", f"{header}\n{row}\n"), column)
    assert table[["image_id", "labels"]].to_numpy().tolist() == [["a", [1, 2]]]


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"none\.csv: there is no such table"):
        read_sheet(tmp_path / "none.csv", ANSWERS)


def test_an_output_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "metrics.csv").mkdir()
    with pytest.raises(InputError, match=r"metrics\.csv: is a folder"):
        score(tmp_path, "Id,Target\na,1\n", "Id,Predicted\na,1\n")


def test_unknown_and_missing_ids_are_named(tmp_path):
    truth_path = sheet(tmp_path, "truth.csv", "Id,Target\na,0\nb,1\nd,2\n")
    answers_path = sheet(tmp_path, "answers.csv", "Id,Predicted\na,0\nx,1\n")
    truth, answers = read_sheet(truth_path, TRUTH), read_sheet(answers_path, ANSWERS)
    with pytest.raises(InputError, match=r"answers\.csv, line 3: image id 'x' is not in"):
        matched(truth, answers, truth_path, answers_path)
    known = answers[answers["image_id"] == "a"]
    with pytest.raises(InputError, match=r"answers\.csv: image id 'b' \(.*truth\.csv, line 3\).*2"):
        matched(truth, known, truth_path, answers_path)


def test_matched_follows_the_truth(tmp_path):
    truth = read_sheet(sheet(tmp_path, "t.csv", "Id,Target\na,0\nb,1\n"), TRUTH)
    answers = read_sheet(sheet(tmp_path, "a.csv", "Id,Predicted\nb,5\na,\n"), ANSWERS)
    wanted, given = matched(truth, answers, "t.csv", "a.csv")
    assert np.argwhere(wanted).tolist() == [[0, 0], [1, 1]]
    assert np.argwhere(given).tolist() == [[1, 5]]
