"""A SLURM for the session, what every test of it starts from, and the table of what was tried.

Not among the tests of ``make test``: see ``make test-cluster``.
"""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path

import pytest
from workspace import Workspace, copy_project

sys.path.insert(0, str(Path(__file__).parent))

from slurm import CannotRun, Cluster, slurm
from submission import (
    MANY_EPOCHS,
    OVERLAY,
    THRESHOLDS,
    TWO_FOLDS,
    Submission,
    copy_of,
    end_of_all,
)

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
    return run_locally(workspace, THRESHOLDS)


@pytest.fixture(scope="session")
def lasting(prepared: Workspace) -> Workspace:
    """As ``prepared``, with folds that last for minutes."""
    workspace = copy_of(prepared, prepared.path.with_name("lasting"))
    workspace.configure({"recipes": {"tiny": {"epochs": MANY_EPOCHS}}})
    return workspace


@pytest.fixture(scope="session")
def lasting_undisturbed(lasting: Workspace) -> Workspace:
    """Its folds, trained without SLURM."""
    workspace = copy_of(lasting, lasting.path.with_name("lasting_undisturbed"))
    return run_locally(workspace, TWO_FOLDS)


def run_locally(workspace: Workspace, targets: Sequence[str]) -> Workspace:
    done = workspace.run(*targets, "--cores", "2", "--resources", "gpu=2")
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
def tried(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """Writes what was done and what was seen into the table of the document, if one is named."""
    document = request.config.getoption("--table")

    def write(done: str, seen: str) -> None:
        if document:
            text = document.read_text(encoding="utf-8")
            former = re.findall(f"{re.escape(BEGIN)}(.*?){re.escape(END)}", text, re.DOTALL)
            assert len(former) == 1, f"{document}: {BEGIN} and {END} must stand there once"
            new = with_row(former[0], done, seen)
            document.write_text(text.replace(BEGIN + former[0] + END, BEGIN + new + END), "utf-8")

    return write


def with_row(table: str, done: str, seen: str) -> str:
    """The table with the row of a trial of today, in the place of an older one of the same."""
    rows = {
        line.split(" | ")[1]: line for line in table.splitlines() if re.match(r"\| \d{4}-", line)
    }
    slurm = subprocess.run(["slurmctld", "-V"], capture_output=True, text=True, check=True).stdout
    software = f"SLURM {slurm.split()[-1]}, Snakemake {version('snakemake')}"
    software += f", plugin {version('snakemake-executor-plugin-slurm')}"
    rows[done] = f"| {date.today().isoformat()} | {done} | {seen} | {software} |"
    head = ["| date | what was done | what was seen | with |", "| --- | --- | --- | --- |"]
    return "\n".join([*head, *rows.values()]) + "\n"
