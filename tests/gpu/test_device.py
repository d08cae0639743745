"""Which device and number type a job gets: GPUs that torch cannot use are errors, with a reason."""

import pytest
import torch

from hpaloc.gpu_support import runs_on

# One program reports several facts: starting torch takes most of a test's time.
TRAIN = """
settings, data, compute = fold(images=60, **CHANGES)
state = trained(settings, data, compute)
result(steps=state.step, dtype=str(compute.dtype))
"""


def test_a_driver_that_is_too_old_is_an_error_with_its_reason_and_the_choices(on_gpu) -> None:
    _, log = on_gpu("fold()", ends=1, fake_cuda_driver_too_old=1)
    (line,) = log.splitlines()  # torch's own warning says the same once more
    assert "the driver 595.00 (CUDA 12.8) is too old for torch" in line
    assert f"(CUDA {torch.version.cuda}), which needs driver 5" in line
    assert "gpus_per_fold: 0 in the configuration, or --gpus 0" in line


def test_with_such_a_driver_the_cpu_may_be_chosen_on_purpose(on_gpu) -> None:
    code = "result(device=choose_compute('auto', 1, 0).device.type)"
    found, log = on_gpu(code, fake_cuda_driver_too_old=1)
    assert found == {"device": "cpu"}
    assert "too old" not in log


def test_a_gpu_that_was_assigned_and_is_not_there_is_an_error(on_gpu) -> None:
    _, log = on_gpu("fold()", ends=1, devices=0, cuda_visible_devices="0")
    (line,) = log.splitlines()
    assert "is there (CUDA_VISIBLE_DEVICES=0), but CUDA finds none" in line
    assert "apptainer --nv" in line


def test_a_gpu_that_this_torch_is_not_built_for_is_refused_by_both_architectures(on_gpu) -> None:
    """A GTX 1080: no build of torch that pip takes by itself has its architecture."""
    _, log = on_gpu("fold()", ends=1, capability=61, fake_cuda_name="GTX 1080")
    (line,) = log.splitlines()
    assert "The GPU GTX 1080 has the architecture sm_61, and torch" in line
    assert f"is built for {torch._C._cuda_getArchFlags()}: install" in line
    assert "in its build for CUDA 12.6" in line


def test_a_v100_trains_in_float16_where_torch_is_built_for_it_and_else_is_refused(on_gpu) -> None:
    settings = {"capability": 70, "fake_cuda_oldest": 70}
    if runs_on((7, 0), torch._C._cuda_getArchFlags().split()):
        found, _ = on_gpu("CHANGES = {}" + TRAIN, **settings)
        assert found["steps"] > 0 and found["dtype"] == "torch.float16"
    else:
        _, log = on_gpu("fold()", ends=1, **settings)
        assert "requirements-cuda12.txt, which has it" in log


def test_a_p100_trains_without_triton_where_torch_is_built_for_it(on_gpu) -> None:
    """As the build for CUDA 12.6 is; Triton makes no code for GPUs before Volta."""
    code = """
    torch.cuda.get_arch_list = lambda: ["sm_50", "sm_60", "sm_70", "sm_75", "sm_80", "sm_90"]
    CHANGES = {"compile": True}
    """.replace("\n    ", "\n")
    # Without the compiler's worker processes, which nothing comes to and which are waited for.
    settings = {"capability": 60, "fake_cuda_oldest": 50, "torchinductor_compile_threads": 1}
    found, log = on_gpu(code + TRAIN, **settings)
    assert found["steps"] > 0 and found["dtype"] == "torch.float16"
    assert "not compiled" in log


def test_a_gpu_that_is_full_from_the_start_is_an_error(on_gpu) -> None:
    """Another process has it; the one that has it for itself alone is refused at the same place."""
    _, log = on_gpu("fold()", ends=1, memory_gb=0)
    (line,) = log.splitlines()
    assert "ERROR The GPU Fake H100 is not available: CUDA out of memory" in line


def test_float32_is_not_rounded_to_tf32_and_nothing_is_deprecated(on_gpu) -> None:
    """The switches that convolutions and products read, on GPUs with and without TF32."""
    code = """
    read = torch._C._get_fp32_precision_getter
    found = {}
    for precision in ("float32", "bfloat16", "tf32"):
        choose_compute(precision, 1)
        found[precision] = [read("cuda", "conv"), read("cuda", "matmul")]
    result(found=found, dtype=str(choose_compute("tf32", 1).dtype))
    """
    found, log = on_gpu(code)
    ieee, tf32 = ["ieee", "ieee"], ["tf32", "tf32"]
    assert found["found"] == {"float32": ieee, "bfloat16": ieee, "tf32": tf32}
    assert found["dtype"] == "torch.float32"
    assert "WARNING" not in log


@pytest.mark.slow
def test_a_network_compiles_with_float32_as_it_is_set(on_gpu) -> None:
    """torch 2.9 refuses a mixture of old and new switches, and its compiler reads them."""
    code = "CHANGES = {'compile': True, 'precision': 'float32'}"
    found, log = on_gpu(code + TRAIN, timeout=900)
    assert found["steps"] > 0
    assert "not compiled" not in log and "TF32" not in log


def test_an_older_gpu_has_no_tf32_and_takes_float16_by_itself(on_gpu) -> None:
    code = """
    found = [str(choose_compute(precision, 1).dtype) for precision in ("tf32", "auto")]
    result(found=found, convolutions=torch.backends.cudnn.conv.fp32_precision)
    """
    found, log = on_gpu(code, capability=75)
    assert found == {"found": ["torch.float32", "torch.float16"], "convolutions": "ieee"}
    assert "running on Fake H100 (cuda) in float32" in log and "tf32" not in log


def test_a_lock_is_of_the_card_whatever_its_name(on_gpu) -> None:
    """A job that names a card by its number, and one that names it by the start of its UUID."""
    code = """
    import os
    from hpaloc import nvml
    from hpaloc.gpu_lock import CLAIMED, VISIBLE, claim_gpus
    uuids = nvml.gpu_uuids()
    for name in (None, uuids[0][:12], uuids[1][:12]):
        os.environ.pop(CLAIMED)
        if name is not None:
            os.environ[VISIBLE] = name
        claim_gpus(1)
    result(uuids=uuids, driver=nvml.driver_version())
    """
    found, log = on_gpu(code, devices=2)
    assert len(set(found["uuids"])) == 2 and found["driver"] == "595.00"
    assert "GPUs of this job: 0 (of 2)" in log
    used = [line for line in log.splitlines() if "is used too" in line]
    assert len(used) == 1 and f"CUDA_VISIBLE_DEVICES={found['uuids'][0][:12]}" in used[0]
