"""Workers end with the program, whatever ends it, and report what ended them."""

import errno
import faulthandler
import fcntl
import mmap
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from workspace import PROJECT

from hpaloc.log import InputError
from hpaloc.workers import Workers

SCRIPTS = PROJECT / "workflow" / "scripts"
QUICK_S = 2.0
# What a program does that takes pieces from two workers, as hpaloc.batch_buffers does. It says
# where it is by the file that it is given, and then waits for nothing but what is tested.
PROGRAM = """
import multiprocessing, os, signal, sys, threading, time
from pathlib import Path
from hpaloc.workers import Workers

def pieces(work):
    workers = Workers(2, work)
    try:
        for number in range(200):
            workers.put((number, 0, 0, 0))
        while True:
            yield workers.next_done()
    finally:
        workers.close()

def slow(piece):
    time.sleep(0.05 if piece[0] else 0)

def blocked(piece):
    if piece[0]:
        raise RuntimeError("a message that fills the pipe" * 100_000)

def say():
    children = Path(f"/proc/self/task/{threading.get_native_id()}/children").read_text().split()
    with open(sys.argv[2], "w") as file:
        file.write(" ".join([*children, "."]))

def run(end, work=slow):
    for _ in pieces(work):
        time.sleep(0.1)  # both workers are at work, or blocked
        say()
        end()

def fails(): raise RuntimeError("as CUDA out of memory in the forward pass")
def exits(): sys.exit(3)
def ends_hard(): os._exit(4)
def waits(): time.sleep(60)
def killed(number): os.kill(os.getpid(), number); time.sleep(60)
def sigkill(): killed(signal.SIGKILL)

def left():
    global feed
    feed = pieces(slow)
    next(feed)
    say()

def beside():
    global other
    other = pieces(blocked)
    next(other)
    run(fails)

def with_bystander():
    for _ in pieces(slow):
        if os.fork() == 0:  # this process has all ends of the pipes
            time.sleep(60)
            os._exit(0)
        say()
        sigkill()

def as_child(method, target, arguments=(), daemon=False):
    child = multiprocessing.get_context(method).Process(target=target, args=arguments, daemon=daemon)
    child.start()
    if daemon:
        while not os.path.exists(sys.argv[2]): time.sleep(0.05)
        return
    child.join()
    sys.exit(child.exitcode if child.exitcode >= 0 else 100 - child.exitcode)

CASES = {
    "an error": lambda: run(fails),
    "an error beside another feed": beside,
    "an error while a worker is blocked": lambda: run(fails, blocked),
    "sys.exit": lambda: run(exits),
    "the end, with a feed that is left": left,
    "os._exit": lambda: run(ends_hard),
    "SIGKILL": lambda: run(sigkill),
    "SIGKILL while a worker is blocked": lambda: run(sigkill, blocked),
    "SIGKILL while others have the pipes": with_bystander,
    "SIGTERM": lambda: run(waits),
    "SIGINT": lambda: run(waits),
    "an error in a forked process": lambda: as_child("fork", run, (fails,)),
    "an error in a spawned process": lambda: as_child("spawn", run, (fails,)),
    "SIGKILL in a spawned process": lambda: as_child("spawn", run, (sigkill,)),
    "the end of a daemon's parent": lambda: as_child("fork", run, (waits,), daemon=True),
}
if __name__ == "__main__":
    CASES[sys.argv[1]]()
"""
STATUS = {
    "an error": 1,
    "an error beside another feed": 1,
    "an error while a worker is blocked": 1,
    "sys.exit": 3,
    "the end, with a feed that is left": 0,
    "os._exit": 4,
    "SIGKILL": -9,
    "SIGKILL while a worker is blocked": -9,
    "SIGKILL while others have the pipes": -9,
    "SIGTERM": -15,
    "SIGINT": -2,
    "an error in a forked process": 1,
    "an error in a spawned process": 1,
    "SIGKILL in a spawned process": 109,
    "the end of a daemon's parent": 0,
}


