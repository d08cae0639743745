"""Tables of text, as people, spreadsheets and programs write them: the one reader of all of them.

Comma, semicolon or tab separate the columns; the encoding is UTF-8, or UTF-16 with a byte-order
mark. Excel's line ``sep=;`` names the separator. Lines without any text are skipped. All text is
given in Unicode NFC, so that ids compare equal; nothing is taken for a number or for missing.
"""

import codecs
import csv
import io
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from hpaloc.log import InputError
from hpaloc.unicode import nfc

_SEPARATORS = ",;\t"
_SEP_LINE = re.compile(r'"?sep=([^"\r\n])"?[,;\t]*(?:[\r\n]|$)', re.IGNORECASE)
_LINE_END = re.compile(r"\r\n|\r|\n")
_BYTE_ORDER_MARKS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}


# The line of the file where a row begins, counted from 1, and its cells.
Row = tuple[int, list[str]]


class Table(NamedTuple):
    """The header of a table, the line where it is, and the rows, which are read once."""

    line: int
    names: list[str]
    rows: Iterator[Row]


def read_table(path: str | Path) -> Table:
    """A table with a header; the header of an empty file has no cells.

    Raises InputError, also while the rows are read, that names the file, and the line of a row
    that has not as many cells as the header, of a quote that does not end, and of bytes in
    another encoding.
    """
    rows = _rows(path, as_wide=True)
    line, names = next(rows, (1, []))
    return Table(line, names, rows)


def read_rows(path: str | Path) -> Iterator[Row]:
    """All rows of a table, of whatever length, the header too where it has one."""
    return _rows(path, as_wide=False)


def read_text_table(path: str | Path, columns: Sequence[str]) -> pd.DataFrame:
    """The ``columns`` of a table, all str. Raises InputError where it lacks one of them."""
    table = read_table(path)
    names = [name.strip() for name in table.names]
    if lacking := [name for name in columns if name not in names]:
        raise InputError(
            f"{path}: the columns are {', '.join(names) or 'none'};"
            f" {' and '.join(lacking)} cannot be found."
        )
    rows = [cells for _, cells in table.rows]
    places = {name: names.index(name) for name in columns}
    found = {name: [cells[place] for cells in rows] for name, place in places.items()}
    return pd.DataFrame(found, columns=list(columns), dtype=object)


def _rows(path: str | Path, as_wide: bool) -> Iterator[Row]:
    """The rows with text in them; ``as_wide``: all must have as many cells as the first."""
    text = _text(path)
    sep_line = _SEP_LINE.match(text)
    separator = sep_line[1] if sep_line else _separator(_LINE_END.split(text.lstrip("\r\n"), 1)[0])
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    before, width = 0, None
    try:
        if sep_line:
            next(reader)
            before = reader.line_num
        for cells in reader:
            if any(cells):  # a spreadsheet's empty rows hold separators only
                if len(cells) != width:
                    if width is not None and as_wide:
                        raise InputError(
                            f"{path}, line {before + 1}: {separator.join(cells)[:80]!r} has"
                            f" {len(cells)} cells, the header has {width}. Put cells that hold a"
                            f" {separator!r} in double quotes."
                        )
                    width = len(cells)
                yield before + 1, cells
            before = reader.line_num
    except csv.Error as error:
        raise InputError(
            f'{path}, line {before + 1}: not a row of a CSV table ({error}). Look for a quote (") that'
            " does not end, or that is not doubled within quotes."
        ) from error


def _lines(text: str) -> int:
    """The number of the line in which a text ends."""
    return len(_LINE_END.findall(text)) + 1


def _separator(header: str) -> str:
    """What cuts the header into most cells; separators in quotes do not count."""

    def cells(separator: str) -> int:
        try:
            return len(next(csv.reader([header], delimiter=separator), []))
        except csv.Error:
            return 0

    return max(_SEPARATORS, key=cells)


def _text(path: str | Path) -> str:
    try:
        content = Path(path).read_bytes()
    except FileNotFoundError as error:
        raise InputError(f"{path}: there is no such table.") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}).") from error
    if content.startswith((b"PK\x03\x04", b"\xd0\xcf\x11\xe0")):
        raise InputError(
            f"{path}: a workbook of a spreadsheet program or an archive, not a CSV table. Save the"
            " sheet as CSV UTF-8."
        )
    mark = next((mark for mark in _BYTE_ORDER_MARKS if content.startswith(mark)), b"")
    encoding = _BYTE_ORDER_MARKS.get(mark, "utf-8")
    content = content[len(mark) :]
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        line = _lines(content[: error.start].decode(encoding))
        value = content[error.start : error.end]
        raise InputError(
            f"{path}, line {line}: the bytes {value!r} are not {encoding.upper()} text, but of"
            " another encoding, such as Windows-1252 or Mac Roman, or damaged. Save the table as"
            " CSV UTF-8."
        ) from error
    if "\0" in text:
        line = _lines(text[: text.index("\0")])
        raise InputError(
            f"{path}, line {line}: holds zero bytes: UTF-16 without a byte-order mark, or no text"
            " at all. Save the table as CSV UTF-8."
        )
    return nfc(text)
