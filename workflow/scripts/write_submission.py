"""Writes predictions in the order that Kaggle's competition asks for."""

import argparse
import logging

from hpaloc.files import write_csv
from hpaloc.kaggle.files import read_found
from hpaloc.kaggle.submission import ordered_submission
from hpaloc.log import run_program
from hpaloc.provenance import record

log = logging.getLogger("hpaloc")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--labels", required=True, help="what call_labels made (labels.parquet or submission.csv)"
    )
    order = parser.add_mutually_exclusive_group(required=True)
    order.add_argument("--order", help="the competition's sample_submission.csv")
    order.add_argument("--files", help="files.json of the test source, which names that table")
    parser.add_argument("--quarantine", help="images that could not be used (list_quarantine)")
    parser.add_argument("--submission", required=True, help="out: Id,Predicted (CSV)")
    arguments = parser.parse_args(argv)

    table = arguments.order
    if table is None:
        table = read_found(arguments.files)["table"]["path"]
    submission = ordered_submission(arguments.labels, table, arguments.quarantine)
    write_csv(submission, arguments.submission)
    log.info("%s: %d rows in the order of %s", arguments.submission, len(submission), table)
    record(arguments, [arguments.submission], also_read=[table])


if __name__ == "__main__":
    run_program(main)
