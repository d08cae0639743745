"""Which grey values of 16-bit files become 0 and 255: one range a channel for a whole source."""

import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from hpaloc.classes import CHANNELS
from hpaloc.image_header import reading_of
from hpaloc.images import BadImage, Header, plane_of_channel, plane_of_stack, read_planes
from hpaloc.log import InputError, some_of

_SATURATED_SHARE = 0.01
_IMAGES_FOR_SATURATION = 200

_log = logging.getLogger("hpaloc")


def grey_range(histogram: np.ndarray, settings: dict, channel: str) -> tuple[float, float]:
    """The grey values that become 0 and 255, from a histogram over all values of a channel.

    ``settings`` name a ``method``: "percentile" with ``low`` and ``high`` in percent, or
    "maximum" with a ``value`` (one, or one per channel). Warns of more than 1 % saturation.
    """
    if settings["method"] == "maximum":
        value = settings["value"]
        low, high = 0.0, float(value[channel] if isinstance(value, dict) else value)
    else:
        shares = np.cumsum(histogram) / histogram.sum()
        low, high = (float(np.searchsorted(shares, settings[end] / 100)) for end in ("low", "high"))
    if high <= low:
        raise InputError(
            f"grey_range: in channel {channel} the percentiles {settings['low']} and"
            f" {settings['high']} are both the grey value {low:g}: its images are blank, or nearly."
            " Check them, widen the percentiles, or state a maximum."
        )
    saturated = histogram[int(np.ceil(min(high, len(histogram) - 1))) :].sum() / histogram.sum()
    if saturated > _SATURATED_SHARE:
        _log.warning(
            "channel %s: %.1f %% of the pixels are saturated, at or above the grey value %g that"
            " becomes 255; choose a higher grey_range, or check the exposure if that is the"
            " camera's maximum",
            channel, 100 * saturated, high,
        )  # fmt: skip
    return low, high


def grey_ranges(
    folder: Path,
    files: dict[str, list[str]],
    headers: dict[str, Header | None],
    settings: dict,
    workers: int,
) -> dict[str, tuple[float, float]]:
    """Grey range of every channel that has 16-bit files, from a fixed sample of its images.

    ``files`` has the four paths of each image, ``headers`` the header of each path, None where
    the file is no image.
    """
    wanted, reading = settings["grey_range"], reading_of(settings)
    ranges = {}

    def histogram(k: int, path: str) -> np.ndarray | str:
        try:
            planes = read_planes((folder / path).read_bytes(), reading=reading)
            if reading.stacked:
                plane = plane_of_stack(planes, CHANNELS[k], settings["stack_order"])
            else:
                plane = plane_of_channel(planes, CHANNELS[k])
        except BadImage as error:  # the conversion lists it
            return f"{path}: {error}"
        return np.bincount(plane.ravel(), minlength=2**16)

    for k, channel in enumerate(CHANNELS):
        paths = [paths[k] for _, paths in sorted(files.items())]
        deep = [p for p in paths if headers[p] and headers[p].dtype == "uint16"]
        if not deep:
            continue
        if shallow := sum(headers[p].dtype == "uint8" for p in paths if headers[p]):
            _log.warning(
                "channel %s: %d files have 8 bits and keep their grey values, beside %d of 16 bits"
                " that are scaled",
                channel, shallow, len(deep),
            )  # fmt: skip
        # A maximum that is stated needs no look at the images, but for the warning.
        count = min(wanted.get("images", _IMAGES_FOR_SATURATION), len(deep))
        sample = np.sort(np.random.default_rng(0).choice(len(deep), count, replace=False))
        total = np.zeros(2**16, np.int64)
        broken = []
        with ThreadPoolExecutor(workers) as executor:
            for one in executor.map(lambda i, k=k, deep=deep: histogram(k, deep[i]), sample):
                if isinstance(one, str):
                    broken.append(one)
                else:
                    total += one
        if not total.any():
            _log.warning(
                "channel %s: none of %d 16-bit files can be read: %s",
                channel, count, some_of(broken),
            )  # fmt: skip
            continue
        ranges[channel] = grey_range(total, wanted, channel)
        _log.info(
            "channel %s: grey values %g to %g become 0 to 255 (%s, %d of %d 16-bit images)",
            channel, *ranges[channel], wanted["method"], count, len(deep),
        )  # fmt: skip
    return ranges
