"""What lies in a folder of images, told from names and sizes alone: quick enough for planning."""

import hashlib
import os
from pathlib import Path

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".npy")


def list_images(folder: str | Path) -> list[tuple[str, int]]:
    """Relative POSIX path and size in bytes of each image file below ``folder``, sorted.

    Hidden files and folders are left out, as are files with other endings. Symbolic links are
    followed; one that leads nowhere is a file of 0 bytes.
    """
    found = []
    seen = set()
    for parent, folders, names in os.walk(folder, followlinks=True):
        here = os.path.realpath(parent)
        if here in seen:  # a link to a folder above would go round for ever
            folders.clear()
            continue
        seen.add(here)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in names:
            if name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith("."):
                path = Path(parent, name)
                size = path.stat().st_size if path.exists() else 0
                found.append((path.relative_to(folder).as_posix(), size))
    return sorted(found)


def listing_digest(images: list[tuple[str, int]]) -> str:
    """sha256 (hex) of a listing: another when an image comes, goes or changes its size."""
    lines = "".join(f"{name}\t{size}\n" for name, size in images)
    return hashlib.sha256(lines.encode("utf-8", "surrogateescape")).hexdigest()
