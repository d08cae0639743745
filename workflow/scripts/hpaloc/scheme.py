"""The scheme of augmentation as the config writes it: what may stand there, and what it means.

A scheme is ``{"negative": share, "groups": [group, …]}``, applied from the first group to the
last. A group names its channels and either one transform (``apply``) or parallel ones
(``one_of``), of which each image and epoch gets one, all equally likely. A transform is a map
with one key, its name, over its parameters: ``{"rotate": {"degrees": [-10, 10]}}``. An interval
is drawn from uniformly. A parameter with a default may be left out, and then nothing is drawn for
it: a scheme that leaves it out keeps its random numbers, whatever parameters are added later.

Steps act at the size of the arrays, and the result is resized to the network's input. Where a group
applies ``resize``, the image is resized there, and the groups after it act at the input's size.

Everything here is free of image libraries, so that a config can be checked where none is installed.
"""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from hpaloc.classes import CHANNELS
from hpaloc.log import InputError


class Interval(NamedTuple):
    """A parameter ``[from, to]`` within the limits; ``identity`` is where it changes nothing."""

    lowest: float
    highest: float
    identity: float
    meaning: str
    default: tuple[float, float] | None = None


class Number(NamedTuple):
    """A parameter that is one number within the limits."""

    lowest: float
    highest: float
    meaning: str
    default: None = None


class Whole(NamedTuple):
    """A parameter that is one whole number within the limits."""

    lowest: int
    highest: int
    meaning: str
    default: None = None


class Flag(NamedTuple):
    """A parameter that is true or false."""

    meaning: str
    default: bool | None = None


class Choice(NamedTuple):
    """A parameter that is one of some words, or a list of them, of which each image gets one."""

    options: tuple[str, ...]
    meaning: str
    default: str | None = None


class Name(NamedTuple):
    """A parameter that is a text, such as the name of a class."""

    meaning: str
    default: None = None


class Arguments(NamedTuple):
    """A parameter that is a map of any arguments, checked by whoever takes them."""

    meaning: str
    default: None = None


Parameter = Interval | Number | Whole | Flag | Choice | Name | Arguments


class Transform(NamedTuple):
    """What a transform does, its kind (see KINDS; None: has none), its parameters."""

    meaning: str
    kind: str | None
    parameters: dict[str, Parameter]


# The kinds of operations in Fig. 3 of the paper and their colours.
KINDS = {
    "removal": ("blue", "removes pixels"),
    "geometry": ("orange", "rotates and shifts"),
    "values": ("red", "changes pixel values"),
    "sharpening": ("green", "sharpens the green channel against the blur of resizing"),
    "negative": ("purple", "makes negative samples"),
}

_DEGREES = "angle in degrees"
_ALPHA = "share of the filtered image in the result, the rest is the image itself"
_BORDER = Choice(
    ("constant", "reflect"),
    "what is seen beyond the edge: black, or the image reflected at its outer pixels",
    "constant",
)

