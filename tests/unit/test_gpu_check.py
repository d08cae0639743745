"""What the check for a real GPU says, and that it says it where there is none."""

import argparse
import fcntl
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(PROJECT / "benchmarks"))

import gpu_check
import gpu_memory
import limits
import train_step
from gpu_check import FAILED, OK, PARTS, SKIPPED, Outcome, Part, is_well, run_part, verdict
from gpu_memory import Case, Peak

from hpaloc.gpu_lock import CLAIMED

CHECK = Part("compare", "a check", 60, 1, True)
MEASUREMENT = Part("rates", "a measurement", 60, 1, False)


def of(status: str) -> Outcome:
    return Outcome(status, "", 1.0, {})


@pytest.mark.parametrize(
    "check, measurement, expected",
    [
        (OK, OK, "ALL IS WELL"), (OK, SKIPPED, "ALL IS WELL"), (OK, FAILED, "NOT WELL"),
        (FAILED, OK, "NOT WELL"), (SKIPPED, OK, "NOT ALL CHECKED"), (None, OK, "NOT ALL CHECKED"),
        (OK, None, "ALL IS WELL"),
    ],
)  # fmt: skip
def test_nothing_is_well_where_something_failed_or_was_not_checked(
    check, measurement, expected
) -> None:
    changed = {CHECK.name: check, MEASUREMENT.name: measurement}
    statuses = {part: changed.get(part.name, OK) for part in PARTS}
    outcomes = {part: of(status) for part, status in statuses.items() if status}
    assert is_well(outcomes) == (expected == "ALL IS WELL")
    assert verdict(outcomes).startswith(expected + "; ")
    assert "\n" not in verdict(outcomes)


def test_a_table_that_others_may_read_before_the_end_says_that_it_is_unfinished() -> None:
    machine = {"device": "H100", "memory_mib": 1, "capability": "9.0", "driver": "1"}
    arguments = argparse.Namespace(small=False)
    so_far = dict.fromkeys(PARTS[:4], of(OK))
    table = gpu_check.report(so_far, machine, arguments, "command", is_over=False)
    assert "UNFINISHED; ok: images" in table and "WELL" not in table
    assert "ALL IS WELL" in gpu_check.report(so_far, machine, arguments, "command", is_over=True)
    assert verdict({}, is_over=False).startswith("UNFINISHED")
    so_far[PARTS[0]] = of(FAILED)
    assert verdict(so_far, is_over=False).startswith("NOT WELL")


def test_a_trial_of_the_program_does_not_replace_a_table() -> None:
    real, trial = (gpu_check.table_of("NVIDIA H100", small) for small in (False, True))
    assert (real.name, trial.name) == ("gpu_check_nvidia_h100.md", "gpu_check_nvidia_h100_small.md")


