"""The workflow through a real conda: `make test-conda`. Not among the tests of `make test`.

Snakemake makes every environment of envs/ from a local channel, activates it for each job, and
each program checks that it and all its modules come from there. What the network would be needed
for comes from servers of the test. What conda-forge itself serves is not tested.
"""

import json
import shutil
import subprocess
import zipfile
from pathlib import Path

import made_atlas
import pytest
from atlas_server import Answer, AtlasServer
from conda_base import make_conda
from environments import ENVIRONMENTS, PROJECT, modules_of, programs_of
from local_channel import make_channel
from workspace import Workspace, copy_project

from hpaloc.simulate.cells import CELL_LINES
from hpaloc.simulate.source import make_source

# Kept between runs but for run/: making conda itself takes the network.
FOLDER = PROJECT / ".conda-test"

# The smallest run that has the paper's kinds of sources.
OVERLAY = {
    "train_source": "kaggle",
    "test_source": "atlas",
    "sources": {
        "kaggle": {"kind": "kaggle", "folder": "data/kaggle", "images": 60},
        "atlas": {
            "kind": "hpa", "images": 24,
            "select": {
                "genes": {"per_class": 2, "classes": [0, 2, 4, 7, 21, 25], "seed": 1},
                "at_most": 24,
            },
        },
    },
}  # fmt: skip
CELLS = {
    "images": 60, "seed": 1, "delivery": "kaggle", "size": 96, "imbalance": 0.2,
    "images_per_antibody": 1, "cells": [4, 8], "field_um": 70.0, "cell_lines": list(CELL_LINES),
}  # fmt: skip

# These are only started, with --help: other sources, a hub of weights, a submission.
NOT_RUN = {"simulate_source", "index_local", "fetch_weights", "write_submission"}

# Goes to the end of the copy's hpaloc/log.py, by which every program is run.
CHECK = """

_run_program = run_program


def run_program(main):
    import json
    import os
    import sysconfig
    from pathlib import Path

    def checked():
        main()
        prefix = os.environ["CONDA_PREFIX"]
        places = (prefix, sysconfig.get_paths()["stdlib"], str(Path(__file__).parents[1].resolve()))
        assert "/.snakemake/conda/" in prefix and sys.prefix == prefix, (sys.prefix, prefix)
        files = [getattr(module, "__file__", None) for module in list(sys.modules.values())]
        others = [f for f in files if f and os.path.isabs(f) and not f.startswith(places)]
        assert not others, others
        with open("ran_from.jsonl", "a") as record:
            record.write(json.dumps([Path(sys.argv[0]).stem, prefix]) + "\\n")

    _run_program(checked)
"""


@pytest.fixture(scope="module")
def conda():
    """A conda whose only channel is a local one, and which must not use the network."""
    base, run = FOLDER / "conda", FOLDER / "run"
    shutil.rmtree(run, ignore_errors=True)
    run.mkdir(parents=True)
    if not (base / "condabin" / "conda").exists():  # made last
        shutil.rmtree(base, ignore_errors=True)
        make_conda(base)
    packages = make_channel(run / "channel" / "conda-forge", run / "pkgs")
    assert packages > 50
    home = run / "home"
    home.mkdir()
    settings = {
        "channel_alias": (run / "channel").as_uri(), "channels": ["conda-forge"],
        "default_channels": [], "channel_priority": "strict", "pkgs_dirs": [str(run / "pkgs")],
        "solver": "classic", "offline": True, "notify_outdated_conda": False,
    }  # fmt: skip
    (home / ".condarc").write_text(json.dumps(settings))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(home))
        yield base / "condabin"


