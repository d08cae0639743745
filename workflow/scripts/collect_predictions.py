"""Puts the parts of predictions together: one table per fold, and the mean over the folds."""

import logging

from hpaloc.arguments import Parser
from hpaloc.files import write_digest, write_parquet
from hpaloc.index import read_index
from hpaloc.log import InputError, run_program
from hpaloc.parts import collect
from hpaloc.provenance import record

log = logging.getLogger("hpaloc")


def main(argv: list[str] | None = None) -> None:
    parser = Parser(description=__doc__)
    parser.add_input("--arrays", help="index of the arrays: all ids (Parquet)")
    parser.add_input("--parts", nargs="+", help="tables of the parts (Parquet)")
    parser.add_argument("--folds", required=True, type=int, nargs="+", help="trained folds")
    parser.add_output("--fold-out", nargs="+", help="outputs, in their order")
    parser.add_output("--mean", help="output: mean over the folds (Parquet)")
    parser.add_output("--digest", help="output: sha256 of the mean")
    args = parser.parse_args(argv)

    if len(args.folds) != len(args.fold_out):
        raise InputError("--folds and --fold-out must name the same number of folds.")
    tables, mean = collect(args.parts, args.folds, read_index(args.arrays)["image_id"])
    for table, path in zip(tables, args.fold_out, strict=True):
        write_parquet(table, path)
    write_parquet(mean, args.mean)
    write_digest(args.mean, args.digest)
    log.info("%d images, mean over %d folds", len(mean), len(tables))
    record(args, [args.mean, args.digest, *args.fold_out])


if __name__ == "__main__":
    run_program(main)
