"""What all jobs of a run have in common, for the records of where their results come from.

Used where Snakemake runs: the environments of jobs need no yaml.
"""

import hashlib
import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from hpaloc.files import canonical_json, sha256_of_file, write_text
from hpaloc.provenance import CONFIGS, SCRATCH, VARIABLE


def describe_run(config: Mapping[str, Any], name: str, project: str | Path) -> str:
    """What all jobs of a run have in common, as JSON, for the variable that programs read.

    The resolved configuration is written to Snakemake's own folder, from where the first job that
    makes something copies it to the results: a dry run leaves nothing there. It is one that
    Snakemake takes: ``--configfile`` with it alone is the same run, whatever was laid over what.

    A node of a cluster describes the run once more, and may be unable to tell the commit: the
    variable that its job inherited has it then.
    """
    text = yaml.safe_dump(dict(config), sort_keys=True, allow_unicode=True, width=100)
    sha256 = hashlib.sha256(text.encode()).hexdigest()
    stored = SCRATCH / f"{name}_{sha256[:12]}.yaml"
    if not stored.is_file() or sha256_of_file(stored) != sha256:
        write_text(text, stored)
    about = {
        "run": name,
        "commit": commit_of(project),
        "project": os.path.relpath(project),
        "config": {"path": (CONFIGS / stored.name).as_posix(), "sha256": sha256},
    }
    if about["commit"] is None:
        about["commit"] = _inherited_commit(about)
    return canonical_json(about)


def _inherited_commit(about: Mapping[str, Any]) -> str | None:
    """The commit that the variable has, where it describes the very same run."""
    try:
        inherited = json.loads(os.environ.get(VARIABLE, ""))
        return inherited["commit"] if {**inherited, "commit": None} == about else None
    except (ValueError, KeyError, TypeError):  # not ours
        return None


def commit_of(project: str | Path) -> str | None:
    """The commit of a folder, ``-dirty`` where tracked files differ; None without git."""
    # git refuses a checkout of another user (a volume in a pod, a colleague's). This one's programs
    # are run anyway; a repository above the folder is another one, and is not trusted with it.
    trust = f"safe.directory={Path(project).resolve()}"
    command = ["git", "-c", trust, "-C", str(project), "describe", "--always", "--dirty"]
    try:
        done = subprocess.run(
            [*command, "--abbrev=40", "--exclude=*"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
