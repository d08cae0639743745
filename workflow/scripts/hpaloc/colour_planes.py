"""Which plane of an RGB picture holds the signal of a channel.

The atlas colours red, green, blue and yellow; other programs colour as they like. A picture of one
channel has its signal in one plane, or the same picture in several, and the others are dark.
"""

import itertools

import cv2
import numpy as np

from hpaloc.image_header import BadImage

# The plane of an RGB file that holds the signal of a colour-coded channel: yellow is R and G
# alike. Luma would scale the channels by 0.299, 0.587, 0.114 and 0.886 and lose most of blue.
RGB_PLANE = {"red": 0, "green": 1, "blue": 2, "yellow": 0}

_COLOURS = {"red": (0,), "green": (1,), "blue": (2,), "yellow": (0, 1)}
_NAMES = ("red", "green", "blue")
# A plane is dark if its deviation is below this share of the strongest plane's: coarse chroma of
# the atlas's JPEG files leaves up to a fifth of the signal beside sharp edges.
_DARK = 1 / 3
# And in 8 bits below this many grey values: the noise of JPEG in pictures that are nearly black.
_NOISE = 3.0
# What has no brighter grey value and no signal above the noise has no colour either.
_NEARLY_BLACK = 24
# Two planes hold the same picture if they correlate so. Different stains of the same cells come
# up to 0.95, the red and green of the atlas's yellow files 0.998.
_SAME = 0.98
# Rows that are looked at, of the whole picture, where they leave no doubt.
_ROWS = 96


def plane_with_signal(planes: np.ndarray, channel: str) -> tuple[int, str]:
    """The plane of an RGB picture (H × W × 3) that holds the signal of a channel, and a note.

    The note is "" where that is the plane of the atlas's colour. Raises BadImage where planes
    hold different pictures.
    """
    step = planes.shape[0] // _ROWS
    if step > 1:
        sample = planes[::step]
        deviation = cv2.meanStdDev(sample)[1].ravel()
        if deviation.max() > 4 * _noise(planes):
            found = _judged(sample, deviation, channel, every=8)
            if isinstance(found, tuple):
                return found
    deviation = cv2.meanStdDev(planes)[1].ravel()
    if not deviation.any():  # one grey value: black only if all planes are
        return int(planes[0, 0].argmax()) if planes[0, 0].any() else RGB_PLANE[channel], ""
    found = _judged(planes, deviation, channel)
    if isinstance(found, str):
        raise BadImage(found)
    return found


def _judged(
    planes: np.ndarray, deviation: np.ndarray, channel: str, every: int = 1
) -> tuple[int, str] | str:
    """The plane and its note; or why there is none, in words. ``deviation`` is not all zero.

    Planes are compared in every ``every``-th row: that costs more than their deviations.
    """
    own, colour, noise = RGB_PLANE[channel], _COLOURS[channel], _noise(planes)
    strongest = deviation.max()
    if strongest <= noise and deviation[own] > 0 and planes.max() <= _NEARLY_BLACK:
        return own, ""
    dark = max(_DARK * strongest, noise)
    bright = [k for k in range(3) if deviation[k] > dark or deviation[k] >= strongest / 2]
    if bright == [own] == list(colour):
        return own, ""
    flat = np.stack([plane.ravel() for plane in cv2.split(planes[::every])]).astype(np.float32)
    flat -= flat.mean(axis=1, keepdims=True)
    covariance = (flat @ flat.T).astype(np.float64) / flat.shape[1]
    for a, b in itertools.combinations(bright, 2):
        difference = covariance[a, a] + covariance[b, b] - 2 * covariance[a, b]
        scale = np.sqrt(covariance[a, a] * covariance[b, b])
        correlation = covariance[a, b] / scale if scale else 0.0
        if correlation < _SAME and difference > noise**2:
            return (
                f"its {_NAMES[a]} and {_NAMES[b]} planes hold different pictures"
                f" (correlation {correlation:.2f}), where a file of the {channel} channel holds"
                " one: export this channel by itself, in grey or in one colour"
            )
    # The atlas's colour, or grey; or what coarse JPEG leaves of the colours of a dim picture.
    if own in bright and (tuple(bright) in (colour, (0, 1, 2)) or strongest <= 4 * noise):
        return own, ""
    taken = own if own in bright else max(bright, key=lambda k: (deviation[k], k == 1))
    where = f"{' and '.join(_NAMES[k] for k in bright)} plane{'s' if len(bright) > 1 else ''}"
    usual = " and ".join(_NAMES[k] for k in colour)
    return taken, (
        f"the signal of the {channel} channel is in the {where}, where the atlas's files have it in"
        f" {usual}: the {_NAMES[taken]} plane is taken"
    )


def _noise(planes: np.ndarray) -> float:
    return _NOISE if planes.dtype == np.uint8 else 0.0
