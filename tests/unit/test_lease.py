"""One process at a time in a folder, whatever becomes of the others."""

import json
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from workspace import PROJECT

from hpaloc.lease import LEASE, leased
from hpaloc.log import InputError

AGE_S = 0.6

HOLDER = """
import sys, time
from pathlib import Path
sys.path.insert(0, {scripts!r})
from hpaloc.lease import leased
with leased(Path({folder!r}), {age_s}) as lease:
    print("held", flush=True)
    sys.stdin.readline()
    lease.ensure()
    print("still held", flush=True)
"""


@pytest.fixture
def holder(tmp_path: Path):
    code = HOLDER.format(
        scripts=str(PROJECT / "workflow" / "scripts"), folder=str(tmp_path), age_s=AGE_S
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


@pytest.fixture
def said(caplog):
    caplog.set_level(logging.INFO)
    return caplog


def foreign_lease(folder: Path, age_s: float, text: str | None = None) -> None:
    """A lease of a process on another machine, renewed ``age_s`` seconds ago."""
    about = {"host": "node7", "pid": os.getpid(), "machine": "node7", "token": "abc"}
    (folder / LEASE).write_text(json.dumps(about) if text is None else text)
    renewed = time.time() - age_s
    os.utime(folder / LEASE, (renewed, renewed))


def test_the_second_waits_for_the_first_and_names_it(tmp_path, holder, said) -> None:
    def end() -> None:
        # It is alive for longer than a lease lives without renewal.
        time.sleep(2 * AGE_S)
        holder.stdin.write("\n")
        holder.stdin.flush()

    threading.Thread(target=end).start()
    with leased(tmp_path, AGE_S):
        # It let go before this one came in.
        assert holder.stdout.readline() == "still held\n"
    assert re.search(rf"waiting for process {holder.pid} on \S+, which works in it", said.text)
    assert said.text.count("waiting") == 1 and "taken over" not in said.text
    assert not (tmp_path / LEASE).exists()


def test_a_process_of_this_machine_that_was_killed_is_not_waited_for(tmp_path, holder, said):
    holder.kill()  # and is not yet taken note of by its parent, this one
    with leased(tmp_path):
        pass
    assert f"taken over from process {holder.pid}" in said.text and "runs no more" in said.text


def test_a_process_that_is_silent_loses_its_lease_and_stops(tmp_path, holder, said) -> None:
    holder.send_signal(signal.SIGSTOP)
    with leased(tmp_path, AGE_S):
        assert f"waiting for process {holder.pid}" in said.text
        assert f"taken over from process {holder.pid}" in said.text
        holder.send_signal(signal.SIGCONT)
        out, words = holder.communicate("\n")
        assert (out, holder.returncode) == ("", 1)
        assert re.search(rf"lost its lease: process {os.getpid()} on \S+ has it", words)
        # Nor did it give back what is another's.
        assert (tmp_path / LEASE).exists()


@pytest.mark.parametrize("text", [None, "", '{"host": "no'])
def test_a_lease_of_another_machine_is_waited_for_until_it_is_old(tmp_path, said, text) -> None:
    foreign_lease(tmp_path, 0.5 * AGE_S, text)
    with (
        pytest.raises(InputError, match="works in this state"),
        leased(tmp_path, AGE_S, wait=False),
    ):
        pass
    started = time.monotonic()
    with leased(tmp_path, AGE_S):
        waited = time.monotonic() - started
    assert waited > 0.3 * AGE_S
    assert "waiting for " + ("another process" if text is not None else "process") in said.text


def test_an_old_lease_of_another_machine_is_taken_over_at_once(tmp_path, said) -> None:
    foreign_lease(tmp_path, 61)
    with leased(tmp_path, wait=False):
        pass
    assert re.search(
        r"from process \d+ on node7, which has not renewed its lease for 61 s", said.text
    )


def test_the_clock_of_this_machine_does_not_matter(tmp_path, monkeypatch) -> None:
    foreign_lease(tmp_path, 0)
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + 3600)
    with pytest.raises(InputError), leased(tmp_path, wait=False):
        pass


def test_of_many_that_take_over_an_old_lease_one_at_a_time_is_in(tmp_path) -> None:
    folder, marks = tmp_path / "state", []
    folder.mkdir()
    foreign_lease(folder, 100)

    def work() -> None:
        with leased(folder, AGE_S) as lease:
            (folder / "inside").touch(exist_ok=False)
            time.sleep(0.02)
            lease.ensure()
            (folder / "inside").unlink()
            marks.append(None)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(marks) == 8


def test_a_removed_state_is_no_place_to_write(tmp_path) -> None:
    with leased(tmp_path, AGE_S) as lease:
        lease.ensure()
        (tmp_path / LEASE).unlink()
        with pytest.raises(InputError, match="it was removed"):
            lease.ensure()
