"""Figure 3: the scheme of augmentation as configured, with an example of each transform."""

import textwrap
from itertools import count
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyBboxPatch, Rectangle

from hpaloc.augment import GREEN, augment, augmented, blank_green, build, stream
from hpaloc.classes import CHANNELS
from hpaloc.figures import style as look
from hpaloc.figures.samples import WHITE_PERCENTILE, composite
from hpaloc.geometry import resized
from hpaloc.scheme import KINDS, TRANSFORMS, Interval, channels_of, kind_of, transforms_of

# The layout is in units of an example's side.
COLUMNS = 7
GAP = 0.16
MARGIN = 0.12
TITLE_CHARACTERS, TEXT_CHARACTERS = 16, 17
DRAWN_PX = 256


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
    """A transform with each interval narrowed to its end that changes an image most."""
    name, parameters = step
    narrowed = {}
    for key, value in parameters.items():
        known = TRANSFORMS[name].parameters[key]
        if isinstance(known, Interval):
            end = max(reversed(value), key=lambda end: abs(end - known.identity))
            value = [end, end]
        narrowed[key] = value
    return {name: narrowed}


def units(recipe: dict[str, Any], image: np.ndarray) -> list[Unit]:
    """The scheme of ``recipe`` (its augmentation, image_size and seed) with examples made of
    ``image`` (uint8, S×S×4): the image, each group, the negative sample, and whole draws."""
    scheme, size, seed = recipe["augmentation"], recipe["image_size"], recipe["seed"]
    white = np.maximum(np.percentile(image, WHITE_PERCENTILE, axis=(0, 1)), 1)
    every = range(len(CHANNELS))

    def picture(pixels: np.ndarray, channels: Any = every) -> np.ndarray:
        small = resized(pixels, min(len(pixels), DRAWN_PX))
        return composite(np.clip(small / white, 0, 1) * np.isin(every, channels))

    made = [Unit("array", [Example(picture(image), f"{len(image)} × {len(image)} px", "grey")])]
    for number, group in enumerate(scheme["groups"], 1):
        channels = channels_of(group)
        examples = [
            Example(
                picture(_changed(group, step, image, seed), channels),
                "\n".join([_name_in_words(step[0]), *_in_words(step[1])]),
                KINDS[kind_of(group, step[0])][0] if kind_of(group, step[0]) else "grey",
            )
            for step in transforms_of(group)
        ]
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
        drawn, negative = augmented(pipeline, image, size, key, scheme["negative"])
        text = f"epoch {epoch}" + ("\nnegative" if negative else "")
        draws.append(Example(picture(drawn), text, "grey"))
    made.append(Unit(f"the whole scheme, resized to {size} × {size} px", draws))
    return made


def draw(units: list[Unit], style: dict[str, Any], subtitle: str) -> Figure:
    """The units from left to right and line by line, with arrows from each to the next."""
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
    fig = look.figure(style, height_mm=height * millimetres + 11 * style["font_size"] / 2.5)
    look.title(fig, "Augmentation of the training images", subtitle)
    ax = fig.subplots()
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


def _changed(
    group: dict[str, Any], step: tuple[str, dict[str, Any]], image: np.ndarray, seed: int
) -> np.ndarray:
    """``image`` after one transform at its strongest; of random draws the first that shows it."""
    single = {"name": group["name"], "channels": group["channels"], "apply": strongest(step)}
    pipeline = build({"negative": 0, "groups": [single]})
    for attempt in count():
        result = augment(pipeline, image, stream(seed, "figure", 0, attempt, step[0]))
        if attempt == 7 or not np.array_equal(result, image):
            return result


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
        if isinstance(value, str):
            words.append(value)
            continue
        low, high = value if isinstance(value, list) else (value, value)
        if low == high:
            words.append(f"{key} {high:g}")
        elif low == -high:
            words.append(f"{key} ±{high:g}")
        else:
            words.append(f"{key} {low:g}–{high:g}" if low >= 0 else f"{key} {low:g} to {high:g}")
    return words