TRANSFORMS: dict[str, Transform] = {
    "none": Transform("leaves the image as it is", None, {}),
    "crop_and_pad": Transform(
        "pads each side, or crops it, then resizes to the size before",
        "removal",
        {
            "share": Interval(
                -0.4, 0.4, 0.0, "share of the image's side, per side; below 0 crops, above 0 pads"
            ),
            "border": _BORDER,
        },
    ),
    "coarse_dropout": Transform(
        "blanks squares at random places, at least one",
        "removal",
        {
            "share": Interval(0.0, 0.5, 0.0, "share of the image that is blanked"),
            "hole": Number(0.01, 0.5, "side of a square, as a share of the image's side"),
        },
    ),
    "grid_dropout": Transform(
        "blanks cells of a grid, each with the drawn probability; often none",
        "removal",
        {
            "probability": Interval(0.0, 1.0, 0.0, "probability of a cell to be blanked"),
            "cells": Whole(1, 64, "cells along each side of the image"),
            "per_channel": Flag("true: cells drawn for each channel; false: the same in all"),
        },
    ),
    "piecewise_affine": Transform(
        "displaces the points of a 4×4 grid and what lies between them",
        "geometry",
        {
            "scale": Interval(
                0.0, 0.2, 0.0, "standard deviation of the displacement, as a share of the side"
            ),
            "clip": Flag(
                "true: points stay within the image, so that nothing beyond its edge is seen;"
                " false: they may leave it, and black is seen there",
                False,
            ),
        },
    ),
    "rotate": Transform(
        "rotates about the centre",
        "geometry",
        {"degrees": Interval(-180.0, 180.0, 0.0, _DEGREES), "border": _BORDER},
    ),
    "shear": Transform(
        "shears along the rows",
        "geometry",
        {"degrees": Interval(-45.0, 45.0, 0.0, _DEGREES), "border": _BORDER},
    ),
    "affine": Transform(
        "rotates, scales, shears and shifts in one step",
        "geometry",
        {
            "degrees": Interval(-180.0, 180.0, 0.0, _DEGREES),
            "scale": Interval(0.2, 5.0, 1.0, "magnification"),
            "shear": Interval(-45.0, 45.0, 0.0, _DEGREES),
            "shift": Interval(-0.5, 0.5, 0.0, "shift as a share of the side, along each axis"),
            "border": _BORDER,
        },
    ),
    "flip_and_rotate90": Transform(
        "one of the eight exact flips and rotations by 90°, all equally likely", "geometry", {}
    ),
    "resize": Transform(
        "resizes to the network's input, image_size; the groups after it act at that size",
        None,
        {
            "interpolation": Choice(
                ("nearest", "linear", "area", "cubic"),
                "as OpenCV names them; area averages where the image shrinks and is linear where it"
                " grows",
                "area",
            )
        },
    ),
    "contrast": Transform(
        "stretches pixel values about mid-grey (128)",
        "values",
        {"factor": Interval(0.0, 4.0, 1.0, "factor of the stretch")},
    ),
    "multiply": Transform(
        "multiplies pixel values",
        "values",
        {
            "factor": Interval(0.0, 4.0, 1.0, "factor"),
            "per_channel": Flag("true: a factor for each channel; false: one for all"),
        },
    ),
    "gamma": Transform(
        "raises pixel values, as shares of 255, to a power",
        "values",
        {"exponent": Interval(0.1, 10.0, 1.0, "exponent")},
    ),
    "edge_detect": Transform(
        "blends with the edges (Laplace filter)",
        "values",
        {"alpha": Interval(0.0, 1.0, 0.0, _ALPHA)},
    ),
    "sharpen": Transform(
        "blends with a sharpened image: (8 + lightness) times each pixel less its eight neighbours",
        "values",
        {
            "alpha": Interval(0.0, 1.0, 0.0, _ALPHA),
            "lightness": Interval(
                0.0, 4.0, 1.0, "brightness of the sharpened image where it is even", (1.0, 1.0)
            ),
        },
    ),
    "albumentations": Transform(
        "a transform of the albumentations library that changes values only",
        "values",
        {
            "transform": Name("its name, such as GaussNoise"),
            "arguments": Arguments("its arguments, less p: it is always applied"),
        },
    ),
}

# These move or cut what the channels show at a place: applied to some, the channels no longer fit.
_WHOLE_IMAGE = {name for name, known in TRANSFORMS.items() if known.kind == "geometry"} | {
    "crop_and_pad",
    "resize",
}


