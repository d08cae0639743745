"""Indexes the training or the test images of Kaggle's competition as a source."""

from hpaloc.arguments import Parser, positive
from hpaloc.contents import sums_of_files, write_contents_of_index
from hpaloc.files import write_json
from hpaloc.index import write_index
from hpaloc.kaggle.files import paths_found, read_found
from hpaloc.kaggle.source import index_part
from hpaloc.log import run_program
from hpaloc.provenance import record
from hpaloc.triggers import competition_states


def main(argv: list[str] | None = None) -> None:
    parser = Parser(description=__doc__)
    parser.add_argument("--name", required=True, help="name of the source")
    parser.add_json("--settings", help="settings of the source, JSON")
    parser.add_input("--files", help="files that fetch_kaggle found (JSON)")
    parser.add_argument("--contents", default="", help="token of the contents, to be kept")
    parser.add_output("--index", help="out: index of the images (Parquet)")
    parser.add_output("--digest", help="out: sha256 of the index")
    parser.add_output("--settings-out", help="out: settings as resolved (JSON)")
    parser.add_argument("--workers", type=positive, default=1, help="threads that read files")
    arguments = parser.parse_args(argv)

    settings = arguments.settings
    files = read_found(arguments.files)
    table, images, paths = files["table"]["path"], files["images"]["path"], paths_found(files)
    # Before anything is read: what changes meanwhile differs from it afterwards.
    states = competition_states(paths)
    single = sums_of_files("", states.keys() & set(paths), arguments.workers)
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
    record(arguments, outputs, also_read=[table], sums={table: files["table"]["sha256"]})
    write_contents_of_index(frame, states, token, "", arguments.index, single, f"{images}/")


if __name__ == "__main__":
    run_program(main)
