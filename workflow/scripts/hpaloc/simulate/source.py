"""A whole simulated source: images over all cores, a journal to go on from, index and labels."""

import hashlib
import json
import logging
import multiprocessing
import os
import re
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd

from hpaloc.classes import CHANNELS, format_labels
from hpaloc.digest import code_digest
from hpaloc.files import canonical_json, sha256_of_file, write_csv
from hpaloc.log import InputError, Progress
from hpaloc.simulate.cells import CELL_LINES
from hpaloc.simulate.delivery import FOLDERS, image_id, image_paths, make_image
from hpaloc.simulate.render import record
from hpaloc.simulate.streams import DELIVERIES
from hpaloc.simulate.version import STAMP, VERSION

LABEL_TABLE = "train.csv"

_KEYS = {
    "images", "size", "seed", "delivery", "imbalance", "images_per_antibody",
    "cells", "field_um", "cell_lines",
}  # fmt: skip
_CHUNK = 8  # images a worker renders between two reports

_log = logging.getLogger("hpaloc")


def check_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of the renderer without other keys, and its version. Raises InputError where
    one is missing or asks for what cannot be drawn."""
    if missing := sorted(_KEYS - settings.keys()):
        raise InputError(f"settings of a simulated source: {', '.join(missing)} missing.")
    if settings["delivery"] not in DELIVERIES:
        raise InputError(
            f"delivery: {settings['delivery']!r} is not one of {', '.join(DELIVERIES)}."
        )
    unknown = [line for line in settings["cell_lines"] if line not in CELL_LINES]
    if unknown or not settings["cell_lines"]:
        raise InputError(
            f"cell_lines: {unknown or 'an empty list'} cannot be drawn."
            f" Known lines: {', '.join(CELL_LINES)}."
        )
    fewest, most = settings["cells"]
    if not 1 <= fewest <= most:
        raise InputError(
            f"cells: {settings['cells']} must be the fewest and the most cells of an image,"
            " at least 1, the smaller one first."
        )
    for key in ("images", "size", "images_per_antibody", "field_um"):
        if not settings[key] > 0:
            raise InputError(f"{key}: {settings[key]} must be greater than 0.")
    if settings.get("version", VERSION) != VERSION:
        raise InputError(
            f"version: these are settings of version {settings['version']} of the simulator, this"
            f" is version {VERSION}. Leave the version out, or use the code of that version."
        )
    return {key: settings[key] for key in sorted(_KEYS)} | {"version": VERSION}


def make_source(name: str, settings: Mapping[str, Any], raw: Path, workers: int) -> pd.DataFrame:
    """Renders what is not yet there and returns the raw index, sorted by image id.

    ``raw`` then holds the images of these settings and no others. Images that an
    earlier, interrupted run finished are kept if their files are whole and their
    settings (the number of images apart) and the renderer's code are the same;
    of any others nothing is kept.
    """
    settings = check_settings(settings)
    raw.mkdir(parents=True, exist_ok=True)
    journal = raw / f"rendered_v{VERSION}_{_key(settings)}.jsonl"
    _tell_of_other_versions(name, raw)
    made = {
        number: entry
        for number, entry in _read_journal(journal).items()
        if number < settings["images"] and _is_whole(settings, entry, raw)
    }
    if made:
        _log.info("%d of %d images are there already", len(made), settings["images"])
    waiting = [number for number in range(settings["images"]) if number not in made]
    progress = Progress("rendered", len(waiting), "images")
    # The journal is only ever added to: a kill costs its last line at most.
    with open(journal, "a", encoding="utf-8") as lines:
        lines.write("\n")
        for entry in _render_all(settings, waiting, raw, workers):
            made[entry["number"]] = entry
            lines.write(canonical_json(entry) + "\n")
            lines.flush()
            progress.add()
    index = pd.DataFrame([_index_row(name, settings, made[number]) for number in sorted(made)])
    index = index.sort_values("image_id", ignore_index=True)
    _remove_stale(raw, index, journal)
    if settings["delivery"] == "kaggle":
        targets = [format_labels(labels) for labels in index["labels"]]
        write_csv(pd.DataFrame({"Id": index["image_id"], "Target": targets}), raw / LABEL_TABLE)
    return index


def _tell_of_other_versions(name: str, raw: Path) -> None:
    """What other versions left here is made again; that many images change is worth a word."""
    others = {_version_of(path) for path in raw.glob("rendered_*.jsonl")} - {VERSION}
    if others:
        _log.warning(
            "the source %r was made by version %s of the simulator, this is version %d:"
            " all its images are made again",
            name, " and ".join(map(str, sorted(others))), VERSION,
        )  # fmt: skip


def _version_of(journal: Path) -> int:
    """Version 1 did not write its number into the name of the journal."""
    found = re.fullmatch(r"rendered_v(\d+)_\w+\.jsonl", journal.name)
    return int(found[1]) if found else 1


def _key(settings: Mapping[str, Any]) -> str:
    """What an image's files depend on: all settings but the number of images, and the code."""
    depends = {key: value for key, value in settings.items() if key != "images"}
    depends["code"] = code_digest("hpaloc/simulate/delivery")
    depends["versions"] = [np.__version__, cv2.__version__]
    return hashlib.sha256(canonical_json(depends).encode()).hexdigest()[:16]


