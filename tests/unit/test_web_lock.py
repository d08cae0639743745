"""Two programs and one folder of downloads: the second waits, whatever becomes of the first."""

import logging
import signal
import subprocess
import sys
import threading
import time

import pytest
from workspace import PROJECT

from hpaloc.log import InputError
from hpaloc.web import lock
from hpaloc.web.lock import waited_for

HOLDER = """
import sys
sys.path.insert(0, {scripts!r})
from hpaloc.web.lock import waited_for
with waited_for({folder!r}):
    print("held", flush=True)
    sys.stdin.readline()
"""


def holder(folder) -> subprocess.Popen:
    code = HOLDER.format(scripts=str(PROJECT / "workflow" / "scripts"), folder=str(folder))
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    return process


def wait_beside(folder, process: subprocess.Popen, end) -> list[str]:
    """What a waiter does: "waiting" once it says so, and "in" once it holds the lock."""
    told = threading.Event()
    events = []

    class Handler(logging.Handler):
        def emit(self, record):
            events.append(record.getMessage())
            told.set()

    logger, handler = logging.getLogger("hpaloc"), Handler()
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        threading.Thread(target=lambda: (told.wait(10), end(process))).start()
        with waited_for(folder, every_s=0.01):
            events.append("in")
    finally:
        logger.removeHandler(handler)
        process.communicate()
    return events


def test_the_second_waits_and_names_the_holder(tmp_path):
    process = holder(tmp_path)

    def end(process):
        process.stdin.write("\n")
        process.stdin.flush()

    events = wait_beside(tmp_path, process, end)
    assert len(events) == 2 and events[1] == "in"
    assert f"waiting for process {process.pid} on " in events[0]


def test_a_killed_holder_lets_go(tmp_path):
    events = wait_beside(tmp_path, holder(tmp_path), lambda process: process.kill())
    assert events[-1] == "in"


def test_a_stopped_holder_is_named_again_and_again(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "_NAMED_AGAIN_S", 0.05)
    process = holder(tmp_path)
    process.send_signal(signal.SIGSTOP)

    def end(process):
        time.sleep(0.5)
        process.kill()

    events = wait_beside(tmp_path, process, end)
    assert len(events) > 3 and events[-1] == "in"
    assert all(f"waiting for process {process.pid} on " in event for event in events[:-1])


def test_a_folder_that_cannot_be_used_is_named(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    for folder in (tmp_path / "file", tmp_path / "file" / "folder"):
        with pytest.raises(InputError, match=r"the folder.* cannot be used"), waited_for(folder):
            pass


def test_a_full_disk_does_not_keep_anybody_from_the_lock(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(lock.os, "pwrite", full)
    with waited_for(tmp_path):
        pass


def test_an_empty_folder_is_made_and_held_at_once(tmp_path):
    with waited_for(tmp_path / "new" / "folder"):
        assert (tmp_path / "new" / "folder").is_dir()
