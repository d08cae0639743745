"""Answer sheets: label lists by image id, from a person or a network, and their truth.

A sheet is a table of labels (``hpaloc.label_table``) with the columns ``Id`` and ``Target`` (truth)
or ``Predicted`` (answers), in any order; other columns do not matter. Where a sheet lacks one of
these names, a column such as ``Image`` or ``Answer`` is taken for it if it is the only one.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from hpaloc.classes import multi_hot
from hpaloc.label_table import RENAME_COLUMNS, labelled_rows
from hpaloc.log import InputError

TRUTH = "Target"
ANSWERS = "Predicted"

_COLUMNS = dict.fromkeys(("id", "labels"))
_USUAL = {
    TRUTH: ("target", "targets", "labels", "label"),
    ANSWERS: ("predicted", "prediction", "predictions", "answer", "answers"),
}


def read_sheet(path: str | Path, column: str) -> pd.DataFrame:
    """A sheet of truth or of answers (``column`` is TRUTH or ANSWERS), in the order of the file.

    Returns image_id str (unique, in Unicode NFC), labels (lists of class numbers), line int (where
    the row begins). Raises InputError that names file, line and value for a sheet without one of
    its columns, a missing or doubled id, what is no class, and a malformed table.
    """
    rows = [
        (image_id, labels, line)
        for line, image_id, labels, _ in labelled_rows(
            path, _COLUMNS, RENAME_COLUMNS, {"labels": _USUAL[column]}, first_wins=True
        )
    ]
    if not rows:
        raise InputError(
            f"{path}: a header and no rows. Expected the columns Id and {column}, and a line per"
            " image."
        )
    return pd.DataFrame(rows, columns=["image_id", "labels", "line"])


def matched(
    truth: pd.DataFrame, answers: pd.DataFrame, truth_path: str | Path, answers_path: str | Path
) -> tuple[np.ndarray, np.ndarray]:
    """Labels of two sheets as bool n × 28, rows joined by id, in the order of the truth.

    Raises InputError unless both name the same images.
    """
    unknown = answers[~answers["image_id"].isin(truth["image_id"])]
    if len(unknown):
        row = unknown.iloc[0]
        raise InputError(
            f"{answers_path}, line {row['line']}: image id {row['image_id']!r} is not in"
            f" {truth_path} ({len(unknown)} such ids)."
        )
    missing = truth[~truth["image_id"].isin(answers["image_id"])]
    if len(missing):
        row = missing.iloc[0]
        raise InputError(
            f"{answers_path}: image id {row['image_id']!r} ({truth_path}, line {row['line']}) has"
            f" no answer ({len(missing)} such ids). Give every image a line; the answer may be"
            " empty."
        )
    by_id = answers.set_index("image_id")["labels"]
    return multi_hot(truth["labels"]), multi_hot(by_id.loc[truth["image_id"]])
