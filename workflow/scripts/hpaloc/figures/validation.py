"""Figures 6 and 7: validation scores by epoch, of all classes together and of each class."""

import textwrap
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from hpaloc.classes import CLASS_NAMES, N_CLASSES
from hpaloc.figures import style as look

SCORES = {"validation_macro_f1": "macro F1", "validation_focal_score": "focal score"}
SCORE_COLUMNS = ("epoch", "phase", "exported", *SCORES)
CLASS_COLUMNS = tuple(f"f1_c{number:02d}" for number in range(N_CLASSES))


def tidy_scores(epochs: pd.DataFrame) -> pd.DataFrame:
    """Epoch tables of several folds as one row per fold, epoch and score."""
    return epochs.melt(
        id_vars=["fold", "epoch", "phase", "exported"],
        value_vars=list(SCORES),
        var_name="score",
        value_name="value",
    )


def labels_per_class(counts: pd.DataFrame) -> dict[int, int]:
    """Images of each class in the whole training set, from the counts of both splits of a fold."""
    one = counts[counts["fold"] == counts["fold"].iloc[0]]
    return one.groupby("class")["count"].sum().astype(int).to_dict()


def tidy_classes(epochs: pd.DataFrame, counts: dict[int, int]) -> pd.DataFrame:
    """Epoch tables of several folds as one row per fold, epoch and class.

    ``counts`` are the labels of each class in the whole training set: the order of the panels.
    """
    long = epochs.melt(
        id_vars=["fold", "epoch", "exported"],
        value_vars=list(CLASS_COLUMNS),
        var_name="class",
        value_name="f1",
    )
    long["class"] = long["class"].str.removeprefix("f1_c").astype(int)
    long.insert(3, "name", long["class"].map(lambda number: CLASS_NAMES[number]))
    long.insert(4, "labels", long["class"].map(counts))
    return long


def draw_scores(table: pd.DataFrame, style: dict[str, Any], recipe: str) -> Figure:
    """Both scores by epoch: the first fold strong with its exported epoch, the others thin."""
    colours = {
        "validation_macro_f1": style["colours"]["blue"],
        "validation_focal_score": style["colours"]["red"],
    }
    folds = list(dict.fromkeys(table["fold"]))
    fig = look.figure(style, height_mm=84, columns=1)
    others = f" (thin: {len(folds) - 1} other fold{'s' * (len(folds) > 2)})" if folds[1:] else ""
    look.title(fig, "Validation F1 and focal score", f"recipe {recipe}, fold {folds[0]}{others}")
    ax = fig.subplots()
    handles = []
    for score, label in SCORES.items():
        rows = table[table["score"] == score].sort_values("epoch")
        for fold in folds[1:]:
            one = rows[rows["fold"] == fold]
            ax.plot(one["epoch"], one["value"], color=colours[score], lw=0.5, alpha=0.45)
        one = rows[rows["fold"] == folds[0]]
        ls = "-" if score == "validation_macro_f1" else "--"
        (line,) = ax.plot(
            one["epoch"],
            one["value"],
            marker=look.dot_if_alone(one),
            color=colours[score],
            lw=1.4,
            ls=ls,
        )
        handles.append((line, f"{label}{' (1 − focal loss)' if 'focal' in score else ''}"))
        best = one[one["exported"]]
        ax.plot(best["epoch"], best["value"], "o", color=colours[score], ms=4, zorder=4)
    best = table[
        table["exported"] & (table["fold"] == folds[0]) & (table["score"] == "validation_macro_f1")
    ]
    for epoch, value in zip(best["epoch"], best["value"], strict=True):
        mark = Line2D([], [], marker="o", ls="", color=style["colours"]["grey"], ms=4)
        handles.append((mark, f"exported: epoch {epoch}, F1 {value:.3f}"))
    ax.set(xlabel="epoch", ylabel="score", ylim=(0, 1.02))
    ax.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    ax.grid(axis="y")
    look.legend(fig, [handle for handle, _ in handles], [text for _, text in handles])
    return fig


def draw_classes(table: pd.DataFrame, style: dict[str, Any], recipe: str) -> Figure:
    """One small panel per class, the most frequent first.

    Twenty-eight lines in one panel cannot be told apart by colour, and a heat map
    hides by how much a score moves: panels with one scale show both the course
    and the level, and the median of all classes in each of them what is usual.
    """
    colours = style["colours"]
    folds = list(dict.fromkeys(table["fold"]))
    main = table[table["fold"] == folds[0]]
    median = main.groupby("epoch")["f1"].median()
    order = main.drop_duplicates("class").sort_values(["labels", "class"], ascending=[False, True])
    fig = look.figure(style, height_mm=205)
    look.title(
        fig,
        "Validation F1 of each class by epoch",
        f"recipe {recipe}, at each epoch's best global threshold; most frequent class first,"
        " number of labels in brackets",
    )
    axes = fig.subplots(7, 4, sharex=True, sharey=True)
    for ax, name, number, labels in zip(
        axes.flat, order["name"], order["class"], order["labels"], strict=True
    ):
        rows = table[table["class"] == number]
        ax.plot(median.index, median, color=colours["grey"], lw=0.8, ls="--", zorder=2)
        for fold in folds[1:]:
            one = rows[rows["fold"] == fold]
            ax.plot(one["epoch"], one["f1"], color=colours["sky"], lw=0.5, alpha=0.7, zorder=1)
        one = rows[rows["fold"] == folds[0]]
        ax.plot(
            one["epoch"],
            one["f1"],
            look.dot_if_alone(one) + "-",
            color=colours["blue"],
            lw=1.2,
            zorder=3,
        )
        ax.set_title(textwrap.fill(f"{name} ({labels:,})", 29), weight="normal")
        ax.set_ylim(-0.02, 1.02)
        ax.set_yticks([0, 0.5, 1])
        ax.grid(axis="y")
    axes[0, 0].xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    for ax in axes[-1]:
        ax.set_xlabel("epoch")
    for ax in axes[:, 0]:
        ax.set_ylabel("F1")
    handles = [
        Line2D([], [], color=colours["blue"], lw=1.2),
        Line2D([], [], color=colours["grey"], lw=0.8, ls="--"),
    ]
    texts = [f"fold {folds[0]}", f"median of the 28 classes, fold {folds[0]}"]
    if folds[1:]:
        handles.append(Line2D([], [], color=colours["sky"], lw=0.8))
        texts.append("other folds")
    look.legend(fig, handles, texts, ncols=3)
    return fig
