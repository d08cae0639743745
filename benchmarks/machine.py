"""What a benchmark says of the machine that it ran on."""

import platform
from pathlib import Path


def cpu_model() -> str:
    """The name of the processor, such as ``AMD EPYC``."""
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()
