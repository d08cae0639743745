"""A SLURM for the session, what every test of it starts from, and the table of what was tried.

Not among the tests of ``make test``: see ``make test-cluster``.
"""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import date
from importlib.metadata import version
from pathlib import Path

import pytest
from workspace import Workspace, copy_project

sys.path.insert(0, str(Path(__file__).parent))

from slurm import CannotRun, Cluster, slurm
from submission import OVERLAY, TARGET, Submission, copy_of, end_of_all

TRIED: list[tuple[str, str]] = []
BEGIN = "<!-- what was tried: made by make test-cluster -->\n"
END = "<!-- end of what was tried -->"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--table", type=Path, help="document whose table of trials is written anew")


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    try:
        with slurm() as running:
            yield running
    except CannotRun as why:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(str(why))


@pytest.fixture(scope="session")
def prepared(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Arrays and folds of the tiny run: nothing is trained yet."""
    workspace = copy_project(tmp_path_factory.mktemp("cluster") / "prepared")
    workspace.configure(OVERLAY)
    done = workspace.run("folds", "--cores", "2")
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-6000:]
    return workspace


@pytest.fixture(scope="session")
def undisturbed(prepared: Workspace) -> Workspace:
    """The same after a run without SLURM."""
    workspace = copy_of(prepared, prepared.path.with_name("undisturbed"))
    done = workspace.run(TARGET, "--cores", "2", "--resources", "gpu=2")
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-6000:]
    return workspace


@pytest.fixture
def submit(cluster: Cluster) -> Iterator[Callable[..., Submission]]:
    """Starts Submissions; when the test ends nothing of them runs on."""
    runs: list[Submission] = []

    def start(*arguments, **options) -> Submission:
        runs.append(Submission(*arguments, **options))
        return runs[-1]

    yield start
    for run in runs:
        end_of_all(run.process)


@pytest.fixture
def tried() -> Callable[[str, str], None]:
    """Notes a row of the table: what was done, and what was seen."""
    return lambda done, seen: TRIED.append((done, seen))


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    document = session.config.getoption("--table")
    if document and exitstatus == 0 and TRIED:
        text = document.read_text(encoding="utf-8")
        new, count = re.subn(
            f"({re.escape(BEGIN)}).*?({re.escape(END)})",
            lambda found: found[1] + table() + found[2],
            text,
            flags=re.DOTALL,
        )
        assert count == 1, f"{document}: the marks {BEGIN} and {END} must stand there once"
        document.write_text(new, encoding="utf-8")


def table() -> str:
    slurm_version = subprocess.run(["slurmctld", "-V"], capture_output=True, text=True, check=True)
    software = [slurm_version.stdout.strip()]
    software += [
        f"{name} {version(name)}" for name in ("snakemake", "snakemake-executor-plugin-slurm")
    ]
    lines = [f"{date.today().isoformat()}, {', '.join(software)}, on {os.cpu_count()} cores:", ""]
    lines += ["| what was done | what was seen |", "| --- | --- |"]
    lines += [f"| {done} | {seen} |" for done, seen in TRIED]
    return "\n".join(lines) + "\n"
