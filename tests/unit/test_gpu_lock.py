"""Each job has GPUs of its own, whatever becomes of the others. The GPUs are names only."""

import logging
import os
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from workspace import PROJECT

from hpaloc import gpu_lock, nvml
from hpaloc.compute import choose_compute
from hpaloc.gpu_lock import CLAIMED, VISIBLE, claim_gpus
from hpaloc.log import InputError

# A job: claims GPUs, tells which, and goes on as the test says. `every_s` is short.
JOB = """
import logging, os, sys
sys.path.insert(0, {scripts!r})
from pathlib import Path
from hpaloc.gpu_lock import claim_gpus
from hpaloc.log import InputError
logging.basicConfig(stream=sys.stderr, level=logging.INFO)
claim_gpus({gpus}, {names!r}, Path({folder!r}), every_s=0.02)
print(os.environ.get("CUDA_VISIBLE_DEVICES"), flush=True)
for line in sys.stdin:
    if line == "exec\\n":
        os.execv("/bin/cat", ["cat"])
    if line == "fork\\n" and os.fork() == 0:
        os.close(0)
        os.kill(os.getpid(), 19)
"""


class Jobs:
    def __init__(self, folder: Path):
        self.folder, self.started = folder, []

    def start(self, gpus: int, names: list[str], **environment: str) -> subprocess.Popen:
        code = JOB.format(
            scripts=str(PROJECT / "workflow" / "scripts"), gpus=gpus, names=names,
            folder=str(self.folder),
        )  # fmt: skip
        job = subprocess.Popen(
            [sys.executable, "-c", code], text=True, env=os.environ | environment,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        self.started.append(job)
        return job


def too_late(*_: object) -> None:
    raise TimeoutError("no job said in a minute what it does")


@pytest.fixture
def jobs(tmp_path, monkeypatch):
    for name in (VISIBLE, CLAIMED, "CUDA_DEVICE_ORDER"):
        # Set first, so that what a test's own claim sets is taken back.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    # A job that neither claims nor waits would be waited for here for ever.
    former = signal.signal(signal.SIGALRM, too_late)
    signal.alarm(60)
    jobs = Jobs(tmp_path / "locks")
    yield jobs
    signal.alarm(0)
    signal.signal(signal.SIGALRM, former)
    for job in jobs.started:
        job.kill()
        job.communicate()


@pytest.fixture
def said(caplog):
    caplog.set_level(logging.INFO)
    return caplog


def gpus_of(job: subprocess.Popen) -> str:
    return job.stdout.readline().strip()


def words_of(job: subprocess.Popen, words: str) -> str:
    """The job's next line of log that has these words."""
    for line in job.stderr:
        if words in line:
            return line
    raise AssertionError(f"the job ended without {words!r}")


def test_every_job_has_its_own_and_the_lowest_free_one(jobs):
    names = ["0", "1", "2", "3"]
    first = [jobs.start(1, names) for _ in range(3)]
    assert sorted(map(gpus_of, first)) == ["0", "1", "2"]
    assert gpus_of(jobs.start(1, names)) == "3"


def test_a_killed_job_lets_go_at_once_and_a_waiting_one_says_whom_it_waits_for(jobs):
    first = jobs.start(1, ["0", "1"])
    assert gpus_of(first) == "0"
    second = jobs.start(1, ["0", "1"])
    assert gpus_of(second) == "1"
    third = jobs.start(1, ["0", "1"])
    line = words_of(third, "waiting for 1 of 2 GPUs")
    assert re.search(
        rf"in use: 0 by process {first.pid} \(-c\) since \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d,"
        rf" 1 by process {second.pid} \(-c\) since",
        line,
    )
    second.kill()
    assert gpus_of(third) == "1"
    assert first.poll() is None


def test_a_job_that_ends_lets_go(jobs):
    job = jobs.start(2, ["0", "1"])
    assert gpus_of(job) == "0,1"
    job.communicate()
    assert gpus_of(jobs.start(2, ["0", "1"])) == "0,1"


def test_several_gpus_are_claimed_all_at_once(jobs):
    """Jobs that want two each of three: none takes one and waits for another one that does."""
    names = ["0", "1", "2"]
    pairs = [jobs.start(2, names) for _ in range(3)]
    while pairs:
        ready, _, _ = select.select([job.stdout for job in pairs], [], [], 30)
        (done,) = (job for job in pairs if job.stdout in ready)  # never two at once
        assert gpus_of(done) == "0,1"
        done.communicate()
        pairs.remove(done)


def test_the_lock_is_kept_by_the_program_that_takes_the_process_over(jobs):
    job = jobs.start(1, ["0"])
    assert gpus_of(job) == "0"
    print("exec", file=job.stdin, flush=True)
    while not Path(f"/proc/{job.pid}/cmdline").read_text().startswith("cat"):
        time.sleep(0.01)
    print("echo", file=job.stdin, flush=True)
    assert job.stdout.readline() == "echo\n"  # it is cat now
    other = jobs.start(1, ["0"])
    words_of(other, f"in use: 0 by process {job.pid}")
    job.kill()
    assert gpus_of(other) == "0"


def test_the_lock_is_kept_until_the_last_forked_process_has_ended(jobs):
    job = jobs.start(1, ["0"])
    assert gpus_of(job) == "0"
    print("fork", file=job.stdin, flush=True)
    children = Path(f"/proc/{job.pid}/task/{job.pid}/children")
    while not (child := children.read_text().split()):
        time.sleep(0.01)
    job.kill()
    job.wait()
    other = jobs.start(1, ["0"])
    words_of(other, f"in use: 0 by process {job.pid}")
    os.kill(int(child[0]), signal.SIGKILL)
    assert gpus_of(other) == "0"


def test_a_process_that_a_job_starts_has_its_gpus_and_claims_none(jobs, monkeypatch):
    claim_gpus(1, ["0", "1"], jobs.folder)
    assert os.environ[VISIBLE] == "0"
    assert gpus_of(jobs.start(1, ["0", "1"])) == "0"


def test_a_job_that_waits_ends_when_it_is_told_to(jobs):
    assert gpus_of(jobs.start(1, ["0"])) == "0"
    waiting = jobs.start(1, ["0"])
    words_of(waiting, "waiting for 1 of 1 GPUs")
    waiting.terminate()
    assert waiting.wait(10) == 75


@pytest.mark.parametrize(
    ("visible", "count", "names"),
    [
        (None, 3, ["0", "1", "2"]),
        ("2,3", 2, ["2", "3"]),
        ("3, 1", 2, ["3", "1"]),
        ("GPU-8932f937,GPU-7ac01", 2, ["GPU-8932f937", "GPU-7ac01"]),
        # CUDA counts one of these, and starts to do so.
        ("MIG-GPU-6a0f/1/0", None, ["MIG-GPU-6a0f/1/0"]),
        ("MIG-6a0f, MIG-7b1e,MIG-8c2d", None, ["MIG-6a0f", "MIG-7b1e", "MIG-8c2d"]),
        ("MIG-6a0f,0", None, ["MIG-6a0f"]),
        ("0,9,1", 1, ["0"]),  # CUDA stops at the one that it does not know
        ("", 0, []),
        ("NoDevFiles", 0, []),
        (None, 0, []),
    ],
)
def test_what_there_is_to_choose_from(jobs, monkeypatch, visible, count, names):
    if visible is not None:
        monkeypatch.setenv(VISIBLE, visible)
    monkeypatch.setattr("torch.cuda.device_count", counts(count))
    monkeypatch.setattr("hpaloc.nvml.gpu_uuids", list)
    assert gpu_lock.visible_gpus() == names


def test_gpus_that_others_have_are_no_choice(jobs, monkeypatch, card):
    """A constraint of devices: NVML counts them, and CUDA does not."""
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    card("GPU-1a")
    assert gpu_lock.visible_gpus() == ["0"]
    card()
    assert gpu_lock.visible_gpus() == ["0", "1", "2", "3"]


def counts(count: int | None):
    def device_count() -> int:
        assert count is not None, "CUDA was asked"
        return count

    return device_count


def test_a_program_claims_before_it_looks_for_cuda(monkeypatch):
    asked = []
    monkeypatch.setattr("hpaloc.compute.claim_gpus", asked.append)
    monkeypatch.setattr("hpaloc.compute.has_usable_gpu", lambda: asked.append("cuda"))
    choose_compute("float32", 1, gpus=2)
    assert asked[:2] == [2, "cuda"]


def test_cards_of_amd_are_left_alone(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    monkeypatch.setattr("torch.version.hip", "6.4")
    assert gpu_lock.visible_gpus() == []


def test_among_those_that_were_chosen_for_it_a_job_chooses(jobs, monkeypatch):
    """MIG devices have slashes in their names."""
    names = ["MIG-GPU-6a0f/1/0", "MIG-GPU-6a0f/2/0"]
    preset = {VISIBLE: ",".join(names)}
    assert gpus_of(jobs.start(1, names, **preset)) == names[0]
    assert gpus_of(jobs.start(1, names, **preset)) == names[1]


def test_of_several_parts_of_a_gpu_each_job_has_its_own(jobs, monkeypatch):
    names = ["MIG-6a0f", "MIG-7b1e"]
    monkeypatch.setenv(VISIBLE, ",".join(names))
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)  # as CUDA does
    assert gpus_of(jobs.start(1, names)) == names[0]
    claim_gpus(1, folder=jobs.folder)
    assert os.environ[VISIBLE] == names[1]


def test_parts_of_a_gpu_train_no_fold_together(jobs, monkeypatch):
    monkeypatch.setenv(VISIBLE, "MIG-6a0f,MIG-7b1e")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    with pytest.raises(InputError, match=r"MIG-6a0f,MIG-7b1e names parts of GPUs.*gpus_per_fold"):
        claim_gpus(2, folder=jobs.folder)


@pytest.mark.parametrize("code", [None, 999])  # not there; it cannot start
def test_where_only_cuda_can_count_another_process_does_it(jobs, monkeypatch, tmp_path, code):
    library = type("Library", (), {"nvmlInit": lambda self: code})
    there = {"libcuda.so.1": library(), "libnvidia-ml.so.1": library() if code else None}
    monkeypatch.setattr("hpaloc.nvml.load_library", there.get)
    monkeypatch.setattr("torch.cuda.device_count", counts(None))
    # What the other process imports.
    (tmp_path / "torch.py").write_text("class cuda:\n    device_count = staticmethod(lambda: 3)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert gpus_of(jobs.start(1, ["0", "1", "2"])) == "0"
    claim_gpus(2, folder=jobs.folder)
    assert os.environ[VISIBLE] == "1,2"


def test_what_was_chosen_for_a_job_alone_is_taken_without_waiting(jobs, said, monkeypatch):
    """SLURM assigns GPUs, and some clusters share one on purpose."""
    holder = jobs.start(1, ["0", "1", "2", "3"])
    assert gpus_of(holder) == "0"
    monkeypatch.setenv(VISIBLE, "0,3")
    claim_gpus(2, ["0", "3"], jobs.folder)
    assert os.environ[VISIBLE] == "0,3"
    assert f"is used too: 0 by process {holder.pid}" in said.text


@pytest.fixture
def card(monkeypatch):
    """Says which cards (UUIDs, in the order of their numbers) the driver shows to a next job."""

    def show(*uuids: str) -> None:
        monkeypatch.setattr("hpaloc.nvml.gpu_uuids", lambda: list(uuids))
        monkeypatch.delenv(CLAIMED, raising=False)

    return show


def test_two_jobs_that_see_only_their_own_card_as_0_do_not_meet(jobs, said, monkeypatch, card):
    """SLURM with ConstrainDevices."""
    monkeypatch.setenv(VISIBLE, "0")
    for uuid in ("GPU-1a", "GPU-2b"):
        card(uuid)
        claim_gpus(1, ["0"], jobs.folder)
        assert os.environ[VISIBLE] == "0"
    assert "is used too" not in said.text
    card("GPU-1a")
    claim_gpus(1, ["0"], jobs.folder)
    assert "CUDA_VISIBLE_DEVICES=0, chosen for this job, is used too: 0 by process" in said.text


def test_a_card_that_is_taken_by_another_name_is_not_free(jobs, monkeypatch, card):
    monkeypatch.setenv(VISIBLE, "GPU-2b,GPU-3c")
    card("GPU-1a", "GPU-2b", "GPU-3c")
    claim_gpus(1, ["GPU-2b", "GPU-3c"], jobs.folder)
    assert os.environ[VISIBLE] == "GPU-2b"
    monkeypatch.delenv(VISIBLE)
    card("GPU-1a", "GPU-2b", "GPU-3c")
    claim_gpus(2, ["0", "1", "2"], jobs.folder)
    assert os.environ[VISIBLE] == "0,2"


def test_the_beginning_of_a_uuid_is_its_name_where_it_is_of_one_card_only(card):
    card("GPU-1a00", "GPU-1a11")
    names = ["GPU-1a0", "GPU-1a", "1", "7", "MIG-GPU-1a0/1/0"]
    assert list(gpu_lock._cards(names).values()) == [
        "GPU-1a00", "GPU-1a", "GPU-1a11", "7", "MIG-GPU-1a0/1/0",
    ]  # fmt: skip


class Nvml:
    """A driver's library that shows four GPUs, some of them in a state (a code of NVML)."""

    def __init__(self, states: dict[int, int]):
        self.states = states
        self.nvmlInit_v2 = self.nvmlShutdown = lambda: 0

    def nvmlDeviceGetCount_v2(self, count) -> int:
        count._obj.value = 4
        return 0

    def nvmlDeviceGetHandleByIndex_v2(self, index, gpu) -> int:
        gpu._obj.value = index + 1
        return self.states.get(index, 0)

    def nvmlDeviceGetUUID(self, gpu, text, room) -> int:
        text.value = f"GPU-{gpu.value}".encode()
        return 0


def test_a_gpu_that_is_lost_takes_no_lock_from_the_others(jobs, monkeypatch):
    names = ["0", "1", "2", "3"]
    no_permission, lost = 4, 15
    monkeypatch.setattr("hpaloc.nvml.load_library", lambda name: Nvml({}))
    claim_gpus(1, names, jobs.folder)
    monkeypatch.delenv(CLAIMED)
    monkeypatch.delenv(VISIBLE)
    monkeypatch.setattr("hpaloc.nvml.load_library", lambda name: Nvml({2: lost}))
    assert list(gpu_lock._cards(names).values()) == ["GPU-1", "GPU-2", "2", "GPU-4"]
    claim_gpus(1, names, jobs.folder)
    assert os.environ[VISIBLE] == "1"
    monkeypatch.setattr("hpaloc.nvml.load_library", lambda name: Nvml({0: no_permission}))
    assert nvml.gpu_uuids() == ["GPU-2", "GPU-3", "GPU-4"]


def test_the_numbers_are_those_of_nvidia_smi_unless_somebody_gave_them(jobs, monkeypatch):
    claim_gpus(1, ["0", "1"], jobs.folder)
    assert os.environ["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
    monkeypatch.delenv("CUDA_DEVICE_ORDER")
    monkeypatch.delenv(CLAIMED)
    monkeypatch.setenv(VISIBLE, "1")
    claim_gpus(1, ["1"], jobs.folder)
    assert "CUDA_DEVICE_ORDER" not in os.environ


def test_more_than_there_are_is_an_error_in_words(jobs, monkeypatch):
    with pytest.raises(InputError, match="3 GPUs are asked for and there are 2: lower gpus_per"):
        claim_gpus(3, ["0", "1"], jobs.folder)
    monkeypatch.setenv(VISIBLE, "5")
    with pytest.raises(InputError, match="there are 1 of CUDA_VISIBLE_DEVICES=5"):
        claim_gpus(2, ["5"], jobs.folder)


@pytest.mark.parametrize(("gpus", "names"), [(0, ["0", "1"]), (1, []), (2, [])])
def test_the_cpu_needs_no_lock(jobs, gpus, names):
    claim_gpus(gpus, names, jobs.folder)
    assert VISIBLE not in os.environ
    assert not jobs.folder.exists()


def test_every_user_of_the_machine_may_use_the_locks(jobs):
    former = os.umask(0o077)
    try:
        claim_gpus(1, ["0"], jobs.folder)
    finally:
        os.umask(former)
    assert jobs.folder.stat().st_mode & 0o7777 == 0o1777
    assert {path.stat().st_mode & 0o777 for path in jobs.folder.iterdir()} == {0o666}


def test_what_is_no_lock_is_not_followed(jobs, tmp_path):
    mine = tmp_path / "mine.txt"
    mine.write_text("mine")
    jobs.folder.mkdir()
    (jobs.folder / "0").symlink_to(mine)
    with pytest.raises(InputError, match="cannot be used"):
        claim_gpus(1, ["0"], jobs.folder)
    (jobs.folder / "0").unlink()
    os.mkfifo(jobs.folder / "0")
    with pytest.raises(InputError, match="no file, and cannot be the lock"):
        claim_gpus(1, ["0"], jobs.folder)
    assert mine.read_text() == "mine"


def test_a_folder_that_cannot_be_used_is_named(jobs):
    jobs.folder.write_text("a file")
    with pytest.raises(InputError, match=r"locks: the locks .*Not a directory.*TMPDIR"):
        claim_gpus(1, ["0"], jobs.folder)
