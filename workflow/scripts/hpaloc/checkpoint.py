"""What training leaves in its state folder, enough to go on or to export.

checkpoint_0011_0004807.pt  all that the next step needs, and the history (a Checkpoint): of 11
                            finished epochs and 4807 steps, here in the middle of the twelfth
checkpoint_0011_0004807.sha256  its digest
weights_0011.safetensors    of the best epoch so far
validation_0011.npy         validation probabilities, float32 n × 28, of the last epochs

The last two checkpoints are kept, each with the files that it needs. An epoch's files are written
first and its checkpoint last, each whole: killed at any moment, on a disk that is full, or with a
damaged file, the folder holds a checkpoint that training goes on from. Random draws are functions
of seed, fold, epoch and step, hence no generator's state is among them.
"""

import logging
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hpaloc.files import map_array, sha256_of_file, write_text, written_whole
from hpaloc.log import InputError
from hpaloc.provenance import UNKNOWN_MAKER

log = logging.getLogger("hpaloc")


@dataclass
class Checkpoint:
    """Where training stands: ``epoch`` is the last finished one, ``step`` the last step made (0:
    none), which may lie in the epoch after it."""

    epoch: int = 0
    step: int = 0
    best_epoch: int = 0
    best_score: float = -1.0
    finished: bool = False
    plateau: dict[str, float] = field(default_factory=dict)
    steps: list[list[float]] = field(default_factory=list)  # rows of history.STEP_NUMBERS
    epochs: list[dict[str, Any]] = field(default_factory=list)  # rows of history.EPOCH_COLUMNS
    # Of the epoch that is not finished: hits, calls and positives, 3 × 28.
    counts: torch.Tensor | None = field(default=None, compare=False)
    # Images that the GPU's memory holds at a time, of full batches and of an epoch's last, smaller
    # one; None: all of them. Of this attempt: the next one may have another GPU.
    part_size: int | None = None
    last_part_size: int | None = None
    warnings: list[str] = field(default_factory=list)  # what the outputs say of how they came about
    # Whose work this is (see hpaloc.provenance.maker), each once, the last one last. Stored with
    # that work: who ends before a checkpoint has no part in what comes of it.
    makers: list[dict[str, Any]] = field(default_factory=list)
    network: dict[str, torch.Tensor] = field(default_factory=dict)
    optimizer: dict[str, Any] = field(default_factory=dict)
    scaler: dict[str, Any] = field(default_factory=dict)


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of a state, the newest first."""
    return sorted(folder.glob("checkpoint_*.pt"), reverse=True)


def save_checkpoint(
    folder: Path, checkpoint: Checkpoint, ready: Callable[[], None] = lambda: None
) -> None:
    """Stores a checkpoint beside the one before it; raises InputError where the disk is full.

    ``ready`` is called when it is written and only to be renamed; what it raises prevents that.
    """
    # A field by field copy: asdict() would copy every tensor.
    values = {name: getattr(checkpoint, name) for name in checkpoint.__dataclass_fields__}
    values["steps"] = torch.tensor(checkpoint.steps, dtype=torch.float64)
    path = folder / f"checkpoint_{checkpoint.epoch:04d}_{checkpoint.step:07d}.pt"
    with disk_full_in_words(folder), written_whole(path) as aside:
        with open(aside, "wb") as file:
            torch.save(values, file)
            file.flush()
            # A network file system may find only now that there is no room.
            os.fsync(file.fileno())
        digest = sha256_of_file(aside)
        ready()
        # First the digest: a checkpoint without one is never there.
        write_text(f"{digest}\n", path.with_suffix(".sha256"))
    # Newer ones than the newest were damaged and passed over.
    former = [other for other in checkpoints(folder) if other < path][:1]
    for other in folder.glob("checkpoint_*"):
        if other.with_suffix(".pt") not in (path, *former):
            other.unlink(missing_ok=True)


def load_checkpoint(folder: Path) -> Checkpoint:
    """The newest checkpoint that is whole, on the CPU; a fresh one where there is none.

    Warns of damaged ones; raises InputError where all are.
    """
    damaged = []
    for path in checkpoints(folder):
        try:
            checkpoint = _read(path)
        except Exception as error:  # noqa: BLE001 - an unpickler fails at arbitrary bytes in many ways
            damaged.append(f"{path} is damaged ({error})")
            continue
        for words in damaged:
            log.warning("%s: going on from the checkpoint before it, %s", words, path.name)
        return checkpoint
    if damaged:
        raise InputError(f"{'; '.join(damaged)}. Delete the folder to train anew.")
    return Checkpoint()


def _read(path: Path) -> Checkpoint:
    digest = path.with_suffix(".sha256")
    if not digest.is_file():
        raise ValueError("its digest is missing")
    if sha256_of_file(path) != digest.read_text(encoding="utf-8").strip():
        raise ValueError("its sha256 is another")
    values = torch.load(path, map_location="cpu", weights_only=True)
    values["steps"] = values["steps"].tolist()
    values.setdefault("makers", [UNKNOWN_MAKER])  # older code did not store them
    values |= {"part_size": None, "last_part_size": None}  # each attempt tries the full batch
    return Checkpoint(**values)


@contextmanager
def disk_full_in_words(folder: Path) -> Iterator[None]:
    """Tells what could not be written; what was stored before is as it was."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        # torch.save fails again when it closes the file that it could not write.
        cause = error if isinstance(error, OSError) else error.__context__
        if not isinstance(cause, OSError):
            raise
        raise InputError(
            f"{folder}: the state of training cannot be written ({cause.strerror or cause};"
            f" {shutil.disk_usage(folder).free / 1e6:.0f} MB are free there). What was stored"
            " before is whole: make room, or raise the quota, and start again."
        ) from error


