"""Sources of a few images for tests of the audit: arrays, their index, and the programs."""

from pathlib import Path

import numpy as np
import pandas as pd

import audit_leakage
import duplicates_train
import hash_images
from hpaloc.index import write_index
from hpaloc.shards import shard_name


def write_source(folder: Path, images: list[np.ndarray], **columns: list) -> Path:
    """Arrays of two shards; ``columns`` of the index, ``image_id`` among them."""
    folder.mkdir(parents=True)
    side = len(images[0])
    frame = pd.DataFrame(columns)
    frame["parent"] = columns.get("parent", frame["image_id"])
    half = len(images) // 2
    place = [(0, row) for row in range(half)] + [(1, row) for row in range(len(images) - half)]
    frame[["shard", "row"]] = place
    frame = frame.assign(source=folder.name, x=0, y=0, width=side, height=side)
    write_index(frame, folder / "index.parquet")
    np.save(folder / shard_name(0), np.array(images[:half]))
    np.save(folder / shard_name(1), np.array(images[half:]))
    return folder


def hash_source(folder: Path) -> Path:
    hash_images.main(
        ["--arrays", str(folder / "index.parquet"), "--hashes", str(folder / "hashes.parquet"),
         "--digest", str(folder / "hashes.sha256"), "--threads", "2"]
    )  # fmt: skip
    return folder


def find_duplicates(folder: Path, threads: int = 2) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The pairs and the groups of a hashed source."""
    duplicates_train.main(
        ["--arrays", str(folder / "index.parquet"), "--hashes", str(folder / "hashes.parquet"),
         "--pairs", str(folder / "duplicates.csv"), "--groups", str(folder / "duplicates.parquet"),
         "--digest", str(folder / "duplicates.sha256"), "--threads", str(threads)]
    )  # fmt: skip
    pairs = pd.read_csv(folder / "duplicates.csv")
    return pairs, pd.read_parquet(folder / "duplicates.parquet")


def audit(train: Path, test: Path, out: Path) -> dict[str, pd.DataFrame]:
    """The tables of the audit of two hashed sources, by name."""
    audit_leakage.main(
        ["--train-arrays", str(train / "index.parquet"),
         "--train-hashes", str(train / "hashes.parquet"),
         "--train-groups", str(train / "duplicates.parquet"),
         "--test-arrays", str(test / "index.parquet"),
         "--test-hashes", str(test / "hashes.parquet"),
         "--pairs", str(out / "twins.csv"), "--conflicts", str(out / "conflicts.csv"),
         "--summary", str(out / "leakage.csv"), "--images", str(out / "images.parquet"),
         "--digest", str(out / "images.sha256"), "--threads", "2"]
    )  # fmt: skip
    tables = {name: pd.read_csv(out / f"{name}.csv") for name in ("twins", "leakage")}
    tables["conflicts"] = pd.read_csv(out / "conflicts.csv", dtype=str, keep_default_na=False)
    return tables | {"images": pd.read_parquet(out / "images.parquet")}
