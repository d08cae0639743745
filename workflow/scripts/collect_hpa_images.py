"""Makes the index of an atlas source of the files that were fetched, and lists what is missing."""

import argparse
import json
from pathlib import Path

import pandas as pd

from hpaloc.files import write_csv, write_json
from hpaloc.hpa.images import collect_images
from hpaloc.index import write_index
from hpaloc.log import run_program
from hpaloc.provenance import record


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name", required=True, help="name of the source")
    parser.add_argument("--settings", required=True, help="settings of the source, JSON")
    parser.add_argument("--images", required=True, help="the selected images (Parquet)")
    parser.add_argument(
        "--fetched", required=True, nargs="+", help="tables of all shards, in order"
    )
    parser.add_argument("--downloads", required=True, type=Path, help="folder of downloads")
    parser.add_argument("--index", required=True, help="out: index of the images (Parquet)")
    parser.add_argument("--digest", required=True, help="out: sha256 of the index")
    parser.add_argument("--settings-out", required=True, help="out: settings as resolved (JSON)")
    parser.add_argument("--missing", required=True, help="out: files that are missing (CSV)")
    arguments = parser.parse_args(argv)

    settings = json.loads(arguments.settings)
    frame, missing = collect_images(
        arguments.name,
        pd.read_parquet(arguments.images),
        [pd.read_parquet(path) for path in arguments.fetched],
        settings,
        arguments.downloads,
    )
    resolved = {
        "kind": "hpa",
        "settings": settings,
        "root": (arguments.downloads / "images").as_posix(),
        "simulated": False,
        "labelled": True,
    }
    write_csv(missing, arguments.missing)
    write_json(resolved, arguments.settings_out)
    write_index(frame, arguments.index, arguments.digest)
    record(
        arguments, [arguments.index, arguments.digest, arguments.settings_out, arguments.missing]
    )


if __name__ == "__main__":
    run_program(main)
