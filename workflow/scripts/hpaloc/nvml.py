"""What the management library of NVIDIA's driver (NVML) knows of the GPUs, without starting CUDA."""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

NVML, DRIVER = "libnvidia-ml.so.1", "libcuda.so.1"
# A GPU that a container or SLURM's constraint of devices keeps from this process.
_NO_PERMISSION = 4
_ROOM = 96  # bytes: no text of NVML is longer


def load_library(name: str) -> ctypes.CDLL | None:
    """Loads a shared library; returns None where it cannot be loaded."""
    try:
        return ctypes.CDLL(name)
    except OSError:
        return None


def gpu_uuids() -> list[str]:
    """Returns the UUIDs (``GPU-…``) of the GPUs that this process may use, in PCI bus order.

    This is the order of ``nvidia-smi``, and of CUDA where ``CUDA_DEVICE_ORDER`` is ``PCI_BUS_ID``
    or the GPUs are alike. A GPU that the driver has lost is an empty text, so that the others keep
    their places. The list is empty where NVML is missing or does not answer.
    """
    uuids = []
    with _nvml() as nvml:
        count = ctypes.c_uint()
        if nvml is None or nvml.nvmlDeviceGetCount_v2(ctypes.byref(count)):
            return []
        for index in range(count.value):
            gpu, text = ctypes.c_void_p(), ctypes.create_string_buffer(_ROOM)
            code = nvml.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(gpu))
            if code == _NO_PERMISSION:
                continue  # CUDA does not count it either
            if code or nvml.nvmlDeviceGetUUID(gpu, text, _ROOM):
                text.value = b""
            uuids.append(text.value.decode())
    return uuids


def driver_version() -> str | None:
    """Returns the version of the driver, such as ``535.183.01``; None where NVML has no answer."""
    text = ctypes.create_string_buffer(_ROOM)
    with _nvml() as nvml:
        if nvml is None or nvml.nvmlSystemGetDriverVersion(text, _ROOM):
            return None
    return text.value.decode()


@contextmanager
def _nvml() -> Iterator[ctypes.CDLL | None]:
    nvml = load_library(NVML)
    needed = ("nvmlInit_v2", "nvmlDeviceGetCount_v2", "nvmlDeviceGetHandleByIndex_v2")
    if nvml is None or not all(hasattr(nvml, name) for name in needed) or nvml.nvmlInit_v2():
        yield None
        return
    try:
        yield nvml
    finally:
        nvml.nvmlShutdown()
