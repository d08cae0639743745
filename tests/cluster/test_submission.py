"""One submission to a real SLURM, in which a fold is cancelled: what CI runs."""

import re
import subprocess
import sys

from submission import (
    THRESHOLDS,
    about,
    attempts,
    copy_of,
    epochs_done,
    job_of,
    same_as,
    trained_once,
)


def test_two_folds_run_at_once_and_one_that_is_cancelled_goes_on(
    prepared, undisturbed, submit, tried, tmp_path
):
    workspace = copy_of(prepared, tmp_path / "project")
    run = submit(workspace, targets=THRESHOLDS)
    jobs = run.wait_for(lambda: all(found := [job_of(1), job_of(2)]) and found)
    for job in map(about, jobs):
        assert (job["Partition"], job["TresPerJob"], job["NumNodes"]) == ("gpu", "gres:gpu:1", "1")
        assert job["Requeue"] == "1"

    run.wait_for(lambda: epochs_done(workspace, 1) >= 2)
    shown = subprocess.run(
        [sys.executable, "workflow/scripts/status.py", "--configfile", "config/demo.yaml",
         "config/tiny.yaml"],
        check=True, cwd=workspace.path, capture_output=True, text=True,
    ).stdout  # fmt: skip
    assert re.search(rf"^tiny +1 +running .* SLURM job {jobs[0]}, heard of", shown, re.MULTILINE)

    subprocess.run(["scancel", jobs[0]], check=True)
    run.completes()

    assert len(attempts(workspace, 1)) == 2 and len(attempts(workspace, 2)) == 1
    # What Snakemake stores of a job on a node is what it plans with here.
    assert workspace.planned(*THRESHOLDS) == {}
    files = same_as(workspace, undisturbed)
    tried(
        "two folds submitted, one cancelled (`scancel`)",
        f"both ran at once in the GPU partition, a GPU each; {trained_once(workspace)};"
        f" {files} files as without SLURM",
    )
