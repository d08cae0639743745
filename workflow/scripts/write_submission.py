"""Writes predictions in the order that Kaggle's competition asks for."""

import logging

from hpaloc.arguments import Parser, input_file
from hpaloc.files import write_csv
from hpaloc.kaggle.files import read_found
from hpaloc.kaggle.submission import ordered_submission
from hpaloc.log import run_program
from hpaloc.provenance import record

log = logging.getLogger("hpaloc")


def main(argv: list[str] | None = None) -> None:
    parser = Parser(description=__doc__)
    parser.add_input("--labels", help="what call_labels made (labels.parquet or submission.csv)")
    order = parser.add_mutually_exclusive_group(required=True)
    order.add_argument("--order", type=input_file, help="the competition's sample_submission.csv")
    order.add_argument(
        "--files", type=input_file, help="files.json of the test source, which names that table"
    )
    parser.add_input(
        "--quarantine", required=False, help="images that could not be used (list_quarantine)"
    )
    parser.add_output("--submission", help="out: Id,Predicted (CSV)")
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