def weights_file(folder: Path, epoch: int) -> Path:
    return folder / f"weights_{epoch:04d}.safetensors"


def validation_file(folder: Path, epoch: int) -> Path:
    return folder / f"validation_{epoch:04d}.npy"


def save_validation(
    folder: Path, epoch: int, probabilities: np.ndarray, ready: Callable[[], None] = lambda: None
) -> None:
    """``ready`` is called as in ``save_checkpoint``."""
    with written_whole(validation_file(folder, epoch)) as aside:
        np.save(aside, probabilities, allow_pickle=False)
        ready()


def load_validation(folder: Path, epoch: int) -> np.ndarray:
    """Raises InputError for what is no array any more."""
    path = validation_file(folder, epoch)
    try:
        return np.array(map_array(path))
    except ValueError as error:
        raise InputError(
            f"{path}: this file of the state is damaged ({error}). Delete the folder to train anew."
        ) from error


def kept_epochs(exported: int, keep: int) -> range:
    """The last ``keep`` epochs up to the exported one."""
    return range(max(1, exported - keep + 1), exported + 1)


def forget_old(folder: Path, best_epochs: tuple[int, int], keep: int) -> None:
    """Removes weights and probabilities that no export can want any more, and what a killed
    process left half written.

    ``best_epochs`` are those of the last two checkpoints, the older one first. A best epoch is the
    exported one, or a later one will be: nothing before its ``keep`` epochs is needed.
    """
    own = f".{os.getpid()}.part"  # such as how far training is, which is written meanwhile
    for path in folder.glob(".*.part.*"):
        if own not in path.name:
            path.unlink(missing_ok=True)
    first = kept_epochs(best_epochs[0], keep).start
    for path in folder.glob("validation_*.npy"):
        if int(path.stem.split("_")[1]) < first:
            path.unlink()
    for path in folder.glob("weights_*.safetensors"):
        if path not in [weights_file(folder, epoch) for epoch in best_epochs]:
            path.unlink()
