"""Whether this torch can use the GPUs of a job, and if not, why and what the choices are.

A network that trains on the CPU by mistake takes days, so that a GPU that is there and cannot be
used is an error. A machine without a GPU is not: there everything runs on the CPU.
"""

import os
import platform
import re
import warnings
from collections.abc import Iterable
from pathlib import Path

import torch

from hpaloc.log import InputError
from hpaloc.nvml import DRIVER, driver_version, gpu_uuids, load_library

_VISIBLE = "CUDA_VISIBLE_DEVICES"
# For GPUs of AMD: which of them a process may use.
_VISIBLE_AMD = ("ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES")
_KFD = "/dev/kfd"  # the device of AMD's driver, one for all GPUs
# Boards with the GPU and the CPU in one chip (Jetson): binary code is for these or for the others.
_JETSON = {(5, 3), (6, 2), (7, 2), (8, 7)}
# The first driver of each major version of CUDA. It runs programs of all its minor versions.
_FIRST_DRIVER = {"11": "450", "12": "525", "13": "580"}
_ON_THE_CPU = (
    "To run on the CPU on purpose: gpus_per_fold: 0 in the configuration, or --gpus 0 for a program"
    " that you start yourself."
)
_CONTAINER = "docker run --gpus all, apptainer --nv (--apptainer-args=--nv of snakemake)"


def has_usable_gpu() -> bool:
    """Returns whether torch can use a GPU of this process; False where the machine has none.

    Call it after the GPUs are claimed. It starts CUDA if there is a GPU. Raises InputError where a
    GPU is there, or was assigned to this job, and torch cannot use it: a driver that is too old, a
    torch without CUDA, a container that keeps the devices out, a CUDA that does not start, an
    architecture that this torch is not built for, a GPU that another program has for itself, or
    missing rights on a GPU of AMD where torch is built for these (ROCm).
    """
    with warnings.catch_warnings(record=True) as caught:
        # Where torch warns of the reason, it is part of the error that is raised here.
        warnings.simplefilter("always")
        available = torch.cuda.is_available()
        if available:
            torch.cuda.init()
    if available:
        if not torch.version.hip:
            _check_architectures()
        _check_that_it_is_available()
    elif sign := _sign_of_an_amd_gpu() if torch.version.hip else _sign_of_a_gpu():
        reason = _reason_of_amd() if torch.version.hip else _reason()
        raise InputError(f"A GPU is asked for and is there ({sign}), but {reason}. {_ON_THE_CPU}")
    for warning in caught:
        warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    return available


def runs_on(capability: tuple[int, int], architectures: Iterable[str]) -> bool:
    """Returns whether code built for ``architectures`` runs on a GPU of that compute capability.

    ``architectures`` are names as ``torch.cuda.get_arch_list`` gives them. Binary code (``sm_80``)
    runs on GPUs of the same major version and the same or a higher minor one; that of one
    architecture only (``sm_90a``), or of a Jetson, on this alone, and on a Jetson no other code
    runs; PTX (``compute_90``) is compiled by the driver for every later GPU.
    """
    for name in architectures:
        kind, _, number = name.partition("_")
        built = int(re.match(r"\d+", number)[0])
        built_for = built // 10, built % 10
        if number.endswith("a"):
            fits = capability == built_for
        elif kind == "compute" and not number.endswith("f"):
            fits = capability >= built_for
        elif capability in _JETSON or built_for in _JETSON:
            fits = capability == built_for
        else:
            fits = capability[0] == built_for[0] and capability >= built_for
        if fits:
            return True
    return False


def _check_architectures() -> None:
    built = torch.cuda.get_arch_list()
    for index in range(torch.cuda.device_count()):
        capability = torch.cuda.get_device_capability(index)
        if built and not runs_on(capability, built):
            architecture = f"sm_{capability[0]}{capability[1]}"
            raise InputError(
                f"The GPU {torch.cuda.get_device_name(index)} has the architecture {architecture},"
                f" and {_this_torch()} is built for {' '.join(built)}: {_torch_for(capability)},"
                f" or choose another GPU with {_VISIBLE}. {_ON_THE_CPU}"
            )


def _check_that_it_is_available() -> None:
    try:
        torch.empty(1, device="cuda")  # makes a context and takes a first piece of memory
        torch.cuda.synchronize()
    except RuntimeError as error:  # torch's errors of CUDA and of memory are such
        first, _, _ = str(error).strip().partition("\n")
        raise InputError(
            f"The GPU {torch.cuda.get_device_name()} is not available: {first} Look with nvidia-smi"
            " whether another program has it for itself or fills its memory, or choose another GPU"
            f" with {_VISIBLE}. {_ON_THE_CPU}"
        ) from None


def _torch_for(capability: tuple[int, int]) -> str:
    """What to install for a GPU that this torch has no code for."""
    if capability in _JETSON:
        return "install the torch that NVIDIA builds for Jetson (docs/gpus.md)"
    if capability >= (7, 5):
        return (
            "install the torch of requirements.txt, or a newer one where that is installed"
            " (docs/gpus.md)"
        )
    if capability >= (7, 0):
        return f"install {_for_cuda12()}, which has it (docs/gpus.md)"
    if capability >= (5, 0):
        return (
            "install the torch of requirements-cuda12.txt in its build for CUDA 12.6, which has"
            " it (docs/gpus.md)"
        )
    return "no torch that this program runs with has it (docs/gpus.md)"


