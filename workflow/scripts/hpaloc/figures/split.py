"""Figure 2: the label counts of a fold's training and validation split."""

from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from hpaloc.figures import style as look
from hpaloc.log import InputError

COLUMNS = ("fold", "split", "class", "name", "count", "expected", "deviation")
NUMBERS = ("fold", "class", "count", "expected", "deviation")


def draw(counts: pd.DataFrame, fold: int, style: dict[str, Any]) -> Figure:
    """Left: counts on a logarithmic axis. Right: how far validation is from its exact share.

    ``counts`` has a row per fold, split (train, validation) and class (COLUMNS). Raises
    InputError where it lacks ``fold``.
    """
    folds = sorted(counts["fold"].unique())
    if fold not in folds:
        raise InputError(f"fold {fold} is not in the counts, which have {folds[0]}..{folds[-1]}.")
    colours = style["colours"]
    wide = counts[counts["fold"] == fold].pivot(
        index=["class", "name"], columns="split", values=["count", "deviation"]
    )
    if set(wide["count"].columns) != {"train", "validation"} or wide["count"].isna().any(axis=None):
        raise InputError(
            f"the counts of fold {fold} do not have one row for each class and split (train,"
            " validation): the table is damaged; make it again."
        )
    one = pd.DataFrame(
        {
            "training": wide["count"]["train"].astype(int),
            "validation": wide["count"]["validation"].astype(int),
            "deviation": wide["deviation"]["validation"],
        }
    ).reset_index()
    one["total"] = one["training"] + one["validation"]
    one = one.sort_values(["total", "class"], ascending=[True, False], ignore_index=True)
    place = {number: y for y, number in enumerate(one["class"])}

    fig = look.figure(style, height_mm=135)
    look.title(
        fig,
        f"Label distribution of the training and validation split of fold {fold}",
        f"{len(folds)} folds stratified by label; an image counts once for each of its labels",
    )
    left, right = fig.subplots(1, 2, sharey=True, width_ratios=(1.6, 1))
    _draw_counts(left, one, colours)

    rest = counts[(counts["split"] == "validation") & (counts["fold"] != fold)]
    right.plot(
        rest["deviation"], rest["class"].map(place), "|", color=colours["grey"], ms=4, alpha=0.8
    )
    right.hlines(one.index, 0, one["deviation"], color=colours["red"], lw=1.2)
    right.plot(one["deviation"], one.index, "D", color=colours["red"], ms=3.2)
    right.axvline(0, color=colours["black"], lw=0.6)
    for bound in (-1, 1):
        right.axvline(bound, color=colours["black"], lw=0.7, ls="--")
    reach = max(1.25, 1.1 * counts["deviation"].abs().max())
    right.set(
        xlim=(-reach, reach),
        xlabel=f"validation − total/{len(folds)}  (images)",
        title="Deviation from the exact share",
    )
    handles = [
        Line2D([], [], marker="D", ls="", color=colours["red"], ms=3.2),
        Line2D([], [], marker="|", ls="", color=colours["grey"], ms=5),
        Line2D([], [], color=colours["black"], lw=0.7, ls="--"),
    ]
    texts = [f"fold {fold}", "other folds", "one image"]
    look.legend(fig, handles, texts, ncols=3, loc="lower right", handletextpad=0.5)
    for ax in (left, right):
        ax.grid(axis="x")
        ax.set_axisbelow(True)
        ax.tick_params(axis="y", length=0)
    return fig


def _draw_counts(ax: Any, one: pd.DataFrame, colours: dict[str, str]) -> None:
    y = one.index
    ax.hlines(y, one["validation"], one["training"], color="#D0D0D0", lw=0.8, zorder=1)
    ax.plot(one["training"], y, "o", color=colours["blue"], ms=4, label="training")
    ax.plot(one["validation"], y, "D", color=colours["red"], ms=3.2, label="validation")
    for row, training, validation in zip(y, one["training"], one["validation"], strict=True):
        # The greater number stands on the right, so that the two never meet.
        for count, other, colour in (
            (training, validation - 0.5, "blue"), (validation, training, "red"),
        ):  # fmt: skip
            right = count > other
            ax.annotate(
                f"{count:,}", (count, row), xytext=(5 if right else -5, 0), va="center",
                ha="left" if right else "right", textcoords="offset points", color=colours[colour],
            )  # fmt: skip
    # Symmetric logarithmic: a class without a validation image has a place on the axis too.
    ax.set_xscale("symlog", linthresh=1, linscale=0.35)
    top = int(one["training"].max())
    ax.set_xlim(-0.9, max(top, 1) * 6)
    ticks = [0] + [10**power for power in range(len(str(top)))]
    ax.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    ax.minorticks_off()
    ax.set(xlabel="images with the label (logarithmic)", title="Images per class")
    ax.set_yticks(list(y), one["name"])
    ax.set_ylim(-0.7, len(one) - 0.3)
    ax.legend(loc="lower right", handletextpad=0.2)