def is_alive(process: int) -> bool:
    try:
        status = Path(f"/proc/{process}/stat").read_text(encoding="ascii")
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def ended(processes: list[int], within: float = QUICK_S) -> bool:
    last = time.monotonic() + within
    while any(map(is_alive, processes)):
        if time.monotonic() > last:
            return False
        time.sleep(0.02)
    return True


@pytest.mark.parametrize("case", STATUS)
def test_workers_end_whatever_ends_the_program(tmp_path, case) -> None:
    program, told = tmp_path / "program.py", tmp_path / "told"
    program.write_text(PROGRAM, encoding="utf-8")
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, program, case, told],
            env=os.environ | {"PYTHONPATH": str(SCRIPTS)}, stdout=log, stderr=log,
        )  # fmt: skip
    others = []
    try:
        while not (told.exists() and told.read_text().endswith(".")):
            assert process.poll() is None or told.exists(), (tmp_path / "log").read_text()
            time.sleep(0.02)
        *workers, _ = told.read_text().split()
        workers = list(map(int, workers))
        if case == "SIGKILL while others have the pipes":
            others = [workers.pop()]
        assert len(workers) == (4 if "another feed" in case else 2)
        if case in ("SIGTERM", "SIGINT"):
            process.send_signal(getattr(signal, case))
        assert process.wait(QUICK_S) == STATUS[case]
        assert ended(workers)
        assert not others or all(map(is_alive, others))
    finally:
        process.kill()
        process.wait()
        for other in others:
            os.kill(other, signal.SIGKILL)


def test_an_error_that_nothing_catches_ends_a_program_that_has_batches(tmp_path) -> None:
    """The error's traceback keeps the feed alive to the end of the interpreter."""
    program = (
        "from hpaloc.batch_buffers import filled\n"
        "def write(position, image): image[:] = position\n"
        "def epoch():\n"
        "    for batch in filled([range(4)] * 50, (3,), write, 2):\n"
        "        raise RuntimeError('as CUDA out of memory in the forward pass')\n"
        "epoch()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"PYTHONPATH": str(SCRIPTS)}, stderr=subprocess.PIPE, timeout=60,
        check=False,
    )  # fmt: skip
    assert done.returncode == 1 and b"as CUDA out of memory" in done.stderr


# What is reported


def fed(work, pieces=20):
    """The pieces that are done, as the numbers that were put."""
    workers = Workers(2, work)
    try:
        for number in range(pieces):
            workers.put((number, 0, 0, 0))
        return [workers.next_done() for _ in range(pieces)]
    finally:
        workers.close()


def children() -> list[str]:
    return Path(f"/proc/self/task/{threading.get_native_id()}/children").read_text().split()


def test_all_pieces_are_done_and_nothing_is_left() -> None:
    files, before = os.listdir("/proc/self/fd"), children()
    assert sorted(fed(lambda piece: None, 250)) == list(range(250))
    assert os.listdir("/proc/self/fd") == files
    assert children() == before


def test_signals_for_the_program_are_not_for_its_workers() -> None:
    def signalled(piece):
        for number in (signal.SIGINT, signal.SIGTERM):
            os.kill(os.getpid(), number)

    assert len(fed(signalled)) == 20
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, [])


class Awkward(Exception):
    """Cannot be read from its pickle."""

    def __init__(self, one, other):
        super().__init__(f"{one}, {other}")


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (InputError("shard 3 is gone"), InputError, "^shard 3 is gone"),
        (FileNotFoundError(2, "No such file", "shard_003.npy"), FileNotFoundError, "shard_003.npy"),
        (ValueError("long " * 100_000), ValueError, "^long long"),
        (Awkward("left", "right"), RuntimeError, "Awkward: left, right"),
        (MemoryError(), InputError, "ran out of memory.*give the job more memory"),
    ],
)
def test_an_error_of_a_worker_is_that_of_the_program(error, kind, words) -> None:
    def broken(piece):
        if piece[0] == 7:
            raise error

    with pytest.raises(kind, match=words) as caught:
        fed(broken)
    assert "in broken" in caught.value.__notes__[0]
    assert getattr(caught.value, "filename", None) == getattr(error, "filename", None)


