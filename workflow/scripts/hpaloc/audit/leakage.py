"""What training and test images share: fields of cells, antibodies, genes; and labels that differ.

These tables inform the evaluation. Nothing here reaches training, folds or thresholds.

Twins everywhere: a table of columns a and b, rows of two indexes (hpaloc.audit.pairs). An image
here is a row of the arrays; a tile has a twin where any tile of its ``parent`` has one.
"""

import numpy as np
import pandas as pd

from hpaloc.audit.pairs import CORRELATIONS
from hpaloc.classes import format_labels

WITHIN_TEST = "within test"
BETWEEN = "test and training"
WITHIN_TRAINING = "within training"

# Twins that are less alike than this are counted apart, for people to look at: second deliveries
# were alike to 0.93, and what lies between that and the limit is cropped, turned by some degrees
# or out of focus, or a mistake.
CERTAIN = 0.9


def test_images(
    test: pd.DataFrame, train: pd.DataFrame, between: pd.DataFrame, blank: np.ndarray
) -> pd.DataFrame:
    """What is known of every test image, in the order of ``test``.

    Columns image_id; twin_in_training bool; twin (id of the training image that is most like it
    or like another tile of its image, else missing); antibody_seen and gene_seen bool, missing
    where not known; blank bool: too little structure to be compared. ``between`` are the twins of
    ``test`` and ``train``, ``blank`` bool n.
    """
    least = between[CORRELATIONS].min(axis=1)
    order = np.lexsort((between["b"], -least))
    best = between.iloc[order].assign(parent=test["parent"].to_numpy()[between["a"].iloc[order]])
    own = best.drop_duplicates("a").set_index("a")["b"].reindex(range(len(test)))
    of_parent = best.drop_duplicates("parent").set_index("parent")["b"].reindex(test["parent"])
    row = own.to_numpy(np.float64)
    row = np.where(np.isnan(row), of_parent.to_numpy(np.float64), row)
    has_twin = ~np.isnan(row)
    twin = np.full(len(test), None, dtype=object)
    twin[has_twin] = train["image_id"].to_numpy(object)[row[has_twin].astype(np.intp)]
    return pd.DataFrame(
        {
            "image_id": test["image_id"],
            "twin_in_training": has_twin,
            "twin": pd.array(twin, dtype="string"),
            "antibody_seen": seen(test["antibody"], train["antibody"]),
            "gene_seen": seen(test["gene"], train["gene"]),
            "blank": blank,
        }
    )


def seen(test: pd.Series, train: pd.Series) -> pd.array:
    """Whether each value of ``test`` is among those of ``train``: bool, missing where unknown.

    A value that is not found is unknown too where any value of ``train`` is missing.
    """
    found = test.isin(train.dropna()).to_numpy()
    unknown = test.isna().to_numpy() | (~found & train.isna().any())
    return pd.arrays.BooleanArray(found, unknown)


def conflicts_table(
    pairs: pd.DataFrame, first: pd.DataFrame, second: pd.DataFrame, pair: str
) -> pd.DataFrame:
    """Twins whose label sets differ; twins of which one has no labels are left out.

    Columns pair (as given), image_id_a, labels_a, image_id_b, labels_b, only_in_a, only_in_b
    (class numbers with blanks between).
    """
    rows = []
    for a, b in zip(pairs["a"], pairs["b"], strict=True):
        lists = first["labels"].iat[a], second["labels"].iat[b]
        if None in lists or set(lists[0]) == set(lists[1]):
            continue
        in_a, in_b = map(set, lists)
        texts = [format_labels(sorted(labels)) for labels in (in_a, in_b, in_a - in_b, in_b - in_a)]
        ids = first["image_id"].iat[a], second["image_id"].iat[b]
        rows.append((pair, ids[0], texts[0], ids[1], *texts[1:]))
    columns = ["pair", "image_id_a", "labels_a", "image_id_b", "labels_b", "only_in_a", "only_in_b"]
    return pd.DataFrame(rows, columns=columns)


def pairs_of_groups(index: pd.DataFrame, groups: pd.Series) -> pd.DataFrame:
    """Every image of a group with the first of its group: columns a (the first) and b, rows."""
    row = pd.Series(np.arange(len(index)), index=index["image_id"].to_numpy())
    first = row.reindex(groups).to_numpy()
    others = np.flatnonzero(first != np.arange(len(index)))
    return pd.DataFrame({"a": first[others], "b": others})