def transforms_of(group: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """The transforms of a group as (name, parameters), one for ``apply``, all of ``one_of``."""
    steps = group["one_of"] if "one_of" in group else [group["apply"]]
    return [next(iter(step.items())) for step in steps]


def channels_of(group: dict[str, Any]) -> tuple[int, ...]:
    """The planes that a group changes, in the order of CHANNELS."""
    if group["channels"] == "all":
        return tuple(range(len(CHANNELS)))
    return tuple(index for index, name in enumerate(CHANNELS) if name in group["channels"])


def kind_of(group: dict[str, Any], name: str) -> str | None:
    """The kind (key of KINDS) of transform ``name`` in ``group``.

    As in the paper's figure, sharpening of the green channel alone is a kind of its own.
    """
    if name == "sharpen" and tuple(group["channels"]) == ("green",):
        return "sharpening"
    return TRANSFORMS[name].kind


def check_scheme(scheme: Any, where: str = "augmentation") -> None:
    """Raises InputError, naming the key and what is allowed, unless ``scheme`` is a valid scheme."""
    _keys(scheme, {"negative", "groups"}, where)
    _number(scheme["negative"], 0.0, 1.0, f"{where}.negative")
    if not isinstance(scheme["groups"], list):
        raise InputError(f"{where}.groups: a list of groups is wanted.")
    for number, group in enumerate(scheme["groups"]):
        _check_group(group, f"{where}.groups[{number}]")
    resizes = [
        number
        for number, group in enumerate(scheme["groups"])
        if "resize" in dict(transforms_of(group))
    ]
    if len(resizes) > 1:
        raise InputError(
            f"{where}.groups[{resizes[1]}]: the image is resized in groups[{resizes[0]}] already;"
            " leave one of them out."
        )


def _check_group(group: Any, where: str) -> None:
    choice = "one_of" if isinstance(group, dict) and "one_of" in group else "apply"
    _keys(group, {"name", "channels", choice}, where)
    if not isinstance(group["name"], str) or not group["name"]:
        raise InputError(f"{where}.name: a name is wanted.")
    channels = group["channels"]
    is_list = isinstance(channels, list) and all(isinstance(name, str) for name in channels)
    if channels != "all" and not (
        is_list
        and channels
        and set(channels) <= set(CHANNELS)
        and len(set(channels)) == len(channels)
    ):
        raise InputError(
            f"{where}.channels: {channels!r} is neither 'all' nor a list of different channels"
            f" of {', '.join(CHANNELS)}."
        )
    steps = (
        [(f"{where}.apply", group["apply"])] if choice == "apply" else _alternatives(group, where)
    )
    for place, step in steps:
        _check_transform(step, place)
        name = next(iter(step))
        if name in _WHOLE_IMAGE and len(channels_of(group)) != len(CHANNELS):
            raise InputError(
                f"{place}: {name} moves pixels and would shift the channels against each other;"
                " its group must have channels: all."
            )
        if name == "resize" and choice == "one_of":
            raise InputError(
                f"{place}: every image is resized; write apply: {{resize: {{}}}} in a group of its"
                " own."
            )


def _alternatives(group: dict[str, Any], where: str) -> Iterator[tuple[str, Any]]:
    if not isinstance(group["one_of"], list) or not group["one_of"]:
        raise InputError(f"{where}.one_of: a list of transforms is wanted.")
    for number, step in enumerate(group["one_of"]):
        yield f"{where}.one_of[{number}]", step


def _check_transform(step: Any, where: str) -> None:
    if not isinstance(step, dict) or len(step) != 1:
        raise InputError(
            f"{where}: one transform is wanted, written as {{name: {{parameters}}}}, not {step!r}."
        )
    name, given = next(iter(step.items()))
    if name not in TRANSFORMS:
        raise InputError(f"{where}: unknown transform {name!r}; known are {', '.join(TRANSFORMS)}.")
    known = TRANSFORMS[name].parameters
    optional = {key for key, parameter in known.items() if parameter.default is not None}
    _keys(given, set(known), f"{where}.{name}", optional)
    for key in known:
        if key in given:
            _check_parameter(given[key], known[key], f"{where}.{name}.{key}")


def _check_parameter(value: Any, parameter: Parameter, where: str) -> None:
    if isinstance(parameter, Name):
        if not isinstance(value, str) or not value.isidentifier():
            raise InputError(f"{where}: {value!r} is no name.")
    elif isinstance(parameter, Arguments):
        if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
            raise InputError(f"{where}: a map of arguments is wanted, not {value!r}.")
        if "p" in value:
            raise InputError(
                f"{where}.p: a transform is always applied; for a share of the images put none: {{}}"
                " beside it in one_of."
            )
    elif isinstance(parameter, Flag):
        if not isinstance(value, bool):
            raise InputError(f"{where}: {value!r} is neither true nor false.")
    elif isinstance(parameter, Choice):
        _choice(value, parameter.options, where)
    elif isinstance(parameter, Whole):
        if not isinstance(value, int) or isinstance(value, bool):
            raise InputError(f"{where}: {value!r} is not a whole number.")
        _number(value, parameter.lowest, parameter.highest, where)
    elif isinstance(parameter, Number):
        _number(value, parameter.lowest, parameter.highest, where)
    else:
        if not isinstance(value, list) or len(value) != 2:
            raise InputError(f"{where}: an interval [from, to] is wanted, not {value!r}.")
        for end in value:
            _number(end, parameter.lowest, parameter.highest, where)
        if value[0] > value[1]:
            raise InputError(f"{where}: {value!r} runs from the larger to the smaller number.")


def _choice(value: Any, options: tuple[str, ...], where: str) -> None:
    names = value if isinstance(value, list) else [value]
    known = all(isinstance(name, str) and name in options for name in names)
    if not names or not known or len(set(names)) < len(names):
        raise InputError(
            f"{where}: {value!r} is neither one of {', '.join(options)} nor a list of different ones."
        )


def _keys(value: Any, wanted: set[str], where: str, optional: Iterable[str] = ()) -> None:
    names = ", ".join(sorted(wanted)) or "none"
    if not isinstance(value, dict):
        raise InputError(f"{where}: a map with these keys is wanted: {names}.")
    for key in value:
        if key not in wanted:
            raise InputError(f"{where}: unknown key {key!r}; the keys are: {names}.")
    for key in sorted(wanted - set(value) - set(optional)):
        raise InputError(f"{where}: the key {key!r} is missing; the keys are: {names}.")


def _number(value: Any, lowest: float, highest: float, where: str) -> None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not (is_number and lowest <= value <= highest):
        raise InputError(f"{where}: {value!r} is not a number from {lowest:g} to {highest:g}.")
