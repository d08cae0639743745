"""The reasons why torch cannot use a GPU, in words; and which code runs on which GPU."""

import re
from pathlib import Path

import pytest
import torch

from hpaloc import gpu_support
from hpaloc.gpu_support import explained, has_usable_gpu, runs_on
from hpaloc.log import InputError

PYPI_2_9 = ["sm_70", "sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120"]


@pytest.mark.parametrize(
    ("capability", "architectures", "runs"),
    [
        ((8, 0), ["sm_80"], True),
        ((8, 9), ["sm_75", "sm_86"], True),  # a higher minor version
        ((8, 0), ["sm_86"], False),
        ((9, 0), ["sm_80", "sm_86"], False),
        ((9, 0), ["sm_80", "compute_80"], True),  # PTX, compiled by the driver
        ((7, 0), ["sm_75", "compute_75"], False),
        ((9, 0), ["sm_90a"], True),
        ((10, 3), ["sm_100a", "compute_100a"], False),  # for one architecture only
        ((10, 3), ["sm_100f"], True),  # for a family
        ((12, 0), ["sm_100f", "compute_100f"], False),
        ((7, 0), PYPI_2_9, True),
        ((6, 1), PYPI_2_9, False),
        ((12, 1), PYPI_2_9, True),
        ((13, 0), PYPI_2_9, False),
        ((8, 7), ["sm_80", "sm_86"], False),  # a Jetson
        ((7, 2), PYPI_2_9, False),
        ((8, 9), ["sm_87"], False),
        ((8, 7), ["sm_80", "sm_87"], True),
        ((8, 7), ["compute_80"], True),
    ],
)
def test_which_code_runs_on_which_gpu(capability, architectures, runs):
    assert runs_on(capability, architectures) is runs


@pytest.mark.parametrize(
    ("capability", "words"),
    [((8, 7), "NVIDIA builds for Jetson"), ((7, 0), "the torch of requirements-cuda12.txt")],
)
def test_a_gpu_without_code_is_an_error_that_says_what_to_install(monkeypatch, capability, words):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.init", lambda: None)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda index: "Orin")
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda index: capability)
    monkeypatch.setattr("torch.cuda.get_arch_list", lambda: ["sm_75", "sm_80", "sm_90"])
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    with pytest.raises(InputError, match=f"GPU Orin has the architecture sm_.*install.*{words}"):
        has_usable_gpu()


@pytest.mark.parametrize(
    ("cuda", "error", "words"),
    [
        (
            "13.2",
            "The NVIDIA driver on your system is too old (found version 12020). Please update",
            (
                r"driver 535\.1 \(CUDA 12\.2\) is too old for torch \S+ \(CUDA 13\.2\), which needs driver"
                r" 580 or newer: update the driver, or install the torch of requirements-cuda12\.txt"
            ),
        ),
        (
            "12.8",
            "The NVIDIA driver on your system is too old (found version 11040). Please update",
            r"which needs driver 525 or newer: update the driver, or install a torch for an older",
        ),
        ("13.2", "Found no NVIDIA driver on your system. Please check", "docker run --gpus all"),
        ("13.2", "No CUDA GPUs are available", "CUDA_VISIBLE_DEVICES=7 names no GPU"),
        (
            "13.2",
            "Unexpected error. Error 803: system has unsupported display driver\nTraceback",
            r"Error 803: system has unsupported display driver\. See what nvidia-smi says",
        ),
    ],
)
def test_every_reason_says_what_to_do(monkeypatch, cuda, error, words):
    monkeypatch.setattr("torch.version.cuda", cuda)
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    said = explained(error, "535.1")
    assert re.search(words, said)
    assert "\n" not in said


