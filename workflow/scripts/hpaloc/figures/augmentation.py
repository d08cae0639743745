"""Figure 3: the scheme of augmentation as configured, with an example of each transform."""

import textwrap
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyBboxPatch, Rectangle
from matplotlib.transforms import blended_transform_factory

from hpaloc.augment import GREEN, augmented, blank_green, build, stream
from hpaloc.classes import CHANNELS
from hpaloc.figures import style as look
from hpaloc.figures.samples import WHITE_PERCENTILE, composite
from hpaloc.geometry import resized
from hpaloc.scheme import KINDS, TRANSFORMS, Choice, Interval, channels_of, kind_of, transforms_of

# The layout is in units of an example's side.
COLUMNS = 7
GAP = 0.16
MARGIN = 0.12
TITLE_CHARACTERS, TEXT_CHARACTERS = 16, 17
DRAWN_PX = 256
ATTEMPTS = 8


class Example(NamedTuple):
    """A picture with the lines below it; ``colour`` is a name of the style's, of its frame."""

    rgb: np.ndarray
    text: str
    colour: str


class Unit(NamedTuple):
    """What is applied at one place of the scheme: one example, or parallel ones."""

    title: str
    examples: list[Example]


def tidy(scheme: dict[str, Any]) -> pd.DataFrame:
    """One row per transform, in order: group (from 1), name, channels, parallel, transform,
    parameters (in words), kind, meaning; last the negative samples, if there are any."""
    rows = []
    for number, group in enumerate(scheme["groups"], 1):
        for name, parameters in transforms_of(group):
            kind = kind_of(group, name)
            rows.append(
                {
                    "group": number,
                    "name": group["name"],
                    "channels": _channels_in_words(group),
                    "parallel": len(transforms_of(group)),
                    "transform": name,
                    "parameters": "; ".join(_in_words(parameters)),
                    "kind": kind or "",
                    "meaning": TRANSFORMS[name].meaning,
                }
            )
    if scheme["negative"] > 0:
        rows.append(
            {
                "group": len(scheme["groups"]) + 1,
                "name": "negative sample",
                "channels": CHANNELS[GREEN],
                "parallel": 1,
                "transform": "negative",
                "parameters": f"{100 * scheme['negative']:g} % of the images",
                "kind": "negative",
                "meaning": "blanks the green channel and empties the labels",
            }
        )
    columns = (
        "group",
        "name",
        "channels",
        "parallel",
        "transform",
        "parameters",
        "kind",
        "meaning",
    )
    return pd.DataFrame(rows, columns=list(columns))


def strongest(step: tuple[str, dict[str, Any]]) -> dict[str, Any]:
    """A transform with each interval narrowed to its end that changes an image most, and the first
    of several words."""
    name, parameters = step
    narrowed = {}
    for key, value in parameters.items():
        known = TRANSFORMS[name].parameters[key]
        if isinstance(known, Interval):
            end = max(reversed(value), key=lambda end: abs(end - known.identity))
            value = [end, end]
        elif isinstance(known, Choice) and isinstance(value, list):
            value = value[0]
        narrowed[key] = value
    return {name: narrowed}


def units(recipe: dict[str, Any], image: np.ndarray) -> list[Unit]:
    """The scheme of ``recipe`` (its augmentation, image_size and seed) with examples made of
    ``image`` (uint8, S×S×4): the image, each group, the negative sample, and whole draws."""
    scheme, size, seed = recipe["augmentation"], recipe["image_size"], recipe["seed"]
    array = image
    white = np.maximum(np.percentile(image, WHITE_PERCENTILE, axis=(0, 1)), 1)
    every = range(len(CHANNELS))

    def picture(pixels: np.ndarray, channels: Any = every) -> np.ndarray:
        small = resized(pixels, min(len(pixels), DRAWN_PX))
        return composite(np.clip(small / white, 0, 1) * np.isin(every, channels))

    made = [Unit("array", [Example(picture(image), f"{len(image)} × {len(image)} px", "grey")])]
    for number, group in enumerate(scheme["groups"], 1):
        channels = channels_of(group)
        resizes = transforms_of(group)[0][0] == "resize"
        after = size if resizes else len(image)
        arrow = [f"{len(image)} → {size} px"] if resizes else []
        examples = [
            Example(
                picture(_changed(group, step, image, after, seed), channels),
                "\n".join([_name_in_words(step[0]), *arrow, *_in_words(step[1])]),
                KINDS[kind_of(group, step[0])][0] if kind_of(group, step[0]) else "grey",
            )
            for step in transforms_of(group)
        ]
        image = resized(image, after)  # what follows acts at this size
        one_of = ", one of" if len(examples) > 1 else ""
        made.append(Unit(f"{number}  {_channels_in_words(group)}{one_of}", examples))
    if scheme["negative"] > 0:
        share = f"{100 * scheme['negative']:g} % of images"
        text = f"negative sample\n{share}"
        example = Example(picture(blank_green(image)), text, KINDS["negative"][0])
        made.append(Unit(f"{len(made)}  green", [example]))
    pipeline, draws = build(scheme), []
    for epoch in range(1, COLUMNS + 1):
        key = stream(seed, "train", epoch, 0, "example")
        drawn, negative = augmented(pipeline, array, size, key, scheme["negative"])
        text = f"epoch {epoch}" + ("\nnegative" if negative else "")
        draws.append(Example(picture(drawn), text, "grey"))
    made.append(Unit(f"the whole scheme, resized to {size} × {size} px", draws))
    return made


