"""Two programs and one folder of downloads: the second waits, whatever becomes of the first."""

import logging
import subprocess
import sys
import threading

from conftest import PROJECT

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


def test_an_empty_folder_is_made_and_held_at_once(tmp_path):
    with waited_for(tmp_path / "new" / "folder"):
        assert (tmp_path / "new" / "folder").is_dir()
