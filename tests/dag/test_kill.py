"""A run that is killed at any moment goes on, and ends with the same bytes."""

import os
import signal
import subprocess
import time

TRAINED = "results/tiny/models/tiny/fold1"


def test_a_killed_run_goes_on_from_the_last_epoch_to_the_same_bytes(fresh):
    # More epochs, so that there is time to kill between two of them.
    fresh.configure({"recipes": {"tiny": {"epochs": 6}}})
    target = f"{TRAINED}/weights.safetensors"
    log = fresh.path / "results/tiny/logs/train_fold/tiny/fold1.log"
    process = subprocess.Popen(
        fresh.command(target, "--cores", "2"),
        cwd=fresh.path,
        env=fresh.environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 300
    while not (log.exists() and "epoch 2 of 6" in log.read_text()):
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline, "no second epoch within five minutes"
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (fresh.path / target).exists()

    assert fresh.run("--unlock").returncode == 0
    done = fresh.run(target, "--cores", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "going on after epoch" in log.read_text()

    killed = {path.name: path.read_bytes() for path in (fresh.path / TRAINED).iterdir()}
    for folder in ("models", "logs"):
        subprocess.run(["rm", "-rf", fresh.path / "results/tiny" / folder], check=True)
    subprocess.run(["rm", "-rf", fresh.path / "results/state"], check=True)
    done = fresh.run(target, "--cores", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "going on after epoch" not in log.read_text()
    whole = {path.name: path.read_bytes() for path in (fresh.path / TRAINED).iterdir()}
    assert killed == whole
