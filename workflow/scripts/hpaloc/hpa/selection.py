"""Which images of the atlas's list a source uses. A changed selection reads no entry again."""

import csv
import functools
import hashlib
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hpaloc.classes import CLASS_NAMES, multi_hot
from hpaloc.hpa.atlas import name_of
from hpaloc.hpa.genes import chosen_genes, read_genes
from hpaloc.hpa.names import is_sirna
from hpaloc.log import InputError, some_of
from hpaloc.proteins import antibody_number, comparable_genes
from hpaloc.text_table import read_rows
from hpaloc.unicode import nfc

log = logging.getLogger("hpaloc")

PAPER_WALK_CSV = Path(__file__).resolve().parents[4] / "resources" / "hpa" / "paper_walk.csv"
PAPER_WALK = 64_213
PAPER_TEST = 11_111

LEFT_OUT_COLUMNS = ["image_id", "walk", "gene", "reason"]


def select_images(
    atlas: pd.DataFrame, settings: dict[str, Any], other: pd.DataFrame | None = None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The selected images, in the order of the walk, and those that had to be left out.

    ``atlas`` is a list of images, ``settings`` those of an hpa source, ``other`` the index of the
    source that ``select.antibody_disjoint_from`` names. In turn: the paper's images, those of
    named genes and ids, without images of no name, without siRNA plates (``sirna``), each image
    once, without antibodies and genes of ``other``, at most so many. The second table holds
    ``image_id``, ``walk``, ``gene`` and ``reason``; images that were not asked for are not in it.

    The paper's walk counts an image that stands under two genes as two; in ``walk: paper`` both
    stay, the later one as ``<id>_w<number of the walk>``, with the same files. Elsewhere the
    first one stays. Raises InputError where nothing is left, and where the paper's images cannot
    be told.
    """
    select = settings["select"]
    paper = select["walk"] == "paper"
    images = paper_images(atlas) if paper else atlas
    images = _of_genes(images, settings)
    if select["ids"] is not None:
        images = _of_ids(images, select["ids"])

    rules = {"of no address of the atlas": _nameless}
    if settings["sirna"] == "leave_out":
        rules["of siRNA plates"] = _of_sirna
    if not paper:
        rules["that stand in the list before"] = _again
    if (name := select["antibody_disjoint_from"]) is not None:
        rules[f"of antibodies or genes of {name}"] = functools.partial(
            _shared, other=other, name=name
        )
    left_out, told = [], []
    for what, rule in rules.items():
        reasons = pd.Series(rule(images), index=images.index, dtype=object)
        bad = reasons.notna()
        left_out.append(images[bad].assign(reason=reasons[bad])[LEFT_OUT_COLUMNS])
        images = images[~bad]
        if bad.any():
            told.append(f"{bad.sum()} {what}")
    gone = pd.concat(left_out).sort_values("walk", kind="stable")
    if images.empty:
        raise InputError(
            f"The selection holds no image of the {len(atlas)} in the list"
            f"{', after leaving out ' + '; '.join(told) if told else ''}. Change select."
        )
    if told:
        log.warning("%d images were left out: %s", len(gone), "; ".join(told))
    if paper:
        images = _numbered_again(images)
    if select["at_most"] is not None:
        images = draw_images(images, select["at_most"], select["seed"])
    log.info(
        "%d images of %d antibodies and %d genes",
        len(images), images["antibody"].nunique(), images["gene"].nunique(),
    )  # fmt: skip
    return images.reset_index(drop=True), gone.reset_index(drop=True)


def paper_images(atlas: pd.DataFrame) -> pd.DataFrame:
    """The paper's test images: running numbers in 0..64212 whose decimal form begins with 1.

    Raises InputError, with what differs, unless the walk has 64,213 images and those images have
    the published label counts: one missing gene shifts every number.
    """
    with open(PAPER_WALK_CSV, newline="", encoding="utf-8") as file:
        published = list(csv.DictReader(file))
    faults = []
    if not (atlas["walk"].to_numpy() == np.arange(len(atlas))).all():
        faults.append("it is no whole walk: its running numbers have gaps")
    elif atlas["gene"].isna().any():
        faults.append("it is no walk through genes, but a list of images")
    if len(atlas) != PAPER_WALK:
        faults.append(f"the walk has {len(atlas):,} images, the paper's {PAPER_WALK:,}")
    images = atlas[[str(number).startswith("1") for number in atlas["walk"]]]
    if len(images) != PAPER_TEST:
        faults.append(f"{len(images):,} numbers begin with 1, of the paper's {PAPER_TEST:,}")
    if differing := _differing(images, published, "test"):
        faults.append(f"of the numbers that begin with 1, {differing}")
    if faults and (differing := _differing(atlas, published, "walk")):
        faults.append(f"of the whole walk, {differing}")
    if faults:
        raise InputError(
            "walk: paper: this is not the paper's walk, so its numbers name other images: "
            + "; ".join(faults)
            + ". Every gene of release 18's subcellular_location.tsv is needed: see left_out.csv"
            " beside the index for entries that are missing, replace damaged ones (those that are"
            " removed from the downloads are fetched again), or choose walk: all."
        )
    return images


def _differing(images: pd.DataFrame, published: list[dict[str, str]], column: str) -> str | None:
    counts = multi_hot(images["labels"]).sum(axis=0)
    differing = [
        f"{name} {count:,} for {int(row[column]):,}"
        for name, count, row in zip(CLASS_NAMES, counts, published, strict=True)
        if count != int(row[column])
    ]
    return f"{len(differing)} classes differ: {some_of(differing)}" if differing else None


def _of_genes(images: pd.DataFrame, settings: dict[str, Any]) -> pd.DataFrame:
    wanted = settings["select"]["genes"]
    if wanted is None:
        return images
    if images["gene"].isna().all():
        raise InputError(
            f"select.genes: {settings['index']} does not tell the genes of its images. Choose by"
            " ids, or take index: atlas."
        )
    if isinstance(wanted, dict):
        if settings["index"] == "atlas":  # the entries of the drawn genes are all that was fetched
            return images
        if settings["genes_table"] is None:
            raise InputError(
                "select.genes: a draw of genes per class needs the atlas's table"
                " subcellular_location.tsv. Give its path as genes_table, or take index: atlas."
            )
        table = read_genes(settings["genes_table"])
        wanted = [gene.gene for gene in chosen_genes(table, settings["select"])]
    if without := sorted(set(wanted) - set(images["gene"].dropna())):
        log.warning("%d genes have no image in the list: %s", len(without), some_of(without))
    return images[images["gene"].isin(wanted)]


def _of_ids(images: pd.DataFrame, ids: list[str] | str) -> pd.DataFrame:
    wanted = read_ids(ids) if isinstance(ids, str) else [nfc(image_id) for image_id in ids]
    if unknown := sorted(set(wanted) - set(images["image_id"].dropna())):
        raise InputError(
            f"select.ids: {len(unknown)} ids are not in the list of images: {some_of(unknown)}."
            " Either the atlas shows no location for them, or their genes are not selected."
        )
    return images[images["image_id"].isin(wanted)]


def read_ids(path: str | Path) -> list[str]:
    """Image ids of a text file, one a line, or of a CSV table, in Unicode NFC.

    They are in the column ``Id`` or ``image_id`` of a table with a header, else in the first one.
    Raises InputError for a file that cannot be read and one without ids.
    """
    try:
        rows = [cells for _, cells in read_rows(path)]
    except InputError as error:
        raise InputError(f"select.ids: {error}") from error
    header = [name.strip().lower() for name in rows[0]] if rows else []
    named = [place for place, name in enumerate(header) if name in ("id", "image_id")]
    place = named[0] if named else 0
    ids = [cells[place].strip() for cells in rows[bool(named) :] if len(cells) > place]
    ids = [image_id for image_id in ids if image_id]
    if not ids:
        raise InputError(f"select.ids: {path} holds no image ids.")
    return ids


def _nameless(images: pd.DataFrame) -> list[str | None]:
    return [
        f"not the address of an atlas image: {row.url}" if pd.isna(row.image_id) else None
        for row in images.itertuples()
    ]


def _of_sirna(images: pd.DataFrame) -> list[str | None]:
    return [
        f"siRNA plate {row['plate']}" if is_sirna(name_of(row)) else None
        for row in images.to_dict("records")
    ]


def _again(images: pd.DataFrame) -> list[str | None]:
    first: dict[str, tuple[int, list[int]]] = {}
    reasons = []
    for row in images.itertuples():
        walk, labels = first.setdefault(row.image_id, (row.walk, row.labels))
        reason = None if walk == row.walk else f"the same image as number {walk}"
        if reason and labels != row.labels:
            reason += f", with the labels {row.labels} for {labels}"
        reasons.append(reason)
    return reasons


def _numbered_again(images: pd.DataFrame) -> pd.DataFrame:
    again = images["image_id"].duplicated()
    if again.any():
        log.warning(
            "%d of the paper's images stand twice in its walk; the later ones have the number of"
            " the walk at the end of their id", again.sum(),
        )  # fmt: skip
    ids = images["image_id"] + np.where(again, "_w" + images["walk"].astype(str), "")
    return images.assign(image_id=ids)


def _shared(images: pd.DataFrame, other: pd.DataFrame | None, name: str) -> list[str | None]:
    if other is None:
        raise InputError(f"select.antibody_disjoint_from: the index of {name} was not given.")
    antibodies = set(map(antibody_number, other["antibody"].dropna()))
    own, theirs = comparable_genes(images["gene"], other["gene"], ("the list", name))
    genes = set(theirs.dropna())
    if not antibodies and (not genes or own.isna().all()):
        raise InputError(
            f"select.antibody_disjoint_from: nothing is known of the antibodies and genes of {name}"
            " that could be compared with the list, so images cannot be kept apart by them. Set it"
            " to null: the audit of leakage finds images of both by their pixels."
        )
    unknown = (other["antibody"].isna() & theirs.isna()).sum()
    if unknown:
        log.warning(
            "%d of %d images of %s have neither antibody nor gene: what shares theirs cannot be told",
            unknown, len(other), name,
        )  # fmt: skip
    reasons = []
    for antibody, gene in zip(images["antibody"], own, strict=True):
        if antibody_number(antibody) in antibodies:
            reasons.append(f"antibody {antibody} is in {name} too")
        elif gene in genes:
            reasons.append(f"gene {gene} is in {name} too")
        else:
            reasons.append(None)
    return reasons


def draw_images(images: pd.DataFrame, at_most: int, seed: int) -> pd.DataFrame:
    """At most so many images, spread over as many antibodies as can be, in their order.

    Antibodies, and the images of each, are put in an order that depends on the seed and their
    names alone; then one image of each antibody is taken in turn. A larger draw holds the smaller.
    """
    if len(images) <= at_most:
        return images
    order = pd.DataFrame(
        {
            "antibody": [_place(seed, antibody) for antibody in images["antibody"]],
            "image": [_place(seed, image_id) for image_id in images["image_id"]],
        },
        index=images.index,
    ).sort_values(["antibody", "image"])
    order["turn"] = order.groupby("antibody").cumcount()
    chosen = order.sort_values(["turn", "antibody"]).index[:at_most]
    return images.loc[images.index.isin(chosen)]


def _place(seed: int, text: str) -> str:
    return hashlib.sha256(f"{seed}:{text}".encode()).hexdigest()
