"""A working conda from packages of PyPI, for machines that have none.

conda itself is not on PyPI in any version that Snakemake takes, but conda-lock carries a whole
one within itself, under another name and without the scripts of shells.
"""

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

CARRIER = "conda-lock==4.0.3"
CARRIED = "conda_lock/_vendor/conda/"
# What that conda (24.7.1) imports. Later ruamel.yaml lacks what it asks for.
NEEDED = [
    "archspec", "boltons", "conda-package-handling", "packaging", "platformdirs", "pluggy",
    "pycosat", "requests", "ruamel.yaml<0.19", "setuptools", "tqdm", "truststore", "zstandard",
]  # fmt: skip

# conda starts a process that imports this file again: to look for a GPU.
PROGRAM = """#!{python}
import sys

if __name__ == "__main__":
    from conda.cli import main

    sys.exit(main())
"""
# What conda's own script of this name does: conda says what to set, the shell sets it.
ACTIVATE = """_activation="$('{conda}' shell.posix activate "$@")" || return $?
eval "$_activation"
unset _activation
"""


def make_conda(base: Path) -> Path:
    """Makes a base environment in the folder ``base``; returns its program ``conda``."""
    subprocess.run([sys.executable, "-m", "venv", base], check=True)
    python = base / "bin" / "python"
    pip = [python, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", *NEEDED], check=True)
    packages = next((base / "lib").glob("python3.*")) / "site-packages"
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([*pip, "download", "--no-deps", "--dest", folder, CARRIER], check=True)
        _unpack(next(Path(folder).glob("*.whl")), packages / "conda")
    (base / "conda-meta").mkdir()
    (base / "conda-meta" / "history").touch()
    conda = base / "bin" / "conda"
    conda.write_text(PROGRAM.format(python=python))
    conda.chmod(0o755)
    (base / "bin" / "activate").write_text(ACTIVATE.format(conda=conda))
    # conda's folder for PATH: it has no python in it.
    (base / "condabin").mkdir()
    (base / "condabin" / "conda").symlink_to(conda)
    return conda


def _unpack(wheel: Path, package: Path) -> None:
    """Writes the conda within a wheel, under its own name."""
    own = CARRIED.strip("/").replace("/", ".").encode()
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if name.startswith(CARRIED) and not name.endswith("/"):
                path = package / name.removeprefix(CARRIED)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(archive.read(name).replace(own, b"conda"))