def _read_journal(journal: Path) -> dict[int, dict[str, Any]]:
    entries = {}
    if journal.exists():
        for line in journal.read_text(encoding="utf-8").splitlines():
            try:
                entry = json.loads(line)
            except json.JSONDecodeError:
                continue  # an empty line, or one that a kill cut short
            entries[entry["number"]] = entry
    return entries


def _is_whole(settings: Mapping[str, Any], entry: Mapping[str, Any], raw: Path) -> bool:
    paths = image_paths(settings, record(settings, entry["number"]))
    return all(
        (raw / paths[channel]).is_file()
        and sha256_of_file(raw / paths[channel]) == entry["sha256"][channel]
        for channel in CHANNELS
    )


def _render_all(
    settings: Mapping[str, Any], numbers: list[int], raw: Path, workers: int
) -> Iterator[dict[str, Any]]:
    """The journal entries of the images ``numbers``, in the order in which they are done."""
    if workers == 1 or len(numbers) <= _CHUNK:
        _one_thread()
        for number in numbers:
            yield make_image(settings, number, raw)
        return
    chunks = [numbers[start : start + _CHUNK] for start in range(0, len(numbers), _CHUNK)]
    # Fresh processes: a forked one may inherit a lock that a thread of OpenCV holds.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(chunks)), context, _start_worker) as pool:
        tasks = [pool.submit(_make_images, settings, chunk, raw) for chunk in chunks]
        try:
            for task in as_completed(tasks):
                yield from task.result()
        except BrokenProcessPool as error:
            raise InputError(
                "A process that renders was killed, most likely for want of memory."
                " Run again with fewer workers; the finished images are kept."
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _make_images(settings: Mapping[str, Any], numbers: list[int], raw: Path) -> list[dict]:
    return [make_image(settings, number, raw) for number in numbers]


def _start_worker() -> None:
    _one_thread()
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    # A pool's processes outlive a killed parent: they would wait for work for ever.
    wait([multiprocessing.parent_process().sentinel])
    os._exit(1)


def _one_thread() -> None:
    # The images are shared out among processes; threads within one only get in the way.
    cv2.setNumThreads(1)


def _index_row(name: str, settings: Mapping[str, Any], entry: Mapping[str, Any]) -> dict[str, Any]:
    known = record(settings, entry["number"])
    identity = image_id(settings, known)
    row: dict[str, Any] = {
        "image_id": identity,
        "parent": identity,
        "source": name,
        "antibody": known.antibody,
        "gene": known.gene,
        "cell_line": known.cell_line,
        "labels": known.labels,
        "x": 0,
        "y": 0,
        "width": settings["size"],
        "height": settings["size"],
    }
    for channel, path in image_paths(settings, known).items():
        row[f"path_{channel}"] = path
        row[f"bytes_{channel}"] = entry["bytes"][channel]
        row[f"sha256_{channel}"] = entry["sha256"][channel]
    return row


def _remove_stale(raw: Path, index: pd.DataFrame, journal: Path) -> None:
    """Removes what earlier settings left in the raw folder: images, journals, stamps, the label table."""
    wanted = {path for channel in CHANNELS for path in index[f"path_{channel}"]}
    stale = [path for path in raw.glob("rendered_*.jsonl") if path != journal]
    stale += [path for path in raw.glob("simulator_*") if path.name != STAMP]
    stale += [raw / LABEL_TABLE] if (raw / LABEL_TABLE).exists() else []
    folders = [path for folder in FOLDERS.values() for path in (raw / folder).rglob("*")]
    stale += [
        path
        for path in folders
        if not path.is_dir() and path.relative_to(raw).as_posix() not in wanted
    ]
    for path in stale:
        path.unlink()
    for folder in sorted((path for path in folders if path.is_dir()), reverse=True):
        if not any(folder.iterdir()):
            folder.rmdir()
