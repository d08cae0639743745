"""Tables of labels: which columns hold ids and labels, and class numbers or names in the cells.

All of them are read here: labels of a user's own images, Kaggle's tables, lists of atlas images,
answer sheets and their truth.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from hpaloc.classes import N_CLASSES, class_number
from hpaloc.log import InputError
from hpaloc.text_table import read_table
from hpaloc.unicode import nfc

_USUAL_COLUMNS = {
    "id": ("id", "image_id", "image", "name"),
    "labels": ("target", "targets", "labels", "label"),
    "antibody": ("antibody", "antibody_id"),
    "gene": ("gene", "gene_name"),
    "cell_line": ("cell_line", "cellline"),
}
_NUMBERS = {str(number): number for number in range(N_CLASSES)}
_METADATA = ("antibody", "gene", "cell_line")


class Advice(NamedTuple):
    """What to do where a column is missing, and where several columns may be the one.

    ``{key}`` in it is the key of ``columns``, ``{name}`` the column's usual name.
    """

    missing: str
    several: str


NAME_COLUMNS = Advice("Name it as columns.{key}.", "Name one as columns.{key}.")
RENAME_COLUMNS = Advice(
    "The first line must be a header; rename the column of the {key} to {name}.",
    "Rename or remove all but one of them.",
)

# Line, image id, labels, and what is known of antibody, gene and cell line.
LabelledRow = tuple[int, str, list[int], dict[str, str | None]]


def read_labels(
    path: str | Path,
    columns: Mapping[str, str | None],
    advice: Advice = NAME_COLUMNS,
) -> dict[str, dict[str, Any]]:
    """A table of labels: image id to ``labels``, and what is known of antibody, gene, cell line.

    As ``labelled_rows``, without the lines.
    """
    return {
        image_id: {**about, "labels": labels}
        for _, image_id, labels, about in labelled_rows(path, columns, advice)
    }


def labelled_rows(
    path: str | Path,
    columns: Mapping[str, str | None],
    advice: Advice,
    usual: Mapping[str, tuple[str, ...]] = {},
    first_wins: bool = False,
) -> Iterator[LabelledRow]:
    """The rows of a table of labels (see ``hpaloc.text_table``), ids in Unicode NFC, each once.

    ``columns`` names the columns ``id``, ``labels`` and of metadata, of which only those are looked
    for that it has; None stands for the usual names, of which ``usual`` gives others. Where several
    columns have usual names, ``first_wins`` takes the one that has the first of them. Labels are class numbers (``16 0``) or class names
    (``Cytosol;Rods & rings``), separated by blanks (numbers only), ``;``, ``|`` or ``,``; an empty
    cell is an image of none of the classes. Raises InputError with file and line for malformed
    rows, doubled ids, doubled and unknown classes; and, with ``advice``, for a missing column.
    """
    table = read_table(path)
    position = _columns(
        path, table.line, table.names, columns, _USUAL_COLUMNS | dict(usual), advice, first_wins
    )
    id_place, labels_place = position.pop("id"), position.pop("labels")
    lines: dict[str, int] = {}
    # Few sets of labels are written over and over.
    parsed: dict[str, list[int]] = {}
    about: dict[str, str | None] = {}
    for line, cells in table.rows:
        image_id = cells[id_place].strip()
        if not image_id:
            raise InputError(f"{path}, line {line}: no image id.")
        if image_id in lines:
            raise InputError(
                f"{path}, line {line}: image {image_id!r} is in line {lines[image_id]} already."
            )
        lines[image_id] = line
        cell = cells[labels_place]
        if cell not in parsed:
            parsed[cell] = _parse_labels(cell, f"{path}, line {line}")
        if position:
            about = {name: cells[place].strip() or None for name, place in position.items()}
        yield line, image_id, list(parsed[cell]), about


def _columns(
    path: str | Path,
    line: int,
    names: list[str],
    wanted: Mapping[str, str | None],
    usual_names: Mapping[str, tuple[str, ...]],
    advice: Advice,
    first_wins: bool,
) -> dict[str, int]:
    if not names:
        raise InputError(
            f"{path}: an empty table. Expected a header, such as Id,Target, and a row per image."
        )
    simple = [re.sub(r"[\s-]+", "_", name.strip().lower()) for name in names]
    position = {}
    for key in wanted:
        name, usual = wanted[key], usual_names[key]
        if name is None:
            places = [k for k, column in enumerate(simple) if column in usual]
            first = [k for k in places if simple[k] == usual[0]]
            places = first if first_wins and first else places
        else:  # the table's text is in Unicode NFC
            places = [k for k, column in enumerate(names) if column.strip() == nfc(name).strip()]
        words = {"key": key, "name": name or usual[0].capitalize()}
        if len(places) > 1:
            raise InputError(
                f"{path}, line {line}: the columns {', '.join(names[k] for k in places)} may all be"
                f" the {key}. {advice.several.format(**words)}"
            )
        if places:
            position[key] = places[0]
        elif name is not None or key not in _METADATA:
            raise InputError(
                f"{path}, line {line}: no column {name or ' or '.join(usual)} for the {key}; the"
                f" columns are {', '.join(names)}."
                f" {advice.missing.format(**words)}"
            )
    return position


def _parse_labels(cell: str, where: str) -> list[int]:
    words = cell.split()
    if all(word in _NUMBERS for word in words):  # nearly all cells
        labels = [_NUMBERS[word] for word in words]
    else:
        numbers = re.fullmatch(r"[\d\s,;|]*", cell, re.ASCII)
        words = re.split(r"[\s,;|]+" if numbers else r"[,;|]", cell)
        labels = [class_number(word, where) for word in words if word.strip()]
    if len(set(labels)) < len(labels):
        raise InputError(f"{where}: a class is named twice in {cell!r}.")
    return labels
