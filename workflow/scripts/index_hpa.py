"""Lists the images that entries of the atlas name, labelled by the paper's rule."""

from hpaloc.arguments import Parser, input_file, input_folder, positive
from hpaloc.contents import FILE_NAME, Contents, sums_of_files, write_contents
from hpaloc.files import write_csv
from hpaloc.hpa.atlas import write_atlas
from hpaloc.hpa.image_list import read_image_list
from hpaloc.hpa.walk import walk_fetched, walk_folder
from hpaloc.log import run_program
from hpaloc.provenance import record
from hpaloc.triggers import list_states


def main(argv: list[str] | None = None) -> None:
    parser = Parser(description=__doc__)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--xml", type=input_folder, metavar="FOLDER", help="folder of entries, .xml or .xml.gz"
    )
    source.add_argument(
        "--list", type=input_file, metavar="CSV", help="list of images, columns Id and Target"
    )
    source.add_argument(
        "--entries", type=input_file, help="table of fetched entries, with --downloads"
    )
    parser.add_input_folder(
        "--downloads", required=False, help="folder where the paths of --entries start"
    )
    parser.add_argument(
        "--bad-entries", choices=("skip", "stop"), default="skip",
        help="what a file that is no gene entry does: it is listed and skipped, or the run stops",
    )  # fmt: skip
    parser.add_output("--index", help="out: list of the images (Parquet)")
    parser.add_output("--digest", required=False, help="out: sha256 of the list")
    parser.add_argument("--contents", help="token of the contents of --xml or --list, to be kept")
    parser.add_output(
        "--left-out", required=False, help="out: files that are no gene entries, and why (CSV)"
    )
    parser.add_argument("--workers", type=positive, default=1, help="processes that read entries")
    arguments = parser.parse_args(argv)
    if arguments.entries and not arguments.downloads:
        parser.error("--entries needs --downloads")

    own = str(arguments.xml or arguments.list or "")
    # Before anything is read: what changes meanwhile differs from it afterwards.
    states = list_states(own) if own and arguments.contents else {}
    sums = sums_of_files(own, states, arguments.workers)
    if arguments.list:
        images, left_out = read_image_list(arguments.list, arguments.bad_entries)
    elif arguments.xml:
        images, left_out = walk_folder(arguments.xml, arguments.bad_entries, arguments.workers)
    else:
        images, left_out = walk_fetched(
            arguments.entries, arguments.downloads, arguments.bad_entries, arguments.workers
        )
    write_atlas(images, arguments.index, arguments.digest)
    if arguments.left_out:
        write_csv(left_out, arguments.left_out)
    token = vars(arguments).pop("contents")  # holds times, as no record does
    outputs = [arguments.index, arguments.digest, arguments.left_out]
    record(arguments, outputs, sums={own: sums[""]} if "" in sums else {})
    if states:
        files = {name: (state, sums[name]) for name, state in states.items()}
        write_contents(arguments.index.with_name(FILE_NAME), Contents(token, own, files))


if __name__ == "__main__":
    run_program(main)
