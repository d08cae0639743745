"""Figure 9: people, the network and constant answers, by class and over all classes."""

import textwrap
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from hpaloc.comparison import LEAST_SUPPORT
from hpaloc.figures import style as look

CLASS_COLUMNS = (
    "class", "name", "answerer", "kind", "images", "accuracy", "support", "predicted", "drawn",
)  # fmt: skip
SCORE_COLUMNS = ("metric", "published_name")
# Of Table II, under their right names, from the easiest to the hardest to read wrongly.
METRICS = {
    "iou": "IOU",
    "macro_f1": "macro F1",
    "micro_precision": "micro precision",
    "micro_recall": "micro recall",
    "binary_accuracy": "binary accuracy",
}
UNDEFINED_AT = -0.045
ALWAYS = "constant: all 28 classes"
PERSON_MARKS = ("s", "^", "v", "P", "X", "*")


def long_scores(scores: pd.DataFrame) -> pd.DataFrame:
    """Table II (a column per answerer, all text) as answerer, kind, images, metric, value."""
    wide = scores.set_index("metric").drop(columns="published_name").T
    wide.index.name = "answerer"
    long = wide.reset_index().melt(
        id_vars=["answerer", "kind", "images"],
        value_vars=[metric for metric in METRICS if metric in wide.columns],
        var_name="metric",
    )
    return long.assign(value=pd.to_numeric(long["value"]))


def shown(classes: pd.DataFrame) -> pd.DataFrame:
    """The answerers that are drawn, each with its ``mark``, ``colour`` name, ``filled``, ``label``.

    Of the networks on the same images the last one (the mean of the folds, which follows the
    first fold); the constant answer "all 28 classes", whose accuracy is the share of the images
    that have the class; every person.
    """
    answerers = classes.drop_duplicates("answerer")[["answerer", "kind", "images"]]
    rows = []
    networks = answerers[answerers["kind"] == "network"].drop_duplicates("images", keep="last")
    for number, record in enumerate(networks.to_dict("records")):
        rows.append({**record, "mark": "o", "colour": "blue", "filled": number == 0})
    people = answerers[answerers["kind"] == "person"]
    for number, record in enumerate(people.to_dict("records")):
        mark = PERSON_MARKS[number % len(PERSON_MARKS)]
        rows.append({**record, "mark": mark, "colour": "orange", "filled": True})
    constant = answerers[answerers["answerer"] == ALWAYS]
    for record in constant.to_dict("records"):
        rows.append({**record, "mark": "|", "colour": "grey", "filled": True})
    table = pd.DataFrame(rows)
    of_person = table["kind"] == "person"
    table["label"] = table["answerer"]
    table.loc[of_person, "label"] += " (" + table.loc[of_person, "images"] + ")"
    table.loc[table["kind"] == "constant", "label"] = (
        "constant answers (by class: all 28 classes on every image)"
    )
    return table


def not_drawn(classes: pd.DataFrame, answerers: pd.DataFrame) -> list[str]:
    """A line per answerer: classes of too few positives or predictions, and how many these are."""
    lines = []
    for answerer, kind in zip(answerers["answerer"], answerers["kind"], strict=True):
        rows = classes[classes["answerer"] == answerer]
        few = rows[(rows["drawn"] == "no") & ~never_called(rows)]
        if few.empty or kind == "constant":
            continue
        counts = zip(few["name"], few["support"], few["predicted"], strict=True)
        names = ", ".join(f"{name} ({had}, {called})" for name, had, called in counts)
        lines.append(f"{answerer}: {names}")
    return lines


def never_called(classes: pd.DataFrame) -> pd.Series:
    """Rows of classes that enough images have and none was called with: no precision, but a fact."""
    return (classes["support"] >= LEAST_SUPPORT) & (classes["predicted"] == 0)


def draw(
    classes: pd.DataFrame, scores: pd.DataFrame, style: dict[str, Any], subtitle: str
) -> Figure:
    """Left: accuracy of each class. Right: the scores of Table II, with the paper's people.

    ``classes`` has CLASS_COLUMNS, ``scores`` is ``long_scores``'s table.
    """
    answerers = shown(classes)
    people = (answerers["kind"] == "person").any()
    listed = [
        textwrap.fill(line, 96, subsequent_indent="   ") for line in not_drawn(classes, answerers)
    ]
    n_lines = sum(line.count("\n") + 1 for line in listed)
    fig = look.figure(style, height_mm=160 + 3.6 * n_lines)
    look.title(
        fig,
        "Accuracy of people and network for each class"
        if people
        else "Accuracy of network and constant answers for each class",
        subtitle,
    )
    left, right = fig.subplots(1, 2, width_ratios=(1.9, 1))
    _draw_classes(left, classes, answerers, listed, style["colours"])
    reported = _draw_scores(right, scores, answerers, style["colours"])

    handles = [_handle(row, style["colours"]) for row in answerers.to_dict("records")]
    texts = [textwrap.fill(label, 52) for label in answerers["label"]]
    never = classes[never_called(classes)]
    if never["answerer"].isin(answerers["answerer"]).any():
        handles.append(Line2D([], [], marker="x", ls="", color=style["colours"]["black"], ms=4))
        texts.append("left of 0: class never answered, undefined")
    handles += [handle for handle, _ in reported]
    texts += [text for _, text in reported]
    look.legend(fig, handles, texts, ncols=2, handletextpad=0.4)
    return fig


