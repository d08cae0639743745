"""Images for benchmarks, as the workflow keeps them and as a file each."""

from pathlib import Path

import cv2
import numpy as np
import pandas as pd

IMAGES_PER_SHARD = 512


def make_images(
    folder: Path, count: int, side: int
) -> tuple[tuple[pd.DataFrame, list[np.ndarray]], list]:
    """The same images (uint8 side × side × 4) twice: as mapped shards with their index, and as a
    .npy file each."""
    rng = np.random.default_rng(1)
    noise = rng.integers(0, 256, (3 * side, 3 * side, 4), dtype=np.uint8)
    # As dark and as smooth as cells are; each image is another cut of it.
    blurred = cv2.GaussianBlur(noise, (0, 0), 2).astype(np.float32)
    texture = np.clip(6 * (blurred - 125), 0, 255).astype(np.uint8)
    shards, files = [], []
    for first in range(0, count, IMAGES_PER_SHARD):
        length = min(IMAGES_PER_SHARD, count - first)
        path = folder / f"shard_{len(shards):03d}.npy"
        pixels = np.lib.format.open_memmap(path, "w+", np.uint8, (length, side, side, 4))
        for row, (y, x) in enumerate(rng.integers(0, 2 * side, (length, 2))):
            pixels[row] = texture[y : y + side, x : x + side]
            files.append(folder / f"{first + row}.npy")
            np.save(files[-1], pixels[row])
        pixels.flush()
        shards.append(np.load(path, mmap_mode="r"))
    numbers = np.arange(count)
    frame = pd.DataFrame(
        {
            "image_id": [f"image {number}" for number in numbers],
            "shard": numbers // IMAGES_PER_SHARD,
            "row": numbers % IMAGES_PER_SHARD,
        }
    )
    return (frame, shards), files
