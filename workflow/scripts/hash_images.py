"""Makes a perceptual hash and a thumbnail of every image of the arrays, to find duplicates by."""

import logging

import numpy as np

from hpaloc.arguments import Parser, positive
from hpaloc.audit.hashes import hash_arrays
from hpaloc.audit.table import write_hashes
from hpaloc.files import write_digest
from hpaloc.log import run_program, some_of
from hpaloc.provenance import record
from hpaloc.shards import open_arrays

log = logging.getLogger("hpaloc")


def main(argv: list[str] | None = None) -> None:
    parser = Parser(description=__doc__)
    parser.add_input("--arrays", help="index of the arrays (Parquet)")
    parser.add_output("--hashes", help="output: a row per image (Parquet)")
    parser.add_output("--digest", help="output: sha256 of the hashes")
    parser.add_argument("--threads", type=positive, default=1, help="images hashed at a time")
    args = parser.parse_args(argv)

    frame, shards = open_arrays(args.arrays)
    hashes = hash_arrays(frame, shards, args.threads)
    blank = np.flatnonzero(hashes.blank)
    if len(blank):
        log.warning(
            "%d of %d images are too blank to be compared with others: %s",
            len(blank), len(frame), some_of(hashes.image_id[blank], 20),
        )  # fmt: skip
    write_hashes(hashes, args.hashes)
    write_digest(args.hashes, args.digest)
    record(args, [args.hashes, args.digest], pixels_of=args.arrays)


if __name__ == "__main__":
    run_program(main)
