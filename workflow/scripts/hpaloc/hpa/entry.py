"""One gene's entry of the atlas (XML) to the images that the paper's rule takes from it.

The rule: within each ``<data>`` block (a cell line), the ``<location>`` texts that equal a class
name in lower case are its labels, in document order and without repeats; each ``<imageUrl>`` with
``_red`` in it, once a location was found, is one image with the labels found so far, unless the
last ``<verification type="validation">`` of the entry before it says ``uncertain``. Capitalised
names (of the GFP assay) and names of no class do not count. ``rods & rings`` never did: the paper
compared it with the text as the file has it, ``rods &amp; rings``.

Entries are read as a stream: neither the size of a file nor what it unpacks to, its longest text,
its depth or the number of names in it can fill the memory.
"""

import gzip
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple
from xml.parsers import expat

from hpaloc.classes import CLASS_NAMES

# The largest entries of the atlas are some 30 MB.
MAX_BYTES = 512 * 2**20
_CHUNK = 2**18
_MAX_TOKEN = 4 * 2**20  # a tag with its attributes, or a comment: expat keeps it whole
_MAX_TEXT = 4096
_MAX_DEPTH = 100
_MAX_NAMES = 10_000
_MAX_IMAGES = 10_000

GENE = re.compile(r"ENSG[0-9]{11}")
RODS_AND_RINGS = 27
_LABELS = {
    name.lower(): number for number, name in enumerate(CLASS_NAMES) if number != RODS_AND_RINGS
}
_WITH_TEXT = {"location", "imageUrl", "verification", "cellLine"}
_WITHOUT_TEXT = {
    "proteinAtlas", "entry", "identifier", "cellExpression", "antibody", "subAssay", "data",
}  # fmt: skip


class EntryImage(NamedTuple):
    """An image as an entry names it; ``labels`` are class numbers in document order.

    ``url`` is the composite's address, ``antibody_name`` the antibody's id (``HPA004109``),
    ``sub_assay`` the kind of experiment (``human``, ``mouse``, ``sirna``, ``gfp``),
    ``verification`` the last validation before the image. Missing text is None.
    """

    url: str
    labels: tuple[int, ...]
    cell_line: str | None
    antibody_name: str | None
    sub_assay: str | None
    verification: str | None


class Entry(NamedTuple):
    """A gene's entry: its Ensembl id, the reliability of its locations, its images in order."""

    gene: str
    reliability: str | None
    images: list[EntryImage]


class BadEntry(Exception):
    """Why a file is no gene entry; ``cut_off`` says that it is the beginning of one, perhaps."""

    def __init__(self, reason: str, cut_off: bool = False):
        super().__init__(reason)
        self.cut_off = cut_off


def read_entry(path: str | Path) -> Entry:
    """Reads an entry from an XML file, plain or gzip, whatever its name. Raises BadEntry."""
    reader = _EntryReader()
    head = b""
    try:
        for chunk in unpacked(path):
            head = head or chunk[:2048]
            reader.feed(chunk)
        return reader.close()
    except (BadEntry, expat.ExpatError) as error:
        if re.match(rb"(\xef\xbb\xbf)?\s*(<!doctype html|<html)", head, re.IGNORECASE):
            raise BadEntry("it is a web page (HTML), no gene entry") from None
        if isinstance(error, BadEntry):
            raise
        if not head.strip():
            raise BadEntry("it is empty", cut_off=True) from None
        raise BadEntry(f"its XML is damaged ({error})", reader.ended_early(error)) from None


def unpacked(path: str | Path) -> Iterator[bytes]:
    """The bytes of a plain or gzip file in pieces of 256 KiB at most.

    Raises BadEntry for a file that cannot be read, a damaged gzip file, and one that unpacks to
    more than MAX_BYTES.
    """
    total = 0
    try:
        with open(path, "rb") as raw:
            packed = raw.peek(2)[:2] == b"\x1f\x8b"
            file: BinaryIO = gzip.GzipFile(fileobj=raw) if packed else raw
            while chunk := file.read(_CHUNK):
                total += len(chunk)
                if total > MAX_BYTES:
                    raise BadEntry(f"it unpacks to more than {MAX_BYTES // 2**20} MiB")
                yield chunk
    except EOFError:
        raise BadEntry("it ends too early (the gzip file is cut off)", cut_off=True) from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise BadEntry(f"its gzip file is damaged ({error})", cut_off=True) from None
    except OSError as error:
        raise BadEntry(f"it cannot be read ({error.strerror})") from None


