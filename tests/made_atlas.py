"""A made Human Protein Atlas: simulated cells under the addresses and in the files of the real one.

Genes, entries and images depend on nothing but ``SETTINGS``; an image is drawn when it is asked
for. The cells are simulated: what is learnt from them says nothing of accuracy on real ones.
"""

import functools
import io
import re
import zipfile

import numpy as np

from hpaloc.classes import CHANNELS, CLASS_NAMES
from hpaloc.simulate.cells import CELL_LINES
from hpaloc.simulate.delivery import encode, image_id
from hpaloc.simulate.render import Record, record, render

SETTINGS = {
    "images": 6 * 2400, "size": 256, "seed": 7, "delivery": "hpa_v18", "imbalance": 0.3,
    "images_per_antibody": 6, "cells": [4, 8], "field_um": 70.0,
    "cell_lines": list(CELL_LINES)[:3],
}  # fmt: skip
TABLE = "/download/subcellular_location.tsv.zip"

_COLUMNS = (
    "Gene", "Gene name", "Reliability", "Enhanced", "Supported", "Approved", "Uncertain",
    "Single-cell variation intensity", "Single-cell variation spatial", "Cell cycle dependency",
    "GO id",
)  # fmt: skip


def addresses(base: str) -> dict[str, list[str]]:
    """``fetch.addresses`` of a configuration for the atlas served at ``base``."""
    return {
        "genes": [base + TABLE],
        "entries": [base + "/{gene}.xml"],
        "images": [base + "/images/{antibody}/{plate}_{well}_{n}{suffix}_{colour}.jpg"],
    }


def answer(path: str) -> tuple[bytes, str] | None:
    """Body and content type of an address; None where the atlas has no such page."""
    if path == TABLE:
        return table(), "application/zip"
    if match := re.fullmatch(r"/(ENSG\d{11})\.xml", path):
        text = entry(match[1])
        return text and (text.encode(), "text/xml")
    match = re.fullmatch(r"/images/(\d+)/(\w+)_(red|green|blue|yellow)\.jpg", path)
    number = match and numbers().get(f"{match[1]}_{match[2]}")
    if number is None:
        return None
    plane = picture(number)[..., CHANNELS.index(match[3])]
    return encode(np.ascontiguousarray(plane), match[3], "hpa_v18"), "image/jpeg"


@functools.cache
def antibodies() -> dict[str, list[Record]]:
    """The images of every gene, by its id; each gene has one antibody."""
    genes: dict[str, list[Record]] = {}
    for number in range(SETTINGS["images"]):
        known = record(SETTINGS, number)
        genes.setdefault(f"ENSG{known.antibody_number + 1:011d}", []).append(known)
    return genes


@functools.cache
def numbers() -> dict[str, int]:
    """Number of every image by its id."""
    return {
        image_id(SETTINGS, known): known.number for some in antibodies().values() for known in some
    }


@functools.lru_cache(maxsize=64)
def picture(number: int) -> np.ndarray:
    """uint8 size × size × 4; kept for a while, since its channels are asked for one by one."""
    return render(SETTINGS, number)[1]


@functools.cache
def table() -> bytes:
    lines = ["\t".join(_COLUMNS)]
    for gene, images in antibodies().items():
        locations = ";".join(CLASS_NAMES[label] for label in images[0].labels)
        # Every ninth gene is uncertain, and so are the images of its entry.
        reliability = "Uncertain" if _is_uncertain(images[0]) else "Approved"
        by_reliability = [
            locations if name == reliability else ""
            for name in ("Enhanced", "Supported", "Approved", "Uncertain")
        ]
        lines.append(
            "\t".join([gene, f"GENE{gene[-4:]}", reliability, *by_reliability, "", "", "", ""])
        )
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        # A date of its own would make other bytes every second.
        archive.writestr(zipfile.ZipInfo("subcellular_location.tsv"), "\n".join(lines) + "\n")
    return packed.getvalue()


def entry(gene: str) -> str | None:
    images = antibodies().get(gene)
    if images is None:
        return None
    blocks = []
    for line in dict.fromkeys(known.cell_line for known in images):
        locations = "".join(
            f'<location GOId="GO:0000000">{CLASS_NAMES[label].lower().replace("&", "&amp;")}'
            "</location>"
            for label in images[0].labels
        )
        shown = "".join(
            '<image imageType="sampleImage"><channel color="green">antibody</channel>'
            f"<imageUrl>{_composite(known)}</imageUrl></image>"
            for known in images
            if known.cell_line == line
        )
        blocks.append(
            f"<data><cellLine>{line}</cellLine>{locations}<assayImage>{shown}</assayImage></data>"
        )
    verification = "uncertain" if _is_uncertain(images[0]) else "approved"
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n<proteinAtlas schemaVersion="2.5">'
        f'<entry version="18"><name>GENE{gene[-4:]}</name>'
        f'<identifier id="{gene}" db="Ensembl" version="88.38"/>'
        f'<antibody id="HPA{images[0].antibody[-6:]}"><cellExpression source="HPA"'
        ' technology="ICC/IF"><subAssay type="human">'
        f'<verification type="validation">{verification}</verification>{"".join(blocks)}'
        "</subAssay></cellExpression></antibody></entry></proteinAtlas>\n"
    )


def _is_uncertain(known: Record) -> bool:
    return known.antibody_number % 9 == 8


def _composite(known: Record) -> str:
    antibody, _, rest = image_id(SETTINGS, known).partition("_")
    return f"http://v18.proteinatlas.org/images/{antibody}/{rest}_blue_red_green.jpg"
