"""The scheme of augmentation as the config writes it: what may stand there, and what it means.

A scheme is ``{"negative": share, "groups": [group, …]}``, applied from the first group to the
last. A group names its channels and either one transform (``apply``) or parallel ones
(``one_of``), of which each image and epoch gets one, all equally likely. A transform is a map
with one key, its name, over its parameters: ``{"rotate": {"degrees": [-10, 10]}}``. An interval
is drawn from uniformly. Everything here is free of image libraries, so that a config can be
checked where none is installed.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

from hpaloc.classes import CHANNELS
from hpaloc.log import InputError


class Interval(NamedTuple):
    """A parameter ``[from, to]`` within the limits; ``identity`` is where it changes nothing."""

    lowest: float
    highest: float
    identity: float
    meaning: str


class Number(NamedTuple):
    """A parameter that is one number within the limits."""

    lowest: float
    highest: float
    meaning: str


class Flag(NamedTuple):
    """A parameter that is true or false."""

    meaning: str


class Name(NamedTuple):
    """A parameter that is a text, such as the name of a class."""

    meaning: str


class Arguments(NamedTuple):
    """A parameter that is a map of any arguments, checked by whoever takes them."""

    meaning: str


class Transform(NamedTuple):
    """What a transform does, its kind (see KINDS; None: takes the group's), its parameters."""

    meaning: str
    kind: str | None
    parameters: dict[str, Interval | Number | Flag | Name | Arguments]


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

TRANSFORMS: dict[str, Transform] = {
    "none": Transform("leaves the image as it is", None, {}),
    "crop_and_pad": Transform(
        "pads each side with black, or crops it, then resizes to the size before",
        "removal",
        {
            "share": Interval(
                -0.4, 0.4, 0.0, "share of the image's side, per side; below 0 crops, above 0 pads"
            )
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
    "piecewise_affine": Transform(
        "displaces the points of a 4×4 grid and what lies between them",
        "geometry",
        {
            "scale": Interval(
                0.0, 0.2, 0.0, "standard deviation of the displacement, as a share of the side"
            )
        },
    ),
    "rotate": Transform(
        "rotates about the centre", "geometry", {"degrees": Interval(-180.0, 180.0, 0.0, _DEGREES)}
    ),
    "shear": Transform(
        "shears along the rows", "geometry", {"degrees": Interval(-45.0, 45.0, 0.0, _DEGREES)}
    ),
    "affine": Transform(
        "rotates, scales, shears and shifts in one step",
        "geometry",
        {
            "degrees": Interval(-180.0, 180.0, 0.0, _DEGREES),
            "scale": Interval(0.2, 5.0, 1.0, "magnification"),
            "shear": Interval(-45.0, 45.0, 0.0, _DEGREES),
            "shift": Interval(-0.5, 0.5, 0.0, "shift as a share of the side, along each axis"),
        },
    ),
    "flip_and_rotate90": Transform(
        "one of the eight exact flips and rotations by 90°, all equally likely", "geometry", {}
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
        "blends with a sharpened image",
        "values",
        {"alpha": Interval(0.0, 1.0, 0.0, _ALPHA)},
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
    "crop_and_pad"
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
    _keys(given, set(known), f"{where}.{name}")
    for key, parameter in known.items():
        _check_parameter(given[key], parameter, f"{where}.{name}.{key}")


def _check_parameter(
    value: Any, parameter: Interval | Number | Flag | Name | Arguments, where: str
) -> None:
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
    elif isinstance(parameter, Number):
        _number(value, parameter.lowest, parameter.highest, where)
    else:
        if not isinstance(value, list) or len(value) != 2:
            raise InputError(f"{where}: an interval [from, to] is wanted, not {value!r}.")
        for end in value:
            _number(end, parameter.lowest, parameter.highest, where)
        if value[0] > value[1]:
            raise InputError(f"{where}: {value!r} runs from the larger to the smaller number.")


def _keys(value: Any, wanted: set[str], where: str) -> None:
    names = ", ".join(sorted(wanted)) or "none"
    if not isinstance(value, dict):
        raise InputError(f"{where}: a map with these keys is wanted: {names}.")
    for key in value:
        if key not in wanted:
            raise InputError(f"{where}: unknown key {key!r}; the keys are: {names}.")
    for key in sorted(wanted - set(value)):
        raise InputError(f"{where}: the key {key!r} is missing; the keys are: {names}.")


def _number(value: Any, lowest: float, highest: float, where: str) -> None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not (is_number and lowest <= value <= highest):
        raise InputError(f"{where}: {value!r} is not a number from {lowest:g} to {highest:g}.")
