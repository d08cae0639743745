"""Everything that happens to jobs on a cluster, done to folds on a real SLURM; minutes each."""

import signal
import subprocess
from collections.abc import Callable

import pytest
from slurm import Cluster, ask, wait_for
from submission import (
    FOLDS,
    Submission,
    about,
    attempts,
    copy_of,
    edit_profile,
    epochs_done,
    job_of,
    same_as,
    trained_once,
)
from workspace import Workspace


@pytest.fixture
def workspace(prepared: Workspace, tmp_path) -> Workspace:
    return copy_of(prepared, tmp_path / "project")


@pytest.fixture
def well(undisturbed: Workspace) -> Callable[[Submission], str]:
    return lambda run: ended_well(run, undisturbed)


def ended_well(run: Submission, undisturbed: Workspace) -> str:
    """Waits for the run's end; asserts that all is as if nothing had happened, and says so."""
    run.completes()
    words = trained_once(run.workspace)
    return f"{words}; {same_as(run.workspace, undisturbed, 'models')} files as without SLURM"


def in_training(run: Submission, fold: int, epochs: int = 2) -> str:
    """The job of a fold, once it is in the midst of its epochs."""
    run.wait_for(lambda: epochs_done(run.workspace, fold) >= epochs)
    return run.wait_for(lambda: job_of(fold))


def limit(job: str, seconds: int) -> None:
    """Moves the time limit of a running job to ``seconds`` from now."""
    subprocess.run(["scontrol", "update", f"jobid={job}", f"EndTime=now+{seconds}"], check=True)


def ended(job: str) -> dict[str, str]:
    return wait_for(
        lambda: about(job).get("JobState") not in ("RUNNING", "COMPLETING") and about(job)
    )


def test_the_whole_workflow(prepared, undisturbed, submit, tried, tmp_path):
    """On a folder of results that lies elsewhere, as scratch disks do."""
    local = copy_of(undisturbed, tmp_path / "local")
    done = local.run("--cores", "2", "--resources", "gpu=2")
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-6000:]

    workspace = copy_of(prepared, tmp_path / "project")
    results, scratch = workspace.path / "results", tmp_path / "scratch"
    subprocess.run(["rm", "-r", results, workspace.path / ".snakemake"], check=True)
    scratch.mkdir()
    results.symlink_to(scratch, target_is_directory=True)
    edit_profile(workspace, gpu_model="a100")
    run = submit(workspace, targets=["all"])
    jobs = run.wait_for(lambda: all(found := [job_of(fold) for fold in FOLDS]) and found, 1200)
    assert {about(job)["TresPerJob"] for job in jobs} == {"gres:gpu:a100:1"}
    run.completes()
    assert workspace.planned() == {}, "the profile changed what a run without it would make"
    partitions = {}
    for line in ask("squeue", "-h", "-t", "all", "-o", "%P %k").splitlines():
        partition, comment = line.split()
        partitions[comment.removeprefix("rule_").split("_wildcards_")[0]] = partition
    on_gpus = {rule for rule, partition in partitions.items() if partition == "gpu"}
    # MinJobAge: SLURM has forgotten the first jobs of a long run.
    gpu_rules = {"train_fold", "predict_part", "measure_speed", "measure_training_step"}
    assert "measure_speed" in on_gpus and on_gpus <= gpu_rules
    assert partitions["tabulate_summary"] == "cpu"
    tried(
        "the whole workflow submitted, `results` a link to another disk",
        f"GPU rules in the GPU partition, both folds at once, the others in the CPU partition;"
        f" {trained_once(workspace)}; {same_as(workspace, local)} files as without SLURM",
    )


def test_time_limits_that_are_announced(lasting, lasting_undisturbed, submit, tried, tmp_path):
    workspace = copy_of(lasting, tmp_path / "project")
    run = submit(workspace)
    job = in_training(run, 1)
    limit(job, 60)  # within the two minutes of the profile's warning
    assert ended(job)["JobState"] == "FAILED"
    second = in_training(run, 1, epochs_done(workspace, 1) + 2)
    assert second != job
    limit(second, 60)
    assert ended(second)["JobState"] == "FAILED"
    seen = ended_well(run, lasting_undisturbed)
    assert len(attempts(workspace, 1)) == 3
    tried("the time limit near, twice (`--signal=TERM@120`)", f"state stored, job ended; {seen}")


