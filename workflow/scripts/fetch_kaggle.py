"""Finds the files of Kaggle's competition, and fetches those that the user does not have."""

import logging

from hpaloc.arguments import Parser
from hpaloc.files import write_json
from hpaloc.kaggle.fetch import find_or_fetch
from hpaloc.log import run_program
from hpaloc.provenance import record

log = logging.getLogger("hpaloc")


def main(argv: list[str] | None = None) -> None:
    parser = Parser(description=__doc__)
    parser.add_json("--settings", help="settings of the source, JSON")
    parser.add_output_folder("--downloads", help="folder of what is fetched")
    parser.add_json("--network", help="settings of the network, JSON")
    parser.add_output("--files", help="out: which files there are (JSON)")
    arguments = parser.parse_args(argv)

    files = find_or_fetch(arguments.settings, arguments.downloads, arguments.network)
    write_json(files, arguments.files)
    for what in ("table", "images"):
        log.info("%s: %s", what, files[what]["path"])
    record(arguments, [arguments.files], also_read=[files["table"]["path"]])


if __name__ == "__main__":
    run_program(main)
