"""Buffers of batches on a machine with a GPU: pinning, its failures, forks and waits."""

TRAIN = """
settings, data, compute = fold()
state = trained(settings, data, compute)
result(steps=state.step, counters=fake_gpu.counters())
"""
FEED = """
import os
from hpaloc import batch_buffers
from hpaloc.device_batches import on_device, to_host
settings, data, compute = fold(images=120)
torch.cuda.init()
def batches(epoch=1):
    return on_device(data.training_batches(settings, epoch), compute)
"""


def test_memory_that_cannot_be_registered_costs_one_warning(on_gpu) -> None:
    """The error does not stay for the next kernel; torch copies batches to memory that it pins."""
    found, log = on_gpu(TRAIN, fake_cuda_register_fails=1)
    assert found["steps"] > 10
    assert log.count("cannot be pinned") == 1 and "(out of memory)" in log and "ulimit -l" in log
    assert "RACES" not in found["counters"]
    assert "COPIES_UP_PINNED" in found["counters"]


def test_where_torch_cannot_pin_either_batches_are_copied_from_pageable_memory(on_gpu) -> None:
    settings = {"pytorch_cuda_alloc_conf": "pinned_use_cuda_host_register:True"}
    found, log = on_gpu(FEED + """
seen = [len(batch.images) for epoch in (1, 2) for batch in batches(epoch)]
assert torch.ones(1, device="cuda").shape == (1,)
result(images=sum(seen), counters=fake_gpu.counters())
""", fake_cuda_register_fails=1, **settings)  # fmt: skip
    assert found["images"] == 160
    assert 1 <= log.count("cannot be pinned") <= 2  # one for each reason
    assert "COPIES_UP_PINNED" not in found["counters"]


def test_workers_are_forked_before_memory_is_pinned_also_beside_another_feed(on_gpu) -> None:
    """The workers of a second feed are forked while batches of the first are on their way."""
    found, log = on_gpu(FEED + """
def registered(): return fake_gpu.counters().get("cudaHostRegister", 0)
at_fork = []
os.register_at_fork(before=lambda: at_fork.append(registered()))
alone = [batch.rows.tolist() for epoch in (1, 2) for batch in batches(epoch)]
pairs = list(zip(batches(1), batches(2), strict=True))
rows = [pair[k].rows.tolist() for k in (0, 1) for pair in pairs]
result(at_fork=at_fork, same=rows == alone, counters=fake_gpu.counters())
""", lag=300)  # fmt: skip
    assert found["at_fork"] == [0, 0, 1, 1, 2, 2, 3, 3]
    assert found["same"]
    assert found["counters"]["cudaHostUnregister"] == 4
    assert "RACES" not in found["counters"] and "Exception ignored" not in log
    assert "CALLS_IN_A_FORKED_PROCESS" not in found["counters"]


def test_the_end_of_a_feed_waits_for_copies_alone_and_without_taking_a_core(on_gpu) -> None:
    """torch's events spin by default: those that the host waits for were made to block. A batch
    that is still kept may be under way; and unpinning that fails is no error of the program."""
    found, log = on_gpu(FEED + """
waits = []
class Event(torch.cuda.Event):
    def __new__(cls, *args, **settings):
        self = super().__new__(cls, *args, **settings)
        self.blocks = settings.get("blocking", False)
        return self
    def synchronize(self):
        waits.append(self.blocks)
        super().synchronize()
torch.cuda.Event = Event
fake_gpu.reset()
for batch in batches(): last = batch.images.float().mean()
of_device = fake_gpu.counters().get("cudaDeviceSynchronize", 0)
to_host(last)

for _ in range(3):
    feed = data.training_batches(settings, 1)
    kept = next(feed)
    on_gpu = kept.images.to("cuda", non_blocking=True)
    feed.close()

real = batch_buffers.register
def register(memory):
    assert real(memory)
    torch.cuda.cudart().cudaHostUnregister(memory.ctypes.data)
    return True
batch_buffers.register = register
for batch in batches(): pass
assert torch.ones(1, device="cuda").shape == (1,)
result(waits=waits, of_device=of_device, counters=fake_gpu.counters())
""", lag=100000)  # fmt: skip
    assert len(found["waits"]) > 5 and all(found["waits"])
    assert found["of_device"] == 0
    assert "RACES" not in found["counters"] and "Exception ignored" not in log
