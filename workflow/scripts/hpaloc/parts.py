"""Predictions made in parts: which images a part holds, its table, and the parts together."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from hpaloc.classes import PROBABILITY_COLUMNS
from hpaloc.log import InputError
from hpaloc.predictions import probabilities_of, read_probabilities


def part_rows(images: int, part: int, parts: int) -> np.ndarray:
    """Rows of the index that belong to ``part`` of ``parts``, counted from 0: int64."""
    if not 0 <= part < parts:
        raise InputError(f"part {part} of {parts}: parts are counted from 0.")
    return np.arange(part * images // parts, (part + 1) * images // parts)


def part_table(
    image_ids: np.ndarray, folds: Sequence[int], probabilities: np.ndarray
) -> pd.DataFrame:
    """image_id, fold int8, p00 … p27 float32, fold after fold.

    ``probabilities`` float32 folds × n × 28 in the order of ``folds`` and ``image_ids``.
    """
    tables = []
    for fold, values in zip(folds, probabilities, strict=True):
        table = pd.DataFrame(values, columns=list(PROBABILITY_COLUMNS))
        table.insert(0, "fold", np.int8(fold))
        table.insert(0, "image_id", image_ids)
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def collect(
    paths: Sequence[str | Path], folds: Sequence[int], image_ids: Sequence[str]
) -> tuple[list[pd.DataFrame], pd.DataFrame]:
    """The tables of the folds and their mean: image_id, p00 … p27 float32, in the order of
    ``image_ids``.

    Raises InputError for an image that is missing, doubled or not asked for, and for folds other
    than ``folds``.
    """
    parts = pd.concat([read_probabilities(path, "fold") for path in paths], ignore_index=True)
    if other := sorted(set(parts["fold"]) - set(folds)):
        raise InputError(f"{paths[0]}: predictions of fold {other[0]}, where {folds} are wanted.")
    wanted = pd.Index(image_ids)
    tables = []
    for fold in folds:
        found = pd.Index(parts.loc[parts["fold"] == fold, "image_id"])
        for bad, problem in (
            (found[found.duplicated()], "stand in two parts"),
            (wanted.difference(found), "have no prediction"),
            (found.difference(wanted), "are not in the index of the arrays"),
        ):
            if len(bad):
                raise InputError(
                    f"fold {fold}: {len(bad)} images {problem}, the first is {bad[0]!r}. Delete"
                    f" the folder {Path(paths[0]).parent} and predict again."
                )
        table = parts[parts["fold"] == fold].set_index("image_id").loc[wanted]
        tables.append(table.drop(columns="fold").reset_index())
    mean = tables[0].copy()
    values = np.mean([probabilities_of(table) for table in tables], axis=0, dtype=np.float64)
    mean[list(PROBABILITY_COLUMNS)] = values.astype(np.float32)
    return tables, mean
