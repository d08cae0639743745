"""What a training step does with the device."""

import pytest

TRAIN = """
settings, data, compute = fold(**CHANGES)
with fake_gpu.syncs() as found:
    state = trained(settings, data, compute)
result(steps=state.step, waits=found, counters=fake_gpu.counters(), convolutions=fake_gpu.convolutions)
"""


def test_a_step_does_not_wait_for_the_gpu(on_gpu) -> None:
    found, _ = on_gpu("CHANGES = {}" + TRAIN)
    assert found["steps"] > 10
    assert not [place for place in found["waits"] if "train_step" in place]


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