def draw(
    units: list[Unit], statistics: pd.DataFrame, style: dict[str, Any], subtitle: str
) -> Figure:
    """The units from left to right and line by line, with arrows from each to the next; below them
    what was measured on many draws (table of hpaloc.draw_statistics)."""
    columns = max(COLUMNS, *(len(unit.examples) for unit in units))
    width = columns + GAP * (columns + 1)
    millimetres = style["double_width_mm"] / width
    text_line = 1.25 * style["font_size"] * look.MM_PER_INCH / look.POINTS_PER_INCH / millimetres
    lines = _lines(units, columns)
    above = [text_line * max(_height(unit.title) for unit in line) + MARGIN for line in lines]
    below = [
        text_line * max(_height(example.text) for unit in line for example in unit.examples)
        + 2 * MARGIN
        for line in lines
    ]
    height = sum(above) + sum(below) + len(lines)
    row_mm = 1.55 * style["font_size"] * look.MM_PER_INCH / look.POINTS_PER_INCH
    panels = _panels(statistics)
    lines_below = [len(panels[0]), max(len(panels[1]), len(panels[2]))]
    heights = [count + room for count, room in zip(lines_below, (6.5, 4.5), strict=True) if count]
    below_mm = row_mm * sum(heights)
    above_mm = height * millimetres
    fig = look.figure(style, above_mm + below_mm + 11 * style["font_size"] / 2.5)
    look.title(fig, "Augmentation of the training images", subtitle)
    rows = fig.add_gridspec(
        1 + bool(heights), 1, height_ratios=[above_mm, below_mm][: 1 + bool(heights)]
    )
    if heights:
        _draw_statistics(fig, rows[1], panels, heights, style)
    ax = fig.add_subplot(rows[0])
    ax.set_xlim(0, width)
    ax.set_ylim(height, 0)
    ax.set_aspect("equal")
    ax.set_axis_off()
    top = 0.0
    for line, over, under in zip(lines, above, below, strict=True):
        left = GAP
        for unit in line:
            span = len(unit.examples) * (1 + GAP)
            if len(unit.examples) > 1:
                box = (left - GAP / 3, top + MARGIN / 2)
                _box(ax, box, span - GAP / 3, over + 1 + under - MARGIN)
            ax.text(left, top + over - 0.04, unit.title, va="bottom", weight="bold", linespacing=1)
            for place, example in enumerate(unit.examples):
                colour = style["colours"][example.colour]
                _tile(ax, left + place * (1 + GAP), top + over, example, colour)
            if unit is not line[0]:
                _arrow(ax, left - GAP * 0.95, top + over + 0.5)
            left += span
        top += over + 1 + under
    _legend(fig, units, style["colours"])
    return fig


def _panels(statistics: pd.DataFrame) -> tuple[pd.DataFrame, list[tuple[str, Any]], pd.DataFrame]:
    """What the three panels of statistics draw: parameters that vary, choices by what is chosen
    from (in words, with their rows), and how much becomes black."""
    parameters = statistics[(statistics["measure"] == "parameter") & (statistics["stated_sd"] > 0)]
    choices = statistics[statistics["measure"] == "choice"].copy()
    about = choices["quantity"].str.split(" ").str[0]
    choices["of"] = [
        {"chosen": f"{group}  parallel transforms", "view": f"{group}  flips and rotations"}.get(
            word, f"{group}  {_name_in_words(name)}: {quantity if word == 'no' else word}"
        )
        for group, name, quantity, word in zip(
            choices["group"], choices["transform"], choices["quantity"], about, strict=True
        )
    ]
    black = statistics[statistics["measure"] == "black"]
    return parameters, list(choices.groupby("of", sort=False)), black


