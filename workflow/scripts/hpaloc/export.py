"""The outputs of a fold, made from its finished state: weights, description, history."""

import shutil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from hpaloc.checkpoint import (
    Checkpoint,
    kept_epochs,
    load_validation,
    validation_file,
    weights_file,
)
from hpaloc.classes import CHANNELS, PROBABILITY_COLUMNS
from hpaloc.files import write_digest, write_json, write_parquet, written_whole
from hpaloc.fold_data import FoldData
from hpaloc.history import epochs_table, steps_table
from hpaloc.log import InputError
from hpaloc.network import build_network, count_parameters


class Outputs(NamedTuple):
    weights: Path
    weights_digest: Path
    model: Path
    steps: Path
    epochs: Path
    validation: Path


def export(
    state: Checkpoint,
    folder: Path,
    recipe: dict[str, Any],
    fold: int,
    data: FoldData,
    outputs: Outputs,
) -> None:
    """Writes the outputs of a finished fold, trained on ``data``; equal states give equal files.

    Raises InputError where a file of the state was deleted.
    """
    weights = weights_file(folder, state.best_epoch)
    kept = kept_epochs(state.best_epoch, recipe["save_epochs"])
    for path in (weights, *(validation_file(folder, epoch) for epoch in kept)):
        if not path.is_file():
            raise InputError(
                f"{path}: this file of a finished state is missing. Delete the folder to train anew."
            )
    write_parquet(validation_table(state, folder, recipe, data.validation_ids), outputs.validation)
    write_parquet(steps_table(state.steps), outputs.steps)
    write_parquet(epochs_table(state.epochs, state.best_epoch), outputs.epochs)
    description = {
        "network": recipe["network"],
        "fold": fold,
        "input_channels": len(CHANNELS),
        "arrays_size": data.arrays_size,
        "image_size": recipe["image_size"],
        "parameters": count_parameters(build_network(recipe)),
        "channel_means": recipe["channel_means"],
        "exported_epoch": state.best_epoch,
        "epochs": state.epoch,
        "recipe": recipe,
    }
    if state.warnings:  # such as a GPU that was too small for the recipe's batches
        description["warnings"] = state.warnings
    write_json(description, outputs.model)
    with written_whole(outputs.weights) as aside:
        shutil.copyfile(weights, aside)
    write_digest(outputs.weights, outputs.weights_digest)


def validation_table(
    state: Checkpoint, folder: Path, recipe: dict[str, Any], image_ids: np.ndarray
) -> pd.DataFrame:
    """Probabilities of the last ``save_epochs`` epochs up to the exported one: epoch int32,
    image_id, p00 … p27 float32, the oldest epoch first."""
    tables = []
    for epoch in kept_epochs(state.best_epoch, recipe["save_epochs"]):
        table = pd.DataFrame(load_validation(folder, epoch), columns=list(PROBABILITY_COLUMNS))
        table.insert(0, "image_id", image_ids)
        table.insert(0, "epoch", np.int32(epoch))
        tables.append(table)
    return pd.concat(tables, ignore_index=True)
