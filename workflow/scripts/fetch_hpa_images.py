"""Fetches the image files of one shard of an atlas selection, four channels an image."""

import argparse
import json
from pathlib import Path

import pandas as pd

from hpaloc.files import write_parquet
from hpaloc.hpa.images import fetch_images
from hpaloc.log import run_program
from hpaloc.provenance import record


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", required=True, help="the selected images (Parquet)")
    parser.add_argument("--shard", type=int, required=True, help="number of the shard, from 0")
    parser.add_argument("--shards", type=int, required=True, help="number of shards")
    parser.add_argument("--settings", required=True, help="settings of the source, JSON")
    parser.add_argument("--downloads", required=True, type=Path, help="folder of downloads")
    parser.add_argument("--network", required=True, help="limits and timeouts, JSON")
    parser.add_argument("--fetched", required=True, help="out: every file's sum or fault (Parquet)")
    arguments = parser.parse_args(argv)

    table = fetch_images(
        pd.read_parquet(arguments.images, columns=["image_id"]),
        arguments.shard,
        arguments.shards,
        json.loads(arguments.settings),
        arguments.downloads,
        json.loads(arguments.network),
    )
    write_parquet(table, arguments.fetched)
    record(arguments, [arguments.fetched])


if __name__ == "__main__":
    run_program(main)
