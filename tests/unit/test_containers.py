"""The two recipes of the container are one, from the pins of requirements.txt. None is built here."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from workspace import PROJECT

DOCKERFILE = (PROJECT / "Dockerfile").read_text(encoding="utf-8")
DEFINITION = (PROJECT / "apptainer.def").read_text(encoding="utf-8")


def one(pattern: str, text: str) -> str:
    (found,) = re.findall(pattern, text, flags=re.MULTILINE)
    return found


def test_both_start_from_the_same_python_that_the_pins_are_for():
    base = one(r"^FROM (\S+)$", DOCKERFILE)
    assert one(r"^From: (\S+)$", DEFINITION) == base
    python = one(r"Python (3\.\d+)", (PROJECT / "requirements.txt").read_text().splitlines()[0])
    assert base.startswith(f"python:{python}-slim")


def test_both_install_the_same_system_packages_and_all_requirements():
    for pattern in (
        r"apt-get install --yes --no-install-recommends ([\w+ -]+?)(?: \\)?$",
        r"pip install --no-cache-dir --requirement (\S+)$",
    ):
        assert one(pattern, DOCKERFILE) == one(pattern, DEFINITION)
    installed = one(r"--requirement (\S+)$", DOCKERFILE)
    assert f"COPY requirements.txt {installed}\n" in DOCKERFILE
    assert f"requirements.txt {installed}\n" in DEFINITION
    assert not re.search(r"pip install (?!--no-cache-dir --requirement)", DOCKERFILE + DEFINITION)


def test_the_image_runs_as_nobody_in_particular_and_gets_nothing_but_the_pins():
    assert one(r"^USER (\d+)$", DOCKERFILE) != "0"
    ignored = (PROJECT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert [line for line in ignored if line and line[0] != "#"] == ["*", "!requirements.txt"]


def test_a_user_without_a_name_may_run_both():
    """Snakemake asks for the user's name, and ends where neither the system nor a variable has it."""
    environment = dict(re.findall(r"^(?:ENV |    )(\w+)=(\S+)", DOCKERFILE, flags=re.MULTILINE))
    assert environment["USER"] and environment["HOME"] == "/tmp"
    name = one(r'^    export USER="\$\{USER:-(\w+)\}"$', DEFINITION)
    assert name == environment["USER"]


def test_the_dockerfile_has_no_fault_that_its_linter_knows():
    linter = Path(sys.executable).parent / "hadolint"
    if not linter.exists():
        pytest.skip("hadolint is not installed: make lint installs it")
    done = subprocess.run(
        [linter, PROJECT / "Dockerfile"], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout
