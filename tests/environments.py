"""Which programs run in which conda environment, and what they import."""

import ast
import re
import sys
from pathlib import Path

import yaml

from hpaloc.digest import SCRIPTS, WITHOUT_EFFECT, imported_modules, program_files

PROJECT = Path(__file__).resolve().parents[1]
ENVIRONMENTS = ("fetch", "images", "tables", "train")
# Names on conda-forge, where they are not the module's; and on PyPI, where they differ from those.
PACKAGES = {
    "cv2": "opencv",
    "iterstrat": "iterative-stratification",
    "matplotlib": "matplotlib-base",
    "torch": "pytorch",
}
AT_PYPI = {"opencv": "opencv-python-headless", "matplotlib-base": "matplotlib", "pytorch": "torch"}


def read_environment(name: str) -> dict:
    return yaml.safe_load((PROJECT / "envs" / f"{name}.yaml").read_text(encoding="utf-8"))


def programs_of(environment: str) -> set[str]:
    """The programs that rules run in an environment."""
    programs = set()
    for path in (PROJECT / "workflow" / "rules").glob("*.smk"):
        for rule in re.split(r"^rule ", path.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
            if f"envs/{environment}.yaml" in rule:
                programs |= set(re.findall(r"\$HPALOC/(\w+)\.py\b", rule))
    return programs


def modules_of(program: str) -> set[str]:
    """Top modules of others that a program imports, at any time and through any of ours.

    But for triton, which comes with torch where that has CUDA and is not needed where it has not.
    """
    names = set().union(*map(imports_of, program_files(program)))
    for name in WITHOUT_EFFECT & names:  # which are left out of program_files
        names |= imports_of(SCRIPTS.joinpath(*name.split(".")).with_suffix(".py"))
    return (
        {name.partition(".")[0] for name in names} - {"hpaloc", "triton"} - sys.stdlib_module_names
    )


def imports_of(path: Path) -> set[str]:
    return set(imported_modules(ast.parse(path.read_text(encoding="utf-8"))))
