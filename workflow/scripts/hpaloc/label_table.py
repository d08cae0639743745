"""A user's table of labels: which columns it has, and class numbers or names in its cells."""

import csv
import re
from pathlib import Path

from hpaloc.classes import class_number
from hpaloc.log import InputError

_USUAL_COLUMNS = {
    "id": ("id", "image_id", "image", "name"),
    "labels": ("target", "targets", "labels", "label"),
    "antibody": ("antibody", "antibody_id"),
    "gene": ("gene", "gene_name"),
    "cell_line": ("cell_line", "cellline"),
}
_METADATA = ("antibody", "gene", "cell_line")


def read_labels(path: str | Path, columns: dict[str, str | None]) -> dict[str, dict]:
    """A CSV table of labels: image id to ``labels`` and what is known of antibody, gene, cell line.

    Comma, semicolon or tab separate the columns. ``columns`` gives their names, None stands for
    the usual ones. Labels are class numbers (``16 0``) or class names (``Cytosol;Rods & rings``),
    separated by blanks (numbers only), ``;``, ``|`` or ``,``; an empty cell is an image of none
    of the classes. Raises InputError with file and line for malformed rows, doubled ids, doubled
    and unknown classes.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            header = file.readline()
            delimiter = max(",;\t", key=header.count)
            file.seek(0)
            reader = csv.reader(file, delimiter=delimiter, strict=True)
            names = next(reader, [])
            position = _columns(path, names, columns)
            table: dict[str, dict] = {}
            lines: dict[str, int] = {}
            for cells in reader:
                where = f"{path}, line {reader.line_num}"
                if not cells:
                    continue
                if len(cells) != len(names):
                    raise InputError(
                        f"{where}: {len(cells)} cells, the header has {len(names)}. Cells that"
                        f" hold a {delimiter!r} must stand in double quotes."
                    )
                image_id = cells[position["id"]].strip()
                if not image_id:
                    raise InputError(f"{where}: no image id.")
                if image_id in table:
                    raise InputError(
                        f"{where}: image {image_id!r} stands in line {lines[image_id]} already."
                    )
                lines[image_id] = reader.line_num
                about = {name: cells[k].strip() or None for name, k in position.items()}
                del about["id"]
                about["labels"] = _parse_labels(cells[position["labels"]], where)
                table[image_id] = about
    except FileNotFoundError as error:
        raise InputError(f"{path}: there is no such table of labels.") from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(
            f"{path}: not a readable CSV table in UTF-8 ({error}). Save it as CSV in UTF-8."
        ) from error
    return table


def _columns(path: str | Path, names: list[str], wanted: dict[str, str | None]) -> dict[str, int]:
    simple = [re.sub(r"[\s-]+", "_", name.strip().lower()) for name in names]
    position = {}
    for key, usual in _USUAL_COLUMNS.items():
        name = wanted[key]
        places = (
            [k for k, column in enumerate(simple) if column in usual]
            if name is None
            else [k for k, column in enumerate(names) if column.strip() == name]
        )
        if len(places) > 1:
            raise InputError(
                f"{path}: the columns {', '.join(names[k] for k in places)} may all be the {key};"
                f" name one as columns.{key}."
            )
        if places:
            position[key] = places[0]
        elif name is not None or key not in _METADATA:
            raise InputError(
                f"{path}, line 1: no column {name or ' or '.join(usual)} for the {key}; the"
                f" columns are {', '.join(names)}. Name it as columns.{key}."
            )
    return position


def _parse_labels(cell: str, where: str) -> list[int]:
    numbers = re.fullmatch(r"[\d\s,;|]*", cell, re.ASCII)
    words = re.split(r"[\s,;|]+" if numbers else r"[,;|]", cell)
    labels = [class_number(word, where) for word in words if word.strip()]
    if len(set(labels)) < len(labels):
        raise InputError(f"{where}: a class stands twice in {cell!r}.")
    return labels