def _sign_of_a_gpu() -> str:
    """What shows that an NVIDIA GPU is there or was assigned to this job; empty where nothing is.

    GPUs that somebody hides on purpose (an empty CUDA_VISIBLE_DEVICES, or -1) are not there.
    """
    visible = os.environ.get(_VISIBLE)
    first = (visible or "").split(",")[0].strip()
    if visible is not None and (not first or first.startswith("-")):
        return ""
    if uuids := list(filter(None, gpu_uuids())):
        return f"nvidia-smi lists {len(uuids)}"
    devices = [*Path("/dev").glob("nvidia[0-9]*"), *Path("/proc/driver/nvidia/gpus").glob("*")]
    if devices:
        return str(devices[0])
    if visible and first != "NoDevFiles":  # which SLURM sets for a job without GPUs
        return f"{_VISIBLE}={visible}"
    driver = load_library(DRIVER)
    if driver is not None and driver.cuInit(0) == 0:  # else there is a driver without a GPU
        return DRIVER
    return ""


def _sign_of_an_amd_gpu() -> str:
    """What shows that a GPU of AMD is there or was assigned to this job; empty where nothing is."""
    assigned = [name for name in _VISIBLE_AMD if name in os.environ]
    for name in assigned:
        first = os.environ[name].split(",")[0].strip()
        if not first or first.startswith("-"):  # hidden on purpose
            return ""
    if assigned:
        return f"{assigned[0]}={os.environ[assigned[0]]}"
    # AMD's driver without a GPU has the first only, a GPU of another maker the second only.
    if Path(_KFD).exists() and (renders := sorted(Path("/dev/dri").glob("renderD*"))):
        return f"{_KFD}, {renders[0]}"
    return ""


def _reason_of_amd() -> str:
    this = f"torch {torch.__version__} (ROCm {torch.version.hip}) cannot use it"
    if not Path(_KFD).exists():
        return (
            f"{this}, for there is no {_KFD}: install AMD's driver, or let the container have the"
            f" devices (docker run --device={_KFD} --device=/dev/dri, apptainer --rocm)"
        )
    if not os.access(Path(_KFD), os.R_OK | os.W_OK):
        return (
            f"{this}, for you have no rights on {_KFD}: become a member of the groups render and"
            " video, in a container too (docker run --group-add render --group-add video)"
        )
    return (
        f"{this}: see what rocminfo says; it needs rights on {_KFD} and /dev/dri/renderD* (groups"
        f" render and video), in a container both devices (docker run --device={_KFD}"
        " --device=/dev/dri), and a GPU that this ROCm supports"
    )


def _reason() -> str:
    """Why torch cannot use the GPU, and what to do about it."""
    if torch.version.cuda is None:
        return (
            f"torch {torch.__version__} is built without CUDA: install"
            f" {'requirements.txt or, for an older driver, ' if _is_x86() else ''}{_for_cuda12()}"
            " (docs/gpus.md)"
        )
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        return explained(str(error), driver_version())
    return "CUDA started at the second attempt only: run again"


def explained(error: str, driver: str | None) -> str:
    """Puts an error of ``torch.cuda.init`` into words, with what to do; ``driver`` is its version."""
    major = (torch.version.cuda or "").partition(".")[0]
    if found := re.search(r"too old \(found version (\d+)\)", error):
        version = int(found[1])
        of_driver = f"{driver} (CUDA {version // 1000}.{version % 1000 // 10})"
        if driver is None:
            of_driver = f"of CUDA {version // 1000}.{version % 1000 // 10}"
        needed = _FIRST_DRIVER.get(major, "a newer one")
        others = {"13": f"install {_for_cuda12()}, which needs driver 525 or newer"}
        other = others.get(major, "install a torch for an older CUDA")
        return (
            f"the driver {of_driver} is too old for {_this_torch()}, which needs driver {needed} or"
            f" newer: update the driver, or {other} (docs/gpus.md)"
        )
    if "no NVIDIA driver" in error:
        return (
            f"no NVIDIA driver is found ({DRIVER}): install it, or let the container have it"
            f" ({_CONTAINER})"
        )
    if "No CUDA GPUs" in error:
        visible = os.environ.get(_VISIBLE)
        named = f"{_VISIBLE}={visible} names no GPU of this process, or " if visible else ""
        return (
            f"CUDA finds none: {named}this job was not given any (SLURM: --gpus, as profiles/slurm"
            f" asks for), or the container keeps them out ({_CONTAINER})"
        )
    return (
        f"CUDA does not start: {error.strip().partition(chr(10))[0].rstrip('.')}. See what"
        " nvidia-smi says; a driver that was updated needs a restart of the machine"
    )


def _is_x86() -> bool:
    return platform.machine() in ("x86_64", "AMD64")


def _for_cuda12() -> str:
    """The torch for CUDA 12, as something to install."""
    if _is_x86():
        return "the torch of requirements-cuda12.txt"
    # The one that pip finds by itself is for the CPU.
    return (
        f"torch 2.9.1 built for CUDA 12.8 from PyTorch's own index (on {platform.machine()} the one"
        " of requirements-cuda12.txt is for the CPU)"
    )


def _this_torch() -> str:
    return f"torch {torch.__version__.partition('+')[0]} (CUDA {torch.version.cuda})"
