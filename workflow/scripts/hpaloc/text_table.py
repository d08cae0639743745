"""CSV tables that are read as text: nothing in them is taken for a number or for missing."""

import csv
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from hpaloc.log import InputError


def read_text_table(path: str | Path, columns: Sequence[str]) -> pd.DataFrame:
    """The ``columns`` of a CSV table in UTF-8, all str.

    Raises InputError for a file that cannot be read, lacks one of them, or has a row of another
    length than its header.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, strict=True)
            header = next(reader, [])
            if lacking := [name for name in columns if name not in header]:
                raise InputError(
                    f"{path}: the columns are {', '.join(header) or 'none'};"
                    f" {' and '.join(lacking)} cannot be found."
                )
            rows = []
            for cells in filter(None, reader):
                if len(cells) != len(header):
                    raise InputError(
                        f"{path}, line {reader.line_num}: {len(cells)} cells, the header has"
                        f" {len(header)}."
                    )
                rows.append(cells)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: not a readable CSV table in UTF-8 ({error}).") from error
    return pd.DataFrame(rows, columns=header, dtype=object)[list(columns)]
