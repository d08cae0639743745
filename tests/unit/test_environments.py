"""Each conda environment, and requirements.txt, names what the programs of its rules import."""

import ast
import re
import sys
from pathlib import Path

import pytest
import yaml

from hpaloc.digest import SCRIPTS, imported_modules, program_files

PROJECT = Path(__file__).resolve().parents[2]
PACKAGES = {
    "cv2": "opencv",
    "iterstrat": "iterative-stratification",
    "matplotlib": "matplotlib-base",
    "torch": "pytorch",
}
AT_PYPI = {"opencv": "opencv-python-headless", "matplotlib-base": "matplotlib", "pytorch": "torch"}


def packages_of_rules() -> dict[str, set[str]]:
    """Environment to the conda packages that the programs of its rules import, indirectly too."""
    packages: dict[str, set[str]] = {}
    for path in (PROJECT / "workflow" / "rules").glob("*.smk"):
        for rule in re.split(r"^rule ", path.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
            found = re.search(r"envs/(\w+)\.yaml", rule), re.search(r"/(\w+)\.py\b", rule)
            if all(found):
                environment, program = (match[1] for match in found)
                packages.setdefault(environment, set()).update(imported(program))
    return packages


def imported(program: str) -> set[str]:
    files = [*program_files(program), SCRIPTS / "hpaloc" / "log.py"]
    names = {
        name.partition(".")[0]
        for path in files
        for name in imported_modules(ast.parse(path.read_text(encoding="utf-8")))
    }
    return {PACKAGES.get(name, name) for name in names - {"hpaloc"} - sys.stdlib_module_names}


def names_in(lines: list[str]) -> set[str]:
    return {re.match(r"[\w-]+", line)[0] for line in lines if line[:1].isalpha()}


@pytest.mark.parametrize("environment", ["fetch", "images", "tables", "train"])
def test_an_environment_has_what_its_rules_import(environment):
    used = packages_of_rules()[environment]
    assert len(used) > 3
    listed = yaml.safe_load((PROJECT / "envs" / f"{environment}.yaml").read_text())
    assert used <= names_in(listed["dependencies"])


def test_requirements_have_what_all_rules_import():
    listed = names_in((PROJECT / "requirements.txt").read_text().splitlines())
    assert {
        AT_PYPI.get(name, name) for used in packages_of_rules().values() for name in used
    } <= listed
