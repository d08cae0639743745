"""Transforms of the albumentations library, where a scheme names one of them.

The workflow's own transforms are those of the paper; the library has some thirty more that change
the values of four-channel images, such as noise and blur.
"""

import functools
import json
import warnings
from typing import Any

import numpy as np

from hpaloc.log import InputError


@functools.lru_cache(maxsize=64)
def library_transform(name: str, arguments: str) -> Any:
    """The transform ``name`` with ``arguments`` (a JSON map), applied whenever it is called.

    Raises InputError for what the library does not know, for transforms that move pixels (the
    workflow's own do that in one step) and for arguments that it does not take.
    """
    # Here, since most runs need nothing of it and it takes a second to import.
    import albumentations

    where = f"augmentation: albumentations: {name}"
    known = getattr(albumentations, name, None)
    if not (isinstance(known, type) and issubclass(known, albumentations.ImageOnlyTransform)):
        raise InputError(
            f"{where}: the library has no transform of that name that changes values only. What"
            " moves pixels is among the workflow's own: rotate, shear, affine, piecewise_affine,"
            " crop_and_pad, flip_and_rotate90."
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # how it tells of unknown arguments
            return known(**json.loads(arguments), p=1.0)
    except (ValueError, TypeError, UserWarning) as error:
        words = " ".join(str(error).split())
        raise InputError(f"{where}: {arguments} cannot be its arguments: {words[:300]}") from None


def apply_library(
    planes: list[np.ndarray], name: str, arguments: str, seed: int
) -> list[np.ndarray]:
    """``planes`` (uint8 H×W each) after one draw of a transform, seeded by ``seed`` (32 bit).

    Raises InputError where the transform does not work on so many channels of 8 bit.
    """
    transform = library_transform(name, arguments)
    transform.set_random_seed(seed)
    image = np.stack(planes, axis=2)
    try:
        result = transform(image=image)["image"]
    except (ValueError, TypeError, KeyError) as error:
        words = " ".join(str(error).split())
        raise InputError(
            f"augmentation: albumentations: {name} does not work on {len(planes)} channels:"
            f" {words[:200]}"
        ) from None
    if result.shape != image.shape or result.dtype != image.dtype:
        raise InputError(
            f"augmentation: albumentations: {name} makes {result.dtype} {result.shape} of"
            f" {image.dtype} {image.shape}; images must stay what they are."
        )
    return [np.ascontiguousarray(result[..., number]) for number in range(len(planes))]
