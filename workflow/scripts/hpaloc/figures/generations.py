"""The paper's last figure: generations of models against their training F1."""

from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from hpaloc.figures import style as look

COLUMNS = ("epoch", "train_macro_f1", "validation_macro_f1", "exported")
SCORES = {"train_macro_f1": "training", "validation_macro_f1": "validation"}
LINE_STYLES = ("-", "--", "-.", ":")


def tidy(epochs: pd.DataFrame) -> pd.DataFrame:
    """Epoch tables of several recipes and folds as one row per recipe, fold, epoch and score.

    ``generation`` counts the recipes from 1 in the order given.
    """
    numbers = {name: number for number, name in enumerate(dict.fromkeys(epochs["recipe"]), 1)}
    long = epochs.melt(
        id_vars=["recipe", "fold", "epoch", "exported"],
        value_vars=list(SCORES),
        var_name="score",
        value_name="value",
    )
    long.insert(0, "generation", long["recipe"].map(numbers))
    return long


def draw(table: pd.DataFrame, style: dict[str, Any]) -> Figure:
    """Left: training F1 by epoch. Right: training and validation F1 of the exported epochs."""
    names = ("blue", "red", "green", "orange", "purple", "sky", "black")
    cycle = [style["colours"][name] for name in names]
    generations = table.drop_duplicates("generation").sort_values("generation")
    fig = look.figure(style, height_mm=80)
    look.title(
        fig,
        "Generations of models and their training F1",
        "mean of the trained folds, single folds thin; right: at each fold's exported epoch",
    )
    left, right = fig.subplots(1, 2, width_ratios=(1.35, 1))
    for number, recipe in zip(generations["generation"], generations["recipe"], strict=True):
        colour = cycle[(number - 1) % len(cycle)]
        rows = table[table["generation"] == number]
        training = rows[rows["score"] == "train_macro_f1"]
        per_fold = training.pivot(index="epoch", columns="fold", values="value")
        if per_fold.shape[1] > 1:
            left.plot(per_fold.index, per_fold, color=colour, lw=0.4, alpha=0.5)
        # A fold that stopped early would bend the mean of the rest: the mean ends with the first.
        left.plot(
            per_fold.dropna().mean(axis=1),
            color=colour,
            lw=1.4,
            ls=LINE_STYLES[(number - 1) % len(LINE_STYLES)],
            label=f"{number}  {recipe}",
            marker=look.dot_if_alone(per_fold),
        )
        for score, offset, face in (
            ("train_macro_f1", -0.2, colour),
            ("validation_macro_f1", 0.2, "white"),
        ):
            best = rows[(rows["score"] == score) & rows["exported"]]["value"]
            right.plot(
                [number + offset] * len(best), best, "o", ms=4, mec=colour, mfc=face, mew=0.9,
                alpha=0.8,
            )  # fmt: skip
            if len(best):
                right.plot(
                    [number + offset - 0.1, number + offset + 0.1], [best.mean()] * 2,
                    color=colour, lw=1.6,
                )  # fmt: skip
                right.annotate(
                    f"{best.mean():.2f}", (number + offset, best.max()), xytext=(0, 5),
                    textcoords="offset points", ha="center",
                )  # fmt: skip
    left.set(xlabel="epoch", ylabel="macro F1, training", ylim=(0, 1), title="By epoch")
    left.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    right.set(
        xlabel="generation", ylabel="macro F1", ylim=(0, 1), title="Exported models",
        xlim=(0.5, len(generations) + 0.5),
    )  # fmt: skip
    right.set_xticks(generations["generation"])
    grey = style["colours"]["grey"]
    marks = [Line2D([], [], marker="o", ls="", mec=grey, mfc=face, ms=4) for face in (grey, "w")]
    right.legend(marks, list(SCORES.values()), loc="upper left", ncols=2, handletextpad=0.2)
    for ax in (left, right):
        ax.grid(axis="y")
    look.legend(fig, *left.get_legend_handles_labels(), ncols=3)
    return fig
