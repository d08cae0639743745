"""Where a result comes from: a record beside every output, written by the program that made it.

A job's record, ``<first output>.provenance.json``, holds the commit, the configuration, the
arguments, the seed, the device, the versions of what was imported, and the size and sha256 of
every file that was read or made. A job with files in several folders has one in each. Records hold
no times, so that they too are equal where the same is made again. They are no outputs of the rules:
nothing runs again for want of one.

What a job takes from a state was made by whoever left it there, maybe on another machine and by
another commit: such makers are stored in the state, and its record names them.
"""

import argparse
import hashlib
import json
import os
import platform
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from hpaloc.files import canonical_json, map_array, sha256_of_file, write_text

SUFFIX = ".provenance.json"

# Where the resolved configurations of runs lie, and where they wait for the first result.
CONFIGS = Path("results/config")
SCRATCH = Path(".snakemake/hpaloc")

# Folders of results that hold none, at any depth, and those that lie beside the runs. No run, recipe
# or source is called so.
NO_RESULTS = frozenset({"benchmarks", "config", "downloads", "logs", "state"})
OF_ALL_RUNS = frozenset({"sources", "weights"})

# Set by the Snakefile. A program that is run by hand makes no result of a run, and no record.
VARIABLE = "HPALOC_PROVENANCE"

# Distributions by the name that is imported: what the programs import, and what that stands on.
PACKAGES = {
    "aiohttp": "aiohttp", "albumentations": "albumentations", "cv2": "opencv-python-headless",
    "huggingface_hub": "huggingface_hub", "imagecodecs": "imagecodecs",
    "iterstrat": "iterative-stratification", "kagglehub": "kagglehub", "kagglesdk": "kagglesdk",
    "matplotlib": "matplotlib", "numpy": "numpy", "openvino": "openvino", "pandas": "pandas",
    "PIL": "pillow", "pyarrow": "pyarrow", "requests": "requests", "safetensors": "safetensors",
    "scipy": "scipy", "simplejpeg": "simplejpeg", "sklearn": "scikit-learn",
    "threadpoolctl": "threadpoolctl", "tifffile": "tifffile", "timm": "timm", "torch": "torch",
    "torchvision": "torchvision", "yarl": "yarl",
}  # fmt: skip

# Of a state that does not say who made it.
UNKNOWN_MAKER = {"commit": None, "device": {"cpu": None, "gpu": None}, "versions": {}}


def maker(gpus: int | None = None) -> dict[str, Any]:
    """Who computes here: commit, device, and the versions of what is imported by now.

    ``gpus`` is how many compute, 0 where it is the processor; None: one, if CUDA was started.
    """
    run = json.loads(os.environ.get(VARIABLE, "{}"))
    return {"commit": run.get("commit"), "device": _device(gpus), "versions": _versions()}


def record(
    arguments: argparse.Namespace,
    outputs: Sequence[str | Path | None],
    *,
    also_read: Sequence[str | Path | None] = (),
    pixels_of: str | Path | None = None,
    sums: Mapping[str, str] | None = None,
    listed_in: str | Path | None = None,
    repeatable: bool = True,
    makers: Sequence[Mapping[str, Any]] | None = None,
) -> None:
    """Writes the record of the job that this program is; nothing where it is run by hand.

    ``outputs`` are the files that it made, the most telling first (None: not asked for). What it
    read are all other files that ``arguments`` name, those in ``also_read``, whose names stand in
    settings or in another file (None: not there), and the shards beside the index of arrays
    ``pixels_of``, for which the digest file of that index stands. ``sums`` has the sums of shards,
    which are known already, and ``listed_in`` is an index of raw images that the job made too.
    ``repeatable`` is False where the same job makes other bytes every time. ``makers`` are those
    of a result that is taken from a state (see ``maker``), in order, at least one; None: this
    program made it. The record is that of the last one, and lists the others.
    """
    if VARIABLE not in os.environ:
        return
    run = json.loads(os.environ[VARIABLE])
    _keep_config(Path(run["config"]["path"]))
    made = [Path(path) for path in outputs if path is not None]
    read = [path for path in _files_of(vars(arguments)) if path not in made]
    read += [Path(path) for path in also_read if path is not None]
    if pixels_of is not None:
        read.append(Path(pixels_of).with_suffix(".sha256"))
    *earlier, last = [maker()] if makers is None else makers
    about = {
        "program": Path(sys.argv[0]).stem,
        **run,
        **last,
        "earlier_makers": earlier,
        "seed": _seed(vars(arguments)),
        "arguments": _plain(vars(arguments)),
        "inputs": {path.as_posix(): _facts(path, sums or {}) for path in sorted(set(read))},
        "outputs": {path.as_posix(): _facts(path, sums or {}) for path in sorted(made)},
        "images": None if listed_in is None else Path(listed_in).as_posix(),
        "repeatable": repeatable,
    }
    about["sha256"] = sum_of_record(about)
    for folder in dict.fromkeys(path.parent for path in made):
        first = next(path for path in made if path.parent == folder)
        write_text(text_of_record(about), first.with_suffix(SUFFIX))


