"""What draws of an augmentation scheme are, measured on the drawn steps, beside what the scheme says.

Everything is read from the steps that are applied to images (hpaloc.transforms), not from the random
numbers: an angle from its matrix, a factor from its table of grey values.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from hpaloc.augment import build, named_draw, stream
from hpaloc.classes import CHANNELS
from hpaloc.geometry import N_DIHEDRAL
from hpaloc.scheme import TRANSFORMS, Interval, kind_of, transforms_of
from hpaloc.transforms import GREYS, GRID, MID_GREY, Cells, Resize, Step, apply_steps

DRAWS = 4000
# Of them, as many are applied to a white image, to see how much of it becomes black.
APPLIED = 100
COLUMNS = (
    "group",
    "name",
    "transform",
    "quantity",
    "measure",
    "stated_from",
    "stated_to",
    "stated_mean",
    "stated_sd",
    "draws",
    "mean",
    "sd",
    "lowest",
    "highest",
)


class Stated(NamedTuple):
    """What a scheme says of a quantity; NaN where it says nothing."""

    lowest: float = math.nan
    highest: float = math.nan
    mean: float = math.nan
    sd: float = math.nan


def measured(
    scheme: dict[str, Any], side: int, size: int, seed: int, draws: int = DRAWS
) -> pd.DataFrame:
    """One row per group, transform and quantity of ``draws`` draws for images of side×side pixels,
    which are resized to size×size: what the scheme states, and what was drawn.

    ``measure`` says what a row is: a "parameter" (of each value drawn), a "choice" (share of the
    draws that got it), or "black" (share of the pixels of a white image, in the channels of the
    group, that the transform alone blanks; the highest is that of one image).
    """
    pipeline = build(scheme)
    drawn = [
        named_draw(pipeline, (side, side), stream(seed, "train", 1, 0, str(number)), size)
        for number in range(draws)
    ]
    rows: list[dict[str, Any]] = []
    for number, group in enumerate(scheme["groups"]):
        parallel = transforms_of(group)
        side_here = _side_at(drawn[0][:number], side)
        for position, (name, parameters) in enumerate(parallel):
            steps = [each[number][1] for each in drawn if each[number][0] == position]
            about = {"group": number + 1, "name": group["name"], "transform": name}
            if len(parallel) > 1:
                rows.append(_share(about, "chosen", 1 / len(parallel), len(steps), draws))
            if not steps:
                continue
            for quantity, stated, values in _parameters(name, parameters, steps, side_here):
                rows.append(_row(about, quantity, "parameter", stated, values))
            rows.extend(_choices(about, parameters, steps))
            if kind_of(group, name) in ("removal", "geometry") and name != "flip_and_rotate90":
                black = [_black(step, side_here) for step in steps[:APPLIED]]
                rows.append(_row(about, "black pixels", "black", Stated(), black))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _side_at(before: list[tuple[int, Step | None]], side: int) -> int:
    sizes = [step.size for _, step in before if isinstance(step, Resize)]
    return sizes[-1] if sizes else side


def _row(
    about: dict[str, Any], quantity: str, measure: str, stated: Stated, values: Any
) -> dict[str, Any]:
    values = np.asarray(values, float)
    return about | {
        "quantity": quantity,
        "measure": measure,
        "stated_from": stated.lowest,
        "stated_to": stated.highest,
        "stated_mean": stated.mean,
        "stated_sd": stated.sd,
        "draws": values.size,
        "mean": values.mean(),
        "sd": values.std(),
        "lowest": values.min(),
        "highest": values.max(),
    }


def _share(
    about: dict[str, Any], quantity: str, stated: float, count: int, draws: int
) -> dict[str, Any]:
    """The share of the draws that got something; it has no spread of its own."""
    return about | {
        "quantity": quantity,
        "measure": "choice",
        "stated_mean": stated,
        "draws": draws,
        "mean": count / draws,
    }


def uniform(interval: Any) -> Stated:
    """What the scheme says of a number that is drawn from an interval."""
    low, high = map(float, interval)
    return Stated(low, high, (low + high) / 2, (high - low) / math.sqrt(12))


# What each step says of its parameters: arrays of values, by the name of the parameter.


def _padding(step: Any, side: int) -> dict[str, Any]:
    (scale_x, _, x), (_, scale_y, y) = step.matrix[:2]
    left, top = (scale_x - 1) / 2 - x, (scale_y - 1) / 2 - y
    right, bottom = side * (scale_x - 1) - left, side * (scale_y - 1) - top
    return {"share": np.array([left, top, right, bottom]) / side}


def _affine(step: Any, side: int) -> dict[str, Any]:
    linear = step.matrix[:2, :2]
    angle, factor = math.atan2(linear[1, 0], linear[0, 0]), 1 / math.hypot(*linear[:, 0])
    turned_back = np.array([math.cos(angle), math.sin(angle)]) @ linear * factor
    centre = (side - 1) / 2
    moved = np.linalg.solve(linear, centre - step.matrix[:2, 2]) - centre
    return {
        "degrees": math.degrees(angle),
        "scale": factor,
        "shear": math.degrees(math.atan(turned_back[1])),
        "shift": moved / side,
    }


def _slope(table: np.ndarray, origin: float) -> float:
    """Of a table of grey values that is straight but for rounding and clipping."""
    straight = (table > 0) & (table < 255)
    x, y = GREYS[straight] - origin, table[straight].astype(float) - origin
    return float(x @ y / max(x @ x, 1))


def _exponent(table: np.ndarray) -> float:
    usable = (table > 10) & (table < 250) & (GREYS > 10) & (GREYS < 250)
    x, y = np.log(GREYS[usable] / 255), np.log(table[usable] / 255)
    return float(x @ y / max(x @ x, 1e-9))


def _sharpening(step: Any, side: int) -> dict[str, Any]:
    alpha = -float(step.kernel[0, 0])
    if alpha < 0.01:  # too little of it to tell the lightness from single precision
        return {"alpha": alpha}
    return {"alpha": alpha, "lightness": (float(step.kernel.sum()) - 1 + alpha) / alpha}


_READ: dict[str, Callable[[Any, int], dict[str, Any]]] = {
    "crop_and_pad": _padding,
    "rotate": lambda step, side: {"degrees": _affine(step, side)["degrees"]},
    "shear": lambda step, side: {"degrees": _affine(step, side)["shear"]},
    "affine": _affine,
    "contrast": lambda step, side: {"factor": _slope(step.tables[0], MID_GREY)},
    "multiply": lambda step, side: {"factor": [_slope(table, 0.0) for table in step.tables]},
    "gamma": lambda step, side: {"exponent": _exponent(step.tables[0])},
    "edge_detect": lambda step, side: {"alpha": float(step.kernel[0, 1])},
    "sharpen": _sharpening,
}


def _parameters(
    name: str, parameters: dict[str, Any], steps: list[Any], side: int
) -> Iterator[tuple[str, Stated, Any]]:
    """Each measured quantity of a transform: its name, what the scheme says, the values drawn."""
    if name == "piecewise_affine":
        inner = slice(1, GRID - 1)
        moved = np.stack([step.offsets[:, inner, inner] for step in steps]) / side
        yield "displacement", _of_normal(parameters["scale"]), moved
    elif name == "coarse_dropout":
        blank = [len(step.corners) * step.width * step.height / side**2 for step in steps]
        yield "share", uniform(parameters["share"]), blank
    elif name == "grid_dropout":
        stated = _of_cells(parameters["probability"], _n_cells(parameters, steps))
        yield "share of cells", stated, [step.black.mean() for step in steps]
    elif name in _READ:
        read = [_READ[name](step, side) for step in steps]
        for key, parameter in TRANSFORMS[name].parameters.items():
            if isinstance(parameter, Interval) and key in parameters:
                values = [np.ravel(each[key]) for each in read if key in each]
                if values:
                    yield key, uniform(parameters[key]), np.concatenate(values)


def _of_normal(scale: Any) -> Stated:
    """Of normal deviates whose standard deviation is itself drawn from an interval."""
    low, high = map(float, scale)
    return Stated(mean=0.0, sd=math.sqrt((low**2 + low * high + high**2) / 3))


def _n_cells(parameters: dict[str, Any], steps: list[Any]) -> int:
    """How many cells are drawn for an image, each by itself."""
    apart = len(steps[0].channels) if parameters["per_channel"] else 1
    return apart * parameters["cells"] ** 2


def _of_cells(probability: Any, n_cells: int) -> Stated:
    """Of the share of ``n_cells`` that are blank where their probability is drawn first."""
    chance = uniform(probability)
    spread = (chance.mean - chance.mean**2 - chance.sd**2) / n_cells + chance.sd**2
    return Stated(mean=chance.mean, sd=math.sqrt(spread))


def _none_of_cells(probability: Any, n_cells: int) -> float:
    """How likely none of ``n_cells`` is blank."""
    low, high = map(float, probability)
    if low == high:
        return (1 - low) ** n_cells
    powers = (1 - low) ** (n_cells + 1) - (1 - high) ** (n_cells + 1)
    return powers / ((n_cells + 1) * (high - low))


def _choices(
    about: dict[str, Any], parameters: dict[str, Any], steps: list[Any]
) -> Iterator[dict[str, Any]]:
    for key in ("border", "interpolation"):
        names = parameters.get(key)
        if isinstance(names, list) and len(names) > 1:
            for name in names:
                count = sum(getattr(step, key) == name for step in steps)
                yield _share(about, f"{key} {name}", 1 / len(names), count, len(steps))
    if about["transform"] == "grid_dropout":
        stated = _none_of_cells(parameters["probability"], _n_cells(parameters, steps))
        none = sum(not step.black.any() for step in steps)
        yield _share(about, "no cell blank", stated, none, len(steps))
    if about["transform"] == "flip_and_rotate90":
        for view in range(N_DIHEDRAL):
            count = sum(step.view == view for step in steps)
            yield _share(about, f"view {view}", 1 / N_DIHEDRAL, count, len(steps))


def _black(step: Any, side: int) -> float:
    """The share of a white image's pixels that a step blanks, by more than half."""
    if isinstance(step, Cells):
        return float(step.black.mean())
    white = np.full((side, side, len(CHANNELS)), 255, np.uint8)
    channels = list(getattr(step, "channels", range(len(CHANNELS))))
    return float(np.mean(apply_steps([step], white, side)[..., channels] < 128))
