"""Tables that programs made for each other, read with their columns checked."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from hpaloc.log import InputError

# pd.read_csv: every cell is the text that the file has.
AS_TEXT = {"dtype": str, "keep_default_na": False}


def read_table(
    path: str | Path, columns: Sequence[str], numbers: Sequence[str] = (), **csv: Any
) -> pd.DataFrame:
    """A CSV or Parquet table (by its suffix) that has at least ``columns``.

    Those in ``numbers`` have a number in every row. ``csv`` are options of pd.read_csv. Raises
    InputError for a file that cannot be read, lacks a column, or has no number where one is due.
    """
    path = Path(path)
    try:
        frame = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path, **csv)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise InputError(f"{path}: not a readable table ({error}).") from None
    missing = [name for name in columns if name not in frame.columns]
    if missing:
        raise InputError(
            f"{path}: the column {missing[0]!r} is missing; it has"
            f" {', '.join(map(str, frame.columns))}."
        )
    for name in numbers:
        bad = pd.to_numeric(frame[name], errors="coerce").isna().to_numpy()
        if bad.any():
            row = bad.argmax()
            raise InputError(
                f"{path}: row {row + 1} has {str(frame[name].iloc[row])!r} in the column"
                f" {name!r}, where a number is expected. The file is damaged: make it again."
            )
    return frame
