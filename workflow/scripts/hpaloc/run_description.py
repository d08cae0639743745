"""What all jobs of a run have in common, for the records of where their results come from.

Used where Snakemake runs: the environments of jobs need no yaml.
"""

import hashlib
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from hpaloc.files import canonical_json, sha256_of_file, write_text
from hpaloc.provenance import CONFIGS, SCRATCH


def describe_run(config: Mapping[str, Any], name: str, project: str | Path) -> str:
    """What all jobs of a run have in common, as JSON, for the variable that programs read.

    The resolved configuration is written to Snakemake's own folder, from where the first job that
    makes something copies it to the results: a dry run leaves nothing there. It is one that
    Snakemake takes: ``--configfile`` with it alone is the same run, whatever was laid over what.
    """
    text = yaml.safe_dump(dict(config), sort_keys=True, allow_unicode=True, width=100)
    sha256 = hashlib.sha256(text.encode()).hexdigest()
    stored = SCRATCH / f"{name}_{sha256[:12]}.yaml"
    if not stored.is_file() or sha256_of_file(stored) != sha256:
        write_text(text, stored)
    return canonical_json(
        {
            "run": name,
            "commit": commit_of(project),
            "project": os.path.relpath(project),
            "config": {"path": (CONFIGS / stored.name).as_posix(), "sha256": sha256},
        }
    )


def commit_of(project: str | Path) -> str | None:
    """The commit of a folder, ``-dirty`` where tracked files differ; None without git."""
    command = ["git", "-C", str(project), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        done = subprocess.run([*command, "--exclude=*"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
