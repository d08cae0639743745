"""One look for every figure: sizes in print, fonts, colours, files, and the mark of simulated data.

Figures are made at their size in print (one or two columns of a journal), so
that a font size is what a reader gets. They are saved without a date or a
version, so that equal tables give equal files.
"""

import argparse
import json
import logging
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.artist import Artist
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import is_color_like
from matplotlib.figure import Figure

from hpaloc.files import written_whole
from hpaloc.log import InputError

SINGLE_MM = 89.0
DOUBLE_MM = 183.0
DPI = 150
MM_PER_INCH = 25.4
POINTS_PER_INCH = 72.0

# Okabe and Ito, "Color Universal Design", 2008: distinct for every common kind of colour vision.
# The yellow is theirs too, but too light for lines on white: for areas only.
COLOURS: dict[str, str] = {
    "black": "#000000",
    "blue": "#0072B2",
    "orange": "#E69F00",
    "green": "#009E73",
    "red": "#D55E00",
    "purple": "#CC79A7",
    "sky": "#56B4E9",
    "yellow": "#F0E442",
    "grey": "#8A8A8A",
}

DEFAULTS: dict[str, Any] = {
    "font_size": 7.5,
    "line_width": 1.0,
    "single_width_mm": SINGLE_MM,
    "double_width_mm": DOUBLE_MM,
    "colours": COLOURS,
}

SIMULATED_NOTE = (
    "simulated cells — shows that the machinery works, says nothing of accuracy on cells"
)
NARROW_MM = 120.0


def resolve(settings: dict[str, Any] | None = None) -> dict[str, Any]:
    """The style with every key: ``settings`` over DEFAULTS, colours merged by name.

    Raises InputError for an unknown key or colour name, a value that is not a
    colour, and a size that is not a positive number.
    """
    settings = dict(settings or {})
    unknown = sorted(set(settings) - set(DEFAULTS))
    if unknown:
        raise InputError(f"style: unknown key {unknown[0]!r}; known are {', '.join(DEFAULTS)}.")
    colours = dict(settings.get("colours") or {})
    for name, value in colours.items():
        if name not in COLOURS:
            raise InputError(f"style: unknown colour {name!r}; known are {', '.join(COLOURS)}.")
        if not is_color_like(value):
            raise InputError(f"style: colours.{name}: {value!r} is not a colour such as '#0072B2'.")
    resolved = {**DEFAULTS, **settings, "colours": {**COLOURS, **colours}}
    for key in ("font_size", "line_width", "single_width_mm", "double_width_mm"):
        value = resolved[key]
        if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
            raise InputError(f"style: {key}: {value!r} is not a positive number.")
    return resolved


def apply(settings: dict[str, Any] | None = None) -> dict[str, Any]:
    """Sets Matplotlib's look for this process and returns the resolved style (see ``resolve``)."""
    style = resolve(settings)
    size = float(style["font_size"])
    mpl.use("Agg")
    logging.getLogger("fontTools").setLevel(logging.WARNING)  # tells of every letter of a PDF
    mpl.rcdefaults()
    cycle = [value for name, value in style["colours"].items() if name not in ("black", "yellow")]
    mpl.rcParams.update(
        {
            "axes.labelsize": size,
            "axes.linewidth": 0.6,
            "axes.prop_cycle": mpl.cycler(color=cycle),
            "axes.spines.right": False,
            "axes.spines.top": False,
            "axes.titlelocation": "left",
            "axes.titlesize": size,
            "axes.titleweight": "bold",
            "figure.titlesize": size + 1.5,
            "figure.titleweight": "bold",
            "font.family": "DejaVu Sans",  # shipped with Matplotlib: the same on every machine
            "font.size": size,
            "grid.color": "#D9D9D9",
            "grid.linewidth": 0.4,
            "legend.fontsize": size,
            "legend.frameon": False,
            "lines.markersize": 3,
            "lines.linewidth": float(style["line_width"]),
            "pdf.fonttype": 42,  # text stays text, so that a journal can edit it
            "xtick.labelsize": size,
            "xtick.major.width": 0.6,
            "ytick.labelsize": size,
            "ytick.major.width": 0.6,
        }
    )
    return style


def figure(style: dict[str, Any], height_mm: float, columns: int = 2) -> Figure:
    """An empty figure of one or two columns' width with constrained layout."""
    width = style["single_width_mm"] if columns == 1 else style["double_width_mm"]
    return Figure(figsize=(width / MM_PER_INCH, height_mm / MM_PER_INCH), layout="constrained")


