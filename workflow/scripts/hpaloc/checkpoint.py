"""What training leaves in its state folder after every epoch, enough to go on or to export.

checkpoint.pt           all that the next epoch needs, and the history (a Checkpoint)
weights_0012.safetensors    of the best epoch so far
validation_0012.npy     validation probabilities, float32 n × 28, of the last epochs

An epoch's files are written first and the checkpoint last, each whole: killed at any moment, the
folder holds the last finished epoch. Random draws are functions of seed, fold and epoch, hence
no generator's state is among them.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hpaloc.files import written_whole
from hpaloc.log import InputError

CHECKPOINT = "checkpoint.pt"


@dataclass
class Checkpoint:
    """Where training stands; ``epoch`` and ``step`` are the last finished ones (0: none)."""

    epoch: int = 0
    step: int = 0
    best_epoch: int = 0
    best_score: float = -1.0
    finished: bool = False
    plateau: dict[str, float] = field(default_factory=dict)
    steps: list[list[float]] = field(default_factory=list)  # rows of history.STEP_NUMBERS
    epochs: list[dict[str, Any]] = field(default_factory=list)  # rows of history.EPOCH_COLUMNS
    network: dict[str, torch.Tensor] = field(default_factory=dict)
    optimizer: dict[str, Any] = field(default_factory=dict)
    scaler: dict[str, Any] = field(default_factory=dict)


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    # A field by field copy: asdict() would copy every tensor.
    values = {name: getattr(checkpoint, name) for name in checkpoint.__dataclass_fields__}
    values["steps"] = torch.tensor(checkpoint.steps, dtype=torch.float64)
    with written_whole(folder / CHECKPOINT) as aside:
        torch.save(values, aside)


def load_checkpoint(folder: Path) -> Checkpoint:
    """The last finished epoch's checkpoint, on the CPU; a fresh one where there is none.

    Raises InputError for a file that is not a checkpoint.
    """
    path = folder / CHECKPOINT
    if not path.exists():
        return Checkpoint()
    try:
        values = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # noqa: BLE001 - an unpickler fails at arbitrary bytes in many ways
        raise InputError(
            f"{path}: not a readable checkpoint ({error}). Delete its folder to train anew."
        ) from None
    values["steps"] = values["steps"].tolist()
    return Checkpoint(**values)


def weights_file(folder: Path, epoch: int) -> Path:
    return folder / f"weights_{epoch:04d}.safetensors"


def validation_file(folder: Path, epoch: int) -> Path:
    return folder / f"validation_{epoch:04d}.npy"


def save_validation(folder: Path, epoch: int, probabilities: np.ndarray) -> None:
    with written_whole(validation_file(folder, epoch)) as aside:
        np.save(aside, probabilities, allow_pickle=False)


def load_validation(folder: Path, epoch: int) -> np.ndarray:
    return np.load(validation_file(folder, epoch), allow_pickle=False)


def kept_epochs(exported: int, keep: int) -> range:
    """The last ``keep`` epochs up to the exported one."""
    return range(max(1, exported - keep + 1), exported + 1)


def forget_old(folder: Path, best_epoch: int, keep: int) -> None:
    """Removes weights and probabilities that no export can want any more, and what a killed
    process left half written.

    The best epoch is the exported one, or a later one will be: nothing before the best epoch's
    ``keep`` epochs is needed.
    """
    for path in folder.glob(".*.part.*"):
        path.unlink()
    first = kept_epochs(best_epoch, keep).start
    for path in folder.glob("validation_*.npy"):
        if int(path.stem.split("_")[1]) < first:
            path.unlink()
    for path in folder.glob("weights_*.safetensors"):
        if path != weights_file(folder, best_epoch):
            path.unlink()
