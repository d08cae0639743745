"""The atlas's table of subcellular locations: which genes there are, and which ones are drawn."""

import csv
import hashlib
import io
import logging
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from hpaloc.classes import CLASS_NAMES, class_number
from hpaloc.hpa.entry import GENE, RODS_AND_RINGS
from hpaloc.log import InputError, some_of

log = logging.getLogger("hpaloc")

# The table of release 18 has 12,000 rows and 1.5 MB.
MAX_BYTES = 256 * 2**20
# By reliability, as the releases call them ("Validated" up to release 17).
_LOCATIONS = ("Enhanced", "Validated", "Supported", "Approved", "Uncertain")


class Gene(NamedTuple):
    """A row of the table: ``locations`` are all names in it, of any reliability, as written."""

    gene: str
    name: str
    reliability: str
    locations: tuple[str, ...]


def read_genes(path: str | Path) -> list[Gene]:
    """The genes of ``subcellular_location.tsv``, plain or in a zip file, in the order of the walk.

    That is the alphabetical order of their Ensembl ids, each once. Columns are found by name.
    Raises InputError with the row for anything else.
    """
    genes: dict[str, Gene] = {}
    rows = csv.reader(_lines(path), delimiter="\t", quoting=csv.QUOTE_NONE)
    try:
        header = [name.strip() for name in next(rows, [])]
        lacking = [name for name in ("Gene", "Reliability") if name not in header]
        located = [name for name in _LOCATIONS if name in header]
        if lacking or not located:
            lacking += [] if located else [f"one of {', '.join(_LOCATIONS)}"]
            raise InputError(
                f"{path}: not the atlas's table of subcellular locations: no column"
                f" {' and '.join(lacking)}. Its columns are"
                f" {some_of((repr(name[:40]) for name in header), 12) or 'none'}."
            )
        for cells in rows:
            if not any(cells):
                continue
            where = f"{path}, row {rows.line_num}"
            if len(cells) != len(header):
                raise InputError(
                    f"{where}: {len(cells)} cells, the header has {len(header)}. The file is"
                    " damaged or cut off: fetch it again."
                )
            row = dict(zip(header, map(str.strip, cells), strict=True))
            if not GENE.fullmatch(row["Gene"]):
                raise InputError(f"{where}: {row['Gene']!r} is no Ensembl id of a gene.")
            names = (name.strip() for column in located for name in row[column].split(";"))
            locations = tuple(dict.fromkeys(filter(None, names)))
            gene = Gene(row["Gene"], row.get("Gene name", ""), row["Reliability"], locations)
            if genes.setdefault(gene.gene, gene) != gene:
                raise InputError(f"{where}: {gene.gene} stands twice in it, with other locations.")
    except (csv.Error, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a tab-separated table in UTF-8 ({error}).") from error
    if not genes:
        raise InputError(f"{path}: a table without any gene.")
    return [genes[gene] for gene in sorted(genes)]


def _lines(path: str | Path) -> Iterator[str]:
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
        if data.startswith(b"PK"):
            with zipfile.ZipFile(path) as archive:
                tables = [file for file in archive.infolist() if file.filename.endswith(".tsv")]
                if len(tables) != 1:
                    raise InputError(
                        f"{path}: the zip file holds {len(tables)} .tsv files, not one."
                    )
                with archive.open(tables[0]) as file:
                    data = file.read(MAX_BYTES + 1)
    except FileNotFoundError as error:
        raise InputError(f"{path}: there is no such table of genes.") from error
    except (OSError, zipfile.BadZipFile, EOFError, RuntimeError, NotImplementedError) as error:
        raise InputError(f"{path}: cannot be read ({error}).") from error
    except zlib.error as error:
        raise InputError(f"{path}: the zip file is damaged ({error}).") from error
    if len(data) > MAX_BYTES:
        raise InputError(f"{path}: more than {MAX_BYTES // 2**20} MiB, no table of the atlas.")
    yield from io.TextIOWrapper(io.BytesIO(data), encoding="utf-8-sig", newline="")


def chosen_genes(genes: list[Gene], select: dict[str, Any]) -> list[Gene]:
    """The genes whose entries a selection needs, in the order of ``genes``.

    ``select`` holds ``walk`` ("paper" needs all genes, since one missing gene shifts every
    number), and ``genes``: None for all, a list of Ensembl ids, or a draw for ``draw_genes``.
    Raises InputError for genes that the table does not have.
    """
    wanted = select["genes"]
    if wanted is None or select["walk"] == "paper":
        return genes
    if isinstance(wanted, dict):
        return draw_genes(genes, **wanted)
    known = {gene.gene for gene in genes}
    if unknown := [gene for gene in wanted if gene not in known]:
        raise InputError(
            f"select.genes: {len(unknown)} genes are not in the table of subcellular locations:"
            f" {some_of(unknown)}. Ensembl ids such as {genes[0].gene} are wanted."
        )
    wanted = set(wanted)
    return [gene for gene in genes if gene.gene in wanted]


def draw_genes(genes: list[Gene], per_class: int, classes: list[int], seed: int) -> list[Gene]:
    """``per_class`` genes of each class, of those whose one location it is and are not uncertain.

    The same for the same seed, whatever the order of ``classes`` and of the table; a larger draw
    holds the smaller one. A class with fewer genes gives all it has, with a warning. Raises
    InputError for a class without any.
    """
    drawn: set[str] = set()
    for number in classes:
        name = CLASS_NAMES[number]
        if number == RODS_AND_RINGS:
            raise InputError(
                f"select.genes.classes: the paper's rule gives no image the class {number} ({name})."
            )
        fit = [gene for gene in genes if _only_class(gene) == number]
        if not fit:
            raise InputError(
                f"select.genes.classes: no gene that is not uncertain has {name} ({number}) as its"
                " one location. Leave the class out."
            )
        if len(fit) < per_class:
            log.warning(
                "%s: %d genes have it as their one location, %d are wanted",
                name, len(fit), per_class,
            )  # fmt: skip
        fit.sort(key=lambda gene: _place(seed, gene.gene))
        drawn.update(gene.gene for gene in fit[:per_class])
    return [gene for gene in genes if gene.gene in drawn]


def _only_class(gene: Gene) -> int | None:
    if len(gene.locations) != 1 or gene.reliability.lower() == "uncertain":
        return None
    try:
        return class_number(gene.locations[0], gene.gene)
    except InputError:  # a location that is none of the 28
        return None


def _place(seed: int, gene: str) -> bytes:
    return hashlib.sha256(f"{seed}:{gene}".encode()).digest()
