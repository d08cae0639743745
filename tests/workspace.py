"""A copy of the project in a folder of its own, where Snakemake can run."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import yaml

PROJECT = Path(__file__).resolve().parents[1]
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

    def command(self, *arguments: str, overlay: str | list[str] | None = "tiny") -> list[str]:
        """``overlay``: the name of one that is laid over the demo's, a list of files, or None."""
        snakemake = Path(sys.executable).parent / "snakemake"
        files = overlay or []
        if isinstance(overlay, str):
            files = ["config/demo.yaml", f"config/{overlay}.yaml"]
        return [str(snakemake), *arguments, *(["--configfile", *files] if files else [])]

    def environment(self, path: Path | None = None) -> dict[str, str]:
        """Nothing of the virtual environment on PATH: the workflow has to find its Python itself."""
        places = ":".join([*([str(path)] if path else []), "/usr/bin", "/bin"])
        return {"PATH": places, "HOME": os.environ.get("HOME", "/tmp")}

    def run(
        self,
        *arguments: str,
        overlay: str | list[str] | None = "tiny",
        path: Path | None = None,
        before: Sequence[str] = (),
    ) -> subprocess.CompletedProcess:
        """``before`` stands before the command, such as ``unshare -rn``."""
        return subprocess.run(
            [*before, *self.command(*arguments, overlay=overlay)],
            check=False,
            cwd=self.path,
            env=self.environment(path),
            capture_output=True,
            text=True,
            timeout=900,
        )

    def planned(
        self, *arguments: str, overlay: str | None = "tiny", path: Path | None = None
    ) -> dict[str, int]:
        """Jobs that a dry run would start, by rule."""
        return self.plan(*arguments, overlay=overlay, path=path)[0]

    def plan(
        self, *arguments: str, overlay: str | None = "tiny", path: Path | None = None
    ) -> tuple[dict[str, int], str]:
        """Jobs that a dry run would start, by rule, and all that it says."""
        done = self.run("-n", *arguments, overlay=overlay, path=path)
        said = done.stdout + done.stderr
        assert done.returncode == 0, said
        jobs: dict[str, int] = {}
        rows = iter(said.splitlines())
        for row in rows:
            if row.split() == ["job", "count"]:
                next(rows)  # the rule of dashes
                for row in rows:
                    if not row.strip():
                        return jobs, said
                    name, count = row.split()
                    if name != "total":
                        jobs[name] = int(count)
        return jobs, said

    def settings_of(self, source: str) -> str:
        """The settings, as JSON, that a dry run hands to the program that makes a source."""
        index = f"results/sources/{source}/raw/index.parquet"
        done = self.run("-n", "--printshellcmds", index)
        return re.search(r"--settings '(\{.*?\})' ", done.stdout + done.stderr)[1]

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
