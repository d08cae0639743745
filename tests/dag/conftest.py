"""Workspaces: a copy of the project in a folder of its own, where Snakemake can run."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

PROJECT = Path(__file__).resolve().parents[2]
PARTS = ["Snakefile", "config.yaml", "config", "profiles", "workflow", "envs", "resources"]

# The smallest run that has every rule in it: two of three folds, three recipes, two shards.
TINY = {
    "run": "tiny",
    "train_source": "tiny_train",
    "test_source": "tiny_test",
    "sources": {
        "tiny_train": {
            "kind": "simulated", "delivery": "kaggle", "images": 72, "size": 96,
            "imbalance": 0.2, "images_per_antibody": 1,
        },
        "tiny_test": {
            "kind": "simulated", "delivery": "hpa_v18", "images": 16, "size": 128, "seed": 2,
            "imbalance": 0.2,
        },
    },
    "arrays": {"size": 64, "images_per_shard": 40},
    "folds": {"n": 3, "group_by": [], "train": [1, 2]},
    "train": ["tiny"],
    "evaluate": ["tiny"],
    "generations": ["tiny_bce", "tiny"],
    "recipes": {
        "tiny": {
            "inherit": "demo", "image_size": 64, "batch_size": 16, "epochs": 2,
            "loss": {"bce_epochs": 1, "scale_up_at": None},
            "tta": {"validation": {"views": 1}, "prediction": {"kind": "none"}},
        },
        "tiny_bce": {"inherit": "tiny", "loss": {"soft_f1": None}},
    },
    "gpus_per_fold": 0,
}  # fmt: skip


class Workspace:
    """A copy of the project at ``path``; ``run`` starts Snakemake there as a user would."""

    def __init__(self, path: Path):
        self.path = path

    def run(
        self, *arguments: str, overlay: str | None = "tiny", path: Path | None = None
    ) -> subprocess.CompletedProcess:
        snakemake = Path(sys.executable).parent / "snakemake"
        configfiles = ["--configfile", "config/demo.yaml", f"config/{overlay}.yaml"]
        command = [str(snakemake), *arguments, *(configfiles if overlay else [])]
        # Nothing of the virtual environment on PATH: the workflow has to find its Python itself.
        places = ":".join([*([str(path)] if path else []), "/usr/bin", "/bin"])
        environment = {"PATH": places, "HOME": os.environ.get("HOME", "/tmp")}
        return subprocess.run(
            command,
            check=False,
            cwd=self.path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=900,
        )

    def planned(
        self, *arguments: str, overlay: str | None = "tiny", path: Path | None = None
    ) -> dict[str, int]:
        """Jobs that a dry run would start, by rule."""
        done = self.run("-n", *arguments, overlay=overlay, path=path)
        assert done.returncode == 0, done.stdout + done.stderr
        jobs: dict[str, int] = {}
        rows = iter((done.stdout + done.stderr).splitlines())
        for row in rows:
            if row.split() == ["job", "count"]:
                next(rows)  # the rule of dashes
                for row in rows:
                    if not row.strip():
                        return jobs
                    name, count = row.split()
                    if name != "total":
                        jobs[name] = int(count)
        return jobs

    def configure(self, changes: dict, overlay: str = "tiny") -> None:
        """Lays ``changes`` (maps merge) over an overlay file."""
        path = self.path / "config" / f"{overlay}.yaml"
        config = yaml.safe_load(path.read_text()) if path.exists() else {}
        merge(config, changes)
        path.write_text(yaml.safe_dump(config))


def merge(below: dict, above: dict) -> None:
    for key, value in above.items():
        if isinstance(value, dict) and isinstance(below.get(key), dict):
            merge(below[key], value)
        else:
            below[key] = value


def copy_project(path: Path) -> Workspace:
    for part in PARTS:
        source = PROJECT / part
        if source.is_dir():
            shutil.copytree(source, path / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            path.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, path / part)
    workspace = Workspace(path)
    workspace.configure(TINY)
    return workspace


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
