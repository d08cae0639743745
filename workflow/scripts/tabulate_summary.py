"""Sets the workflow's own values beside the numbers of the paper's text."""

import pandas as pd

from hpaloc import summary
from hpaloc.arguments import Parser
from hpaloc.calling import read_thresholds
from hpaloc.files import write_csv
from hpaloc.index import read_index
from hpaloc.log import run_program
from hpaloc.provenance import record
from hpaloc.tables import AS_TEXT, read_table


def main(argv: list[str] | None = None) -> None:
    parser = Parser(description=__doc__)
    parser.add_argument("--folds", required=True, nargs="+", help="numbers of the trained folds")
    parser.add_input("--steps", nargs="+", help="their step tables (Parquet)")
    parser.add_input("--epochs", nargs="+", help="their epoch tables (Parquet)")
    parser.add_input("--fold-table", help="images of all folds (Parquet)")
    parser.add_input("--fold-counts", help="images of each class (CSV)")
    parser.add_input("--train-arrays", help="index of the training arrays")
    parser.add_input("--test-arrays", help="index of the test arrays")
    parser.add_input("--thresholds", help="table of thresholds (CSV)")
    parser.add_argument("--strategy", required=True, help="strategy that calls the labels")
    parser.add_input("--metrics", help="scores of the test source (CSV)")
    parser.add_input("--per-class", help="scores of its classes (CSV)")
    parser.add_input("--human-vs-machine", help="table of answerers (CSV)")
    parser.add_input("--speed", help="measured speed (CSV)")
    parser.add_input("--published", help="numbers of the paper's text (CSV)")
    parser.add_output("--table", help="output: both side by side (CSV)")
    args = parser.parse_args(argv)
    if not len(args.folds) == len(args.steps) == len(args.epochs):
        parser.error("--folds, --steps and --epochs must name as many folds each")

    cell_lines = pd.concat(
        [read_index(path)["cell_line"].dropna() for path in (args.train_arrays, args.test_arrays)]
    )
    folds = read_table(args.fold_table, ["fold"])
    counts = read_table(args.fold_counts, summary.COUNTS, numbers=summary.COUNTS)
    steps = [read_table(path, summary.STEPS) for path in args.steps]
    epochs = [read_table(path, summary.EPOCHS) for path in args.epochs]
    words = {"fold": str, "strategy": str}
    metrics = read_table(args.metrics, summary.METRICS, dtype=words)
    per_class = read_table(args.per_class, summary.PER_CLASS, dtype=words)
    thresholds = read_thresholds(args.thresholds)
    comparison = read_table(args.human_vs_machine, ["metric"], **AS_TEXT)
    speed = read_table(args.speed, summary.SPEED, numbers=summary.SPEED[1:])
    published = read_table(args.published, summary.PUBLISHED, **AS_TEXT)
    values = (
        summary.of_data(folds, counts, cell_lines)
        | summary.of_training(steps, epochs)
        | summary.of_evaluation(metrics, per_class, thresholds, args.strategy, args.folds[0])
        | summary.of_comparison(comparison)
        | summary.of_speed(speed)
    )
    write_csv(summary.summary_table(published, values, args.folds[0]), args.table)
    record(args, [args.table])


if __name__ == "__main__":
    run_program(main)
