"""What the check for a real GPU says, and that it says it where there is none."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(PROJECT / "benchmarks"))

import gpu_check
import gpu_memory
import train_step
from gpu_check import FAILED, OK, PARTS, SKIPPED, Outcome, Part, is_well, run_part, verdict
from gpu_memory import Case, Peak

CHECK = Part("compare", "a check", 60, 1, True)
MEASUREMENT = Part("rates", "a measurement", 60, 1, False)


def of(status: str) -> Outcome:
    return Outcome(status, "", 1.0, {})


@pytest.mark.parametrize(
    "check, measurement, expected",
    [
        (OK, OK, True), (OK, SKIPPED, True), (OK, FAILED, False), (FAILED, OK, False),
        (SKIPPED, OK, False),
    ],
)  # fmt: skip
def test_nothing_is_well_where_something_failed_or_was_not_checked(
    check, measurement, expected
) -> None:
    outcomes = {CHECK: of(check), MEASUREMENT: of(measurement)}
    assert is_well(outcomes) == expected
    assert verdict(outcomes).startswith("ALL IS WELL" if expected else "NOT WELL")
    assert "\n" not in verdict(outcomes)


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
    row = gpu_memory.row(Case("net", 512, 64), Peak(9_000, 14_000, 16))
    assert "9,000 in parts of 16" in row and "16 GB yes" in row
    assert "does not fit" in gpu_memory.row(Case("net", 512, 64), "does not fit")


@pytest.mark.parametrize("size, count", [(64, 64), (224, 64), (225, 32), (512, 32), (1024, 16)])
def test_large_images_come_in_small_batches(size, count) -> None:
    assert train_step.batch_for(size) == count


def test_a_folder_without_the_four_files_is_named(tmp_path) -> None:
    from hpaloc.log import InputError

    with pytest.raises(InputError, match=r"no file \*red\.jpg"):
        train_step.atlas_files(tmp_path)
