"""What a trained network runs on when a CPU predicts: torch itself, compiled, or OpenVINO.

``torch`` is eager float32, the same bytes as in training. The others give its probabilities but for
about 1e-5 in float32, or 1e-2 in bfloat16, which they take where it is faster. Each is prepared
once for a fixed number of images; any number of images is then predicted, in groups of so many, the
last one filled up with zeros, so that the answer of an image does not depend on what comes with it.
"""

import logging
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from hpaloc.classes import CHANNELS
from hpaloc.compile_cache import compile_twice, use_folder, what_is_missing
from hpaloc.compute import Compute
from hpaloc.gradient import Forward
from hpaloc.inference import on_gpu
from hpaloc.log import InputError, duration
from hpaloc.network import Network

log = logging.getLogger("hpaloc")

BACKENDS = ("torch", "compiled", "openvino")

# Images at a time: more take memory and are no faster.
_GROUP = 8

# The last feature maps (N × C × h × w) of a group of images.
Run = Callable[[torch.Tensor], torch.Tensor]


def prepared(
    network: Network, backend: str, precision: str, image_size: int, batch_size: int
) -> Forward:
    """``network`` (in evaluation mode, on the CPU) made ready to run on a backend.

    ``precision`` is the recipe's: ``auto`` takes bfloat16 where ``fast_bfloat16`` says so, else
    float32. For batches of at most ``batch_size`` images of ``image_size`` px; torch's number of
    threads is used. ``torch`` gives the network back. ``compiled`` without a working C++ compiler
    warns and does the same. Raises InputError for an unknown backend and for ``openvino`` where
    it is not installed.
    """
    if backend not in BACKENDS:
        raise InputError(f"backend {backend!r} is none of {', '.join(BACKENDS)}.")
    if backend == "torch":
        return network
    openvino = _import_openvino() if backend == "openvino" else None
    bfloat16 = precision == "bfloat16" or (precision == "auto" and fast_bfloat16())
    group = min(batch_size, _GROUP)
    example = torch.zeros((group, image_size, image_size, len(CHANNELS)), dtype=torch.uint8)
    start = time.perf_counter()
    if openvino is None:
        folder = use_folder()
        if missing := what_is_missing("cpu"):
            _warn(missing)
            return network
    with torch.no_grad():
        program = torch.export.export(_Maps(network), (example,))
    if openvino is not None:
        run = _on_openvino(openvino, program, bfloat16)
    else:
        # Not the network itself: torch compiles one function at most eight times, and all
        # networks share that of their class. A program has a function of its own.
        run = _compiled(program.module(), bfloat16)
        try:
            compile_twice(lambda: run(example), folder, lambda error: False)
        except Exception as error:  # noqa: BLE001 - a compiler or a disk may fail
            reason = (str(error).strip().splitlines() or [""])[0][:200]
            _warn(f"{type(error).__name__}: {reason}")
            return network
    log.info(
        "%s in %s, %d images at a time, %d threads: prepared in %s",
        f"OpenVINO {openvino.__version__}" if openvino else "compiled by torch",
        "bfloat16" if bfloat16 else "float32", group, torch.get_num_threads(),
        duration(time.perf_counter() - start),
    )  # fmt: skip
    return _in_groups(run, example, network)


def ready(
    networks: Sequence[Network], recipe: dict[str, Any], backend: str, compute: Compute
) -> list[Forward]:
    """The networks (in evaluation mode, on the CPU) as they predict: ``on_gpu``, or ``prepared``.

    Reads the recipe's ``precision``, ``compile``, ``image_size`` and ``batch_size``.
    """
    if compute.device.type == "cpu":
        keys = ("precision", "image_size", "batch_size")
        settings = {key: recipe[key] for key in keys}
        return [prepared(network, backend, **settings) for network in networks]
    if backend != "torch":
        log.info("prediction.backend %s is for the CPU: on this GPU torch predicts", backend)
    return on_gpu(networks, recipe, compute)


def fast_bfloat16(cpuinfo: str | Path = "/proc/cpuinfo") -> bool:
    """Whether this processor is faster in bfloat16 than in float32, by what Linux says of it.

    With AMX it is, by far, and so are AMD's processors with AVX512-BF16. Intel's without AMX (an
    older one, or a virtual machine that hides it) have the instruction and are slower: 83 against
    137 GFLOP/s in a product of matrices on a core of a Xeon of 2023.
    """
    try:
        lines = Path(cpuinfo).read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        return False
    facts = dict(map(str.strip, line.partition(":")[::2]) for line in lines if ":" in line)
    flags = facts.get("flags", "").split()
    by_amd = facts.get("vendor_id") == "AuthenticAMD"
    return "amx_bf16" in flags or ("avx512_bf16" in flags and by_amd)


def _warn(reason: str) -> None:
    log.warning(
        "the network cannot be compiled (%s); predicting with torch in float32, slower", reason
    )


class _Maps(nn.Module):
    """What a backend runs: all of a network up to its last feature maps, nearly all of its work."""

    def __init__(self, network: Network):
        super().__init__()
        self.normalise, self.body = network.normalise, network.body

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.body(self.normalise(images))


def _in_groups(run: Run, group: torch.Tensor, network: Network) -> Forward:
    """``run`` takes no tensor but ``group``: a compiled program would see another one as new.

    The averages of the maps and the linear layer stay in float32: the sums of thousands of terms,
    rounded to the 8 bits of bfloat16, are what would move probabilities most.
    """

    def logits(images: torch.Tensor) -> torch.Tensor:
        parts = []
        with torch.inference_mode(), torch.autocast("cpu", enabled=False):
            for part in images.split(len(group)):
                group[: len(part)] = part
                group[len(part) :] = 0
                pooled = network.pool(run(group).float()).flatten(1)
                # The whole group: a product of fewer rows may be summed in another order.
                parts.append(network.head(pooled)[: len(part)])
            return torch.cat(parts)

    return logits


def _compiled(module: nn.Module, bfloat16: bool) -> Run:
    # Frozen: weights are constants, folded with batch norm and laid out for the processor.
    # The whole graph or an error: a part that is not compiled would be slow without a word.
    compiled = torch.compile(module, fullgraph=True, options={"freezing": True})

    def run(images: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            return compiled(images)

    return run


def _on_openvino(
    openvino: ModuleType, program: torch.export.ExportedProgram, bfloat16: bool
) -> Run:
    model = openvino.convert_model(program)
    model.reshape(list(program.example_inputs[0][0].shape))
    request = (
        openvino.Core()
        .compile_model(
            model,
            "CPU",
            {
                "INFERENCE_PRECISION_HINT": "bf16" if bfloat16 else "f32",
                # All threads at one group: a group per thread would take memory for each.
                "PERFORMANCE_HINT": "LATENCY",
                "INFERENCE_NUM_THREADS": torch.get_num_threads(),
                # Several jobs on a machine would be pinned to the same cores.
                "ENABLE_CPU_PINNING": False,
            },
        )
        .create_infer_request()
    )

    def run(images: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(request.infer([images.numpy()])[0])

    return run


def _import_openvino() -> ModuleType:
    # At its import it would report to a server and write to the home folder that it was
    # imported; where this module is not found, it does neither.
    sys.modules.setdefault("openvino_telemetry", None)
    try:
        import openvino
    except ImportError as error:
        raise InputError(
            f"prediction.backend is openvino, but OpenVINO cannot be imported ({error}). Install"
            " it (pip install openvino, or openvino of conda-forge), or choose the backend"
            " compiled or torch."
        ) from None
    return openvino
