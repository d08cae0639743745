"""The workflow's own values of the numbers in the paper's text.

Every function returns a map from a quantity of resources/paper/text.csv to ``Value``: one for
the first trained fold, one for the mean of the trained folds, and where they come from.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from hpaloc.comparison import CONSTANT, LEAST_PREDICTED, LEAST_SUPPORT, NETWORK, PERSON
from hpaloc.log import InputError

MEAN = "mean"

# The columns that are read of each table.
COUNTS = ("fold", "class", "count")
STEPS = ("epoch", "step", "phase", "macro_f1", "micro_precision", "micro_recall")
EPOCHS = ("epoch", "exported", "validation_macro_f1")
METRICS = ("fold", "strategy", "metric", "value")
PER_CLASS = ("fold", "strategy", "name", "support", "predicted", "precision")
SPEED = ("format", "batch_size", "seconds_per_image")
PUBLISHED = ("quantity", "published", "unit", "note", "source")


class Value(NamedTuple):
    first: float | int | str | None
    mean: float | int | str | None
    source: str


def of_data(
    folds: pd.DataFrame, counts: pd.DataFrame, cell_lines: Sequence[str]
) -> dict[str, Value]:
    """From folds/folds.parquet, folds/counts.csv and the cell lines of both sources' images."""
    sizes = folds["fold"].value_counts()
    totals = counts[counts["fold"] == counts["fold"].min()].groupby("class")["count"].sum()
    present = totals[totals > 0]
    n_lines = len(set(cell_lines)) or None
    share = 1 - sizes.mean() / len(folds)
    return {
        "training_images": _same(len(folds), "folds/folds.parquet"),
        "folds": _same(len(sizes), "folds/folds.parquet"),
        "training_share": _same(share, "folds/folds.parquet"),
        "classes": _same(len(present), "folds/counts.csv: classes with images"),
        "label_imbalance": _same(present.max() / present.min(), "folds/counts.csv"),
        "cell_types": _same(n_lines, "indexes of the training and test arrays"),
    }


def of_training(steps: Sequence[pd.DataFrame], epochs: Sequence[pd.DataFrame]) -> dict[str, Value]:
    """From steps.parquet and epochs.parquet of every trained fold, the first fold first."""
    last = [table[table["epoch"] == table["epoch"].max()] for table in steps]
    exported = [table.loc[table["exported"]].iloc[0] for table in epochs]
    where = "steps.parquet: mean over the steps of the last epoch"
    quantities = {
        "final_training_f1": ([table["macro_f1"].mean() for table in last], where + ", macro F1"),
        "final_training_precision": (
            [table["micro_precision"].mean() for table in last],
            where + ", micro precision",
        ),
        "final_training_recall": (
            [table["micro_recall"].mean() for table in last],
            where + ", micro recall",
        ),
        "best_epoch": ([int(row["epoch"]) for row in exported], "epochs.parquet: exported epoch"),
        "best_validation_f1": (
            [row["validation_macro_f1"] for row in exported],
            "epochs.parquet: exported epoch at its best threshold",
        ),
        "loss_switch_step": (
            [_first_step(table, table["phase"] != "bce") for table in steps],
            "steps.parquet: first step after the BCE phase",
        ),
        "loss_scale_up_step": (
            [_first_step(table, table["phase"] == "soft_f1_scaled") for table in steps],
            "steps.parquet: first step of the scaled phase",
        ),
    }
    return {
        name: Value(values[0], _mean(values), source)
        for name, (values, source) in quantities.items()
    }


def of_evaluation(
    metrics: pd.DataFrame,
    per_class: pd.DataFrame,
    thresholds: pd.DataFrame,
    strategy: str,
    first: str,
) -> dict[str, Value]:
    """From metrics.csv and per_class.csv of the test source and the table of thresholds."""
    scored = metrics["strategy"].unique().tolist()
    if strategy not in scored:
        raise InputError(
            f"the strategy {strategy!r} was not evaluated, only {', '.join(scored)}."
            " Add it to evaluation.strategies."
        )
    chosen = metrics[metrics["strategy"] == strategy].set_index(["fold", "metric"])["value"]
    needed = [
        (fold, name)
        for fold in (first, MEAN)
        for name in ("iou", "binary_accuracy", "macro_f1", "n_images")
    ]
    _check_rows("metrics.csv", chosen.index, needed)
    values = {
        quantity: Value(
            chosen[first, metric],
            chosen[MEAN, metric],
            f"metrics.csv: {metric}, {strategy}; mean: of the folds' averaged probabilities",
        )
        for quantity, metric in (
            ("accuracy", "iou"),
            ("binary_accuracy", "binary_accuracy"),
            ("macro_f1", "macro_f1"),
        )
    }
    values["test_images"] = _same(int(chosen[MEAN, "n_images"]), "metrics.csv: n_images")
    values["hand_picked_threshold"] = _same(
        float(thresholds["raw"].iloc[0]),
        "thresholds: best threshold of all classes, found on out-of-fold predictions",
    )
    best = {}
    for fold in (first, MEAN):
        rows = per_class[(per_class["fold"] == fold) & (per_class["strategy"] == strategy)]
        # Else one call that happens to be right would be the most confident class.
        enough = (rows["support"] >= LEAST_SUPPORT) & (rows["predicted"] >= LEAST_PREDICTED)
        rows = rows[enough]
        best[fold] = (
            (None, None)
            if rows.empty
            else tuple(rows.loc[rows["precision"].idxmax(), ["precision", "name"]])
        )
    source = (
        f"per_class.csv: highest precision of the classes with at least {LEAST_SUPPORT} positives"
        f" and {LEAST_PREDICTED} predictions, {strategy}"
    )
    values["most_confident_class_accuracy"] = Value(best[first][0], best[MEAN][0], source)
    values["most_confident_class"] = Value(best[first][1], best[MEAN][1], source)
    return values