def _draw_statistics(
    fig: Figure, place: Any, panels: Any, heights: list[float], style: dict[str, Any]
) -> None:
    """Parameters over the whole width, and below them choices beside what becomes black."""
    parameters, choices, black = panels
    lines = place.subgridspec(len(heights), 1, height_ratios=heights, hspace=0.02)
    if len(parameters):
        _draw_parameters(fig.add_subplot(lines[0]), parameters, style)
    last = [panel for panel in (choices, black) if len(panel)]
    cells = lines[-1].subgridspec(1, max(1, len(last)), wspace=0.04)
    for cell, panel in zip(cells, last, strict=False):
        drawn = _draw_choices if panel is choices else _draw_black
        drawn(fig.add_subplot(cell), panel, style)


def _draw_parameters(ax: Axes, table: pd.DataFrame, style: dict[str, Any]) -> None:
    """Every parameter on one scale: its distance from the stated mean in stated deviations."""
    places = np.arange(len(table))
    mean, sd = table["stated_mean"].to_numpy(), table["stated_sd"].to_numpy()
    low, high = ((table[f"stated_{end}"] - mean) / sd for end in ("from", "to"))
    ax.barh(places, high - low, left=low, height=0.62, color="#DDDDDD", label="stated interval")
    for value in (-1, 0, 1):
        ax.axvline(value, color="#909090", linewidth=0.6, linestyle=":" if value else "-", zorder=0)
    drawn, spread = (table["mean"].to_numpy() - mean) / sd, table["sd"].to_numpy() / sd
    ax.errorbar(
        drawn, places, xerr=spread, fmt="o", color=style["colours"]["blue"], elinewidth=1,
        capsize=2, label="drawn: mean ± standard deviation",
    )  # fmt: skip
    words = [
        f"{row.group}  {_name_in_words(row.transform)}, {row.quantity.replace('_', ' ')}{_range(row)}"
        for row in table.itertuples()
    ]
    ax.set_yticks(places, words)
    ax.tick_params(axis="y", length=0)
    for place, row in zip(places, table.itertuples(), strict=True):
        decimals = max(0, 2 - int(np.floor(np.log10(row.sd)))) if row.sd > 0 else 4
        text = f"{row.mean:.{decimals}f} ± {_short(row.sd)}".replace("-", "−")
        ax.annotate(
            text, (1, place), xycoords=("axes fraction", "data"), xytext=(3, 0),
            textcoords="offset points", va="center",
        )  # fmt: skip
    ax.set(xlim=(-2.1, 2.1), ylim=(len(table) - 0.4, -0.6))
    ax.set_title("Parameters")
    ax.set_xticks(range(-2, 3))
    ax.set_xlabel(
        "distance from the stated mean, in stated standard deviations\n"
        "(read from the applied steps: padding and shifts are whole pixels, factors 8-bit tables)"
    )
    # At the figure's right edge, on the line of the axes' title.
    where = blended_transform_factory(ax.figure.transFigure, ax.transAxes)
    key = ax.legend(
        loc="lower right", bbox_to_anchor=(0.995, 0.985), bbox_transform=where, ncols=2,
        borderaxespad=0,
    )  # fmt: skip
    key.set_in_layout(False)


def _draw_choices(ax: Axes, choices: list[tuple[str, Any]], style: dict[str, Any]) -> None:
    for place, (_, rows) in enumerate(choices):
        stated = rows["stated_mean"].iloc[0]
        ax.plot([stated, stated], [place - 0.4, place + 0.4], color="#909090", linewidth=2.5)
        ax.plot(
            rows["mean"], [place] * len(rows), "o", markerfacecolor="none",
            color=style["colours"]["blue"],
        )  # fmt: skip
    ax.set_yticks(range(len(choices)), [name for name, _ in choices])
    ax.tick_params(axis="y", length=0)
    ax.set(xlim=(0, 1), ylim=(len(choices) - 0.4, -0.6))
    ax.set_title("Choices: share of images (line: as stated)", x=-0.3)


def _draw_black(ax: Axes, table: pd.DataFrame, style: dict[str, Any]) -> None:
    places = np.arange(len(table))
    mean, most = 100 * table["mean"].to_numpy(), 100 * table["highest"].to_numpy()
    ax.barh(places, mean, height=0.62, color=style["colours"]["grey"])
    ax.plot(most, places, "|", color="black", markersize=6, markeredgewidth=1.2)
    words = [f"{row.group}  {_name_in_words(row.transform)}" for row in table.itertuples()]
    ax.set_yticks(places, words)
    ax.tick_params(axis="y", length=0)
    ax.set(xlim=(0, max(1, 1.08 * most.max())), ylim=(len(table) - 0.4, -0.6))
    ax.set_title("Black, % of pixels (bar: mean, tick: most)", x=-0.3)


def _range(row: Any) -> str:
    """The stated interval in words; of what has none, its stated mean and deviation."""
    if np.isnan(row.stated_from):
        return f" {_short(row.stated_mean)} ± {_short(row.stated_sd)}"
    return f" {_short(row.stated_from)} to {_short(row.stated_to)}"


