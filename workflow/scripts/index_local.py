"""Indexes a folder of a user's own images as a source."""

import os
from pathlib import Path

from hpaloc.arguments import Parser, positive
from hpaloc.contents import write_contents_of_index
from hpaloc.files import sha256_of_file, write_json
from hpaloc.index import write_index
from hpaloc.listing import image_states
from hpaloc.local import index_folder
from hpaloc.log import run_program
from hpaloc.provenance import record


def main(argv: list[str] | None = None) -> None:
    parser = Parser(description=__doc__)
    parser.add_argument("--name", required=True, help="name of the source")
    parser.add_json("--settings", help="settings of the source, JSON")
    parser.add_argument("--contents", default="", help="token of the contents, to be kept")
    parser.add_output("--index", help="out: index of the images (Parquet)")
    parser.add_output("--digest", help="out: sha256 of the index")
    parser.add_output("--settings-out", help="out: settings as resolved (JSON)")
    parser.add_argument("--workers", type=positive, default=1, help="threads that read files")
    arguments = parser.parse_args(argv)

    settings = arguments.settings
    # Before anything is read: what changes meanwhile differs from it afterwards.
    states = image_states(settings["folder"], settings["ignore"])
    labels = settings["labels"] and Path(settings["labels"]).as_posix()
    labels_sum = sha256_of_file(labels) if labels and os.path.isfile(labels) else None
    frame = index_folder(arguments.name, settings, arguments.workers)
    resolved = {
        "kind": "local",
        "settings": settings,
        "root": settings["folder"],
        "simulated": False,
        "labelled": labels is not None,
        # What the Snakefile compares once the table itself is gone.
        "listing": {"labels": labels_sum},
    }
    write_json(resolved, arguments.settings_out)
    write_index(frame, arguments.index, arguments.digest)
    outputs = [arguments.index, arguments.digest, arguments.settings_out]
    token = vars(arguments).pop("contents")  # holds times, as no record does
    sums = {labels: labels_sum} if labels else {}
    record(arguments, outputs, also_read=[labels], sums=sums)
    write_contents_of_index(frame, states, token, settings["folder"], arguments.index)


if __name__ == "__main__":
    run_program(main)
