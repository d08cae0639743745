"""What one fold trains on and is validated on: arrays and folds, joined by image id."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hpaloc import feed
from hpaloc.classes import multi_hot
from hpaloc.log import InputError
from hpaloc.ranks import ALONE, Ranks
from hpaloc.shards import open_arrays, positions_of, size_of
from hpaloc.tables import read_table


@dataclass(frozen=True)
class FoldData:
    """``rows`` are positions in the index of the arrays, ``labels`` bool n × 28 of the same
    images; ``workers`` is the number of processes that make batches; ``fold`` is the validation
    fold, which seeds the draws."""

    arrays: feed.Arrays
    rows: np.ndarray
    labels: np.ndarray
    validation_rows: np.ndarray
    validation_labels: np.ndarray
    workers: int
    fold: int

    @property
    def validation_ids(self) -> np.ndarray:
        return self.arrays[0]["image_id"].to_numpy()[self.validation_rows]

    @property
    def arrays_size(self) -> int:
        """Pixels per side of the images."""
        return size_of(self.arrays[1])

    def training_batches(
        self, recipe: dict[str, Any], epoch: int, first_step: int = 0, ranks: Ranks = ALONE
    ) -> Iterator[feed.Batch]:
        """One epoch of training, a function of the recipe's seed, the fold and the epoch.

        The first ``first_step`` batches are left out: an epoch goes on where it was.
        """
        return feed.training_batches(
            self.arrays, self.rows, self.labels, recipe, epoch, self.workers, self.fold,
            first_step, ranks,
        )  # fmt: skip

    def validation_batches(
        self, recipe: dict[str, Any], epoch: int, ranks: Ranks = ALONE
    ) -> Iterator[feed.Batch]:
        """The views of this process's share of the validation images, in order."""
        share = self.validation_rows[ranks.share(len(self.validation_rows))]
        return feed.view_batches(
            self.arrays, share, recipe, recipe["tta"]["validation"], "validation", self.workers,
            recipe["batch_size"], epoch, self.fold,
        )  # fmt: skip


def fold_data(arrays: str | Path, folds: str | Path, fold: int, workers: int) -> FoldData:
    """The data of a fold: validation is the fold, training all other folds, each in the order
    of the index ``arrays``; an image that is in no fold is not used.

    Raises InputError for a fold that is not there or has no label, and for images of the folds
    that are not in the arrays or are unlabelled.
    """
    index, shards = open_arrays(arrays)
    table = read_table(folds, ["image_id", "fold"])
    numbers = sorted(int(number) for number in table["fold"].unique())
    if fold not in numbers or len(numbers) < 2:
        raise InputError(f"{folds}: no validation fold {fold} among others; folds: {numbers}.")
    positions = positions_of(index, table["image_id"])
    order = np.argsort(positions, kind="stable")
    positions, is_validation = positions[order], (table["fold"] == fold).to_numpy()[order]
    labels = index["labels"].iloc[positions]
    if labels.isna().any():
        image = index["image_id"].iloc[positions[labels.isna().to_numpy().argmax()]]
        raise InputError(f"{folds}: image {image!r} has no labels in {arrays}. Make folds again.")
    hot = multi_hot(labels)
    if not hot[is_validation].any():
        raise InputError(
            f"{folds}: no image of fold {fold} has a label, so that no score tells one epoch from"
            " another. Use more images or fewer folds."
        )
    return FoldData(
        (index, shards),
        positions[~is_validation],
        hot[~is_validation],
        positions[is_validation],
        hot[is_validation],
        workers,
        fold,
    )
