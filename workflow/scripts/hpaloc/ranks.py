"""The processes that train a fold together, one for each GPU: which share of a batch each has.

All of them make the same decisions from the same numbers: a process works on its share of a
batch's images, but it has the logits of all, hence the losses, scores and counts of the whole
batch. Only the first one writes files.
"""

import os
import sys
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

from hpaloc.gpu_lock import claim_gpus

# The first process may wait for hours for another job's lease, and the others for it; one may have
# more to validate than another. A process that dies is noticed by torchrun, not by a timeout.
_PATIENCE = timedelta(days=30)
# What torchrun gives processes that were told to stop, before it kills them: time to store a state.
_STOPPING_S = 600


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
    """Replaces this process by torchrun with a process for each of ``gpus``; comes back in those.

    One GPU, or none, needs no more than the process itself. The GPUs are claimed before, for all of
    the processes; raises InputError where there are fewer.
    """
    if gpus < 2 or "TORCHELASTIC_RUN_ID" in os.environ or not torch.cuda.is_available():
        return
    claim_gpus(gpus)
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", str(_STOPPING_S))
    os.execv(sys.executable, [sys.executable, *torchrun(gpus), program, *arguments])


def torchrun(processes: int) -> list[str]:
    """Python's arguments that run a program, which follows them, in so many processes."""
    # On this machine alone, whatever the network makes of its name.
    options = ["--standalone", "--local-addr=127.0.0.1", f"--nproc-per-node={processes}"]
    # `--` ends torchrun's own options, of which it takes abbreviations.
    return ["-m", "torch.distributed.run", *options, "--"]


def join(gpus: int) -> Ranks:
    """This process among those that torchrun started; alone where it started none."""
    if gpus < 2 or "TORCHELASTIC_RUN_ID" not in os.environ:
        return ALONE
    backend = "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        backend = "cpu:gloo,cuda:nccl"
    dist.init_process_group(backend)
    waiting = dist.new_group(backend="gloo", timeout=_PATIENCE)
    return Ranks(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), waiting)


def leave(ranks: Ranks) -> None:
    if ranks.count > 1:
        dist.destroy_process_group()
