"""Sets the workflow's own values beside the numbers of the paper's text."""

import argparse

import pandas as pd

from hpaloc.calling import read_thresholds
from hpaloc.files import write_csv
from hpaloc.index import read_index
from hpaloc.log import run_program
from hpaloc.provenance import record
from hpaloc.summary import (
    of_comparison,
    of_data,
    of_evaluation,
    of_speed,
    of_training,
    summary_table,
)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folds", required=True, nargs="+", help="numbers of the trained folds")
    parser.add_argument("--steps", required=True, nargs="+", help="their step tables (Parquet)")
    parser.add_argument("--epochs", required=True, nargs="+", help="their epoch tables (Parquet)")
    parser.add_argument("--fold-table", required=True, help="images of all folds (Parquet)")
    parser.add_argument("--fold-counts", required=True, help="images of each class (CSV)")
    parser.add_argument("--train-arrays", required=True, help="index of the training arrays")
    parser.add_argument("--test-arrays", required=True, help="index of the test arrays")
    parser.add_argument("--thresholds", required=True, help="table of thresholds (CSV)")
    parser.add_argument("--strategy", required=True, help="strategy that calls the labels")
    parser.add_argument("--metrics", required=True, help="scores of the test source (CSV)")
    parser.add_argument("--per-class", required=True, help="scores of its classes (CSV)")
    parser.add_argument("--human-vs-machine", required=True, help="table of answerers (CSV)")
    parser.add_argument("--speed", required=True, help="measured speed (CSV)")
    parser.add_argument("--published", required=True, help="numbers of the paper's text (CSV)")
    parser.add_argument("--table", required=True, help="output: both side by side (CSV)")
    args = parser.parse_args(argv)
    if not len(args.folds) == len(args.steps) == len(args.epochs):
        parser.error("--folds, --steps and --epochs must name as many folds each")

    cell_lines = pd.concat(
        [read_index(path)["cell_line"].dropna() for path in (args.train_arrays, args.test_arrays)]
    )
    metrics = pd.read_csv(args.metrics, dtype={"fold": str, "strategy": str})
    per_class = pd.read_csv(args.per_class, dtype={"fold": str, "strategy": str})
    comparison = pd.read_csv(args.human_vs_machine, dtype=str, keep_default_na=False)
    values = (
        of_data(pd.read_parquet(args.fold_table), pd.read_csv(args.fold_counts), cell_lines)
        | of_training(
            [pd.read_parquet(path) for path in args.steps],
            [pd.read_parquet(path) for path in args.epochs],
        )
        | of_evaluation(
            metrics, per_class, read_thresholds(args.thresholds), args.strategy, args.folds[0]
        )
        | of_comparison(comparison)
        | of_speed(pd.read_csv(args.speed))
    )
    published = pd.read_csv(args.published, dtype=str, keep_default_na=False)
    write_csv(summary_table(published, values, args.folds[0]), args.table)
    record(args, [args.table])


if __name__ == "__main__":
    run_program(main)
