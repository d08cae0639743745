"""Second deliveries of an image: what makes a twin that has no byte in common with the first.

Each takes the native image (uint8 N × N × 4) and the side of the arrays, and gives the image of
the arrays (uint8 side × side × 4). Used by the tests of the audit and by its benchmark.
"""

import functools
from collections.abc import Callable

import cv2
import numpy as np

from hpaloc.audit.views import VIEWS, view_of_planes
from hpaloc.classes import CHANNELS
from hpaloc.simulate.delivery import encode

# Plane of a decoded colour-coded file (OpenCV: blue, green, red) that holds a channel.
_PLANE = {"red": 2, "green": 1, "blue": 0, "yellow": 2}


def at_size(image: np.ndarray, side: int) -> np.ndarray:
    """Averaged to another size, channel by channel."""
    if image.shape[0] == side:
        return image
    return cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA)


def as_jpg(image: np.ndarray) -> np.ndarray:
    """Through four colour-coded JPG files, 4:2:0 at quality 50, as HPA delivers them."""
    planes = []
    for number, channel in enumerate(CHANNELS):
        data = encode(np.ascontiguousarray(image[..., number]), channel, "hpa_v18")
        decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        planes.append(decoded[..., _PLANE[channel]])
    return np.dstack(planes)


def with_gain(image: np.ndarray, gain: list[float]) -> np.ndarray:
    """Each channel times its gain, clipped at 255."""
    return np.clip(np.rint(image * np.float32(gain)), 0, 255).astype(np.uint8)


def in_view(image: np.ndarray, number: int) -> np.ndarray:
    """Turned or mirrored: view ``number`` of hpaloc.audit.views."""
    return np.ascontiguousarray(
        view_of_planes(image.transpose(2, 0, 1), VIEWS[number]).transpose(1, 2, 0)
    )


def resized(image: np.ndarray, side: int) -> np.ndarray:
    """By way of three quarters of the arrays' size: 512 → 384 → 512."""
    return at_size(at_size(at_size(image, side), side * 3 // 4), side)


def other_delivery(image: np.ndarray, side: int) -> np.ndarray:
    """As JPG files of 27/32 of the size: 1728 px where the first delivery has 2048."""
    return at_size(as_jpg(at_size(image, image.shape[0] * 27 // 32)), side)


def gained(gain: list[float], image: np.ndarray, side: int) -> np.ndarray:
    return at_size(with_gain(image, gain), side)


def everything(gain: list[float], view: int, image: np.ndarray, side: int) -> np.ndarray:
    """Another gain, another size, JPG, turned."""
    return in_view(other_delivery(with_gain(image, gain), side), view)


CHANGES: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
    "resized": resized,
    "recompressed": lambda image, side: at_size(as_jpg(image), side),
    "other delivery": other_delivery,
    "half the gain": functools.partial(gained, [0.5] * 4),
    "double the gain": functools.partial(gained, [2] * 4),
    "gains of 0.5 to 2": functools.partial(gained, [0.5, 2, 1.5, 0.7]),
    **{
        view.name: lambda image, side, number=number: in_view(at_size(image, side), number)
        for number, view in enumerate(VIEWS)
        if number
    },
    "all, gain 0.5, rotated 90": functools.partial(everything, [0.5] * 4, 1),
    "all, gain 2, mirrored": functools.partial(everything, [2] * 4, 4),
    "all, gains of 0.5 to 2, transposed": functools.partial(everything, [0.5, 2, 1.5, 0.7], 6),
}


def rotated(degrees: float, image: np.ndarray, side: int) -> np.ndarray:
    image = at_size(image, side)
    centre = (side / 2 - 0.5, side / 2 - 0.5)
    return cv2.warpAffine(image, cv2.getRotationMatrix2D(centre, degrees, 1), (side, side))


def cropped(share: float, image: np.ndarray, side: int) -> np.ndarray:
    """Without a margin of that share of the side all around."""
    margin = round(share * image.shape[0])
    inner = slice(margin, image.shape[0] - margin)
    return at_size(image[inner, inner], side)


def shifted(share: float, image: np.ndarray, side: int) -> np.ndarray:
    """A field of view moved by that share of the side along both axes; black where none was."""
    image = at_size(image, side)
    moved = np.zeros_like(image)
    by = round(share * side)
    moved[by:, by:] = image[: side - by, : side - by]
    return moved


# What is not promised: how far it is found all the same is measured.
BEYOND: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
    **{f"rotated by {d}°": functools.partial(rotated, d) for d in (1, 2, 3, 5)},
    **{
        f"cropped by {100 * s:g} % a side": functools.partial(cropped, s)
        for s in (0.01, 0.02, 0.05)
    },
    **{f"moved by {100 * s:g} %": functools.partial(shifted, s) for s in (0.01, 0.02, 0.05)},
}
