"""Multilabel-stratified folds in which images that belong together stay together."""

import logging
from collections.abc import Sequence

import numpy as np
import pandas as pd
from iterstrat.ml_stratifiers import MultilabelStratifiedKFold
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from hpaloc.classes import CLASS_NAMES, multi_hot
from hpaloc.log import InputError

log = logging.getLogger("hpaloc")


def make_folds(
    index: pd.DataFrame, n_folds: int, seed: int, group_by: Sequence[str]
) -> pd.DataFrame:
    """Assigns every image of ``index`` to the validation set of one fold.

    Images that share their ``parent`` or a value of any of the columns ``group_by`` form one
    unit, also through other images, and a unit lies in one fold. Empty values group nothing.
    A column ``duplicates`` (hpaloc.audit.groups) is one like any other.
    Returns image_id str (sorted), group str (the first parent of the unit), fold int8 from 1.
    The folds depend on the images and the seed, not on the order of ``index``.
    Raises InputError for unlabelled images, unknown columns, fewer units than folds and fewer than
    two folds.
    """
    if n_folds < 2:
        raise InputError(f"folds.n is {n_folds}: cross-validation needs at least two folds.")
    unlabelled = index.loc[index["labels"].isna(), "image_id"]
    if len(unlabelled):
        raise InputError(
            f"{len(unlabelled)} of {len(index)} images have no labels, the first is"
            f" {unlabelled.iloc[0]!r}. Folds are stratified by labels: train on a source whose"
            " images are all labelled, or take these images out of it. (An image of none of the"
            " classes has an empty list of labels, which is allowed.)"
        )
    index = index.sort_values("image_id", ignore_index=True)
    units = connected_units(index, ["parent", *group_by])
    n_units = int(units.max(initial=-1)) + 1
    if n_units < n_folds:
        raise InputError(
            f"{len(index)} images form {n_units} units that must not be split (grouped by"
            f" {', '.join(['parent', *group_by])}), too few for {n_folds} folds."
            " Lower the number of folds or group by less."
        )
    labels = multi_hot(index["labels"])
    _warn_of_rare_classes(labels, units, n_folds)
    if n_units == len(index):
        fold = _stratify_images(labels, n_folds, seed)
    else:
        counts = np.zeros((n_units, labels.shape[1]), dtype=np.int64)
        np.add.at(counts, units, labels)
        fold = stratify_units(counts, np.bincount(units), n_folds, seed)[units]
    first_parent = index.groupby(units)["parent"].min()
    return pd.DataFrame(
        {
            "image_id": index["image_id"].astype(object),
            "group": first_parent.to_numpy()[units],
            "fold": (fold + 1).astype(np.int8),
        }
    )


def connected_units(index: pd.DataFrame, columns: Sequence[str]) -> np.ndarray:
    """Number of each image's unit, from 0: images joined by a shared value in any column."""
    allowed = [name for name in index.columns if name not in ("image_id", "labels")]
    images, keys, n_nodes = [], [], len(index)
    for column in columns:
        if column not in allowed:
            raise InputError(
                f"folds cannot be grouped by {column!r}: the index of images has no such column."
                f" Choose from {', '.join(allowed)}."
            )
        codes, values = pd.factorize(index[column])
        known = np.flatnonzero(codes >= 0)
        if len(known) < len(index):
            log.warning(
                "%d of %d images have no %s, which groups the others only",
                len(index) - len(known), len(index), column,
            )  # fmt: skip
        images.append(known)
        keys.append(n_nodes + codes[known])
        n_nodes += len(values)
    edges = (np.concatenate(images), np.concatenate(keys))
    graph = coo_array((np.ones(len(edges[0]), dtype=bool), edges), shape=(n_nodes, n_nodes))
    return connected_components(graph, directed=False)[1][: len(index)]


def _stratify_images(labels: np.ndarray, n_folds: int, seed: int) -> np.ndarray:
    splitter = MultilabelStratifiedKFold(n_splits=n_folds, shuffle=True, random_state=seed)
    fold = np.empty(len(labels), dtype=np.int64)
    for number, (_, validation) in enumerate(splitter.split(labels, labels)):
        fold[validation] = number
    return fold


