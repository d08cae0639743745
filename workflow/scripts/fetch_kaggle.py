"""Finds the files of Kaggle's competition, and fetches those that the user does not have."""

import argparse
import json
import logging
from pathlib import Path

from hpaloc.files import write_json
from hpaloc.kaggle.fetch import find_or_fetch
from hpaloc.log import run_program
from hpaloc.provenance import record

log = logging.getLogger("hpaloc")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--settings", required=True, help="settings of the source, JSON")
    parser.add_argument("--downloads", required=True, type=Path, help="folder of what is fetched")
    parser.add_argument("--network", required=True, help="settings of the network, JSON")
    parser.add_argument("--files", required=True, help="out: which files there are (JSON)")
    arguments = parser.parse_args(argv)

    files = find_or_fetch(
        json.loads(arguments.settings), arguments.downloads, json.loads(arguments.network)
    )
    write_json(files, arguments.files)
    for what in ("table", "images"):
        log.info("%s: %s", what, files[what]["path"])
    record(arguments, [arguments.files], also_read=[files["table"]["path"]])


if __name__ == "__main__":
    run_program(main)
