"""What a training step does with the device."""

import pytest

TRAIN = """
settings, data, compute = fold(**CHANGES)
with fake_gpu.syncs() as found:
    state = trained(settings, data, compute)
result(steps=state.step, waits=found, counters=fake_gpu.counters(), convolutions=fake_gpu.convolutions)
"""


@pytest.mark.parametrize("capability", [90, 75], ids=["bfloat16", "float16"])
def test_a_step_does_not_wait_for_the_gpu(on_gpu, capability) -> None:
    code = """
    waits = {}
    for name in ("adadelta", "adamw", "sgd"):
        optimizer = {"name": name, "learning_rate": 0.1, "weight_decay": 1e-4}
        settings, data, compute = fold(images=120, optimizer=optimizer)
        with fake_gpu.syncs() as found:
            assert trained(settings, data, compute).step == 10
        waits[name] = [place for place in found if "train_step" in place]
    result(dtype=str(compute.dtype), waits=waits)
    """
    found, _ = on_gpu(code, capability=capability)
    assert found["dtype"] == f"torch.{'bfloat16' if capability == 90 else 'float16'}"
    assert found["waits"] == {"adadelta": [], "adamw": [], "sgd": []}


def test_an_epoch_waits_for_the_gpu_where_its_numbers_are_needed_and_nowhere_else(on_gpu) -> None:
    """Few times, and no more often in an epoch that is four times as long: its scores come every
    16 steps; all other waits keep the program from running too far ahead of the GPU."""
    counts = {}
    for images in (200, 800):
        found, _ = on_gpu(f"CHANGES = {{'images': {images}}}" + TRAIN)
        ahead = ("batch_buffers.py", "device_batches.py", "WARNING", " set_up ")
        waits = {
            place: count
            for place, count in found["waits"].items()
            if not any(word in place for word in ahead)
        }
        scores = sum(count for place, count in waits.items() if "step_records.py" in place)
        assert 1 <= scores <= found["steps"] // 16 + 1
        counts[images] = sum(waits.values()) - scores
    assert 1 <= counts[200] == counts[800] <= 4


@pytest.mark.parametrize("lag", [-1, 300, 100000])
def test_no_buffer_is_filled_while_it_is_copied_and_no_worker_calls_cuda(on_gpu, lag) -> None:
    found, _ = on_gpu("CHANGES = {}" + TRAIN, lag=lag)
    assert found["counters"].get("COPIES_UP_PINNED", 0) > 2 * found["steps"]
    assert "RACES" not in found["counters"]
    assert "CALLS_IN_A_FORKED_PROCESS" not in found["counters"]


def test_the_detector_of_races_sees_one(on_gpu) -> None:
    code = """
    from hpaloc import batch_buffers
    batch_buffers._give_back = lambda free, slot, pinned: free.append((slot, None))
    real = batch_buffers.unregister
    batch_buffers.unregister = lambda buffers, copies: real(buffers)  # waits for all work
    CHANGES = {}
    """
    found, _ = on_gpu(code.replace("\n    ", "\n") + TRAIN)
    assert found["counters"]["RACES"] > 0


def test_streams_are_in_order(on_gpu) -> None:
    """torch's own sanitizer finds no access of two streams without an event between."""
    on_gpu("""
    import torch.cuda._sanitizer as sanitizer
    torch.cuda.init()
    sanitizer.enable_cuda_sanitizer()
    settings, data, compute = fold()
    trained(settings, data, compute)
    """)


def test_all_convolutions_are_channels_last(on_gpu) -> None:
    found, _ = on_gpu("CHANGES = {}" + TRAIN)
    assert found["convolutions"]
    assert not [what for what in found["convolutions"] if "copied to" in what]
