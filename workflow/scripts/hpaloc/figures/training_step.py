"""Where the time of a training step goes."""

from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from hpaloc.figures import style as look

# What the network itself does is dark; what it waits for, and what belongs to no part, is not.
COLOURS = {
    "wait for the batch": "red",
    "forward": "blue",
    "losses": "green",
    "backward": "sky",
    "optimizer": "purple",
    "scores": "orange",
    "rest": "grey",
}

NUMBERS = (
    "milliseconds", "share", "step_milliseconds", "images_per_second", "steps", "image_size",
    "batch_size",
)  # fmt: skip
COLUMNS = ("part", "network", "device", *NUMBERS)


def draw(table: pd.DataFrame, style: dict[str, Any]) -> Figure:
    """A bar for each part of a step (rows of hpaloc.training_step), the first one uppermost."""
    about = table.iloc[0]
    fig = look.figure(style, height_mm=62)
    look.title(
        fig,
        "Where the time of a training step goes",
        f"{about.network} at {about.image_size} px, batches of {about.batch_size}:"
        f" {about.step_milliseconds:.3g} ms a step, {about.images_per_second:.3g} images/s,"
        f" median of {about.steps} steps on {about.device}",
    )
    ax = fig.subplots()
    places = range(len(table))
    colours = [style["colours"][COLOURS[part]] for part in table["part"]]
    ax.barh(places, table["milliseconds"], color=colours, height=0.7)
    for place, milliseconds, share in zip(
        places, table["milliseconds"], table["share"], strict=True
    ):
        ax.annotate(
            f"{milliseconds:.3g} ms, {share:.1%}", (milliseconds, place), xytext=(4, 0),
            textcoords="offset points", va="center",
        )  # fmt: skip
    ax.set_yticks(places, table["part"])
    ax.invert_yaxis()
    ax.set(xlabel="milliseconds of a step", xlim=(0, 1.25 * table["milliseconds"].max()))
    ax.grid(axis="x")
    ax.set_axisbelow(True)
    return fig