def text_of_record(about: Mapping[str, Any]) -> str:
    return json.dumps(about, indent=2, sort_keys=True) + "\n"


def sum_of_record(about: Mapping[str, Any]) -> str:
    """sha256 of all that a record says, but for its own ``sha256``: an edited one is seen."""
    said = {key: value for key, value in about.items() if key != "sha256"}
    return hashlib.sha256(canonical_json(said).encode()).hexdigest()


def sum_of_shard(path: str | Path, pixels: str | None = None) -> str:
    """The sum of an .npy file of images: sha256 of its header and of the sum of its pixels.

    ``pixels`` is the sha256 of the sha256 sums (hex) of its images. Whoever makes a shard has it,
    and reads no GiB twice; without it the images are read. ValueError for what is no such file.
    """
    import numpy as np

    images = map_array(path)
    if pixels is None:
        each = "".join(hashlib.sha256(np.ascontiguousarray(image)).hexdigest() for image in images)
        pixels = hashlib.sha256(each.encode()).hexdigest()
    with open(path, "rb") as file:
        header = file.read(os.path.getsize(path) - images.nbytes)
    return hashlib.sha256(header + pixels.encode()).hexdigest()


def _keep_config(path: Path) -> None:
    if not path.is_file():
        write_text((SCRATCH / path.name).read_text(encoding="utf-8"), path)


def _files_of(values: Mapping[str, Any]) -> Iterator[Path]:
    # Not within maps: most texts there are no paths, and some may be the name of a file.
    for value in values.values():
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, str | Path) and _is_file(item):
                yield Path(item)


def _is_file(text: str | Path) -> bool:
    try:
        return os.path.isfile(text)
    except ValueError:  # no path at all
        return False


def _facts(path: Path, sums: Mapping[str, str]) -> dict[str, Any]:
    known = sums.get(path.as_posix())
    return {"bytes": path.stat().st_size, "sha256": known or sha256_of_file(path)}


def _seed(arguments: Mapping[str, Any]) -> int | None:
    """The seed among the arguments: an own one, or that of a recipe or of a source's settings."""
    for value in (arguments, arguments.get("recipe"), arguments.get("settings")):
        if isinstance(value, Mapping) and isinstance(value.get("seed"), int):
            return value["seed"]
    return None


def _device(gpus: int | None) -> dict[str, str | None]:
    """The processor, and the GPU where this program computed on one: ``4 × NVIDIA H100``."""
    torch = sys.modules.get("torch")
    if gpus is None:
        gpus = int(torch is not None and torch.cuda.is_initialized())
    gpu = torch.cuda.get_device_name() if gpus else None
    return {"cpu": cpu_model(), "gpu": f"{gpus} × {gpu}" if gpus > 1 else gpu}


def cpu_model() -> str:
    """The name of the processor, such as ``AMD EPYC``."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for name, distribution in PACKAGES.items():
        if module := sys.modules.get(name):
            try:
                versions[distribution] = metadata.version(distribution)
            except metadata.PackageNotFoundError:  # conda calls some otherwise
                versions[distribution] = str(getattr(module, "__version__", "unknown"))
    return versions


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value.as_posix() if isinstance(value, Path) else value
