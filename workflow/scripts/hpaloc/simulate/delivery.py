"""Files as the real sources deliver them: names, coding, and the writing of one image.

``kaggle``: one greyscale PNG a channel, ``train/<uuid>_<colour>.png``. ``hpa_v18``: one
colour-coded JPG a channel, 4:2:0 at quality 50, ``images/<antibody>/<plate>_<well>_<n>_<colour>.jpg``;
red lies in plane R, green in G, blue in B, yellow in R and G.
"""

import hashlib
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from hpaloc.classes import CHANNELS
from hpaloc.files import written_whole
from hpaloc.simulate.render import Record, render

FOLDERS = {"kaggle": "train", "hpa_v18": "images"}

_PNG = [cv2.IMWRITE_PNG_COMPRESSION, 1]
_JPG = [
    cv2.IMWRITE_JPEG_QUALITY, 50,
    cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420,
]  # fmt: skip
# Planes of an RGB file that carry a channel.
_PLANES = {"red": [0], "green": [1], "blue": [2], "yellow": [0, 1]}
_WELLS = [f"{row}{column}" for row in "ABCDEFGH" for column in range(1, 13)]


def image_id(settings: Mapping[str, Any], known: Record) -> str:
    """A name in the manner of the delivery, unique over seeds and deliveries."""
    if settings["delivery"] == "kaggle":
        digest = hashlib.sha256(f"{known.antibody}/{known.number}".encode()).digest()
        return str(uuid.UUID(bytes=digest[:16]))
    within = known.number % settings["images_per_antibody"]
    # A well of the plate for each cell line of the antibody, a number for each image of a well.
    picture, line = divmod(within, len(settings["cell_lines"]))
    plate = 1 + known.antibody_number // 12
    well = _WELLS[(8 * known.antibody_number + line) % len(_WELLS)]
    return f"{known.antibody}_{plate}_{well}_{picture + 1}"


def image_paths(settings: Mapping[str, Any], known: Record) -> dict[str, str]:
    """The four files of an image, relative to the raw folder."""
    name = image_id(settings, known)
    if settings["delivery"] == "kaggle":
        return {channel: f"{FOLDERS['kaggle']}/{name}_{channel}.png" for channel in CHANNELS}
    folder, _, rest = name.partition("_")
    return {channel: f"{FOLDERS['hpa_v18']}/{folder}/{rest}_{channel}.jpg" for channel in CHANNELS}


def encode(plane: np.ndarray, channel: str, delivery: str) -> bytes:
    """A uint8 plane as the bytes of the delivery's file for ``channel``."""
    if delivery == "kaggle":
        return cv2.imencode(".png", plane, _PNG)[1].tobytes()
    colour = np.zeros((*plane.shape, 3), dtype=np.uint8)
    # OpenCV keeps the planes in the order blue, green, red.
    for rgb_plane in _PLANES[channel]:
        colour[..., 2 - rgb_plane] = plane
    return cv2.imencode(".jpg", colour, _JPG)[1].tobytes()


def make_image(settings: Mapping[str, Any], number: int, raw: Path) -> dict[str, Any]:
    """Renders image ``number`` and writes its four files under ``raw``.

    Returns ``{"number": …, "bytes": {channel: …}, "sha256": {channel: …}}``.
    """
    known, picture = render(settings, number)
    made: dict[str, Any] = {"number": number, "bytes": {}, "sha256": {}}
    paths = image_paths(settings, known)
    for plane, channel in enumerate(CHANNELS):
        data = encode(np.ascontiguousarray(picture[..., plane]), channel, settings["delivery"])
        with written_whole(raw / paths[channel]) as aside:
            aside.write_bytes(data)
        made["bytes"][channel] = len(data)
        made["sha256"][channel] = hashlib.sha256(data).hexdigest()
    return made
