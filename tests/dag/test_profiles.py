"""A profile says how to run and never what to compute."""

import re

import pytest
import yaml
from workspace import PROJECT


def profile(name: str) -> dict:
    return yaml.safe_load((PROJECT / "profiles" / name / "config.yaml").read_text())


def test_what_was_made_on_one_machine_is_not_made_again_on_a_cluster(finished):
    assert finished.planned("--workflow-profile", "profiles/slurm") == {}


@pytest.mark.parametrize("gpus", [1, 4])
def test_the_cluster_gives_a_fold_the_memory_that_its_gpus_need(fresh, gpus):
    """Resources of a profile replace those of the rule."""
    fresh.configure({"gpus_per_fold": gpus})
    target = "results/tiny/models/tiny/fold1/weights.sha256"
    for profile in ([], ["--workflow-profile", "profiles/slurm"]):
        done = fresh.run("-n", target, "--resources", f"gpu={gpus}", *profile)
        said = done.stdout + done.stderr
        assert done.returncode == 0, said
        (asked,) = re.findall(r"(?ms)^rule train_fold:$.*?^    resources: (.*?)$", said)
        assert f"mem_mb={24_000 * gpus}," in asked, asked
        assert f"gpu={gpus}" in asked


def test_the_cluster_has_all_of_the_default_but_its_limits_of_one_machine():
    """Profiles replace each other."""
    default, slurm = profile("default"), profile("slurm")
    assert set(default) - set(slurm) == {"cores"}
    different = {key for key in default.keys() & slurm.keys() if default[key] != slurm[key]}
    assert different == {"resources"}
    assert set(default["resources"]) - set(slurm["resources"]) == {"gpu=1"}
