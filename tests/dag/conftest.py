"""Workspaces where nothing was made, and where a tiny run was finished."""

import shutil
from pathlib import Path

import pytest
from workspace import Workspace, copy_project


@pytest.fixture
def fresh(tmp_path: Path) -> Workspace:
    """A copy of the project where nothing was made yet."""
    return copy_project(tmp_path / "project")


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A tiny run of the whole workflow; tests take copies of it (fixture ``finished``)."""
    workspace = copy_project(tmp_path_factory.mktemp("finished") / "project")
    done = workspace.run("--cores", "2")
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-6000:]
    return workspace


@pytest.fixture
def finished(finished_run: Workspace, tmp_path: Path) -> Workspace:
    """A copy, with its file times, of the finished tiny run."""
    shutil.copytree(finished_run.path, tmp_path / "project", symlinks=True)
    return Workspace(tmp_path / "project")
