"""Makes the index of an atlas source of the files that were fetched, and lists what is missing."""

from hpaloc.arguments import Parser
from hpaloc.files import write_csv, write_json
from hpaloc.hpa.images import FETCHED_COLUMNS, collect_images
from hpaloc.index import write_index
from hpaloc.log import run_program
from hpaloc.provenance import record
from hpaloc.tables import read_table


def main(argv: list[str] | None = None) -> None:
    parser = Parser(description=__doc__)
    parser.add_argument("--name", required=True, help="name of the source")
    parser.add_json("--settings", help="settings of the source, JSON")
    parser.add_input("--images", help="the selected images (Parquet)")
    parser.add_input("--fetched", nargs="+", help="tables of all shards, in order")
    parser.add_input_folder("--downloads", help="folder of downloads")
    parser.add_output("--index", help="out: index of the images (Parquet)")
    parser.add_output("--digest", help="out: sha256 of the index")
    parser.add_output("--settings-out", help="out: settings as resolved (JSON)")
    parser.add_output("--missing", help="out: files that are missing (CSV)")
    arguments = parser.parse_args(argv)

    frame, missing = collect_images(
        arguments.name,
        read_table(arguments.images, ["image_id", "antibody", "gene", "cell_line", "labels"]),
        [read_table(path, FETCHED_COLUMNS) for path in arguments.fetched],
        arguments.settings,
        arguments.downloads,
    )
    resolved = {
        "kind": "hpa",
        "settings": arguments.settings,
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
