"""From light to grey values: point spread, haze, photon noise, camera offset, 8 bit."""

from typing import NamedTuple

import numpy as np

from hpaloc.simulate.draw import blur


class Camera(NamedTuple):
    """How a set of images was taken; grey values are those of the 8-bit file."""

    gain: tuple[float, float]  # grey level, as a share of 255, of a signal of 1 (range of images)
    photons: float  # at grey level 255
    background: tuple[float, float]  # grey levels, before the offset is taken off
    offset: float  # grey levels that are taken off: dark ground becomes 0
    read_noise: float  # grey levels
    psf: float  # µm, deviation of the point spread function
    haze: float  # share of the light that is out of focus


CAMERAS = {
    "kaggle": Camera((0.50, 0.90), 500, (3, 8), 4, 1.2, 0.16, 0.12),
    "hpa_v18": Camera((0.85, 1.60), 260, (4, 10), 9, 1.8, 0.22, 0.22),
}
_HAZE_UM = 1.6


def take_picture(
    signal: np.ndarray, px: float, camera: Camera, rng: np.random.Generator
) -> np.ndarray:
    """The 8-bit picture of a float32 signal (bright = 1) at ``px`` pixels per µm, uint8."""
    light = (1 - camera.haze) * blur(signal, camera.psf * px)
    light += camera.haze * blur(signal, _HAZE_UM * px)
    grey = 255 * rng.uniform(*camera.gain) * light + rng.uniform(*camera.background)
    per_grey = np.float32(camera.photons / 255)
    electrons = _poisson(np.maximum(grey, 0).astype(np.float32, copy=False) * per_grey, rng)
    grey = electrons / per_grey - np.float32(camera.offset)
    grey += np.float32(camera.read_noise) * rng.standard_normal(grey.shape, dtype=np.float32)
    return np.clip(np.rint(grey), 0, 255).astype(np.uint8)


def _poisson(mean: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Poisson counts through the square root of Anscombe (Biometrika 35, 1948), float32.

    Under it a count of some photons or more is normal with deviation 1/2; this is
    five times as fast as exact draws, and every pixel has some photons of background.
    """
    root = np.sqrt(mean + np.float32(0.125))
    root += np.float32(0.5) * rng.standard_normal(mean.shape, dtype=np.float32)
    return np.square(np.maximum(root, 0)) - np.float32(0.375)
