"""Scores an answer sheet, a person's or a network's, against the truth.

Both are tables with class numbers or names, `Id,Target` and `Id,Predicted`; other columns do not
matter, so that labels.csv of label_images.py is scored as it is.
"""

from hpaloc.answers import ANSWERS, TRUTH, matched, read_sheet
from hpaloc.arguments import Parser
from hpaloc.evaluation import scores_table
from hpaloc.files import write_csv
from hpaloc.log import run_program
from hpaloc.metrics import scores


def main(argv: list[str] | None = None) -> None:
    parser = Parser(description=__doc__)
    parser.add_input("--truth", help="CSV with the columns Id and Target")
    parser.add_input("--answers", help="CSV with the columns Id and Predicted")
    parser.add_output("--metrics", help="output: CSV with metric,value")
    args = parser.parse_args(argv)

    truth, predicted = matched(
        read_sheet(args.truth, TRUTH), read_sheet(args.answers, ANSWERS), args.truth, args.answers
    )
    table = scores_table(scores(truth, predicted))[["metric", "value"]]
    write_csv(table, args.metrics)


if __name__ == "__main__":
    run_program(main)
