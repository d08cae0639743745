"""Predictions as the competition takes them: one row for each id, in the order of its table."""

import logging
from pathlib import Path

import pandas as pd

from hpaloc.calling import submission_table
from hpaloc.log import InputError, some_of
from hpaloc.text_table import read_text_table

log = logging.getLogger("hpaloc")

_COLUMNS = ["Id", "Predicted"]


def ordered_submission(
    labels: str | Path, order: str | Path, quarantine: str | Path | None = None
) -> pd.DataFrame:
    """Columns Id, Predicted: called labels in the order of sample_submission.csv.

    ``labels`` is a table that call_labels made: labels.parquet (columns image_id and labels), or
    submission.csv (Id,Predicted). Images of the table ``quarantine`` (column image_id) could not
    be used: they get no label, with a warning. Raises InputError, with some of the ids, where the
    tables are not of the same images otherwise.
    """
    called = _called(Path(labels)).set_index("Id")["Predicted"]
    ids = read_text_table(order, _COLUMNS)["Id"]
    for path, column in ((labels, called.index.to_series()), (order, ids)):
        doubled = column[column.duplicated()]
        if len(doubled):
            raise InputError(f"{path}: {len(doubled)} ids stand twice: {some_of(doubled)}.")
    if quarantine is not None:
        bad = read_text_table(quarantine, ["image_id"])["image_id"]
        unused = ids[ids.isin(bad) & ~ids.isin(called.index)]
        if len(unused):
            log.warning(
                "%d of %d images could not be used and are given no label: %s (see %s)",
                len(unused), len(ids), some_of(unused), quarantine,
            )  # fmt: skip
        called = pd.concat([called, pd.Series("", index=unused)])
    missing, extra = ids[~ids.isin(called.index)], called.index[~called.index.isin(ids)]
    if len(missing):
        raise InputError(
            f"{labels}: {len(missing)} of {len(ids)} images of {order} have no prediction:"
            f" {some_of(missing)}. The competition takes complete submissions only: see"
            " quarantine.csv of the source for images that could not be used."
        )
    if len(extra):
        raise InputError(
            f"{labels}: {len(extra)} images are not in {order}: {some_of(extra)}. These are"
            " predictions of another source than the competition's test images."
        )
    return pd.DataFrame({"Id": ids, "Predicted": called.loc[ids].to_numpy()})


def _called(path: Path) -> pd.DataFrame:
    if path.suffix == ".csv":
        return read_text_table(path, _COLUMNS)
    try:
        return submission_table(pd.read_parquet(path, columns=["image_id", "labels"]))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not a table of called labels ({error}).") from error
