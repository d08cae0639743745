"""Scores an answer sheet, a person's or a network's, against the truth.

Both are tables with class numbers or names, `Id,Target` and `Id,Predicted`; other columns do not
matter, so that labels.csv of label_images.py is scored as it is.
"""

import argparse

from hpaloc.answers import ANSWERS, TRUTH, matched, read_sheet
from hpaloc.evaluation import scores_table
from hpaloc.files import write_csv
from hpaloc.log import InputError, run_program
from hpaloc.metrics import scores


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--truth", required=True, help="CSV with the columns Id and Target")
    parser.add_argument("--answers", required=True, help="CSV with the columns Id and Predicted")
    parser.add_argument("--metrics", required=True, help="output: CSV with metric,value")
    args = parser.parse_args(argv)

    truth, predicted = matched(
        read_sheet(args.truth, TRUTH), read_sheet(args.answers, ANSWERS), args.truth, args.answers
    )
    table = scores_table(scores(truth, predicted))[["metric", "value"]]
    try:
        write_csv(table, args.metrics)
    except OSError as error:
        raise InputError(f"{args.metrics}: cannot be written ({error.strerror}).") from error


if __name__ == "__main__":
    run_program(main)
