"""Figure 4: the architecture, drawn from the table that ``anatomy.inspect`` makes."""

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyBboxPatch, Rectangle

from hpaloc.figures import style as look

# All places and sizes below are in mm on the page.
HEIGHT_MM = 130.0
GAP = 3.2
TOP = 112.0  # the upper edge of the chain of parts
BOX = 21.0  # its height
BAR = 15.0  # the longest bar of parameters
# Horizontal places (mm at the full width) of the block's parts.
PLACES = {"in": 8, "first": 22, "groups": 51, "second": 88, "times": 131, "plus": 158}


def draw(table: pd.DataFrame, style: dict[str, Any], network: str) -> Figure:
    """The chain of parts with shapes and parameters, and one block of the longest stage."""
    total = int(table["parameters"].sum())
    fig = look.figure(style, height_mm=HEIGHT_MM)
    look.title(
        fig,
        f"Architecture of {network}: {_count(total)} parameters",
        "read off the network; below each part its output (channels × height × width) and its"
        " parameters",
    )
    width = style["double_width_mm"]
    ax = fig.subplots()
    ax.set(xlim=(0, width), ylim=(0, TOP + 1), aspect="equal", anchor="N")
    ax.set_axis_off()
    _chain(ax, table, style, width)
    stages = table[table["blocks"] > 0]
    _block(ax, stages.loc[stages["blocks"].idxmax()], style, width)
    return fig


def _chain(ax: Axes, table: pd.DataFrame, style: dict[str, Any], width: float) -> None:
    colours = style["colours"]
    box = (width - 2 - GAP * (len(table) - 1)) / len(table)
    most = table["parameters"].max()
    base = TOP - BOX - 11 - BAR
    for number, part in enumerate(table.to_dict("records")):
        left = 1 + number * (box + GAP)
        middle = left + box / 2
        stage = part["blocks"] > 0
        colour = colours["blue"] if stage else colours["grey"]
        _rounded(ax, left, TOP - BOX, box, BOX, colour)
        ax.text(middle, TOP - 1.5, part["part"], ha="center", va="top", weight="bold")
        ax.text(middle, TOP - 6, "\n".join(_details(part)), ha="center", va="top", linespacing=1.35)
        if number:
            _arrow(ax, (left - GAP, TOP - BOX / 2), (left, TOP - BOX / 2))
        sizes = [part[name] for name in ("channels", "height", "width")]
        shape = str(sizes[0]) if sizes[1:] == [1, 1] else "×".join(map(str, sizes))
        ax.text(middle, TOP - BOX - 1.2, shape, ha="center", va="top")
        if part["parameters"]:
            tall = BAR * part["parameters"] / most
            ax.add_patch(Rectangle((left, base), box, tall, color=colour, alpha=0.55, lw=0))
            ax.text(middle, base + tall + 0.5, _count(part["parameters"]), ha="center", va="bottom")
    ax.plot([1, width - 1], [base, base], color=colours["black"], lw=0.5)


def _details(part: dict[str, Any]) -> list[str]:
    if not part["blocks"]:
        return [line.strip() for line in part["detail"].split(";")]
    plural = "s" * (part["blocks"] > 1)
    return [
        f"{part['blocks']} block{plural}"
        + (f" /{part['stride']:.0f}" if part["stride"] > 1 else ""),
        f"{part['groups']:.0f} groups",
        f"of {part['group_width']:.0f}",
        f"SE to {part['se_width']:.0f}",
    ]