def summary_table(
    test: pd.DataFrame,
    train: pd.DataFrame,
    images: pd.DataFrame,
    twins: dict[str, pd.DataFrame],
    conflicts: pd.DataFrame,
    train_blank: np.ndarray,
) -> pd.DataFrame:
    """Counts of what leaks: what, count, of, share, note.

    ``images`` is that of ``test_images``; ``twins`` maps WITHIN_TEST, BETWEEN and WITHIN_TRAINING
    to twins; ``conflicts`` is their ``conflicts_table``. What is not known has no count, and a
    note that says why.
    """
    within, between, training = (twins[name] for name in (WITHIN_TEST, BETWEEN, WITHIN_TRAINING))
    n_test, n_train = len(test), len(train)
    rows = [
        ("test images with a twin in training", images["twin_in_training"].sum(), n_test),
        ("test images with a twin in the test set", _images_of(test, within, "ab"), n_test),
        ("training images with a twin in the test set", _images_of(train, between, "b"), n_train),
        ("training images with a twin in training", _images_of(train, training, "ab"), n_train),
        ("test images too blank to be compared", images["blank"].sum(), n_test),
        ("training images too blank to be compared", train_blank.sum(), n_train),
    ]
    for name, what, sides in (
        (BETWEEN, "twins of test and training", (test, train)),
        (WITHIN_TEST, "twins within the test set", (test, test)),
        (WITHIN_TRAINING, "images of training and the first twin of their group", (train, train)),
    ):
        pairs = twins[name]
        labelled = [
            side["labels"].notna().to_numpy()[pairs[row]]
            for side, row in zip(sides, ("a", "b"), strict=True)
        ]
        comparable = int((labelled[0] & labelled[1]).sum())
        differing = int((conflicts["pair"] == name).sum())
        rows += [
            (f"pairs: {what}", len(pairs), None, _note_of_doubt(pairs)),
            (f"pairs: {what}, whose labels differ", differing, comparable),
        ]
    rows = [row if len(row) == 4 else (*row, "") for row in rows]
    for column, many in (("antibody", "antibodies"), ("gene", "genes")):
        rows += _rows_of_names(test[column], train[column], images[f"{column}_seen"], column, many)
    unseen = ~images["antibody_seen"] & ~images["gene_seen"]
    rows.append(
        (
            "test images of antibodies and genes not seen in training",
            None if unseen.isna().all() else int(unseen.sum()),
            n_test,
            f"unknown for {unseen.isna().sum()} test images" if unseen.isna().any() else "",
        )
    )
    table = pd.DataFrame(rows, columns=["what", "count", "of", "note"])
    table[["count", "of"]] = table[["count", "of"]].astype("Int64")
    share = (table["count"] / table["of"].replace(0, pd.NA)).astype("Float64").round(6)
    table.insert(3, "share", share)
    return table


def _note_of_doubt(pairs: pd.DataFrame) -> str:
    if "view" not in pairs:  # of a group, not compared with each other
        return ""
    doubtful = int((pairs[CORRELATIONS].min(axis=1) < CERTAIN).sum())
    return f"{doubtful} of them correlate less than {CERTAIN:g} in a channel" if doubtful else ""


def _images_of(index: pd.DataFrame, twins: pd.DataFrame, sides: str) -> int:
    rows = np.concatenate([twins[side].to_numpy() for side in sides])
    return int(index["parent"].isin(index["parent"].iloc[rows]).sum())


def _rows_of_names(
    test: pd.Series, train: pd.Series, seen_in_training: pd.Series, column: str, many: str
) -> list[tuple]:
    names = test.dropna().unique()
    missing = {"training": int(train.isna().sum()), "test": int(test.isna().sum())}
    empty = [side for side, values in (("training", train), ("test", test)) if values.isna().all()]
    whats = [f"test {many} seen in training", f"test images of {many} seen in training"]
    if empty:
        note = f"unknown: no {' and no '.join(empty)} image has a known {column}"
        return [(whats[0], None, len(names) or None, note), (whats[1], None, len(test), note)]
    gaps = [
        f"{count} {side} images have no known {column}" for side, count in missing.items() if count
    ]
    note = f"at least: {' and '.join(gaps)}" if gaps else ""
    return [
        (whats[0], int(np.isin(names, train.dropna().unique()).sum()), len(names), note),
        (whats[1], int(seen_in_training.sum()), len(test), note),
    ]
