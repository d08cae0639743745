"""Calls the labels of predictions with the thresholds of one strategy."""

from hpaloc.arguments import Parser
from hpaloc.calling import labels_table, read_thresholds, strategy_thresholds, submission_table
from hpaloc.files import write_csv, write_parquet
from hpaloc.log import run_program
from hpaloc.predictions import read_probabilities
from hpaloc.provenance import record


def main(argv: list[str] | None = None) -> None:
    parser = Parser(description=__doc__)
    parser.add_input("--predictions", help="probabilities (Parquet)")
    parser.add_input("--thresholds", help="table of thresholds (CSV)")
    parser.add_argument(
        "--strategy",
        required=True,
        help="global, per_class_raw, per_class_smoothed, frequency_matched or a number",
    )
    parser.add_output("--labels", help="output: probabilities and labels (Parquet)")
    parser.add_output("--submission", help="output: Id,Predicted (CSV)")
    args = parser.parse_args(argv)

    thresholds = strategy_thresholds(read_thresholds(args.thresholds), args.strategy)
    labels = labels_table(read_probabilities(args.predictions), thresholds)
    write_parquet(labels, args.labels)
    write_csv(submission_table(labels), args.submission)
    record(args, [args.labels, args.submission])


if __name__ == "__main__":
    run_program(main)
