"""Tables of probabilities, joined with labels by image id."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from hpaloc.classes import PROBABILITY_COLUMNS, multi_hot
from hpaloc.log import InputError


def read_probabilities(path: str | Path, *keys: str) -> pd.DataFrame:
    """Columns ``keys``, image_id str, p00 … p27 float32, in the order of the file.

    Raises InputError unless every probability is a number from 0 to 1 and an image stands once
    (once for each value of ``keys``).
    """
    try:
        table = pd.read_parquet(path, columns=[*keys, "image_id", *PROBABILITY_COLUMNS])
    except (OSError, ValueError, pa.ArrowException) as error:
        raise InputError(f"{path}: not a table of probabilities ({error}).") from error
    doubled = table.duplicated([*keys, "image_id"]).to_numpy()
    if doubled.any():
        raise InputError(
            f"{path}: image {table['image_id'].iloc[doubled.argmax()]!r} stands twice."
            " Delete the table and make it again."
        )
    probability = probabilities_of(table)
    bad = ~((probability >= 0) & (probability <= 1)).all(axis=1)
    if bad.any():
        raise InputError(
            f"{path}: image {table['image_id'].iloc[bad.argmax()]!r} has a probability that is"
            f" not a number from 0 to 1 ({bad.sum()} such images). Delete the table and make it"
            " again."
        )
    return table


def probabilities_of(table: pd.DataFrame) -> np.ndarray:
    """The columns p00 … p27 as float32 n × 28."""
    return table[list(PROBABILITY_COLUMNS)].to_numpy(dtype=np.float32)


def truth_of(index: pd.DataFrame, image_ids: Sequence[str], what: str) -> np.ndarray:
    """Labels of the images as bool n × 28, joined by id; ``what`` names them for errors."""
    wanted = pd.Index(image_ids)
    positions = pd.Index(index["image_id"]).get_indexer(wanted)
    _refuse(wanted, positions < 0, f"{what} are not in the index of images")
    labels = index["labels"].iloc[positions]
    _refuse(wanted, labels.isna().to_numpy(), f"{what} have no labels")
    return multi_hot(labels)


def _refuse(image_ids: pd.Index, bad: np.ndarray, problem: str) -> None:
    if bad.any():
        raise InputError(
            f"{bad.sum()} of {len(bad)} {problem}, the first is {image_ids[bad.argmax()]!r}."
            " The tables are not of the same source: make them again."
        )
