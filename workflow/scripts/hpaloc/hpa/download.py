"""The atlas's table of genes and its entries, fetched into the folder of downloads."""

import logging
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from hpaloc.hpa.entry import GENE, BadEntry, read_entry, unpacked
from hpaloc.hpa.genes import MAX_BYTES as MAX_TABLE_BYTES
from hpaloc.hpa.genes import read_genes
from hpaloc.log import InputError, some_of
from hpaloc.web.client import fetch_all
from hpaloc.web.files import Fetched, Refused, Wanted
from hpaloc.web.lock import waited_for

log = logging.getLogger("hpaloc")

# The largest entries of the atlas have a few MB as gzip.
_MAX_PACKED = 128 * 2**20

ENTRY_COLUMNS = ["gene", "path", "bytes", "sha256", "reason"]


def fetch_genes_table(downloads: str | Path, network: dict[str, Any]) -> Path:
    """The table of subcellular locations (``table/`` in ``downloads``), fetched if not there yet.

    ``network`` holds the settings of ``fetch``; its ``addresses.genes`` are asked in turn. Raises
    InputError where none gives a table.
    """
    addresses = tuple(network["addresses"]["genes"])
    ending = ".tsv.zip" if addresses[0].endswith(".zip") else ".tsv"
    path = Path(downloads, "table", f"subcellular_location{ending}")
    wanted = [Wanted("the table of genes", addresses, path)]
    with waited_for(downloads):
        (fetched,) = fetch_all(wanted, _check_table, network, "tables", MAX_TABLE_BYTES)
    if fetched.reason:
        raise InputError(
            f"The atlas's table of genes could not be fetched: {fetched.reason}. Run it again"
            " later, name another address as fetch.addresses.genes, or give a copy of your own as"
            " genes_table of the source."
        )
    return path


def _check_table(path: Path, content_type: str) -> None:
    try:
        read_genes(path)
    except InputError as error:
        # Without its place, which the client names.
        raise Refused(str(error).removeprefix(f"{path}: "), again=True) from None


def fetch_entries(
    genes: Iterable[str], downloads: str | Path, network: dict[str, Any]
) -> pd.DataFrame:
    """The entries of genes (``entries/<gene>.xml.gz`` in ``downloads``), those not there fetched.

    Returns a table in the order of ``genes``: ``gene``, ``path`` relative to ``downloads``,
    ``bytes`` and ``sha256`` of the file as stored, and ``reason``, why a gene has no entry (then
    the others are "", 0 and ""). Raises InputError after all others were tried, where some could
    not be had that another run may get, and where no gene has an entry.
    """
    genes = list(genes)
    wanted = [
        Wanted(
            gene,
            tuple(address.replace("{gene}", gene) for address in network["addresses"]["entries"]),
            Path(downloads, "entries", f"{gene}.xml.gz"),
        )
        for gene in genes
    ]
    with waited_for(downloads):
        fetched = fetch_all(wanted, _check_entry, network, "entries", _MAX_PACKED, gzipped=True)
    _tell_failed(fetched)
    rows = []
    for gene, file in zip(genes, fetched, strict=True):
        path = "" if file.reason else file.path.relative_to(downloads).as_posix()
        rows.append((gene, path, file.bytes, file.sha256, file.reason))
    return pd.DataFrame(rows, columns=ENTRY_COLUMNS)


def _check_entry(path: Path, content_type: str) -> None:
    gene = GENE.search(path.name)[0]  # also of the file beside its place
    try:
        if not content_type:
            _check_stored(path, gene)
            return
        entry = read_entry(path)
    except BadEntry as error:
        raise Refused(str(error), again=error.cut_off) from None
    if entry.gene != gene:
        raise Refused(f"it is the entry of another gene, {entry.gene}")


def _check_stored(path: Path, gene: str) -> None:
    """Whether an entry that was checked when it was stored is still whole, and of this gene.

    Its gzip checksum is compared: several times faster than reading the XML again.
    """
    head = b""
    for chunk in unpacked(path):
        head = head or chunk
    if not re.search(rb'<identifier\b[^>]*\bid="%s"' % gene.encode(), head):
        raise Refused(f"it is not the entry of {gene}")


def _tell_failed(fetched: list[Fetched]) -> None:
    failed = [file for file in fetched if file.reason]
    listed = [f"{file.name} ({file.reason})" for file in failed]
    good = len(fetched) - len(failed)
    if again := [file for file in failed if file.temporary]:
        told = [f"{file.name} ({file.reason})" for file in again]
        raise InputError(
            f"{len(again)} of {len(fetched)} gene entries could not be fetched this time:"
            f" {some_of(told)}. The other {good} are kept; run the same command again for the rest."
        )
    if failed and not good:
        raise InputError(
            f"None of {len(fetched)} gene entries could be fetched: {some_of(listed)}. See whether"
            " fetch.addresses.entries still are the atlas's addresses."
        )
    if failed:
        log.warning("%d of %d genes have no entry: %s", len(failed), len(fetched), some_of(listed))
