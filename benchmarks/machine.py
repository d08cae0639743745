"""What a benchmark says of the machine that it ran on."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "workflow" / "scripts"))

from hpaloc.provenance import cpu_model

__all__ = ["cpu_model"]