@pytest.fixture
def waiting(tmp_path):
    """Starts a benchmark where another program, this one, has the only GPU."""
    folder = tmp_path / f"hpaloc_gpus_{socket.gethostname()}"
    folder.mkdir()
    held = os.open(folder / "a_gpu", os.O_RDWR | os.O_CREAT)
    fcntl.flock(held, fcntl.LOCK_EX)
    kept = {k: v for k, v in os.environ.items() if k not in ("CUDA_VISIBLE_DEVICES", CLAIMED)}
    processes = []

    def start(name: str, *options: str) -> subprocess.Popen:
        code = (
            f"import sys; sys.path.insert(0, {str(PROJECT / 'benchmarks')!r})\n"
            f"import {name}\nfrom hpaloc import gpu_lock, log\n"
            "gpu_lock.visible_gpus = lambda: ['a_gpu']\n"
            f"log.run_program(lambda: {name}.main({list(options)}))\n"
        )
        process = subprocess.Popen(
            [sys.executable, "-c", code], env=kept | {"TMPDIR": str(tmp_path)},
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()
    os.close(held)


@pytest.mark.parametrize("name", ["gpu_check", "gpu_memory", "train_step"])
def test_who_waits_for_a_gpu_says_so(waiting, name) -> None:
    process = waiting(name)
    watchdog = threading.Timer(120, process.kill)
    watchdog.start()
    line = process.stderr.readline()
    watchdog.cancel()
    assert "waiting for 1 of 1 GPUs" in line


def test_waiting_for_a_gpu_counts_against_the_time_of_the_check(waiting) -> None:
    process = waiting("gpu_check", "--minutes", "0.02")
    _, said = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "in use for all of --minutes 0.02" in said.splitlines()[-1]


def program(monkeypatch, code: str) -> None:
    monkeypatch.setattr(gpu_check, "command_of", lambda *_: [sys.executable, "-c", code])


def test_a_part_that_does_not_end_is_ended_with_all_that_it_started(monkeypatch, tmp_path) -> None:
    child = (
        "import subprocess as s; p = s.Popen(['sleep', '600']); print(p.pid, flush=True); p.wait()"
    )
    program(monkeypatch, child)
    outcome = run_part(CHECK._replace(most=3), tmp_path, False, 600, "")
    assert outcome.status == FAILED and outcome.said.startswith("not ready after 3s")
    pid = outcome.found["output"].split()[0]
    state = Path(f"/proc/{pid}/stat")
    ends = time.monotonic() + 20  # a killed process takes its time on a busy machine
    while is_running(state) and time.monotonic() < ends:
        time.sleep(0.05)
    assert not is_running(state)


def is_running(state: Path) -> bool:
    try:
        return state.read_text().split()[2] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_part_that_dies_or_finds_a_fault_is_a_failure(monkeypatch, tmp_path) -> None:
    program(monkeypatch, "import sys; sys.exit('no such kernel')")
    outcome = run_part(CHECK, tmp_path, False, 600, "")
    assert (outcome.status, outcome.said) == (FAILED, "exit status 1: no such kernel")
    answer = tmp_path / "compare.json"
    program(monkeypatch, f"open({str(answer)!r}, 'w').write('{{\"faults\": [\"apart\"]}}')")
    outcome = run_part(CHECK, tmp_path, False, 600, "")
    assert (outcome.status, outcome.said) == (FAILED, "apart")


def test_what_there_is_no_time_for_is_skipped(monkeypatch, tmp_path) -> None:
    program(monkeypatch, "import time; time.sleep(60)")
    assert run_part(CHECK._replace(least=20), tmp_path, False, 19, "").status == SKIPPED
    # Begun, and ended by the end of all time: not the part's fault, and no check either.
    assert run_part(CHECK, tmp_path, False, 2, "").status == SKIPPED


def test_the_parts_fit_into_the_time_that_is_promised() -> None:
    checks = sum(part.most for part in PARTS if part.is_check)
    assert checks <= 11 * 60
    assert {name for needed in gpu_check.NEEDS.values() for name in needed} <= {
        p.name for p in PARTS
    }


@pytest.mark.parametrize("name", ["gpu_check.py", "gpu_memory.py"])
def test_without_a_gpu_it_ends_in_a_line(name, tmp_path) -> None:
    done = subprocess.run(
        [sys.executable, PROJECT / "benchmarks" / name, "--out", tmp_path / "table.md"],
        env={"PATH": "", "CUDA_VISIBLE_DEVICES": ""}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "no GPU that torch can use" in done.stderr
    assert not (tmp_path / "table.md").exists()


def test_a_card_suffices_by_what_is_reserved_and_just_by_what_is_allocated() -> None:
    words = gpu_memory.suffices(Peak(22_430, 24_690, 64))
    assert words == "16 GB in parts, 24 GB just, 80 GB yes"
    assert words in gpu_memory.row(Case("net", 512, 64), Peak(22_430, 24_690, 64))
    # What the whole batch takes was not seen there.
    row = gpu_memory.row(Case("net", 512, 64), Peak(9_000, 14_000, 16))
    assert "9,000 in parts of 16" in row and "yes" not in row and "not known" in row
    assert "does not fit" in gpu_memory.row(Case("net", 512, 64), "does not fit")


@pytest.mark.parametrize("size, count", [(64, 64), (224, 64), (225, 32), (512, 32), (1024, 16)])
def test_large_images_come_in_small_batches(size, count) -> None:
    assert train_step.batch_for(size) == count


def test_limits_say_how_they_were_measured() -> None:
    large = limits.Limits(1.0, 1.0, 2, 2**30, 8192)
    assert limits.sizes_of(large) == "1,024 MiB and matrices of 8,192 × 8,192"
    short = large._replace(copied=4 * limits.SMALL[0], side=limits.SMALL[1])
    assert limits.sizes_of(short).startswith("4 MiB and matrices of 512 × 512; too little memory")


def test_a_folder_without_the_four_files_is_named(tmp_path) -> None:
    from hpaloc.log import InputError

    with pytest.raises(InputError, match=r"no file \*red\.jpg"):
        train_step.atlas_files(tmp_path)