def title(fig: Figure, text: str, subtitle: str | None = None) -> None:
    """What the figure shows, at the top left, above lighter lines of ``subtitle``."""
    large, size = mpl.rcParams["figure.titlesize"], mpl.rcParams["font.size"]
    height = fig.get_figheight() * POINTS_PER_INCH
    lines = [line for line in (subtitle or "").split("\n") if line]
    fig.text(0.008, 1 - 0.35 * large / height, text, va="top", size=large, weight="bold")
    for number, line in enumerate(lines):
        top = 1.85 * large + 1.35 * size * number
        fig.text(0.008, 1 - top / height, line, va="top", size=size, color="#404040")
    keep_free(fig, top=(1.85 * large + 1.35 * size * len(lines)) / height)


def dot_if_alone(points: Sequence[Any]) -> str:
    """The marker of a line through ``points``: a line through one point alone would not be seen."""
    return "o" if len(points) == 1 else ""


def legend(
    fig: Figure, handles: Sequence[Artist], texts: Sequence[str], ncols: int = 1, **more: Any
) -> None:
    """A legend below all axes, at the left edge (or at ``loc``), in a margin kept free for it."""
    # Not Matplotlib's "outside": it stands at the edge even where something else is kept free.
    key = fig.legend(handles, texts, **({"loc": "lower left", "ncols": ncols} | more))
    key.set_in_layout(False)
    key.set_bbox_to_anchor((0, 0, 1, 1), transform=fig.transFigure)
    extent = key.get_window_extent(FigureCanvasAgg(fig).get_renderer())
    gap = 0.5 * mpl.rcParams["font.size"] / (fig.get_figheight() * POINTS_PER_INCH)
    keep_free(fig, bottom=extent.height / fig.bbox.height + gap)


def mark_simulated(fig: Figure) -> None:
    """Notes at the bottom right that the cells are simulated, in a margin kept free for it.

    To be called when the figure is complete: legends of the figure are moved up.
    """
    narrow = fig.get_figwidth() * MM_PER_INCH < NARROW_MM
    note = textwrap.fill(SIMULATED_NOTE, 52) if narrow else SIMULATED_NOTE
    size = max(7.0, mpl.rcParams["font.size"] - 0.5)
    height = fig.get_figheight() * POINTS_PER_INCH
    fig.text(
        0.995, 0.25 * size / height, note, ha="right", va="bottom", size=size, style="italic",
        color="#666666",
    )  # fmt: skip
    margin = 1.4 * size * (note.count("\n") + 1) / height
    for key in fig.legends:
        key.set_bbox_to_anchor((0, margin, 1, 1 - margin), transform=fig.transFigure)
    keep_free(fig, bottom=margin)


def keep_free(fig: Figure, top: float = 0.0, bottom: float = 0.0) -> None:
    """Shrinks the area of the axes by shares of the figure's height, for text outside of them."""
    engine = fig.get_layout_engine()
    left, low, width, height = engine.get()["rect"]
    engine.set(rect=(left, low + bottom, width, height - top - bottom))


def save(fig: Figure, png: str | Path, pdf: str | Path) -> None:
    """Writes the figure as PNG (150 dpi) and PDF, whole, without date, version or program."""
    with written_whole(png) as aside:
        fig.savefig(aside, dpi=DPI, format="png", metadata={"Software": None})
    with written_whole(pdf) as aside:
        fig.savefig(
            aside,
            format="pdf",
            dpi=300,  # of what is an image in it
            metadata={"CreationDate": None, "Creator": None, "Producer": None},
        )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that every figure program has: --png, --pdf, --simulated, --style."""
    parser.add_output("--png", help="picture to write (150 dpi)")
    parser.add_output("--pdf", help="vector file to write")
    parser.add_argument("--simulated", action="store_true", help="mark the data as simulated")
    parser.add_argument(
        "--style", type=style_argument, default=None, metavar="JSON", help="style keys to change"
    )


def style_argument(text: str) -> dict[str, Any]:
    """The JSON object of --style; raises InputError for anything else."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"--style: not JSON ({error}): {text}") from None
    if not isinstance(value, dict):
        raise InputError(f"--style: a JSON object is wanted, not {text}")
    return value


def finish(fig: Figure, args: argparse.Namespace) -> None:
    """Marks simulated data where asked and writes both files of ``add_arguments``."""
    if args.simulated:
        mark_simulated(fig)
    save(fig, args.png, args.pdf)