def _draw_classes(
    ax: Axes,
    classes: pd.DataFrame,
    answerers: pd.DataFrame,
    listed: list[str],
    colours: dict[str, str],
) -> None:
    """One row per class that is drawn of somebody, the network's best on top."""
    drawn = classes[
        ((classes["drawn"] == "yes") | never_called(classes))
        & classes["answerer"].isin(answerers["answerer"])
    ]
    network = classes[classes["answerer"] == answerers["answerer"].iloc[0]].set_index("class")
    order = (
        network.loc[network.index.isin(drawn["class"])]
        .assign(known=lambda rows: rows["accuracy"].where(rows["drawn"] == "yes", -1))
        .sort_values(["known", "support"], kind="stable")
    )
    place = {number: y for y, number in enumerate(order.index)}
    spread = np.linspace(0.22, -0.22, len(answerers)) if len(answerers) > 2 else [0.0] * 2
    for shift, row in zip(spread, answerers.to_dict("records"), strict=False):
        own = drawn[drawn["answerer"] == row["answerer"]]
        colour = colours[row["colour"]]
        flat = row["kind"] == "constant" or (row["kind"] == "network" and row["filled"])
        y = own["class"].map(place) + (0 if flat else shift)
        known = own["accuracy"].notna()
        ax.plot(
            own["accuracy"][known], y[known], row["mark"], ms=5 if row["mark"] != "|" else 7,
            mfc=colour if row["filled"] else "white", mec=colour, mew=1, zorder=3,
        )  # fmt: skip
        unknown = y[~known]
        ax.plot([UNDEFINED_AT] * len(unknown), unknown, "x", color=colour, ms=4, zorder=3)
    ax.set_yticks(range(len(order)), [f"{name}" for name in order["name"]])
    ax.set(xlim=(-0.09, 1.02), ylim=(-0.7, len(order) - 0.3))
    ax.set_xticks(np.linspace(0, 1, 6))
    ax.axvline(0, color=colours["black"], lw=0.6)
    ax.grid(axis="x")
    ax.grid(axis="y", ls=":")
    ax.set_axisbelow(True)
    ax.tick_params(axis="y", length=0)
    ax.set_title("By class")
    below = ["accuracy of the class (precision: share right of its calls)"]
    if listed:
        below += [
            "", "Not drawn, fewer than five positives or predictions (how many of each):", *listed
        ]  # fmt: skip
    ax.set_xlabel("\n".join(below), ha="left", x=0)


def _draw_scores(
    ax: Axes, scores: pd.DataFrame, answerers: pd.DataFrame, colours: dict[str, str]
) -> list[tuple[Line2D, str]]:
    """The overall scores of the same answerers; returns the legend of what is only here."""
    names = [metric for metric in METRICS if (scores["metric"] == metric).any()]
    place = {metric: len(names) - 1 - number for number, metric in enumerate(names)}
    legend = []

    def dots(rows: pd.DataFrame, mark: str, colour: str, face: str, shift: float = 0.0) -> Line2D:
        size = 7 if mark == "|" else 5
        y = rows["metric"].map(place) + shift
        return ax.plot(
            rows["value"], y, mark, mec=colour, mfc=face, mew=1, ms=size, zorder=3, ls=""
        )[0]

    constants = scores[scores["kind"] == "constant"]
    dots(constants, "|", colours["grey"], colours["grey"])
    for row in answerers[answerers["kind"] != "constant"].to_dict("records"):
        colour = colours[row["colour"]]
        own = scores[scores["answerer"] == row["answerer"]]
        dots(own, row["mark"], colour, colour if row["filled"] else "white")
    for who, colour, mark in (("human", "orange", "D"), ("machine", "sky", "D")):
        paper = scores[
            (scores["kind"] == "paper")
            & scores["answerer"].str.startswith(f"paper: {who}, published")
        ]
        if len(paper):
            handle = dots(paper, mark, colours[colour], "white", -0.25)
            legend.append((handle, paper["answerer"].iloc[0]))
    ax.set_yticks(list(place.values()), [METRICS[metric] for metric in place])
    ax.set(xlim=(-0.02, 1.02), ylim=(-0.7, len(names) - 0.3), xlabel="score")
    ax.set_xticks(np.linspace(0, 1, 3))
    ax.grid(axis="both")
    ax.set_axisbelow(True)
    ax.tick_params(axis="y", length=0)
    ax.set_title("Over all classes")
    return legend


def _handle(row: dict[str, Any], colours: dict[str, str]) -> Line2D:
    colour = colours[row["colour"]]
    return Line2D(
        [], [], marker=row["mark"], ls="", mec=colour, mew=1, ms=7 if row["mark"] == "|" else 5,
        mfc=colour if row["filled"] else "white",
    )  # fmt: skip