def _block(ax: Axes, stage: pd.Series, style: dict[str, Any], width: float) -> None:
    """The last block of a stage: grouped convolution, SE branch above, shortcut below."""
    colours = style["colours"]
    enter, inner, leave, groups, each, squeeze, kernel, stride = (
        int(stage[key])
        for key in (
            "block_in", "block_width", "block_out", "groups", "group_width", "se_width", "kernel",
            "block_stride",
        )
    )  # fmt: skip
    halved = f" /{stride}" if stride > 1 else ""
    scale = width / look.DOUBLE_MM
    x = {name: at * scale for name, at in PLACES.items()}
    wide = 22 * scale
    axis = 21.0  # height of the main path
    note = {"color": "#404040"}
    line = {"color": "black", "lw": 0.7}

    ax.text(1, 61, f"One SE-ResNeXt block, as in {stage['part'].lower()}", weight="bold", va="top")
    ax.text(
        1, 56.8,
        f"cardinality {groups}, {each} channels a group; squeeze and excitation narrows {leave}"
        f" channels {leave / squeeze:g}-fold",
        va="top", **note,
    )  # fmt: skip
    ax.text(x["in"], axis, f"{enter}\nchannels", ha="center", va="center")
    _arrow(ax, (x["in"] + 8, axis), (x["first"], axis))
    _step(ax, x["first"], axis, wide, f"conv 1×1\n{enter} → {inner}\nBN, ReLU", colours["blue"])

    # Three of the groups, side by side, stand for all.
    split, join = x["first"] + wide, x["second"]
    for row in (axis + 13, axis + 4.5, axis - 13):
        _step(
            ax, x["groups"], row, 30 * scale, f"conv {kernel}×{kernel}{halved}, {each} → {each}",
            colours["orange"], tall=6.5,
        )  # fmt: skip
        ax.plot([split, x["groups"]], [axis, row], **line, zorder=0)
        ax.plot([x["groups"] + 30 * scale, join], [row, axis], **line, zorder=0)
    middle = x["groups"] + 15 * scale
    ax.text(middle, axis - 4.3, f"⋮  {groups} groups in all  ⋮", ha="center", va="center", **note)
    ax.text(middle, axis - 17, "joined, BN, ReLU", ha="center", va="top", **note)
    _step(ax, join, axis, wide, f"conv 1×1\n{inner} → {leave}\nBN", colours["blue"])

    # Squeeze and excitation: a branch of its own that ends in one factor per channel.
    out, times, plus = join + wide, x["times"], x["plus"]
    _arrow(ax, (out, axis), (times - 2.6, axis))
    fork, high = out + 4 * scale, axis + 24
    ax.plot([fork, fork], [axis, high - 5.75], **line)
    branch = (
        (fork - 9 * scale, 18 * scale, "global\naverage"),
        (fork + 12 * scale, wide, f"conv 1×1\n{leave} → {squeeze}\nReLU"),
        (fork + 37 * scale, wide, f"conv 1×1\n{squeeze} → {leave}\nsigmoid"),
    )
    for number, (left, long, text) in enumerate(branch):
        _step(ax, left, high, long, text, colours["green"], tall=11.5)
        if number:
            _arrow(ax, (branch[number - 1][0] + branch[number - 1][1], high), (left, high))
    last = branch[-1][0] + wide / 2
    ax.plot([last, last, times], [high - 5.75, axis + 9, axis + 9], **line)
    _arrow(ax, (times, axis + 9), (times, axis + 2.6))
    _operation(ax, times, axis, "×", colours["green"])
    ax.text(times + 2, axis + 5.5, "scale each channel", va="center", **note)

    # The shortcut leaves before the first convolution and passes below everything.
    low, start = axis - 20.5, x["in"] + 9.5
    ax.plot([start, start, plus], [axis, low, low], **line)
    _arrow(ax, (plus, low), (plus, axis - 2.6))
    changes = f"1×1 conv {enter} → {leave}{halved}" if enter != leave else "unchanged"
    ax.text(plus - 2, low + 0.8, f"shortcut: {changes}", ha="right", va="bottom", **note)
    _arrow(ax, (times + 2.6, axis), (plus - 2.6, axis))
    _operation(ax, plus, axis, "+", colours["grey"])
    _arrow(ax, (plus + 2.6, axis), (width - 15.5 * scale, axis))
    ax.text(width - 7.5 * scale, axis, f"ReLU\n{leave}\nchannels", ha="center", va="center")


def _rounded(ax: Axes, left: float, low: float, wide: float, tall: float, colour: str) -> None:
    for face, alpha in ((colour, 0.16), ("none", 1.0)):
        ax.add_patch(
            FancyBboxPatch(
                (left + 0.6, low + 0.6),
                wide - 1.2,
                tall - 1.2,
                boxstyle="round,pad=0.6",
                fc=face,
                ec=colour if face == "none" else "none",
                alpha=alpha,
                lw=0.9,
            )
        )


def _step(
    ax: Axes, left: float, middle: float, wide: float, text: str, colour: str, tall: float = 13.0
) -> None:
    _rounded(ax, left, middle - tall / 2, wide, tall, colour)
    ax.text(left + wide / 2, middle, text, ha="center", va="center", linespacing=1.3)


def _operation(ax: Axes, x: float, y: float, sign: str, colour: str) -> None:
    ax.add_patch(Circle((x, y), 2.6, fc="white", ec=colour, lw=1.2, zorder=3))
    ax.text(x, y, sign, ha="center", va="center_baseline", size="large", zorder=4)


def _arrow(ax: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    ax.annotate(
        "", end, start,
        arrowprops={"arrowstyle": "-|>", "lw": 0.8, "color": "black", "shrinkA": 0, "shrinkB": 0,
                    "mutation_scale": 6},
    )  # fmt: skip


def _count(number: int) -> str:
    """``46984`` as ``47.0 k``, ``47230124`` as ``47.2 M``."""
    for limit, unit in ((1e6, "M"), (1e3, "k")):
        if number >= limit:
            return f"{number / limit:.1f} {unit}"
    return str(number)
