"""A tiny training set and a tiny recipe for the tests of training and prediction."""

import copy
import json
from pathlib import Path

import numpy as np
import pandas as pd

from hpaloc.files import write_digest, write_parquet
from hpaloc.index import write_index

RECIPE = {
    "network": "seresnext_small",
    "pretrained": None,
    "normalise": "fixed",
    "image_size": 64,
    "pool": 2,
    "dropout": 0.1,
    "channel_means": [0.07, 0.05, 0.05, 0.08],
    "seed": 1,
    "torch_threads": 1,
    "precision": "auto",
    "compile": "auto",
    "batch_size": 4,
    "epochs": 4,
    "stop_after": 5,
    "optimizer": {"name": "adadelta", "learning_rate": 0.1, "weight_decay": 1e-4},
    "schedule": {
        "name": "plateau",
        "factor": 0.5,
        "patience_steps": 2,
        "min_learning_rate": 1e-5,
    },
    "loss": {
        "bce_epochs": 1,
        "soft_f1": "samples",
        "weighted_bce": 1.0,
        "class_weight": 11,
        "scale_up": 50,
        "scale_up_at": {"step": 6},
        "focal_alpha": 0.25,
        "focal_gamma": 5,
    },
    "sampling": "uniform",
    "augmentation": {
        "negative": 0.1,
        "groups": [{"name": "flip", "channels": "all", "apply": {"flip_and_rotate90": {}}}],
    },
    "tta": {
        "validation": {"kind": "augmentation", "views": 2},
        "prediction": {"kind": "dihedral8"},
    },
    "save_epochs": 2,
}
FILES = {
    "weights": "weights.safetensors",
    "weights-digest": "weights.sha256",
    "model": "model.json",
    "steps": "steps.parquet",
    "epochs": "epochs.parquet",
    "validation": "validation.parquet",
}


def recipe(**changes) -> dict:
    """The tiny recipe with some keys replaced."""
    return copy.deepcopy(RECIPE) | changes


def make_case(folder: Path, images: int = 15, size: int = 64) -> Path:
    """Arrays, folds 1 to 3 (image k in fold k % 3 + 1) and their digests under ``folder``."""
    (folder / "arrays").mkdir(parents=True)
    rng = np.random.default_rng(3)
    labels = [sorted({k % 3, int(rng.integers(0, 5))}) for k in range(images)]
    pixels = rng.integers(0, 60, (images, size, size, 4), dtype=np.uint8)
    for number, row in enumerate(labels):  # something to learn: a bright corner of class 0
        pixels[number, : size // 2, : size // 2, 1] += np.uint8(150 * (0 in row))
    np.save(folder / "arrays" / "shard_000.npy", pixels)
    ids = [f"image{number:03d}" for number in range(images)]
    about = {"image_id": ids, "parent": ids, "source": "tiny", "labels": labels}
    box = {"x": 0, "y": 0, "width": size, "height": size, "shard": 0, "row": range(images)}
    write_index(pd.DataFrame(about | box), folder / "arrays" / "index.parquet")
    write_digest(folder / "arrays" / "index.parquet", folder / "arrays" / "index.sha256")
    fold = (np.arange(images) % 3 + 1).astype(np.int8)
    folds = pd.DataFrame({"image_id": ids, "group": ids, "fold": fold})
    write_parquet(folds, folder / "folds.parquet")
    write_digest(folder / "folds.parquet", folder / "folds.sha256")
    return folder


def train_arguments(case: Path, settings: dict, out: Path, state: Path, fold: int = 1) -> list[str]:
    """The command line of train_fold.py; the outputs go to ``out``."""
    arguments = {
        "arrays": case / "arrays" / "index.parquet",
        "arrays-digest": case / "arrays" / "index.sha256",
        "folds": case / "folds.parquet",
        "folds-digest": case / "folds.sha256",
        "fold": fold,
        "recipe": json.dumps(settings),
        "name": "tiny",
        "run": "test",
        "code": "abc",
        "state": state,
        "gpus": 0,
        "workers": 0,
    } | {name: out / file for name, file in FILES.items()}
    return [str(word) for name, value in arguments.items() for word in (f"--{name}", value)]