@pytest.fixture(scope="module")
def workspace(conda) -> Workspace:
    workspace = copy_project(FOLDER / "run" / "project")
    workspace.configure(OVERLAY)
    with open(workspace.path / "workflow/scripts/hpaloc/log.py", "a", encoding="utf-8") as log:
        log.write(CHECK)
    cells, data = FOLDER / "run" / "cells", workspace.path / "data/kaggle"
    make_source("train", CELLS, cells, 2)
    data.mkdir(parents=True)
    shutil.copy(cells / "train.csv", data)
    with zipfile.ZipFile(data / "train.zip", "w") as archive:
        for path in sorted((cells / "train").glob("*.png")):
            archive.write(path, path.name)
    return workspace


@pytest.fixture(scope="module")
def environments(workspace, conda) -> dict[str, Path]:
    """The environments that Snakemake has made, by name."""
    done = run(workspace, conda, "--conda-create-envs-only", "--forceall")
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-6000:]
    made = {path.read_text(): path.with_suffix("") for path in conda_envs(workspace)}
    names = {name: (PROJECT / "envs" / f"{name}.yaml").read_text() for name in ENVIRONMENTS}
    return {name: made[text] for name, text in names.items()}


@pytest.fixture(scope="module")
def ran_from(workspace, conda, environments) -> dict[str, set[str]]:
    """The finished run: from which prefixes each program ran."""
    with AtlasServer(answers) as server:
        mirror = {
            "requests_per_second": None,
            "private_addresses": True,
            "addresses": made_atlas.addresses(server.url()),
        }
        workspace.configure({"fetch": mirror})
        fetched = run(workspace, conda, "fetch")
    assert fetched.returncode == 0, fetched.stdout[-6000:] + fetched.stderr[-6000:]
    for target in ("all", "stale_states"):
        done = run(workspace, conda, target)
        assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-6000:]
    programs: dict[str, set[str]] = {}
    for line in (workspace.path / "ran_from.jsonl").read_text().splitlines():
        program, prefix = json.loads(line)
        programs.setdefault(program, set()).add(prefix)
    return programs


def run(workspace: Workspace, conda: Path, *arguments: str) -> subprocess.CompletedProcess:
    return workspace.run("--cores", "2", "--use-conda", *arguments, path=conda)


def conda_envs(workspace: Workspace) -> list[Path]:
    return sorted((workspace.path / ".snakemake/conda").glob("*.yaml"))


def answers(path: str) -> Answer | None:
    found = made_atlas.answer(path)
    return found and Answer(body=found[0], content_type=found[1])


def test_every_program_ran_from_the_environment_of_its_rule(ran_from, environments):
    wanted = {
        program: {str(environments[name])}
        for name in ENVIRONMENTS
        for program in programs_of(name) - NOT_RUN
    }
    assert ran_from == wanted
    assert len(wanted) > 25


def test_there_is_something_to_see(ran_from, workspace):
    figures = list((workspace.path / "results/tiny/figures").glob("*.png"))
    assert len(figures) == 11


def test_without_conda_nothing_of_it_would_run_again(ran_from, workspace):
    assert workspace.planned() == {}


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_an_environment_starts_all_its_programs_and_has_all_that_they_import(environments, name):
    python = environments[name] / "bin/python"
    for program in sorted(programs_of(name)):
        script = PROJECT / "workflow/scripts" / f"{program}.py"
        subprocess.run([python, script, "--help"], check=True, capture_output=True)
    modules = sorted({module for program in programs_of(name) for module in modules_of(program)})
    subprocess.run([python, "-c", "\n".join(f"import {module}" for module in modules)], check=True)


@pytest.mark.parametrize("name", ["fetch", "images", "tables"])
def test_an_environment_is_small(environments, name):
    """Only training has torch, and the images' tools do not come with the plots."""
    packages = {
        path.name.rsplit("-", 2)[0] for path in (environments[name] / "conda-meta").glob("*.json")
    }
    assert not packages & {"pytorch", "timm", "albumentations"}
    assert ("matplotlib-base" in packages) == (name == "tables")
    assert ("kagglehub" in packages) == (name == "fetch")