def test_a_time_limit_that_nobody_announced(lasting, lasting_undisturbed, submit, tried, tmp_path):
    workspace = copy_of(lasting, tmp_path / "project")
    edit_profile(workspace, slurm_extra="''")
    run = submit(workspace)
    job = in_training(run, 1)
    limit(job, 1)
    assert ended(job)["JobState"] == "TIMEOUT"
    seen = ended_well(run, lasting_undisturbed)
    tried("a time limit hit without a warning", f"job `TIMEOUT`; {seen}")


def test_a_memory_limit(workspace, submit, well, tried):
    """A fold takes 1 to 2 GB in all its processes: its first job gets less, its second one more."""
    edit_profile(workspace, mem_mb="800 * 5 ** (attempt - 1)")
    run = submit(workspace)
    first = run.wait_for(lambda: job_of(1))
    state = ended(first)["JobState"]
    assert state in ("OUT_OF_MEMORY", "CANCELLED", "FAILED")
    second = run.wait_for(lambda: job_of(1))
    memory = [about(job)["MinMemoryNode"] for job in (first, second)]
    assert memory == ["800M", "4000M"]
    tried("too little memory asked for", f"job `{state}`, then one with {memory[1]}; {well(run)}")


def test_a_node_that_dies(workspace, cluster: Cluster, submit, well, tried):
    run = submit(workspace)
    job = in_training(run, 1)
    node = about(job)["NodeList"]
    cluster.kill_node(node)
    other = run.wait_for(lambda: about(job).get("NodeList") not in (node, "(null)") and about(job))
    assert other["Restarts"] == "1"
    cluster.start_node(node)
    tried(
        "a node killed with all that ran on it",
        f"the same job queued again by SLURM, on the other node; {well(run)}",
    )


@pytest.mark.parametrize("partition", ["scavenge", "standby"])
def test_preemption(workspace, submit, well, tried, partition):
    """Of the two partitions the first has a grace time."""
    edit_profile(workspace, slurm_partition=partition)
    run = submit(workspace)
    job = in_training(run, 1)
    everything = ["--nodes=2", "--gpus-per-node=2", "--ntasks=2", "--time=1"]
    command = ["sbatch", "--parsable", "--output=/dev/null", "--partition=urgent", *everything]
    urgent = ask(*command, "--wrap", "sleep 5")
    assert urgent
    run.wait_for(lambda: about(urgent)["JobState"] == "COMPLETED")
    restarts = about(job)["Restarts"]
    seen = well(run)
    assert len(attempts(workspace, 1)) == 2
    if partition == "scavenge":
        assert restarts == "0"
        tried(
            "both folds preempted, with a grace time of a minute",
            f"states stored, jobs ended and submitted again; {seen}",
        )
    else:
        assert restarts == "1"
        tried("both folds preempted at once", f"the same jobs queued again by SLURM; {seen}")


def test_a_controller_that_is_restarted(workspace, cluster: Cluster, submit, well, tried):
    run = submit(workspace)
    in_training(run, 1, 1)
    cluster.restart_controller(down_s=4)
    seen = well(run)
    assert all(len(attempts(workspace, fold)) == 1 for fold in FOLDS)
    tried("the controller killed and started again", f"nobody noticed; {seen}")


def test_snakemake_that_is_killed(workspace, submit, well, tried):
    run = submit(workspace)
    job = in_training(run, 1, 1)
    run.kill(signal.SIGKILL)
    assert about(job)["JobState"] == "RUNNING"
    assert workspace.run("--unlock").returncode == 0
    # The folds are submitted again beside the jobs that are still there.
    again = submit(workspace)
    again.wait_for(lambda: len(ask("squeue", "-h", "-o", "%A").split()) >= 2)
    tried(
        "Snakemake killed, `--unlock`, started again while its jobs ran on",
        f"new jobs waited for the old ones and took their states over; {well(again)}",
    )


def test_snakemake_that_is_interrupted(workspace, submit, well, tried):
    run = submit(workspace)
    job = in_training(run, 1)
    run.kill(signal.SIGINT)
    assert ended(job)["JobState"] in ("CANCELLED", "FAILED")
    again = submit(workspace)
    tried("Ctrl-C, then started again", f"jobs cancelled, states stored; {well(again)}")
