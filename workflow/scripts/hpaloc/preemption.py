"""SIGTERM, as a preempted node or a time limit sends it: first the state is stored.

How it reaches the program was tried with Snakemake 9.27 and bash 5.2. Sent to all processes of a
job, as SLURM does at a time limit and scancel for the processes of a job's step, the program gets
it; bash, `> log 2>&1` and the processes that make batches change nothing. Sent to the process that
Snakemake started, bash would die and leave the program running: the rule says ``exec``, so that
this process is the program. Sent to Snakemake alone, nothing tells the program: Snakemake starts
nothing new and waits for it. On a real SLURM all of it was tried: see docs/cluster.md.
"""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# EX_TEMPFAIL of sysexits.h: another attempt goes on.
TRY_AGAIN = 75


class Preempted(Exception):
    """SIGTERM came, and the state is stored."""


@contextmanager
def sigterm_waits() -> Iterator[Callable[[], bool]]:
    """SIGTERM ends nothing within; the function that it gives says whether one came.

    Processes that are forked within take no notice of it either: they end with their parent.
    """
    came = []
    former = signal.signal(signal.SIGTERM, lambda number, _: came.append(number))
    try:
        yield lambda: bool(came)
    finally:
        signal.signal(signal.SIGTERM, former)
