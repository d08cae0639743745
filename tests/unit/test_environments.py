"""What can be known of the conda environments and requirements.txt without a channel.

conda ignores a key that it doesn't know: an environment with ``dependancies:`` is made, empty. A
package that conda-forge lacks, or lacks in that version, is noticed by users only. Without python
in an environment its programs would run in Snakemake's own.
"""

import csv
import re
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from environments import (
    AT_PYPI,
    ENVIRONMENTS,
    PACKAGES,
    PROJECT,
    modules_of,
    programs_of,
    read_environment,
)
from packaging.version import Version

from hpaloc import provenance

# A version that conda-forge was seen to have, and when; it may have newer ones.
CONDA_FORGE = Path(__file__).with_name("conda_forge.csv")
SPEC = re.compile(r"([a-z0-9_-]+)(?: >=([0-9.]+)(?:,<([0-9.]+))?)?")


def conda_forge() -> dict[str, Version]:
    with open(CONDA_FORGE, encoding="utf-8") as table:
        return {row["package"]: Version(row["version"]) for row in csv.DictReader(table)}


def specs_of(environment: str) -> dict[str, tuple[str | None, str | None]]:
    """Package to the least version and the one that is too new, where they are given."""
    specs = {}
    for text in read_environment(environment)["dependencies"]:
        spec = SPEC.fullmatch(text)
        assert spec, f"envs/{environment}.yaml: {text!r} is no `name` or `name >=version`"
        assert spec[1] not in specs, f"envs/{environment}.yaml has {spec[1]} twice"
        specs[spec[1]] = spec[2], spec[3]
    return specs


def imported(programs: set[str]) -> set[str]:
    """conda names of what programs import."""
    return {PACKAGES.get(name, name) for program in programs for name in modules_of(program)}


def requirements(file: str = "requirements.txt") -> dict[str, str]:
    """Package to what is asked of its version (``==2.15.0``, or nothing), with files referred to."""
    found = {}
    for line in (PROJECT / file).read_text(encoding="utf-8").splitlines():
        if line.startswith("-r "):
            found |= requirements(line[3:])
        elif line[:1].isalpha():
            name = re.match(r"[\w-]+", line)[0]
            found[name] = line[len(name) :]
    return found


def test_every_file_is_an_environment_of_some_rule():
    assert {path.name for path in (PROJECT / "envs").iterdir()} == {
        f"{name}.yaml" for name in ENVIRONMENTS
    }
    assert all(len(programs_of(name)) > 3 for name in ENVIRONMENTS)


def test_every_rule_that_runs_a_program_has_an_environment():
    for path in (PROJECT / "workflow" / "rules").glob("*.smk"):
        for rule in re.split(r"^rule ", path.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
            assert ("$HPALOC/" in rule) == ("conda:" in rule), rule.partition(":")[0]


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_an_environment_has_no_key_that_conda_ignores(name):
    text = (PROJECT / "envs" / f"{name}.yaml").read_text(encoding="utf-8")
    found = read_environment(name)
    assert list(found) == ["channels", "dependencies"]
    keys = [key.value for key, _ in yaml.compose(text, yaml.SafeLoader).value]
    assert keys == list(found)  # none is there twice
    assert found["channels"] == ["conda-forge", "nodefaults"]


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_an_environment_asks_for_nothing_that_conda_forge_lacks(name):
    known = conda_forge()
    specs = specs_of(name)
    assert "python" in specs
    for package, (least, too_new) in specs.items():
        assert package in known, f"envs/{name}.yaml: {package} is not in {CONDA_FORGE.name}"
        if least:
            assert Version(least) <= known[package], f"envs/{name}.yaml: {package}"
        if too_new:
            assert Version(too_new) > known[package], f"envs/{name}.yaml: {package}"


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_what_is_installed_here_would_do_for_the_environment(name):
    """The tests say something of the environments only if their versions are allowed there."""
    for package, (least, too_new) in specs_of(name).items():
        if package == "python":
            continue
        here = Version(metadata.version(AT_PYPI.get(package, package)))
        assert least is None or here >= Version(least), package
        assert too_new is None or here < Version(too_new), package


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_an_environment_has_what_its_programs_import(name):
    used = imported(programs_of(name))
    assert len(used) > 3
    assert used <= set(specs_of(name))


def test_requirements_have_what_all_programs_import():
    used = imported(set().union(*map(programs_of, ENVIRONMENTS)))
    assert {AT_PYPI.get(name, name) for name in used} <= requirements().keys()


def test_the_requirements_for_older_drivers_differ_in_torch_alone():
    new, old = requirements(), requirements("requirements-cuda12.txt")
    assert new.keys() == old.keys()
    differing = {name for name in new if new[name] != old[name]}
    assert differing == {"torch", "torchvision"}
    for versions in (new, old):
        torch, torchvision = (Version(versions[name][2:]) for name in ("torch", "torchvision"))
        # They are published together: torchvision 0.24 with torch 2.9, 0.29 with 2.14 and 2.15.
        assert (torch.minor, torchvision.minor) in {(9, 24), (15, 29)}


def test_the_guide_to_gpus_names_the_versions_that_are_pinned():
    guide = (PROJECT / "docs" / "gpus.md").read_text(encoding="utf-8")
    for file in ("requirements.txt", "requirements-cuda12.txt"):
        torch = requirements(file)["torch"][2:]
        assert re.search(rf"^\| `{re.escape(file)}` \| {re.escape(torch)} \|", guide, re.MULTILINE)


def test_conda_takes_no_torch_that_the_project_was_not_run_with():
    least, _ = specs_of("train")["pytorch"]
    assert Version(requirements("requirements-cuda12.txt")["torch"][2:]) >= Version(least)


def test_the_version_of_all_that_programs_import_is_recorded():
    programs = set().union(*map(programs_of, ENVIRONMENTS))
    assert set().union(*map(modules_of, programs)) <= provenance.PACKAGES.keys()


def test_what_is_recorded_has_the_name_that_pip_knows():
    """Else an installed package would be told by what its module calls itself."""
    for distribution in provenance.PACKAGES.values():
        assert metadata.version(distribution)


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_no_package_decides_for_a_gpu(name):
    """pytorch is both; pytorch-gpu and cuda-… cannot be solved where there is no driver."""
    assert not [package for package in specs_of(name) if re.search(r"gpu|cuda", package)]
