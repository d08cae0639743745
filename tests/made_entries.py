"""Made gene entries of the atlas, as small as the rule allows, for tests of those who read them."""

import gzip
from pathlib import Path

BASE = "http://v18.proteinatlas.org/images"


def image(antibody: int, name: str, colours: str = "blue_red_green") -> str:
    return f"<image><imageUrl>{BASE}/{antibody}/{name}_{colours}.jpg</imageUrl></image>"


def block(line: str, *parts: str) -> str:
    return f"<data><cellLine>{line}</cellLine>{''.join(parts)}</data>"


def location(name: str) -> str:
    return f'<location GOId="GO:0000001">{name}</location>'


def assay(antibody: str, *blocks: str, kind: str = "human", verification: str | None = "approved"):
    verified = verification and f'<verification type="validation">{verification}</verification>'
    return (
        f'<antibody id="{antibody}"><cellExpression technology="ICC/IF"><subAssay type="{kind}">'
        f"{verified or ''}{''.join(blocks)}</subAssay></cellExpression></antibody>"
    )


def entry(gene: str, *parts: str, reliability: str = "approved") -> str:
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n<proteinAtlas schemaVersion="2.5">'
        f'<entry version="18"><name>MADE</name><identifier id="{gene}" db="Ensembl"/>'
        '<cellExpression technology="ICC/IF">'
        f'<verification type="reliability">{reliability}</verification></cellExpression>'
        '<tissueExpression><verification type="reliability">uncertain</verification>'
        "<data><tissue>liver</tissue><location>nuclear</location></data></tissueExpression>"
        f"{''.join(parts)}</entry></proteinAtlas>\n"
    )


def simple(number: int, label: str = "cytosol", images: int = 2, line: str = "A-431") -> str:
    """The entry of gene ``number``, whose antibody of that number has images of one cell line."""
    shown = [image(number, f"{number}_A1_{n + 1}") for n in range(images)]
    return entry(gene(number), assay(f"HPA{number:06d}", block(line, location(label), *shown)))


def gene(number: int) -> str:
    return f"ENSG{number:011d}"


def write(folder: Path, name: str, text: str | bytes) -> Path:
    """Writes an entry; gzipped where the name ends with .gz."""
    data = text.encode() if isinstance(text, str) else text
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_bytes(gzip.compress(data, 1, mtime=0) if name.endswith(".gz") else data)
    return path
