"""Figure 8: precision against recall on the test source."""

import textwrap
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hpaloc.classes import CLASS_NAMES
from hpaloc.comparison import LEAST_SUPPORT
from hpaloc.figures import style as look

COLUMNS = ("curve", "positives", "recall", "precision", "threshold", "average_precision")
ISO_F1 = (0.2, 0.4, 0.6, 0.8)


def operating_point(metrics: pd.DataFrame, strategy: str) -> tuple[float, float] | None:
    """Micro recall and precision of the mean of the folds under ``strategy``; None where absent."""
    rows = metrics[
        (metrics["fold"].astype(str) == "mean") & (metrics["strategy"].astype(str) == strategy)
    ].set_index("metric")["value"]
    if not {"micro_recall", "micro_precision"} <= set(rows.index):
        return None
    point = float(rows["micro_recall"]), float(rows["micro_precision"])
    return None if np.isnan(point).any() else point


def strategy_in_words(strategy: str, thresholds: pd.DataFrame | None) -> str:
    """``threshold 0.233`` of the strategy ``global`` or a number; else the strategy's name.

    The number of ``global`` is the raw one of the row ``all`` in ``thresholds``.
    """
    if strategy == "global" and thresholds is not None:
        overall = thresholds.loc[thresholds["class"].astype(str) == "all", "raw"]
        return f"threshold {overall.iloc[0]:.3f}"
    try:
        return f"threshold {float(strategy):.3f}"
    except ValueError:
        return strategy.replace("_", " ")


def draw(
    curves: pd.DataFrame,
    style: dict[str, Any],
    subtitle: str,
    point: tuple[float, float] | None = None,
    point_name: str = "",
) -> Figure:
    """Left: micro and macro strong, the classes thin over lines of equal F1. Right: areas by class.

    Classes of fewer than LEAST_SUPPORT positives are listed, not drawn; the macro curve is the mean
    of all that have positives. How many images were called does not matter here: a curve ranks
    them all. ``point`` is (micro recall, micro precision) of the labels as they were called.
    """
    colours = style["colours"]
    curves = curves.assign(curve=curves["curve"].astype(str))
    about = curves.drop_duplicates("curve").set_index("curve")
    area = about["average_precision"]
    single = about.drop(["micro", "macro"])
    few = single[single["positives"] < LEAST_SUPPORT]
    classes = area[single.index.difference(few.index, sort=False)].sort_values(kind="stable")
    shades = mpl.colormaps["cividis"](np.linspace(0, 0.85, len(classes)))

    fig = look.figure(style, height_mm=128)
    look.title(fig, "Precision against recall of the final model", subtitle)
    left, right = fig.subplots(1, 2, width_ratios=(1.75, 1))
    _equal_f1(left)
    for name, shade in zip(classes.index, shades, strict=True):
        rows = curves[curves["curve"] == name]
        left.plot(rows["recall"], rows["precision"], color=shade, lw=0.5, alpha=0.75)
    for name, colour, line in (("micro", colours["red"], "-"), ("macro", colours["black"], "--")):
        rows = curves[curves["curve"] == name]
        left.plot(
            rows["recall"], rows["precision"], color=colour, lw=2, ls=line,
            label=f"{name}, average precision {area[name]:.3f}",
        )  # fmt: skip
    if len(classes):
        left.plot([], [], color=shades[len(shades) // 2], lw=0.7, label=f"{len(classes)} classes")
    if point is not None:
        left.plot(
            *point, "o", mfc="white", mec=colours["red"], mew=1.5, ms=6, zorder=5, ls="",
            label=f"micro, as called ({point_name}):"
            f" recall {point[0]:.2f}, precision {point[1]:.2f}",
        )  # fmt: skip
    left.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
    left.set_title("Curves")
    look.legend(fig, *left.get_legend_handles_labels(), ncols=2)

    y = np.arange(len(classes))
    right.hlines(y, 0, classes, color=shades, lw=1)
    right.scatter(classes, y, color=shades, s=12, zorder=3)
    right.set_yticks(y, [CLASS_NAMES[int(name)] for name in classes.index])
    right.set(xlim=(0, 1.02), ylim=(-0.7, len(classes) - 0.3), xlabel="average precision")
    right.axvline(area["macro"], color=colours["black"], lw=0.9, ls="--")
    right.set_title("By class")
    right.tick_params(axis="y", length=0)
    right.grid(axis="x")
    right.set_axisbelow(True)
    absent = [name for n, name in enumerate(CLASS_NAMES) if str(n) not in set(single.index)]
    below = []
    if len(few):
        names = (f"{CLASS_NAMES[int(n)]} ({count})" for n, count in few["positives"].items())
        below.append(f"Not drawn, fewer than five positives: {', '.join(names)}")
    if absent:
        below.append(f"No positives: {', '.join(absent)}")
    if below:  # below both axes: a narrow column of names would leave no height for the curves
        lines = [textwrap.fill(text, 105, subsequent_indent="   ") for text in below]
        left.set_xlabel("\n".join(["recall", "", *lines]), ha="left", x=0)
    return fig


def _equal_f1(ax: Axes) -> None:
    """Lines of equal F1: precision = F1 · recall / (2 · recall − F1)."""
    for f1 in ISO_F1:
        recall = np.linspace(f1 / (2 - f1), 1, 200)
        ax.plot(recall, f1 * recall / (2 * recall - f1), color="#9A9A9A", lw=0.7, ls=":", zorder=0)
        ax.annotate(
            f"F1 {f1:g}", (1, f1 / (2 - f1)), xytext=(3, 0), textcoords="offset points",
            va="center", color="#707070", annotation_clip=False,
        )  # fmt: skip
