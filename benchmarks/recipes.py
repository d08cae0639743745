"""What benchmarks of training share: the recipe that they vary, and when memory is short."""

import sys
from pathlib import Path
from typing import Any

import torch
import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "workflow" / "scripts"))

from hpaloc.config import resolve

# An augmentation that costs the CPU next to nothing.
FLIPS = {
    "negative": 0,
    "groups": [{"name": "flip", "channels": "all", "apply": {"flip_and_rotate90": {}}}],
}


def paper_recipe() -> dict[str, Any]:
    """The recipe of config.yaml, with all keys."""
    config = yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8"))
    return resolve(config)["recipes"]["paper"]


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the GPU's memory is short."""
    return isinstance(error, torch.OutOfMemoryError)
