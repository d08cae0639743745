"""The workflow as a module of another one, which lies elsewhere and has a configuration of its own."""

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from workspace import PROJECT, TINY, Workspace, copy_project, merge

SNAKEFILE = """
configfile: "config.yaml"


rule own:
    output:
        "own.txt",
    shell:
        "touch {output}"


module hpaloc:
    snakefile:
        "../tools/hpaloc/Snakefile"
    config:
        config["locations"]


use rule * from hpaloc as hpaloc_*


rule count:
    default_target: True
    input:
        rules.hpaloc_make_folds.output.counts,
    output:
        "counted.txt",
    shell:
        "wc -l {input} > {output}"


# Rules that are not the module's stay as they are.
assert "missing_inputs" not in workflow.get_rule("own").params.keys()
assert "missing_inputs" in workflow.get_rule("hpaloc_make_folds").params.keys()
"""


@pytest.fixture
def outer(tmp_path: Path) -> Workspace:
    """A workflow that uses a copy of this one, with no profile and no configuration of it."""
    copy_project(tmp_path / "tools/hpaloc")
    folder = tmp_path / "outer"
    folder.mkdir()
    (folder / "Snakefile").write_text(SNAKEFILE)
    whole: dict = {}
    for path in ("config.yaml", "config/demo.yaml"):
        merge(whole, yaml.safe_load((PROJECT / path).read_text()))
    merge(whole, TINY)
    config = {"of the other": 1, "locations": whole}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return Workspace(folder)


def test_it_is_planned_and_run_as_a_module_of_another_workflow(outer):
    jobs = outer.planned("--cores", "1", "hpaloc_all", overlay=None)
    assert jobs["hpaloc_train_fold"] == 3
    assert jobs["hpaloc_plot_pr_curve"] == 1
    done = outer.run("--cores", "2", overlay=None)
    assert done.returncode == 0, done.stdout + done.stderr
    folds = outer.path / "results/tiny/folds"
    assert (outer.path / "counted.txt").read_text().endswith("results/tiny/folds/counts.csv\n")
    assert outer.planned("--cores", "1", overlay=None) == {}
    assert not (outer.path.parent / "tools/hpaloc/results").exists()

    # What was made as a module is what the workflow itself would make: nothing runs again.
    about = json.loads((folds / "folds.provenance.json").read_text())
    assert about["project"] == "../tools/hpaloc"
    alone = ["--snakefile", "../tools/hpaloc/Snakefile", "--replace-workflow-config"]
    kept = [about["config"]["path"]]
    assert outer.planned(*alone, "folds", overlay=kept) == {}

    (folds / "folds.parquet").write_bytes(b"")
    program = [sys.executable, "../tools/hpaloc/workflow/scripts/verify.py"]
    named = subprocess.run(program, check=False, cwd=outer.path, capture_output=True, text=True)
    assert named.returncode == 1
    assert "folds.parquet: truncated" in named.stdout
    repair = shlex.split(named.stdout.splitlines()[-1])
    subprocess.run(repair, check=True, cwd=outer.path, env=outer.environment())
    assert subprocess.run(program, check=False, cwd=outer.path).returncode == 0
    assert outer.planned("--cores", "1", overlay=None) == {}


def test_a_configuration_of_another_form_is_refused_in_words(outer):
    config = yaml.safe_load((outer.path / "config.yaml").read_text())
    config["locations"]["of the other"] = 1
    (outer.path / "config.yaml").write_text(yaml.safe_dump(config))
    done = outer.run("-n", overlay=None)
    assert done.returncode != 0
    assert "of the other" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
