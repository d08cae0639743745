"""The processes that train a fold together, one for each GPU: which share of a batch each has.

All of them make the same decisions from the same numbers: a process works on its share of a
batch's images, but it has the logits of all, hence the losses, scores and counts of the whole
batch. Only the first one writes files.
"""

import ctypes
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

from hpaloc.gpu_lock import claim_gpus

# The first process may wait for hours for another job's lease, and the others for it; one may have
# more to validate than another. A process that dies is noticed by the one that started it.
_PATIENCE = timedelta(days=30)
# Where one process has failed the others wait for it for ever: so long they may end by themselves.
_ENDING_S = 30.0
# What a process is told when it is started: its number, how many there are, where they meet.
_NUMBER, _COUNT, _PORT = "HPALOC_RANK", "HPALOC_RANKS", "HPALOC_RANKS_PORT"


@dataclass(frozen=True)
class Ranks:
    """``waiting`` is the group in which processes wait for each other on the CPU."""

    number: int = 0
    count: int = 1
    waiting: dist.ProcessGroup | None = None

    @property
    def is_first(self) -> bool:
        return self.number == 0

    def splits(self, total: int) -> bool:
        """Whether ``total`` images are shared out. Fewer than processes go through all of them:
        the same gradient everywhere, where a process without images has no batch norm."""
        return total >= self.count

    def share(self, total: int) -> slice:
        """What this process has of ``total`` images in their order, split as torch.tensor_split."""
        if not self.splits(total):
            return slice(0, total)
        size, more = divmod(total, self.count)
        start, stop = (k * size + min(k, more) for k in (self.number, self.number + 1))
        return slice(start, stop)

    def most(self, total: int) -> int:
        """The largest share of any process."""
        return -(-total // self.count) if self.splits(total) else total

    def together(self, rows: torch.Tensor, total: int) -> torch.Tensor:
        """Rows of all processes, ``total`` × …, from the ``rows`` of each one's share; the same
        bits everywhere, for nothing but zeros is added to them."""
        if self.count == 1 or not self.splits(total):
            return rows
        everything = rows.new_zeros((total, *rows.shape[1:]))
        everything[self.share(total)] = rows
        dist.all_reduce(everything, group=None if rows.is_cuda else self.waiting)
        return everything

    def any(self, flag: bool) -> bool:
        """Whether the flag of any process is set."""
        if self.count == 1:
            return flag
        flags = torch.tensor(float(flag))
        dist.all_reduce(flags, dist.ReduceOp.MAX, group=self.waiting)
        return bool(flags)

    def wait(self) -> None:
        """Until all processes are here."""
        self.any(False)

    def take_buffers_of_first(self, network: torch.nn.Module) -> None:
        """Batch norm's running averages, which differ where it is not synchronised."""
        if self.count > 1:
            for buffer in network.buffers():
                dist.broadcast(buffer, 0)


ALONE = Ranks()


def relaunched(program: str, arguments: list[str], gpus: int) -> None:
    """Runs the program in a process for each of ``gpus`` and ends with them; comes back in those.

    One GPU, or none, needs no more than the process itself. The GPUs are claimed before, for all of
    the processes; raises InputError where there are fewer.
    """
    if gpus < 2 or _NUMBER in os.environ or not torch.cuda.is_available():
        return
    claim_gpus(gpus)
    sys.exit(run_ranks(gpus, [program, *arguments]))


def run_ranks(count: int, command: list[str]) -> int:
    """Runs a Python program in ``count`` processes of this machine until all have ended; gives the
    status of the first that failed, else 0.

    They are told of SIGTERM and have as long as they need, where torchrun kills them after 30 s.
    Where one fails, the others are killed if they have not ended within as long. Where this process
    is killed, they get SIGTERM.
    """
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    told = {_COUNT: str(count), _PORT: str(store.port)}
    environment = {"OMP_NUM_THREADS": "1"} | os.environ | told
    processes: list[subprocess.Popen] = []
    came: list[int] = []

    def pass_on(number: int, _: object) -> None:
        came.append(number)
        for process in processes:
            process.send_signal(number)

    former = signal.signal(signal.SIGTERM, pass_on)
    try:
        for number in range(count):
            own = environment | {_NUMBER: str(number)}
            processes.append(subprocess.Popen([sys.executable, *command], env=own))
            if came:  # while it was being started
                processes[-1].send_signal(signal.SIGTERM)
        status = _first_failure(processes)
        if status:
            _all_ended(processes, time.monotonic() + _ENDING_S)
        return status
    finally:
        for process in processes:
            process.kill()
            process.wait()
        signal.signal(signal.SIGTERM, former)


def _first_failure(processes: list[subprocess.Popen]) -> int:
    """The status of the first process that ends with one, as a shell tells it; 0 if all end well."""
    while True:
        codes = [process.poll() for process in processes]
        for code in filter(None, codes):
            return code if code > 0 else 128 - code
        if None not in codes:
            return 0
        time.sleep(0.1)


def _all_ended(processes: list[subprocess.Popen], deadline: float) -> None:
    while any(process.poll() is None for process in processes) and time.monotonic() < deadline:
        time.sleep(0.1)


def join(gpus: int) -> Ranks:
    """This process among those that ``run_ranks`` started; alone where it started none."""
    if gpus < 2 or _NUMBER not in os.environ:
        return ALONE
    number, count, port = (int(os.environ[name]) for name in (_NUMBER, _COUNT, _PORT))
    _end_with_parent()
    backend = "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(number)
        backend = "cpu:gloo,cuda:nccl"
    store = dist.TCPStore("127.0.0.1", port, is_master=False)
    dist.init_process_group(backend, store=store, rank=number, world_size=count, timeout=_PATIENCE)
    waiting = dist.new_group(backend="gloo", timeout=_PATIENCE)
    return Ranks(number, count, waiting)


def _end_with_parent() -> None:
    """Gets this process SIGTERM when the one that started it is killed (on Linux)."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, int(signal.SIGTERM))  # PR_SET_PDEATHSIG


def leave(ranks: Ranks) -> None:
    if ranks.count > 1:
        dist.destroy_process_group()
