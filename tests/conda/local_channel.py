"""A conda channel of what is installed here, in place of conda-forge, which cannot be reached.

The packages are the distributions of this Python's environment under their names on conda-forge.
Their files are hard links, laid ready into conda's cache of unpacked packages: torch and what it
needs are gigabytes, and nothing would be learnt from packing and unpacking them.
"""

import hashlib
import json
import os
import re
import shutil
import sys
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

CONDA_NAMES = {
    "matplotlib": "matplotlib-base",
    "opencv-python-headless": "opencv",
    "torch": "pytorch",
    "huggingface-hub": "huggingface_hub",
}
SUBDIR = "linux-64"


def make_channel(channel: Path, cache: Path) -> int:
    """Writes the channel's index to ``channel`` and its packages, unpacked, to ``cache``.

    Returns the number of packages. The same file system as that of the environment is needed for
    links; elsewhere files are copied.
    """
    (channel / "noarch").mkdir(parents=True)
    (channel / SUBDIR).mkdir()
    cache.mkdir()
    (cache / "urls.txt").touch()  # conda takes a folder with it for a cache
    python = ".".join(map(str, sys.version_info[:3]))
    records = [_package("python", python, [], cache, channel)]
    _lay_python(cache / _name(records[0]))
    taken: set[Path] = set()
    for distribution in metadata.distributions():
        name = _conda_name(distribution.name)
        # A local part (2.9+cpu) is nothing that conda-forge has.
        version = distribution.version.partition("+")[0]
        needs = sorted(_needs(distribution, set()))
        records.append(_package(name, version, ["python", *needs], cache, channel))
        _link_files(distribution, cache / _name(records[-1]), taken)
    for subdir, packages in (("noarch", []), (SUBDIR, records)):
        index = {
            "info": {"subdir": subdir},
            "packages": {record["fn"]: record for record in packages},
        }
        (channel / subdir / "repodata.json").write_text(json.dumps(index, indent=1))
    return len(records)


def _conda_name(name: str) -> str:
    name = re.sub(r"[-_.]+", "-", name).lower()
    return CONDA_NAMES.get(name, name)


def _needs(distribution: metadata.Distribution, extras: set[str]) -> set[str]:
    """conda names of what a distribution with these extras needs; the extras' needs among them."""
    names = set()
    for text in distribution.requires or []:
        needed = Requirement(text)
        where = needed.marker
        if where is None or any(where.evaluate({"extra": extra}) for extra in extras or {""}):
            names.add(_conda_name(needed.name))
            if needed.extras:
                names |= _needs(metadata.distribution(needed.name), needed.extras)
    return names


def _name(record: dict) -> str:
    return f"{record['name']}-{record['version']}-{record['build']}"


def _package(name: str, version: str, depends: list[str], cache: Path, channel: Path) -> dict:
    """The record of a package, written into its folder in the cache; its files are not there yet."""
    record = {
        "name": name,
        "version": version,
        "build": "0",
        "build_number": 0,
        "subdir": SUBDIR,
        "depends": depends,
    }
    record["fn"] = f"{_name(record)}.tar.bz2"
    record["md5"] = hashlib.md5(json.dumps(record).encode()).hexdigest()
    info = cache / _name(record) / "info"
    info.mkdir(parents=True)
    (info / "index.json").write_text(json.dumps(record))
    url = f"{channel.as_uri()}/{SUBDIR}/{record['fn']}"
    (info / "repodata_record.json").write_text(
        json.dumps(record | {"url": url, "channel": channel.as_uri()})
    )
    return record


def _lay_python(package: Path) -> None:
    """This Python, as in a virtual environment: its own prefix, the standard library as it is."""
    base = Path(sys._base_executable).resolve()
    (package / "bin").mkdir()
    minor = f"python3.{sys.version_info[1]}"
    for name in ("python", "python3", minor):
        (package / "bin" / name).symlink_to(base)
    (package / "pyvenv.cfg").write_text(
        f"home = {base.parent}\ninclude-system-site-packages = false\n"
    )
    readme = package / "lib" / minor / "site-packages" / "README.txt"
    readme.parent.mkdir(parents=True)
    readme.write_text("Packages.\n")
    files = [f"bin/{name}" for name in ("python", "python3", minor)]
    files += ["pyvenv.cfg", str(readme.relative_to(package))]
    (package / "info" / "files").write_text("\n".join(files) + "\n")


def _link_files(distribution: metadata.Distribution, package: Path, taken: set[Path]) -> None:
    """Links the modules of a distribution; no programs, whose first line is another Python's."""
    modules = Path("lib") / f"python3.{sys.version_info[1]}" / "site-packages"
    files = []
    for file in distribution.files or []:
        # Two distributions may own one file, as the __init__.py of a folder that they share.
        if file.parts[0] == ".." or file.suffix == ".pyc" or file in taken:
            continue
        taken.add(file)
        path = package / modules / file
        path.parent.mkdir(parents=True, exist_ok=True)
        _link(Path(distribution.locate_file(file)), path)
        files.append(modules / file)
    (package / "info" / "files").write_text("".join(f"{file}\n" for file in files))


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source.resolve(), target)
    except OSError:  # another file system
        shutil.copy2(source, target)