def _short(value: float) -> str:
    return f"{value:.3g}".replace("-", "−")


def _changed(
    group: dict[str, Any], step: tuple[str, dict[str, Any]], image: np.ndarray, size: int, seed: int
) -> np.ndarray:
    """``image`` after one transform at its strongest; of some draws the one that changes it most."""
    single = {"name": group["name"], "channels": group["channels"], "apply": strongest(step)}
    pipeline = build({"negative": 0, "groups": [single]})
    results = [
        augmented(pipeline, image, size, stream(seed, "figure", 0, attempt, step[0]))[0]
        for attempt in range(ATTEMPTS)
    ]
    if size != len(image):
        return results[0]
    return max(results, key=lambda result: np.abs(result.astype(int) - image).mean())


def _lines(units: list[Unit], columns: int) -> list[list[Unit]]:
    """The units in lines of so many columns, their words wrapped; the last one, the whole
    scheme, has a line of its own."""
    lines: list[list[Unit]] = [[]]
    for unit in units:
        used = sum(len(other.examples) for other in lines[-1])
        if used and (used + len(unit.examples) > columns or unit is units[-1]):
            lines.append([])
        title = _wrapped(unit.title, TITLE_CHARACTERS * len(unit.examples))
        examples = [
            example._replace(text=_wrapped(example.text, TEXT_CHARACTERS))
            for example in unit.examples
        ]
        lines[-1].append(Unit(title, examples))
    return lines


def _wrapped(text: str, characters: int) -> str:
    return "\n".join(textwrap.fill(line, characters) for line in text.split("\n"))


def _height(text: str) -> int:
    return text.count("\n") + 1


def _tile(ax: Axes, x: float, y: float, example: Example, colour: str) -> None:
    ax.imshow(example.rgb, extent=(x, x + 1, y + 1, y), interpolation="antialiased")
    ax.add_patch(Rectangle((x, y), 1, 1, fill=False, edgecolor=colour, linewidth=2.2))
    ax.text(x + 0.5, y + 1.06, example.text, ha="center", va="top", linespacing=1.05)


def _box(ax: Axes, corner: tuple[float, float], width: float, height: float) -> None:
    ax.add_patch(
        FancyBboxPatch(
            corner, width, height, boxstyle="round,pad=0,rounding_size=0.06",
            facecolor="#F2F2F2", edgecolor="#BBBBBB", linewidth=0.6, zorder=0,
        )
    )  # fmt: skip


def _arrow(ax: Axes, x: float, y: float) -> None:
    ax.annotate(
        "",
        (x + GAP * 0.9, y),
        (x, y),
        arrowprops={"arrowstyle": "-|>", "color": "#404040", "lw": 0.8},
    )


def _legend(fig: Figure, units: list[Unit], colours: dict[str, str]) -> None:
    used = {example.colour for unit in units for example in unit.examples}
    kinds = [(colours[colour], meaning) for colour, meaning in KINDS.values() if colour in used]
    if kinds:
        handles = [Line2D([], [], color=colour, linewidth=2.2) for colour, _ in kinds]
        look.legend(fig, handles, [meaning for _, meaning in kinds], ncols=3)


def _channels_in_words(group: dict[str, Any]) -> str:
    channels = channels_of(group)
    if len(channels) == len(CHANNELS):
        return "all channels"
    return ", ".join(CHANNELS[channel] for channel in channels)


def _name_in_words(name: str) -> str:
    return name.replace("_", " ").replace("90", " by 90°")


def _value_in_words(value: Any) -> str:
    return "–".join(map(str, value)) if isinstance(value, list) else str(value)


def _in_words(parameters: dict[str, Any]) -> list[str]:
    """``{"degrees": [-10, 10], "per_channel": True}`` as ``["degrees ±10", "per channel"]``."""
    words = []
    for key, value in parameters.items():
        if isinstance(value, bool):
            if value:
                words.append(key.replace("_", " "))
            continue
        if isinstance(value, dict):  # arguments of the library's transform
            words += [
                f"{name.replace('_', ' ')} {_value_in_words(it)}" for name, it in value.items()
            ]
            continue
        if key == "transform":  # the name of the library's transform
            words.append(value)
            continue
        if isinstance(value, str) or (isinstance(value, list) and isinstance(value[0], str)):
            names = [value] if isinstance(value, str) else value
            words.append(f"{key} {', '.join(names[:-1])}{' or ' if names[1:] else ''}{names[-1]}")
            continue
        low, high = value if isinstance(value, list) else (value, value)
        if low == high:
            words.append(f"{key} {high:g}")
        elif low == -high:
            words.append(f"{key} ±{high:g}")
        else:
            words.append(f"{key} {low:g}–{high:g}" if low >= 0 else f"{key} {low:g} to {high:g}")
    return words
