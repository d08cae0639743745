"""Forked worker processes that end with the program, whatever ends it.

An uncaught error, sys.exit, a signal, os._exit and SIGKILL all leave no worker behind. Nothing has
to run in the program for this: a worker ends when its pipe is closed, and checks twice a second
whether its parent is still there. The parent may thus be gone while other processes hold copies of
the pipe, or while a worker is blocked in a write.

multiprocessing is not used. At exit it sends SIGTERM to its children and joins them, but workers
have to ignore SIGTERM (hpaloc.preemption), so the program would wait for ever. Its queues have
locks, which a killed process may hold. Here the pipes are the queues: messages have one size of few
bytes, which the system reads and writes as a whole.
"""

import gc
import os
import pickle
import signal
import struct
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import wait

from hpaloc.log import InputError
from hpaloc.memory import keep_freed_memory

# Four integers, 16 bytes: a whole number of them fills a page of a pipe, so that none is split.
_MESSAGE = struct.Struct("4i")
_CHECK_PARENT_S = 0.5
_SIGNALS = {signal.SIGINT, signal.SIGTERM}

# A piece of work: four integers, the first of which is reported when the piece is done.
Piece = tuple[int, int, int, int]

_MEMORY = (
    "most often because memory was short: give the job more memory, or fewer threads, as each of"
    " them is a worker process, and run again"
)
_CAUSES = {
    "SIGKILL": _MEMORY,
    "SIGBUS": (
        "because a file that it was reading was cut short or its disk failed (or, in a container,"
        " because memory was short): check the disk, and the arrays by make verify, and run again"
    ),
}


class Workers:
    """``count`` forked processes that call ``work`` for every piece that is put.

    Linux only. Workers ignore SIGINT and SIGTERM, which are for the program. Raises InputError
    where the system does not start so many processes.
    """

    def __init__(self, count: int, work: Callable[[Piece], None]):
        self._parent = os.getpid()
        self._processes: dict[int, int] = {}  # the read end of its pipe for an error: its id
        self._tasks, self._done = (), ()
        self._taken: deque[int] = deque()  # done, and read while there was no room for more work
        # Blocked before the fork, so that no signal finds a worker unprepared.
        former = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            try:
                self._tasks = os.pipe()
                self._done = os.pipe()
            except OSError as error:
                raise _not_started("the pipes of worker processes", error.strerror) from None
            os.set_blocking(self._tasks[1], False)
            for number in range(count):
                self._start(work, f"worker process {number + 1} of {count}")
        except BaseException:
            self.close()
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, former)

    def put(self, piece: Piece) -> None:
        """Queues a piece of work; where the pipe is full it waits until another piece is done.

        A pipe may have one page only, as users with many pipes get, and that page is written anew
        only once it is read to its end. Raises what ``next_done`` raises.
        """
        message = _MESSAGE.pack(*piece)
        while True:
            try:
                os.write(self._tasks[1], message)
                return
            except BlockingIOError:
                # A worker takes no work while it has no room to say what is done. A full pipe has
                # work for it, so that it says something.
                self._taken.append(self._read_done())

    def next_done(self) -> int:
        """Waits for the next piece that is done; returns the first number of it.

        Raises the error of a worker that failed, InputError for one that was killed for lack of
        memory or by a disk that failed, and RuntimeError for one that ended otherwise.
        """
        return self._taken.popleft() if self._taken else self._read_done()

    def _read_done(self) -> int:
        ready = wait([self._done[0], *self._processes])
        if self._done[0] in ready:
            return _MESSAGE.unpack(os.read(self._done[0], _MESSAGE.size))[0]
        raise self._error_of(ready[0])

    def close(self) -> None:
        """Ends the workers and waits for their end; they have nothing to save."""
        if os.getpid() != self._parent:  # a forked copy of this object: not its children
            return
        for process in self._processes.values():
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        for process in self._processes.values():
            _exit_code(process)
        for end in (*self._processes, *self._tasks, *self._done):
            os.close(end)
        self._processes, self._tasks, self._done = {}, (), ()

    def _start(self, work: Callable[[Piece], None], name: str) -> None:
        pipe = ()
        try:
            pipe = error_read, error_write = os.pipe()
            process = os.fork()
        except OSError as error:
            for end in pipe:
                os.close(end)
            raise _not_started(name, error.strerror) from None
        if process:
            # Closed before the next fork: the worker alone has it, and its end is the pipe's.
            os.close(error_write)
            self._processes[error_read] = process
            return
        try:
            self._run(work, name, error_write)
        finally:
            os._exit(1)

    def _run(self, work: Callable[[Piece], None], name: str, errors: int) -> None:
        """In the worker: works until the program is gone, or something fails."""
        try:
            gc.freeze()  # what was inherited is not collected here: it may belong to a GPU
            watch = threading.Thread(target=_end_with, args=(self._parent,), daemon=True)
            try:
                watch.start()
            except RuntimeError as error:
                raise _not_started(f"the watch of {name}", str(error)) from None
            os.close(self._tasks[1])
            os.close(self._done[0])
            keep_freed_memory()
            while message := os.read(self._tasks[0], _MESSAGE.size):
                work(_MESSAGE.unpack(message))
                os.write(self._done[1], message)
        except Exception as error:  # noqa: BLE001 - it is raised in the program
            with os.fdopen(errors, "wb") as pipe:
                pipe.write(_pickled(error))

    def _error_of(self, pipe: int) -> BaseException:
        with os.fdopen(os.dup(pipe), "rb") as file:
            message = file.read()  # to the worker's end
        os.close(pipe)
        code = _exit_code(self._processes.pop(pipe))
        if message:
            # A worker that is killed may have sent a part.
            with suppress(Exception):
                return pickle.loads(message)
        name = signal.Signals(-code).name if code is not None and code < 0 else f"status {code}"
        if cause := _CAUSES.get(name):
            return InputError(f"a worker process that makes batches was killed ({name}), {cause}.")
        return RuntimeError(f"a worker process that makes batches ended unexpectedly ({name})")


def _not_started(name: str, reason: str) -> InputError:
    return InputError(
        f"{name} cannot be started ({reason}): give the job fewer threads, as each of them is a"
        " worker process, or more memory, processes (ulimit -u) or open files (ulimit -n)."
    )


def _end_with(parent: int) -> None:
    """Ends this process when its parent is no longer ``parent``."""
    while os.getppid() == parent:
        time.sleep(_CHECK_PARENT_S)
    os._exit(1)


def _pickled(error: BaseException) -> bytes:
    """``error`` with the worker's traceback as a note, in a form that can be read again."""
    if isinstance(error, MemoryError):
        error = InputError(f"a worker process that makes batches ran out of memory, {_MEMORY}.")
    error.add_note(f"In a worker process that makes batches:\n{traceback.format_exc()}")
    try:
        data = pickle.dumps(error)
        pickle.loads(data)
    except Exception:  # noqa: BLE001 - its class may have arguments that are not kept
        plain = RuntimeError(f"{type(error).__name__}: {error}")
        plain.__notes__ = error.__notes__
        return pickle.dumps(plain)
    return data


def _exit_code(process: int) -> int | None:
    """Waits for the end of a child: its status, or minus the signal that ended it."""
    try:
        return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    except ChildProcessError:  # where SIGCHLD is ignored, the system forgets it
        return None
