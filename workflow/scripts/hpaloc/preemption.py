"""SIGTERM, as a preempted node or a time limit sends it: first the state is stored.

How it reaches the program was tried with Snakemake 9.27 and bash 5.2. Sent to the session of a
run (as SLURM sends it to all processes of a job's step, and a terminal or a container to its
group), Snakemake waits for its running jobs and the program gets it too. Sent to a rule's shell
alone, bash would die and leave the program running: the rule says ``exec``, so that the shell is
the program. Sent to Snakemake alone, nothing tells the program: Snakemake starts nothing new and
waits until it is done.
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

    The signal is blocked, not only caught: processes that make batches are forked with it
    blocked, else they would die of it in the middle of a step. Threads that other libraries
    started before may still be handed it, hence the handler. One that comes too late to be asked
    for has its usual effect at the end.
    """
    came = []
    former = signal.signal(signal.SIGTERM, lambda number, _: came.append(number))
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})

    def asked() -> bool:
        if signal.SIGTERM in signal.sigpending():
            came.append(signal.sigwait({signal.SIGTERM}))
        return bool(came)

    try:
        yield asked
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGTERM, former)
