"""The recipe that benchmarks of training vary."""

import sys
from pathlib import Path
from typing import Any

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