def of_comparison(table: pd.DataFrame) -> dict[str, Value]:
    """From human_vs_machine.csv: people, and points of IOU over them and over constants.

    Of several people the mean. Network and person are compared on common images where the table
    has them, otherwise each on its own.
    """
    rows = table.set_index("metric")
    _check_rows("human_vs_machine.csv", rows.index, ["kind", "iou", "binary_accuracy", "n_images"])
    kind = rows.loc["kind"]
    network = kind.index[kind == NETWORK][:2].tolist()
    people = [name for name in kind.index[kind == PERSON] if not name.endswith(", common images")]

    def score(metric: str, answerer: str) -> float:
        return float(rows.loc[metric, answerer])

    constants = [score("iou", name) for name in kind.index[kind == CONSTANT]]
    over_constant = [100 * (score("iou", name) - max(constants)) for name in network]
    values = {
        "points_over_best_constant": Value(
            *over_constant, "human_vs_machine.csv: IOU, against the best constant answer"
        )
    }
    if people:
        over_people, ways = [], set()
        for answerer in network:
            differences = []
            for person in people:
                paired = f"{answerer}, on images of {person}"
                common = f"{person}, common images"
                ways.add("paired" if paired in rows.columns else "unpaired")
                differences.append(
                    score("iou", paired if paired in rows.columns else answerer)
                    - score("iou", common if common in rows.columns else person)
                )
            over_people.append(100 * _mean(differences))
        source = f"human_vs_machine.csv: mean of {len(people)} people"
        values["points_over_people"] = Value(
            *over_people, f"{source}, {' and '.join(sorted(ways))}"
        )
        for quantity, metric in (
            ("human_accuracy", "iou"),
            ("human_binary_accuracy", "binary_accuracy"),
        ):
            values[quantity] = _same(_mean([score(metric, name) for name in people]), source)
        values["human_images"] = _same(
            sum(int(rows.loc["n_images", name]) for name in people), source
        )
    return values


def of_speed(speed: pd.DataFrame) -> dict[str, Value]:
    """From speed.csv: measured seconds per image by file format and batch size."""

    def seconds(file_format: str, batch_size: int) -> float | None:
        rows = speed[(speed["format"] == file_format) & (speed["batch_size"] == batch_size)]
        return None if rows.empty else float(rows["seconds_per_image"].iloc[0])

    source = "speed.csv: this machine"
    batched = seconds("npy", 64)
    values = {
        "seconds_per_image_jpg": _same(seconds("jpg", 1), source),
        "seconds_per_image_npy": _same(seconds("npy", 1), source),
    }
    if batched:
        values["images_per_second"] = _same(1 / batched, source)
        values["images_per_minute"] = _same(60 / batched, source)
    return values


def summary_table(published: pd.DataFrame, values: dict[str, Value], first: str) -> pd.DataFrame:
    """A row per quantity of ``published`` (resources/paper/text.csv), all text.

    Columns quantity, published, fold_<first>, mean, unit, note (on the published number),
    paper (its place there), source (of ours). What the workflow has no value for stays empty.
    """
    ours = [values.get(quantity, Value(None, None, "")) for quantity in published["quantity"]]
    return pd.DataFrame(
        {
            "quantity": published["quantity"],
            "published": published["published"],
            f"fold_{first}": [_text(value.first) for value in ours],
            "mean": [_text(value.mean) for value in ours],
            "unit": published["unit"],
            "note": published["note"],
            "paper": published["source"],
            "source": [value.source for value in ours],
        }
    )


def _check_rows(table: str, rows: pd.Index, needed: Sequence[Any]) -> None:
    if missing := [row for row in needed if row not in rows]:
        raise InputError(f"{table} has no row {missing[0]}: it is damaged; make it again.")


def _same(value: float | str | None, source: str) -> Value:
    """A quantity that does not belong to a fold."""
    return Value(value, value, source)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _first_step(steps: pd.DataFrame, where: pd.Series) -> int | None:
    return int(steps.loc[where, "step"].min()) if where.any() else None


def _text(value: float | str | None) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, (float, np.floating)) else str(value)
