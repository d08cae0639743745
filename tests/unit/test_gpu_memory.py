"""A shortage of the GPU's memory: how it is recognized, and what predictions make of it."""

import logging
import re

import pytest
import torch
from training_case import recipe

from hpaloc import gpu_memory, inference
from hpaloc.compute import Compute
from hpaloc.gpu_memory import is_shortage, shortage_in_words
from hpaloc.inference import in_batches_that_fit, on_gpu
from hpaloc.log import InputError
from hpaloc.network import build_network

CPU = Compute(torch.device("cpu"), torch.float32)

SHORT = (
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    torch.AcceleratorError("CUDA error: out of memory\nSearch for `out of memory' in ..."),
    RuntimeError("CUDA driver error: out of memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
    RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED"),
    RuntimeError("FIND was unable to find an engine to execute this computation"),
    RuntimeError("Triton Error [CUDA]: out of memory"),
    RuntimeError("NCCL error in: ...\nLast error:\nCuda failure 2 'out of memory'"),
    RuntimeError("ncclUnhandledCudaError: ...\nFailed to CUDA calloc async 608 bytes"),
)
ANOTHER = (
    torch.AcceleratorError("CUDA error: an illegal memory access was encountered"),
    torch.AcceleratorError("CUDA error: unspecified launch failure"),
    torch.AcceleratorError("CUDA error: device-side assert triggered"),
    RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm(handle)`"),
    RuntimeError("out of resource: shared memory, Required: 262144, Hardware limit: 232448"),
    RuntimeError("g++: cc1plus: out of memory allocating 65536 bytes"),
    OSError("CUDA out of memory"),
    RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
)


@pytest.mark.parametrize("error", SHORT, ids=str)
def test_a_shortage_of_memory_is_recognized(error) -> None:
    assert is_shortage(error)


@pytest.mark.parametrize("error", ANOTHER, ids=str)
def test_another_error_is_not_a_shortage_of_memory(error) -> None:
    assert not is_shortage(error)


@pytest.mark.parametrize(
    "words",
    [
        "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_NOT_INITIALIZED",
        "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR",
    ],
)
def test_a_library_that_does_not_start_is_short_of_memory_where_hardly_any_is_free(
    monkeypatch, words
) -> None:
    for free, short in ((2**26, True), (2**33, False)):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda free=free: (free, 2**34))
        assert is_shortage(RuntimeError(words)) == short


def test_words_name_what_does_not_fit_and_other_errors_stay() -> None:
    words = re.escape("does not hold ten networks. Use fewer. (CUDA out of memory")
    with (
        pytest.raises(InputError, match=words),
        shortage_in_words("ten networks", "Use fewer."),
    ):
        raise SHORT[0]
    with pytest.raises(torch.AcceleratorError), shortage_in_words("it", "Mend it."):
        raise ANOTHER[0]


def short_above(holds: int, forward, error: Exception):
    def short(images: torch.Tensor) -> torch.Tensor:
        if len(images) > holds:
            raise error
        return forward(images)

    return short


@pytest.mark.parametrize("error", [SHORT[0], SHORT[3]], ids=["torch", "cuBLAS"])
def test_predictions_go_on_with_half_the_batch_and_say_it_once(monkeypatch, caplog, error) -> None:
    settings = recipe(batch_size=8, compile=True)
    networks = [build_network(settings).eval() for _ in range(3)]
    images = torch.randint(0, 256, (7, 64, 64, 4), dtype=torch.uint8)
    made = []

    def compiled(network, images, compute, mode):
        made.append((len(images), mode))
        return short_above(2, network, error)

    monkeypatch.setattr(inference, "compiled", compiled)
    forwards = on_gpu(networks, settings, CPU)
    assert made == [(8, "reduce-overhead")] * 3
    with caplog.at_level(logging.WARNING, "hpaloc"), torch.inference_mode():
        for forward, network in zip(forwards, networks, strict=True):
            for _ in range(2):
                torch.testing.assert_close(forward(images), network(images), rtol=1e-4, atol=1e-4)
    # Every size once for each network; a CUDA graph would hold the memory that is short.
    assert made[3:] == [(4, None), (2, None)] * 3
    assert caplog.text.count("does not hold a batch of 8 images: predicting 2 at a time") == 1
    assert len(caplog.records) == 1


def test_what_is_compiled_for_a_batch_that_does_not_fit_is_made_for_a_smaller_one() -> None:
    def made(count: int):
        if count > 3:
            raise SHORT[1]
        return lambda images: images.float()

    told = []
    forward = in_batches_that_fit(made, 12, CPU, told.append)
    assert told == [3]
    images = torch.arange(8)
    assert torch.equal(forward(images), images.float())


def test_where_one_image_does_not_fit_or_another_error_comes_a_prediction_ends() -> None:
    for error, tried in ((SHORT[0], [4, 2, 1]), (ANOTHER[0], [4])):
        sizes = []

        def made(count: int, sizes=sizes, error=error):
            sizes.append(count)
            raise error

        with pytest.raises(type(error)):
            in_batches_that_fit(made, 4, CPU, sizes.clear)
        assert sizes == tried


def test_a_failed_gpu_is_reported_as_such(monkeypatch) -> None:
    def failed() -> None:
        raise ANOTHER[1]

    monkeypatch.setattr(torch.cuda, "empty_cache", failed)
    with pytest.raises(torch.AcceleratorError, match="unspecified launch failure"):
        gpu_memory.make_room(torch.device("cuda"))
