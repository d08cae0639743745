"""The two recipes of the container are one, from the pins of requirements.txt. None is built here."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from workspace import PROJECT

DOCKERFILE = (PROJECT / "Dockerfile").read_text(encoding="utf-8")
DEFINITION = (PROJECT / "apptainer.def").read_text(encoding="utf-8")
FILES = ["requirements.txt", "requirements-common.txt", "requirements-cuda12.txt"]


def one(pattern: str, text: str) -> str:
    (found,) = re.findall(pattern, text, flags=re.MULTILINE)
    return found


def test_both_start_from_the_same_python_that_the_pins_are_for():
    base = one(r"^FROM (\S+)$", DOCKERFILE)
    assert one(r"^From: (\S+)$", DEFINITION) == base
    python = one(r"Python (3\.\d+)", (PROJECT / "requirements.txt").read_text().splitlines()[0])
    assert base.startswith(f"python:{python}-slim")


def test_both_install_the_same_system_packages():
    pattern = r"apt-get install --yes --no-install-recommends ([\w+ -]+?)(?: \\)?$"
    assert one(pattern, DOCKERFILE) == one(pattern, DEFINITION)


def test_both_install_requirements_and_those_for_older_drivers_where_asked_for():
    pattern = r'^(?:RUN|   ) pip install --no-cache-dir --requirement "/opt/hpaloc/(\S+)"$'
    assert one(pattern, DOCKERFILE) == "${REQUIREMENTS}"
    assert one(r"^    pip install --no-cache-dir --requirement \"(.+)\"$", DEFINITION) == (
        "/opt/hpaloc/{{ requirements }}"
    )
    assert one(r"^ARG REQUIREMENTS=(\S+)$", DOCKERFILE) == "requirements.txt"
    assert one(r"^%arguments\n    requirements=(\S+)$", DEFINITION) == "requirements.txt"
    assert one(r"^COPY (.+) /opt/hpaloc/$", DOCKERFILE).split() == FILES
    assert re.findall(r"^    (\S+) /opt/hpaloc/\1$", DEFINITION, flags=re.MULTILINE) == FILES
    for text in (DOCKERFILE, DEFINITION):
        assert one(r"--build-arg (?i:requirements)=(\S+)", text) in FILES
        assert len(re.findall(r"pip install", text)) == 1


def test_every_file_that_a_list_of_requirements_refers_to_is_in_the_image():
    for name in FILES:
        lines = (PROJECT / name).read_text(encoding="utf-8").splitlines()
        assert {line[3:] for line in lines if line.startswith("-r ")} <= set(FILES)


def test_the_image_runs_as_nobody_in_particular_and_gets_nothing_but_the_pins():
    assert one(r"^USER (\d+)$", DOCKERFILE) != "0"
    ignored = (PROJECT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    kept = [line for line in ignored if line and line[0] != "#"]
    assert kept == ["*", *(f"!{name}" for name in FILES)]


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