@pytest.fixture
def without_gpu(monkeypatch, tmp_path):
    """A machine on which neither NVML nor the driver is found, and no device."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("hpaloc.nvml.load_library", lambda name: None)
    monkeypatch.setattr(gpu_support, "load_library", lambda name: None)
    monkeypatch.setattr(gpu_support, "Path", lambda path: tmp_path / path.lstrip("/"))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return tmp_path


def test_a_machine_without_a_gpu_is_no_error(without_gpu):
    assert has_usable_gpu() is False


@pytest.mark.parametrize("visible", ["", " ", "-1", "NoDevFiles"])
def test_nor_is_one_where_none_is_to_be_seen(without_gpu, monkeypatch, visible):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert has_usable_gpu() is False


@pytest.mark.parametrize("device", ["dev/nvidia0", "proc/driver/nvidia/gpus/0000:01:00.0"])
def test_a_device_that_torch_cannot_use_is_an_error(without_gpu, device):
    path: Path = without_gpu / device
    path.parent.mkdir(parents=True)
    path.touch()
    with pytest.raises(InputError, match=rf"is there \(.*{device}\), but .*gpus_per_fold: 0"):
        has_usable_gpu()


def test_gpus_that_are_hidden_on_purpose_are_not_there(without_gpu, monkeypatch):
    (without_gpu / "dev").mkdir()
    (without_gpu / "dev" / "nvidia0").touch()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert has_usable_gpu() is False


def test_a_driver_without_a_gpu_is_no_gpu(without_gpu, monkeypatch):
    """libcuda is also on login nodes and in images."""
    no_device, success = 100, 0
    for code in (no_device, success):
        library = type("Library", (), {"cuInit": lambda self, flags, code=code: code})()
        monkeypatch.setattr(gpu_support, "load_library", lambda name, found=library: found)
        if code == no_device:
            assert has_usable_gpu() is False
    with pytest.raises(InputError, match=r"libcuda\.so\.1"):
        has_usable_gpu()


def test_a_torch_without_cuda_is_named_where_a_gpu_was_assigned(without_gpu, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setattr("torch.version.cuda", None)
    torch_here = rf"torch {re.escape(torch.__version__)} is built without CUDA: install"
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    with pytest.raises(InputError, match=f"{torch_here} requirements.txt or.*-cuda12.txt"):
        has_usable_gpu()
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    with pytest.raises(InputError, match=rf"{torch_here} torch 2\.9\.1 built for CUDA 12\.8 from"):
        has_usable_gpu()


@pytest.fixture
def amd(without_gpu, monkeypatch):
    """A torch for AMD, and a machine with such a GPU that torch cannot use."""
    monkeypatch.setattr("torch.version.hip", "6.4")
    for name in ("ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    (without_gpu / "dev" / "dri").mkdir(parents=True)
    for name in ("kfd", "dri/renderD128"):
        (without_gpu / "dev" / name).touch()
    return without_gpu


def test_a_gpu_of_amd_that_torch_cannot_use_is_an_error(amd, monkeypatch):
    with pytest.raises(
        InputError, match=r"/dev/kfd, .*renderD128\), but .*rocminfo.*gpus_per_fold"
    ):
        has_usable_gpu()
    monkeypatch.setattr("os.access", lambda path, mode: False)
    with pytest.raises(InputError, match=r"no rights on /dev/kfd: .*groups render and video"):
        has_usable_gpu()


def test_a_gpu_of_amd_that_was_assigned_and_is_not_there_is_an_error(amd, monkeypatch):
    (amd / "dev" / "kfd").unlink()
    assert has_usable_gpu() is False  # a GPU of another maker
    monkeypatch.setenv("ROCR_VISIBLE_DEVICES", "0")
    with pytest.raises(InputError, match=r"ROCR_VISIBLE_DEVICES=0\), but .*--device=/dev/kfd"):
        has_usable_gpu()


@pytest.mark.parametrize("name", ["ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"])
@pytest.mark.parametrize("visible", ["", "-1"])
def test_gpus_of_amd_that_are_hidden_are_not_there(amd, monkeypatch, name, visible):
    monkeypatch.setenv(name, visible)
    assert has_usable_gpu() is False