class _EntryReader:
    """What the rule has seen of an entry; expat calls ``_start``, ``_text`` and ``_end``."""

    def __init__(self):
        self.gene: str | None = None
        self.reliability: str | None = None
        self.images: list[EntryImage] = []
        self.entries = 0
        self.depth = 0
        self.bytes = 0
        # Of the elements that are open.
        self.in_cells = False  # not in those of tissues
        self.antibody: str | None = None
        self.sub_assay: str | None = None
        self.in_data = False
        self.cell_line: str | None = None
        self.labels: list[int] = []
        self.verification_type: str | None = None
        self.verification: str | None = None
        self.text: list[str] = []

        self.names: dict[str, str] = {}
        self.parser = expat.ParserCreate(intern=self.names)
        self.parser.buffer_text = True
        self.parser.StartDoctypeDeclHandler = self._doctype
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end

    def feed(self, chunk: bytes) -> None:
        try:
            self.parser.Parse(chunk, False)
        except (LookupError, ValueError) as error:  # of the encoding that its first line names
            raise BadEntry(f"its XML has an encoding that is not read here ({error})") from None
        self.bytes += len(chunk)
        if self.bytes - max(self.parser.CurrentByteIndex, 0) > _MAX_TOKEN:
            raise BadEntry(f"a tag or comment is longer than {_MAX_TOKEN // 2**20} MiB")
        if len(self.names) > _MAX_NAMES:
            raise BadEntry(f"it has more than {_MAX_NAMES} kinds of elements and attributes")

    def close(self) -> Entry:
        self.parser.Parse(b"", True)
        if not self.entries:
            raise BadEntry("it holds no gene entry (no <entry> in it)")
        if self.gene is None or not GENE.fullmatch(self.gene):
            raise BadEntry(f"its Ensembl id is {self.gene!r}, not such as ENSG00000000003")
        return Entry(self.gene, self.reliability, self.images)

    def ended_early(self, error: expat.ExpatError) -> bool:
        """Whether the XML was good up to its last bytes."""
        return self.bytes - self.parser.ErrorByteIndex <= _MAX_TEXT or error.code in (
            expat.errors.codes[expat.errors.XML_ERROR_NO_ELEMENTS],
            expat.errors.codes[expat.errors.XML_ERROR_UNCLOSED_TOKEN],
            expat.errors.codes[expat.errors.XML_ERROR_UNCLOSED_CDATA_SECTION],
        )

    def _doctype(self, *_about) -> None:
        # Entities, which can grow without bound or name other files, are declared there only.
        raise BadEntry("it declares a document type, which no gene entry does")

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        self.depth += 1
        if self.depth > _MAX_DEPTH:
            raise BadEntry(f"its elements are nested more than {_MAX_DEPTH} deep")
        if name in _WITH_TEXT:
            self.text = []
            self.parser.CharacterDataHandler = self._text
            if name == "verification":
                self.verification_type = attributes.get("type")
        elif name in _WITHOUT_TEXT:
            self._enter(name, attributes)
        elif self.depth == 1:
            raise BadEntry(f"its first element is <{name[:40]}>, not <proteinAtlas>")

    def _enter(self, name: str, attributes: dict[str, str]) -> None:
        if name == "data":
            self.in_data = True
            self.cell_line, self.labels = None, []
        elif name == "antibody":
            self.antibody = attributes.get("id")
        elif name == "subAssay":
            self.sub_assay = attributes.get("type")
        elif name == "cellExpression":
            self.in_cells = True
        elif name == "entry":
            self.entries += 1
            if self.entries > 1:
                raise BadEntry("it holds more than one gene entry")
        elif name == "identifier" and self.gene is None and attributes.get("db") == "Ensembl":
            self.gene = attributes.get("id")

    def _text(self, text: str) -> None:
        self.text.append(text)
        if sum(map(len, self.text)) > _MAX_TEXT:
            raise BadEntry(f"a name or address in it is longer than {_MAX_TEXT} characters")

    def _end(self, name: str) -> None:
        self.depth -= 1
        if name in _WITH_TEXT:
            self.parser.CharacterDataHandler = None
            self._leave_text(name, "".join(self.text))
        elif name == "data":
            self.in_data = False
        elif name == "antibody":
            self.antibody = None
        elif name == "subAssay":
            self.sub_assay = None
        elif name == "cellExpression":
            self.in_cells = False

    def _leave_text(self, name: str, text: str) -> None:
        if name == "verification":
            if self.verification_type == "validation":
                self.verification = text.strip()
            elif self.verification_type == "reliability" and self.in_cells and not self.antibody:
                self.reliability = text.strip() or None
        elif not self.in_data:
            return
        elif name == "cellLine":
            self.cell_line = text.strip() or None
        elif name == "location":
            label = _LABELS.get(text)
            if label is not None and label not in self.labels:
                self.labels.append(label)
        elif "_red" in text and self.labels and self.verification != "uncertain":
            if len(self.images) == _MAX_IMAGES:
                raise BadEntry(f"it names more than {_MAX_IMAGES} images")
            self.images.append(
                EntryImage(
                    text.strip(), tuple(self.labels), self.cell_line, self.antibody,
                    self.sub_assay, self.verification,
                )
            )  # fmt: skip
