"""A profile says how to run and never what to compute."""

import yaml
from workspace import PROJECT


def profile(name: str) -> dict:
    return yaml.safe_load((PROJECT / "profiles" / name / "config.yaml").read_text())


def test_what_was_made_on_one_machine_is_not_made_again_on_a_cluster(finished):
    assert finished.planned("--workflow-profile", "profiles/slurm") == {}


def test_the_cluster_has_all_of_the_default_but_its_limits_of_one_machine():
    """Profiles replace each other."""
    default, slurm = profile("default"), profile("slurm")
    assert set(default) - set(slurm) == {"cores"}
    different = {key for key in default.keys() & slurm.keys() if default[key] != slurm[key]}
    assert different == {"resources"}
    assert set(default["resources"]) - set(slurm["resources"]) == {"gpu=1"}
