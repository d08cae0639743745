"""Fetches the image files of one shard of an atlas selection, four channels an image."""

from hpaloc.arguments import Parser, not_negative, positive
from hpaloc.files import write_parquet
from hpaloc.hpa.images import fetch_images
from hpaloc.log import run_program
from hpaloc.provenance import record
from hpaloc.tables import read_table


def main(argv: list[str] | None = None) -> None:
    parser = Parser(description=__doc__)
    parser.add_input("--images", help="the selected images (Parquet)")
    parser.add_argument(
        "--shard", type=not_negative, required=True, help="number of the shard, from 0"
    )
    parser.add_argument("--shards", type=positive, required=True, help="number of shards")
    parser.add_json("--settings", help="settings of the source, JSON")
    parser.add_output_folder("--downloads", help="folder of downloads")
    parser.add_json("--network", help="limits and timeouts, JSON")
    parser.add_output("--fetched", help="out: every file's sum or fault (Parquet)")
    arguments = parser.parse_args(argv)

    table = fetch_images(
        read_table(arguments.images, ["image_id"]),
        arguments.shard,
        arguments.shards,
        arguments.settings,
        arguments.downloads,
        arguments.network,
    )
    write_parquet(table, arguments.fetched)
    record(arguments, [arguments.fetched])


if __name__ == "__main__":
    run_program(main)
