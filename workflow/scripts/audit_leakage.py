"""Finds what training and test images share: fields of cells, antibodies, genes, other labels."""

import logging

import pandas as pd

from hpaloc.arguments import Parser, positive
from hpaloc.audit.groups import read_groups
from hpaloc.audit.leakage import (
    BETWEEN,
    WITHIN_TEST,
    WITHIN_TRAINING,
    conflicts_table,
    pairs_of_groups,
    summary_table,
    test_images,
)
from hpaloc.audit.pairs import pairs_table, twins_between, twins_within
from hpaloc.audit.table import read_hashes
from hpaloc.files import write_csv, write_digest, write_parquet
from hpaloc.index import read_index
from hpaloc.log import run_program
from hpaloc.proteins import antibody_number, comparable_genes
from hpaloc.provenance import record

log = logging.getLogger("hpaloc")


def main(argv: list[str] | None = None) -> None:
    parser = Parser(description=__doc__)
    for side in ("train", "test"):
        parser.add_input(f"--{side}-arrays", help="index of arrays (Parquet)")
        parser.add_input(f"--{side}-hashes", help="their hashes (Parquet)")
    parser.add_input("--train-groups", help="groups of duplicates (Parquet)")
    parser.add_output("--pairs", help="output: twins of test images (CSV)")
    parser.add_output("--conflicts", help="output: labels that differ (CSV)")
    parser.add_output("--summary", help="output: counts (CSV)")
    parser.add_output("--images", help="output: every test image (Parquet)")
    parser.add_output("--digest", help="output: sha256 of that table")
    parser.add_argument("--threads", type=positive, default=1)
    args = parser.parse_args(argv)

    train, test = read_index(args.train_arrays), read_index(args.test_arrays)
    for index in (train, test):
        index["antibody"] = index["antibody"].map(antibody_number, na_action="ignore")
    test["gene"], train["gene"] = comparable_genes(
        test["gene"], train["gene"], ("test images", "training images")
    )
    train_hashes = read_hashes(args.train_hashes, train, args.train_arrays)
    test_hashes = read_hashes(args.test_hashes, test, args.test_arrays)
    groups = read_groups(args.train_groups, train, args.train_arrays)
    where = f"{args.test_arrays} and {args.train_arrays}"
    twins = {
        WITHIN_TEST: twins_within(
            test_hashes, test["parent"].to_numpy(object), args.threads, args.test_arrays
        ),
        BETWEEN: twins_between(test_hashes, train_hashes, args.threads, where),
        WITHIN_TRAINING: pairs_of_groups(train, groups),
    }
    sides = {
        WITHIN_TEST: (test, test),
        BETWEEN: (test, train),
        WITHIN_TRAINING: (train, train),
    }
    conflicts = pd.concat(
        [conflicts_table(twins[name], *sides[name], name) for name in twins], ignore_index=True
    )
    images = test_images(test, train, twins[BETWEEN], test_hashes.blank)
    summary = summary_table(test, train, images, twins, conflicts, train_hashes.blank)
    for row in summary.itertuples():
        of = "" if pd.isna(row.of) else f" of {row.of}"
        count = "unknown" if pd.isna(row.count) else f"{row.count}{of}"
        log.info("%s: %s%s", row.what, count, f" ({row.note})" if row.note else "")
    pairs = [
        pairs_table(twins[name], *sides[name]).assign(pair=name) for name in (WITHIN_TEST, BETWEEN)
    ]
    table = pd.concat(pairs, ignore_index=True)
    write_csv(table[["pair", *table.columns.drop("pair")]], args.pairs)
    write_csv(conflicts, args.conflicts)
    write_csv(summary, args.summary)
    write_parquet(images, args.images)
    write_digest(args.images, args.digest)
    record(args, [args.summary, args.pairs, args.conflicts, args.images, args.digest])


if __name__ == "__main__":
    run_program(main)
