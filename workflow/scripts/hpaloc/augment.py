"""Augmentation by a scheme (see hpaloc.scheme), reproducible image by image.

Every image's draw is seeded by a hash of all that distinguishes it: seed, fold, purpose, epoch,
view and image id. No two draws share a random stream, and neither the number of worker processes
nor the order of the images changes a pixel.
"""

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from hpaloc.albumentations_transforms import apply_library
from hpaloc.classes import CHANNELS
from hpaloc.files import canonical_json
from hpaloc.scheme import channels_of, check_scheme, transforms_of
from hpaloc.transforms import Channels, Place, Resize, Step, apply_steps, draw_step

GREEN = CHANNELS.index("green")

Parallel = list[tuple[str, dict[str, Any]]]


@dataclass(frozen=True)
class Pipeline:
    """A valid scheme's groups in order, each with its channels and parallel transforms."""

    groups: list[tuple[Channels, Parallel]]
    generator: np.random.Generator


def build(scheme: dict[str, Any]) -> Pipeline:
    """The pipeline of a scheme's groups, for uint8 images H×W×4; negatives are apart.

    Raises InputError for a scheme that is not valid, and for transforms of the albumentations
    library that it does not have or that do not work on the group's channels.
    """
    check_scheme(scheme)
    groups = [(channels_of(group), transforms_of(group)) for group in scheme["groups"]]
    for channels, parallel in groups:
        for name, parameters in parallel:
            if name == "albumentations":  # tried now: a job must not find out in its first epoch
                arguments = canonical_json(parameters["arguments"])
                grey = [np.full((64, 64), 99, np.uint8)] * len(channels)
                apply_library(grey, parameters["transform"], arguments, 0)
    return Pipeline(groups, np.random.Generator(np.random.PCG64(0)))


def stream(seed: int, purpose: str, epoch: int, view: int, image_id: str, fold: int = 0) -> bytes:
    """32 bytes that seed one draw: a hash of what distinguishes it from every other draw.

    ``purpose`` is "train", "validation" or "prediction"; ``view`` counts the views of one image
    within an epoch from 0; ``fold`` is the validation fold of the network that the draw is for,
    0 where it is for the networks of all folds.
    """
    key = f"{seed}/{fold}/{purpose}/{epoch}/{view}/{image_id}".encode()
    return hashlib.blake2b(key, digest_size=32).digest()


def is_negative(share: float, stream: bytes) -> bool:
    """Whether a draw makes a negative sample, true for ``share`` of all streams."""
    number = int.from_bytes(hashlib.blake2b(stream, digest_size=8).digest(), "little")
    return number < share * 2**64


def draw(
    pipeline: Pipeline, shape: tuple[int, ...], stream: bytes, size: int | None = None
) -> list[Step]:
    """The steps that one draw makes of the pipeline for an image of ``shape`` (H, W, …).

    ``size`` is the side to which a ``resize`` of the scheme brings the image (else its height).
    """
    named = named_draw(pipeline, shape, stream, size)
    return [step for _, step in named if step is not None]


def named_draw(
    pipeline: Pipeline, shape: tuple[int, ...], stream: bytes, size: int | None = None
) -> list[tuple[int, Step | None]]:
    """What ``draw`` gives with, for each group, which of its parallel transforms was drawn, from 0;
    a transform that leaves the image as it is has None for its step."""
    rng = _seeded(pipeline.generator, stream)
    height, width = shape[:2]
    size = height if size is None else size
    steps: list[tuple[int, Step | None]] = []
    for channels, parallel in pipeline.groups:
        chosen = int(rng.integers(len(parallel))) if len(parallel) > 1 else 0
        name, parameters = parallel[chosen]
        step = draw_step(name, parameters, Place(rng, height, width, channels, size))
        if isinstance(step, Resize):
            height = width = size
        steps.append((chosen, step))
    return steps


def augment(pipeline: Pipeline, image: np.ndarray, stream: bytes) -> np.ndarray:
    """``image`` (uint8, H×H×4) after one draw of the pipeline; the input is left as it is."""
    return apply_steps(draw(pipeline, image.shape, stream), image, len(image))


def _seeded(generator: np.random.Generator, stream: bytes) -> np.random.Generator:
    """``generator`` with its state set by ``stream`` (a new one would cost 20 µs)."""
    generator.bit_generator.state = {
        "bit_generator": "PCG64",
        # PCG64 wants an odd increment; each one is a sequence of its own.
        "state": {
            "state": int.from_bytes(stream[:16], "little"),
            "inc": int.from_bytes(stream[16:], "little") | 1,
        },
        "has_uint32": 0,
        "uinteger": 0,
    }
    return generator


def blank_green(image: np.ndarray) -> np.ndarray:
    """A negative sample: ``image`` (uint8, H×W×4) without protein, in a new array."""
    blanked = image.copy()
    blanked[..., GREEN] = 0
    return blanked


def augmented(
    pipeline: Pipeline, image: np.ndarray, size: int, stream: bytes, negative: float = 0.0
) -> tuple[np.ndarray, bool]:
    """One draw at size×size, uint8 H×W×4, and whether it became a negative sample.

    It is resized where the scheme says so (``resize``), else after all other steps.
    """
    result = apply_steps(draw(pipeline, image.shape, stream, size), image, size)
    if is_negative(negative, stream):
        return blank_green(result), True
    return result, False
