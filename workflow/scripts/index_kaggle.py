"""Indexes the training or the test images of Kaggle's competition as a source."""

import argparse
import json

from hpaloc.contents import sum_of_file, write_contents_of_index
from hpaloc.files import write_json
from hpaloc.index import write_index
from hpaloc.kaggle.files import read_found
from hpaloc.kaggle.source import index_part
from hpaloc.log import run_program
from hpaloc.provenance import record
from hpaloc.triggers import competition_states


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name", required=True, help="name of the source")
    parser.add_argument("--settings", required=True, help="settings of the source, JSON")
    parser.add_argument("--files", required=True, help="files that fetch_kaggle found (JSON)")
    parser.add_argument("--contents", default="", help="name of what the files hold, to be kept")
    parser.add_argument("--index", required=True, help="out: index of the images (Parquet)")
    parser.add_argument("--digest", required=True, help="out: sha256 of the index")
    parser.add_argument("--settings-out", required=True, help="out: settings as resolved (JSON)")
    parser.add_argument("--workers", type=int, default=1, help="threads that read files")
    arguments = parser.parse_args(argv)

    settings = json.loads(arguments.settings)
    files = read_found(arguments.files)
    table, images = files["table"]["path"], files["images"]["path"]
    # Before anything is read: what changes meanwhile differs from it afterwards.
    states = competition_states([table, images])
    frame = index_part(arguments.name, files, arguments.workers)
    resolved = {
        "kind": "kaggle",
        "settings": settings,
        "root": images,
        "simulated": False,
        "labelled": files["part"] == "train",
    }
    write_json(resolved, arguments.settings_out)
    write_index(frame, arguments.index, arguments.digest)
    outputs = [arguments.index, arguments.digest, arguments.settings_out]
    token = vars(arguments).pop("contents")  # holds times, as no record does
    record(arguments, outputs, also_read=[table])
    single = {path: sum_of_file(path) for path in (table, images) if path in states}
    write_contents_of_index(frame, states, token, "", arguments.index, single, f"{images}/")


if __name__ == "__main__":
    run_program(main)
