"""The walk through gene entries in alphabetical order of their Ensembl ids: every image, numbered."""

import functools
import logging
import multiprocessing
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pandas as pd

from hpaloc.files import inside
from hpaloc.hpa.atlas import ATLAS_SCHEMA, LEFT_OUT_COLUMNS, name_columns
from hpaloc.hpa.entry import BadEntry, Entry, read_entry
from hpaloc.hpa.names import id_of_address, parse_image_id
from hpaloc.listing import list_files
from hpaloc.log import InputError, Progress, some_of
from hpaloc.text_table import read_text_table

log = logging.getLogger("hpaloc")

# Fewer files than this are read faster than another process starts.
_FILES_PER_PROCESS = 100


def walk_folder(
    folder: str | Path, bad_entries: str = "skip", workers: int = 1
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The walk through the .xml and .xml.gz files below ``folder``; see ``walk_files``."""
    if not Path(folder).is_dir():
        raise InputError(f"{folder}: there is no such folder of gene entries.")
    names = [name for name, _ in list_files(folder) if name.lower().endswith((".xml", ".xml.gz"))]
    if not names:
        raise InputError(f"{folder}: no gene entries (.xml or .xml.gz files) lie here.")
    return walk_files(folder, names, [], bad_entries, workers)


def walk_fetched(
    table: str | Path, downloads: str | Path, bad_entries: str = "skip", workers: int = 1
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The walk through the entries that ``fetch_hpa_entries`` lists in ``table``."""
    entries = read_text_table(table, ["gene", "path", "reason"])
    good = entries["reason"] == ""
    for row, path in entries.loc[good, "path"].items():
        inside(downloads, path, f"{table}, row {row + 2}")
    missing = list(entries.loc[~good, ["gene", "reason"]].itertuples(index=False, name=None))
    return walk_files(downloads, list(entries.loc[good, "path"]), missing, bad_entries, workers)


def walk_files(
    folder: str | Path,
    names: list[str],
    missing: Iterable[tuple[str, str]],
    bad_entries: str,
    workers: int,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """All images of the entries ``folder/name``, and what is no gene entry.

    The first table has the columns of ATLAS_SCHEMA and one row for each number of the walk, the
    second one ``file`` and ``reason``; ``missing`` are pairs of these that are known before.
    With ``bad_entries`` "stop", the first table is made of gene entries only or not at all:
    InputError. Raises InputError too where no entry has an image.
    """
    files: dict[str, tuple[str, Entry]] = {}
    left_out = list(missing)
    for name, entry in zip(names, _read_all(folder, names, workers), strict=True):
        if isinstance(entry, str):
            left_out.append((_printable(name), entry))
        elif fault := _misplaced(name, entry.gene, files):
            left_out.append((_printable(name), fault))
        else:
            files[entry.gene] = name, entry
    _tell_left_out(folder, left_out, bad_entries)

    rows = []
    for gene in sorted(files):
        _, entry = files[gene]
        for image in entry.images:
            image_id = id_of_address(image.url)
            name = None if image_id is None else parse_image_id(image_id, gene)
            rows.append(
                {
                    **image._asdict(),
                    **name_columns(name),
                    "walk": len(rows),
                    "gene": gene,
                    "reliability": entry.reliability,
                }
            )
    if not rows:
        raise InputError(
            f"{folder}: {len(files)} gene entries, and none of them names an image with a location"
            f" of the 28. {len(left_out)} files are no gene entries"
            f"{': ' + some_of(f'{file} ({reason})' for file, reason in left_out) if left_out else ''}."
        )
    log.info("%d gene entries with %d images", len(files), len(rows))
    frame = pd.DataFrame(rows, columns=ATLAS_SCHEMA.names)
    return frame, pd.DataFrame(left_out, columns=LEFT_OUT_COLUMNS)


def _printable(name: str) -> str:
    """A file's name as a table can hold it: bytes that are no UTF-8 as escapes."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def _misplaced(name: str, gene: str, files: dict[str, tuple[str, Entry]]) -> str | None:
    """Why an entry cannot stand where it does: for another gene, or a second time."""
    if gene in files:
        return f"it is the entry of {gene} again, which is {_printable(files[gene][0])}"
    stem = Path(name).name.split(".")[0]
    if stem.startswith("ENSG") and stem != gene:
        return f"it is the entry of another gene, {gene}"
    return None


def _tell_left_out(folder: str | Path, left_out: list[tuple[str, str]], bad_entries: str) -> None:
    if not left_out:
        return
    listed = some_of(f"{file}: {reason}" for file, reason in left_out)
    if bad_entries == "stop":
        raise InputError(
            f"{folder}: {len(left_out)} files are no gene entries ({listed}). Replace or"
            " remove them (those of the downloads are fetched again), or set bad_entries: skip."
        )
    log.warning("%s: %d files are no gene entries, left out: %s", folder, len(left_out), listed)


def _read_all(folder: str | Path, names: list[str], workers: int) -> Iterable[Entry | str]:
    """Entries, or the reasons why they are none, in the order of ``names``."""
    progress = Progress("read", len(names), "entries")
    read = functools.partial(_read_or_reason, str(folder))
    processes = min(workers, len(names) // _FILES_PER_PROCESS)
    if processes < 2:
        for name in names:
            yield read(name)
            progress.add()
        return
    try:
        with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
            for entry in pool.map(read, names, chunksize=16):
                yield entry
                progress.add()
    except BrokenProcessPool as error:
        raise InputError(
            f"{folder}: a process that read entries was killed, perhaps for want of memory. Run it"
            " again with fewer workers."
        ) from error


def _read_or_reason(folder: str, name: str) -> Entry | str:
    try:
        return read_entry(Path(folder, name))
    except BadEntry as error:
        return str(error)
