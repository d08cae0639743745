"""Chooses the images of an hpa source from the list of the atlas's images."""

from hpaloc.arguments import Parser
from hpaloc.files import write_csv
from hpaloc.hpa.atlas import read_atlas, write_atlas
from hpaloc.hpa.own_files import selection_files
from hpaloc.hpa.selection import select_images
from hpaloc.index import read_index
from hpaloc.log import run_program
from hpaloc.provenance import record


def main(argv: list[str] | None = None) -> None:
    parser = Parser(description=__doc__)
    parser.add_input("--index", help="list of the atlas's images (index_hpa)")
    parser.add_json("--settings", help="settings of the source, JSON")
    parser.add_input(
        "--other-index", required=False, help="index of the source to be kept apart from"
    )
    parser.add_output("--images", help="out: the selected images (Parquet)")
    parser.add_output("--digest", help="out: sha256 of the selected images")
    parser.add_output(
        "--left-out", required=False, help="out: images that had to be left out, and why (CSV)"
    )
    arguments = parser.parse_args(argv)

    other = read_index(arguments.other_index) if arguments.other_index else None
    settings = arguments.settings
    images, left_out = select_images(read_atlas(arguments.index), settings, other)
    write_atlas(images, arguments.images, arguments.digest)
    if arguments.left_out:
        write_csv(left_out, arguments.left_out)
    record(
        arguments,
        [arguments.images, arguments.digest, arguments.left_out],
        also_read=selection_files(settings),
    )


if __name__ == "__main__":
    run_program(main)