def stratify_units(counts: np.ndarray, sizes: np.ndarray, n_folds: int, seed: int) -> np.ndarray:
    """Stratification of units of several images: fold of each unit, from 0.

    ``counts`` int units × classes: images of each class in a unit; ``sizes`` int units: images.
    MultilabelStratifiedKFold knows only whether a unit has a class, not how many images of it.
    This is the same algorithm (Sechidis et al. 2011, https://doi.org/10.1007/978-3-642-23808-6_10)
    on counts: the class with the fewest images left is dealt out first, each unit to the fold
    that lacks most images of it, or most images at all where folds are equal; large units come
    before small ones, which can still even them out. What it deals out last, common classes in
    units of several labels, is then evened out by moving single units.
    """
    rng = np.random.default_rng(seed)
    # The images of a unit count like one more class, the last column.
    counts = np.column_stack([counts, sizes])
    lacking = np.repeat(counts.sum(axis=0)[None] / n_folds, n_folds, axis=0)
    shuffled = rng.permutation(len(counts))
    by_size = shuffled[np.argsort(-sizes[shuffled], kind="stable")]
    fold = np.full(len(counts), -1)
    left = counts.sum(axis=0)
    while left.any():
        rarest = int(np.argmin(np.where(left > 0, left, np.iinfo(np.int64).max)))
        waiting = by_size[(fold[by_size] < 0) & (counts[by_size, rarest] > 0)]
        for unit in waiting[np.argsort(-counts[waiting, rarest], kind="stable")]:
            wanted = lacking[:, rarest]
            best = np.flatnonzero(wanted == wanted.max())
            best = best[lacking[best, -1] == lacking[best, -1].max()]
            fold[unit] = rng.choice(best)
            lacking[fold[unit]] -= counts[unit]
            left -= counts[unit]
    _even_out(fold, counts, lacking, shuffled)
    return fold


def _even_out(fold: np.ndarray, counts: np.ndarray, lacking: np.ndarray, order: np.ndarray) -> None:
    """Moves units, one at a time, as long as Σ lacking² / total over folds and classes falls.

    Changes ``fold`` (units) and ``lacking`` (folds × classes) in place. With unit u taken out,
    its best fold is that of the greatest Σ lacking × counts[u] / total.
    """
    weighted = counts / np.maximum(counts.sum(axis=0), 1)
    moved = True
    while moved:
        moved = False
        for unit in order:
            lacking[fold[unit]] += counts[unit]
            wanted = lacking @ weighted[unit]
            best = int(np.argmax(wanted))
            # The margin is above rounding: every move is a gain, so that they come to an end.
            if wanted[best] > wanted[fold[unit]] + 1e-9:
                fold[unit] = best
                moved = True
            lacking[fold[unit]] -= counts[unit]


def fold_counts(folds: pd.DataFrame, index: pd.DataFrame, n_folds: int) -> pd.DataFrame:
    """Images of each class in both splits of every fold.

    Columns fold, split (train, validation), class, name, count, expected (the class's total ×
    the split's share of the folds), deviation (count − expected).
    """
    by_id = index.set_index("image_id")["labels"]
    labels = multi_hot(by_id.loc[folds["image_id"]])
    total = labels.sum(axis=0)
    tables = []
    for fold in range(1, n_folds + 1):
        held_out = labels[(folds["fold"] == fold).to_numpy()].sum(axis=0)
        for split, count, share in (
            ("train", total - held_out, n_folds - 1),
            ("validation", held_out, 1),
        ):
            expected = total * share / n_folds
            tables.append(
                pd.DataFrame(
                    {
                        "fold": fold,
                        "split": split,
                        "class": range(len(CLASS_NAMES)),
                        "name": CLASS_NAMES,
                        "count": count,
                        "expected": expected.round(6),
                        "deviation": (count - expected).round(6),
                    }
                )
            )
    return pd.concat(tables, ignore_index=True)


def _warn_of_rare_classes(labels: np.ndarray, units: np.ndarray, n_folds: int) -> None:
    for number, name in enumerate(CLASS_NAMES):
        n_images = int(labels[:, number].sum())
        n_units = len(np.unique(units[labels[:, number]]))
        if n_units < n_folds:
            log.warning(
                "class %d (%s): %d images in %d units cannot be in the validation set of all"
                " %d folds",
                number, name, n_images, n_units, n_folds,
            )  # fmt: skip
