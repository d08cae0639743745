"""Reading the tables that figures are made of, with the columns checked."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from hpaloc import tables
from hpaloc.log import InputError


def read_table(
    path: str | Path, columns: Sequence[str], numbers: Sequence[str] = ()
) -> pd.DataFrame:
    """A table as of hpaloc.tables.read_table; InputError also where it has no rows."""
    frame = tables.read_table(path, columns, numbers)
    if frame.empty:
        raise InputError(f"{path}: the table has no rows, so there is nothing to draw.")
    return frame


def read_folds(
    paths: Sequence[str | Path],
    folds: Sequence[int],
    columns: Sequence[str],
    recipes: Sequence[str] | None = None,
) -> pd.DataFrame:
    """Tables of several training jobs in one, with the columns ``fold`` (and ``recipe``) in front.

    ``folds[i]`` and ``recipes[i]`` say what trained ``paths[i]``. Raises InputError
    where the lists differ in length.
    """
    if len(paths) != len(folds) or (recipes is not None and len(paths) != len(recipes)):
        raise InputError(
            f"{len(paths)} tables, {len(folds)} folds"
            + (f" and {len(recipes)} recipes" if recipes is not None else "")
            + " were given: there must be one of each for every training job."
        )
    frames = []
    for number, (path, fold) in enumerate(zip(paths, folds, strict=True)):
        frame = read_table(path, columns)[list(columns)]
        frame.insert(0, "fold", fold)
        if recipes is not None:
            frame.insert(0, "recipe", recipes[number])
        frames.append(frame)
    return pd.concat(frames, ignore_index=True)
