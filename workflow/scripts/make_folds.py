"""Splits the labelled images of a source into multilabel-stratified folds."""

import logging

from hpaloc.arguments import Parser, positive
from hpaloc.audit.groups import read_groups
from hpaloc.files import write_csv, write_digest, write_parquet
from hpaloc.folds import fold_counts, make_folds
from hpaloc.index import read_index
from hpaloc.log import InputError, run_program
from hpaloc.provenance import record

log = logging.getLogger("hpaloc")


def main(argv: list[str] | None = None) -> None:
    parser = Parser(description=__doc__)
    parser.add_input("--arrays", help="index of the arrays (Parquet)")
    parser.add_argument("--n", required=True, type=positive, help="number of folds")
    parser.add_argument("--seed", required=True, type=int)
    parser.add_json(
        "--group-by",
        required=False,
        default=[],
        help='columns of the index, as JSON: ["antibody"], and "duplicates" of --duplicates;'
        " tiles of an image always stay together",
    )
    parser.add_input(
        "--duplicates", required=False, help="groups of images that are the same field (Parquet)"
    )
    parser.add_output("--folds", help="output: image_id, group, fold (Parquet)")
    parser.add_output("--digest", help="output: sha256 of the folds")
    parser.add_output("--counts", help="output: images of each class (CSV)")
    args = parser.parse_args(argv)

    index = read_index(args.arrays)
    if "duplicates" in args.group_by:
        if args.duplicates is None:
            raise InputError(
                "folds are to be grouped by duplicates, but no table of them is given: pass what"
                " duplicates_train makes as --duplicates."
            )
        index["duplicates"] = read_groups(args.duplicates, index, args.arrays)
    folds = make_folds(index, args.n, args.seed, args.group_by)
    counts = fold_counts(folds, index, args.n)
    log.info(
        "%d images in %d units, %d folds; no class is further than %.1f images from an even split",
        len(folds), folds["group"].nunique(), args.n, counts["deviation"].abs().max(),
    )  # fmt: skip
    write_csv(counts, args.counts)
    write_parquet(folds, args.folds)
    write_digest(args.folds, args.digest)
    record(args, [args.folds, args.digest, args.counts])


if __name__ == "__main__":
    run_program(main)
