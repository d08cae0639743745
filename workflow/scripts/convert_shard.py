"""Converts the images of one shard to an array of uint8, and tells which could not be used."""

from hpaloc.arguments import Parser, not_negative, positive
from hpaloc.classes import CHANNELS
from hpaloc.convert import convert_shard
from hpaloc.files import read_json
from hpaloc.index import read_index, root_of
from hpaloc.log import run_program
from hpaloc.provenance import record, sum_of_shard


def main(argv: list[str] | None = None) -> None:
    parser = Parser(description=__doc__)
    parser.add_input("--index", help="index of the raw images")
    parser.add_input("--settings", help="settings.json of the source")
    parser.add_argument(
        "--shard", type=not_negative, required=True, help="number of the shard, from 0"
    )
    parser.add_argument("--shards", type=positive, required=True, help="number of shards")
    parser.add_argument("--size", type=positive, required=True, help="pixels per side of an image")
    parser.add_output("--array", help="out: images, N x S x S x 4 (.npy)")
    parser.add_output("--rows", help="out: every image's row or reason (Parquet)")
    parser.add_argument("--threads", type=positive, default=1, help="images converted at a time")
    arguments = parser.parse_args(argv)

    settings = read_json(arguments.settings, "root", "settings")
    pixels = convert_shard(
        index=read_index(arguments.index),
        root=root_of(settings, arguments.index),
        stack_order=settings["settings"].get("stack_order", CHANNELS),
        shard=arguments.shard,
        shards=arguments.shards,
        size=arguments.size,
        array=arguments.array,
        rows=arguments.rows,
        threads=arguments.threads,
        slices=settings["settings"].get("slices"),
    )
    sums = {arguments.array.as_posix(): sum_of_shard(arguments.array, pixels)}
    record(arguments, [arguments.array, arguments.rows], sums=sums)


if __name__ == "__main__":
    run_program(main)
