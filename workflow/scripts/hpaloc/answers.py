"""Answer sheets: label lists by image id as CSV, from a person or a network, and their truth.

A sheet is a UTF-8 file with a header of two columns, ``Id`` and ``Target`` (truth) or
``Predicted`` (answers). The second holds class numbers with blanks between; it may be empty.
"""

import csv
import io
from pathlib import Path

import numpy as np
import pandas as pd

from hpaloc.classes import multi_hot, parse_labels
from hpaloc.log import InputError

TRUTH = "Target"
ANSWERS = "Predicted"


def read_sheet(path: str | Path, column: str) -> pd.DataFrame:
    """A sheet with the columns ``Id`` and ``column``, in the order of the file.

    Returns image_id str (unique), labels (lists of class numbers), line int (where the row
    begins). Raises InputError that names file, line and value for everything else: another
    header, a row that has not two fields, a missing or doubled id, what is no class number,
    text that is not UTF-8.
    """
    reader = csv.reader(io.StringIO(_text(path), newline=""), strict=True)
    rows, line_of, line = [], {}, 1
    try:
        for fields in reader:
            where = f"{path}, line {line}"
            if line == 1:
                if fields != ["Id", column]:
                    raise InputError(
                        f"{where}: the header is {','.join(fields)!r}, it must be 'Id,{column}'."
                    )
            else:
                image_id, labels = _parse_row(fields, column, where)
                if image_id in line_of:
                    raise InputError(
                        f"{where}: image id {image_id!r} stands twice, first in line"
                        f" {line_of[image_id]}."
                    )
                line_of[image_id] = line
                rows.append((image_id, labels, line))
            line = reader.line_num + 1
    except csv.Error as error:
        raise InputError(f"{path}, line {line}: not a row of a CSV table ({error}).") from error
    if not rows:
        raise InputError(
            f"{path}, line 1: no rows. Expected the header 'Id,{column}' and a line per image."
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


def _text(path: str | Path) -> str:
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}).") from error
    try:
        # Spreadsheet programs begin UTF-8 files with a byte-order mark.
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        value = content[error.start : error.end]
        raise InputError(
            f"{path}, line {line}: the bytes {value!r} are not UTF-8 text. Save the sheet as"
            " CSV in UTF-8."
        ) from error


def _parse_row(fields: list[str], column: str, where: str) -> tuple[str, list[int]]:
    if len(fields) != 2:
        raise InputError(
            f"{where}: {','.join(fields)!r} has {len(fields)} fields, it must have two"
            f" (Id,{column}; class numbers with blanks between)."
        )
    if not fields[0].strip():
        raise InputError(f"{where}: {','.join(fields)!r} has no image id.")
    return fields[0].strip(), parse_labels(fields[1], where)