def cut_short(path: Path) -> None:
    """Reads a mapped file whose end is gone."""
    faulthandler.disable()  # pytest's, which would print the traceback
    path.write_bytes(bytes(1 << 16))
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        file.truncate(0)
        mapped[1 << 15]


@pytest.mark.parametrize(
    ("ends", "kind", "words"),
    [
        (lambda _: os.kill(os.getpid(), signal.SIGKILL), InputError, "SIGKILL.*more memory"),
        (lambda path: cut_short(path), InputError, "SIGBUS.*cut short.*make verify"),
        (lambda _: os.kill(os.getpid(), signal.SIGXCPU), RuntimeError, "SIGXCPU"),
        (lambda _: os._exit(3), RuntimeError, "status 3"),
        (lambda _: sys.exit(3), RuntimeError, "status 1"),
    ],
)
def test_a_worker_that_ends_is_an_error_of_the_program(tmp_path, ends, kind, words) -> None:
    before = children()  # those of other tests
    with pytest.raises(kind, match=words):
        fed(lambda piece: ends(tmp_path / "file") if piece[0] == 7 else None)
    assert children() == before


@pytest.mark.parametrize(
    ("name", "call", "number", "words"),
    [
        ("fork", 3, errno.EAGAIN, r"3 of 4 cannot be started.*fewer threads"),
        # Of the tasks, of what is done, of a second worker.
        *(
            ("pipe", call, errno.EMFILE, r"cannot be started \(Too many.*ulimit -n")
            for call in (1, 2, 4)
        ),
    ],
)
def test_processes_and_files_that_are_short_are_no_defect(
    monkeypatch, name, call, number, words
) -> None:
    real, calls = getattr(os, name), []

    def short():
        calls.append(1)
        if len(calls) == call:
            raise OSError(number, os.strerror(number))
        return real()

    monkeypatch.setattr(os, name, short)
    files, before = os.listdir("/proc/self/fd"), children()
    with pytest.raises(InputError, match=words):
        Workers(4, lambda piece: None)
    assert children() == before and os.listdir("/proc/self/fd") == files


def test_threads_that_cannot_be_started_are_no_defect(monkeypatch) -> None:
    def short(_) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", short)
    with pytest.raises(InputError, match=r"of 2 cannot be started \(can't start.*fewer threads"):
        fed(lambda piece: None)


def too_late(*_: object) -> None:
    raise TimeoutError("the program waits for its workers, which wait for it")


def test_pipes_of_one_page_take_any_number_of_pieces(monkeypatch) -> None:
    """As users with many pipes get them."""
    real, page = os.pipe, os.sysconf("SC_PAGE_SIZE")

    def small() -> tuple[int, int]:
        ends = real()
        fcntl.fcntl(ends[1], fcntl.F_SETPIPE_SZ, page)
        return ends

    monkeypatch.setattr(os, "pipe", small)
    former = signal.signal(signal.SIGALRM, too_late)
    signal.alarm(10)
    try:
        pieces = page // 4  # four times what a pipe holds
        assert sorted(fed(lambda piece: None, pieces)) == list(range(pieces))

        def broken(piece):
            raise InputError("shard 3 is gone")

        with pytest.raises(InputError, match="shard 3"):
            fed(broken, pieces)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, former)


def test_workers_outlive_the_thread_that_started_them() -> None:
    started = []
    thread = threading.Thread(target=lambda: started.append(Workers(1, lambda piece: None)))
    thread.start()
    thread.join()
    (workers,) = started
    time.sleep(0.7)
    workers.put((5, 0, 0, 0))
    assert workers.next_done() == 5
    workers.close()


def test_a_forked_copy_of_the_program_ends_nothing() -> None:
    workers = Workers(1, lambda piece: None)
    copy = os.fork()
    if copy == 0:
        workers.close()
        os._exit(0)
    os.waitpid(copy, 0)
    workers.put((5, 0, 0, 0))
    assert workers.next_done() == 5
    workers.close()
