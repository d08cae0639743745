"""Finds the training images that are the same field of cells, and the groups that they form."""

import logging

from hpaloc.arguments import Parser, positive
from hpaloc.audit.groups import duplicate_groups
from hpaloc.audit.pairs import pairs_table, twins_within
from hpaloc.audit.table import read_hashes
from hpaloc.files import write_csv, write_digest, write_parquet
from hpaloc.index import read_index
from hpaloc.log import run_program
from hpaloc.provenance import record

log = logging.getLogger("hpaloc")


def main(argv: list[str] | None = None) -> None:
    parser = Parser(description=__doc__)
    parser.add_input("--arrays", help="index of the arrays (Parquet)")
    parser.add_input("--hashes", help="hashes of the same images (Parquet)")
    parser.add_output("--pairs", help="output: twins (CSV)")
    parser.add_output("--groups", help="output: image_id, duplicates (Parquet)")
    parser.add_output("--digest", help="output: sha256 of the groups")
    parser.add_argument("--threads", type=positive, default=1)
    args = parser.parse_args(argv)

    index = read_index(args.arrays)
    hashes = read_hashes(args.hashes, index, args.arrays)
    twins = twins_within(hashes, index["parent"].to_numpy(object), args.threads, args.arrays)
    groups = duplicate_groups(hashes.image_id, twins)
    repeated = groups["duplicates"].duplicated(keep=False)
    log.info(
        "%d of %d images are the same field of cells as another, in %d groups and %d pairs;"
        " %d were too blank to be compared",
        repeated.sum(), len(index), groups.loc[repeated, "duplicates"].nunique(), len(twins),
        hashes.blank.sum(),
    )  # fmt: skip
    write_csv(pairs_table(twins, index, index), args.pairs)
    write_parquet(groups, args.groups)
    write_digest(args.groups, args.digest)
    record(args, [args.groups, args.digest, args.pairs])


if __name__ == "__main__":
    run_program(main)
