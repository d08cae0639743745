"""Augmentation by a scheme (see hpaloc.scheme), reproducible image by image.

Every image's draw is seeded by a hash of all that distinguishes it: seed, purpose, epoch, view
and image id. No two draws share a random stream, and neither the number of worker processes nor
the order of the images changes a pixel.
"""

import hashlib
import os
import random
from collections.abc import Callable
from itertools import groupby
from typing import Any

# Without this, importing albumentations asks a server for newer versions.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

import albumentations as A
import cv2
import numpy as np

from hpaloc.classes import CHANNELS
from hpaloc.geometry import resized
from hpaloc.scheme import channels_of, check_scheme, transforms_of
from hpaloc.transforms import Contrast, Dihedral, EdgeDetect, Gamma, OnChannels, PiecewiseAffine

GREEN = CHANNELS.index("green")


def _coarse_dropout(share: tuple[float, float], hole: float) -> A.CoarseDropout:
    fewest, most = (max(1, round(end / hole**2)) for end in share)
    return A.CoarseDropout((fewest, most), (hole, hole), (hole, hole), fill=0, p=1)


def _affine(
    degrees: tuple[float, float] = (0, 0),
    scale: tuple[float, float] = (1, 1),
    shear: tuple[float, float] = (0, 0),
    shift: tuple[float, float] = (0, 0),
) -> A.Affine:
    return A.Affine(
        rotate=degrees, scale=scale, keep_ratio=True, shear={"x": shear, "y": (0, 0)},
        translate_percent={"x": shift, "y": shift}, border_mode=cv2.BORDER_CONSTANT, p=1,
    )  # fmt: skip


BUILDERS: dict[str, Callable[..., A.BasicTransform]] = {
    "none": lambda: A.NoOp(p=1),
    "crop_and_pad": lambda share: A.CropAndPad(percent=share, fill=0, p=1),
    "coarse_dropout": _coarse_dropout,
    "piecewise_affine": lambda scale: PiecewiseAffine(scale),
    "rotate": lambda degrees: _affine(degrees=degrees),
    "shear": lambda degrees: _affine(shear=degrees),
    "affine": _affine,
    "flip_and_rotate90": lambda: Dihedral(p=1),
    "contrast": lambda factor: Contrast(factor),
    "multiply": lambda factor, per_channel: A.MultiplicativeNoise(
        factor, per_channel=per_channel, p=1
    ),
    "gamma": lambda exponent: Gamma(exponent),
    "edge_detect": lambda alpha: EdgeDetect(alpha),
    "sharpen": lambda alpha: A.Sharpen(alpha=alpha, lightness=(1, 1), p=1),
}


def build(scheme: dict[str, Any]) -> A.Compose:
    """The pipeline of a scheme's groups, for uint8 images H×W×4; negatives are apart.

    Raises InputError for a scheme that is not valid.
    """
    check_scheme(scheme)
    steps: list[A.BasicTransform | A.BaseCompose] = []
    # Groups in a row with the same channels share one split and one merge of the channels.
    for channels, groups in groupby(scheme["groups"], key=channels_of):
        members = [_build_group(group) for group in groups]
        if len(channels) == len(CHANNELS):
            steps.extend(members)
        else:
            steps.append(OnChannels(members, channels=channels))
    pipeline = A.Compose(steps)
    # One pair of generators for all transforms: A.Compose's own seeding gives each transform a
    # generator with the same seed, so that their draws are alike, and takes half a millisecond.
    pipeline.set_random_state(np.random.Generator(np.random.PCG64(0)), random.Random(0))
    return pipeline


def _build_group(group: dict[str, Any]) -> A.BasicTransform | A.BaseCompose:
    members = [
        BUILDERS[name](
            **{
                key: tuple(value) if isinstance(value, list) else value
                for key, value in parameters.items()
            }
        )
        for name, parameters in transforms_of(group)
    ]
    return A.OneOf(members, p=1) if "one_of" in group else members[0]


def stream(seed: int, purpose: str, epoch: int, view: int, image_id: str) -> bytes:
    """48 bytes that seed one draw: a hash of what distinguishes it from every other draw.

    ``purpose`` is "train", "validation" or "prediction"; ``view`` counts the views of one image
    within an epoch from 0.
    """
    key = f"{seed}/{purpose}/{epoch}/{view}/{image_id}".encode()
    return hashlib.blake2b(key, digest_size=48).digest()


def is_negative(share: float, stream: bytes) -> bool:
    """Whether a draw makes a negative sample, true for ``share`` of all streams."""
    number = int.from_bytes(hashlib.blake2b(stream, digest_size=8).digest(), "little")
    return number < share * 2**64


def augment(pipeline: A.Compose, image: np.ndarray, stream: bytes) -> np.ndarray:
    """``image`` (uint8, H×W×4) after one draw of the pipeline; the input is left as it is."""
    _reseed(pipeline, stream)
    return pipeline(image=image)["image"]


def _reseed(pipeline: A.Compose, stream: bytes) -> None:
    """Sets the state of the pipeline's generators (8 µs; new generators would cost 20)."""
    state, increment, python_seed = (
        int.from_bytes(stream[start : start + 16], "little") for start in (0, 16, 32)
    )
    pipeline.random_generator.bit_generator.state = {
        "bit_generator": "PCG64",
        # PCG64 wants an odd increment; each one is a sequence of its own.
        "state": {"state": state, "inc": increment | 1},
        "has_uint32": 0,
        "uinteger": 0,
    }
    pipeline.py_random.seed(python_seed)


def blank_green(image: np.ndarray) -> np.ndarray:
    """A negative sample: ``image`` (uint8, H×W×4) without protein, in a new array."""
    blanked = image.copy()
    blanked[..., GREEN] = 0
    return blanked


def augmented(
    pipeline: A.Compose, image: np.ndarray, size: int, stream: bytes, negative: float = 0.0
) -> tuple[np.ndarray, bool]:
    """One draw at size×size, uint8 H×W×4, and whether it became a negative sample.

    Augments at the size of the array, then resizes, in the paper's order.
    """
    result = resized(augment(pipeline, image, stream), size)
    if is_negative(negative, stream):
        return blank_green(result), True
    return result, False
