"""Scores the predictions of every trained fold and of their mean on a labelled source."""

import numpy as np

from hpaloc.arguments import Parser
from hpaloc.calling import read_thresholds, strategy_thresholds
from hpaloc.evaluation import (
    baselines_table,
    call_all,
    curves_table,
    joined_probabilities,
    labelled_images,
    metrics_table,
    per_class_table,
    read_audit,
    subsets_of,
    subsets_table,
)
from hpaloc.files import write_csv, write_parquet
from hpaloc.index import read_index
from hpaloc.log import run_program
from hpaloc.predictions import read_probabilities, truth_of
from hpaloc.provenance import record


def main(argv: list[str] | None = None) -> None:
    parser = Parser(description=__doc__)
    parser.add_input("--arrays", help="index of the arrays, for the labels")
    parser.add_input("--fold-predictions", nargs="+", help="probabilities of each fold (Parquet)")
    parser.add_argument("--folds", required=True, nargs="+", help="numbers of the same folds")
    parser.add_input("--mean", help="mean probabilities of the folds (Parquet)")
    parser.add_input("--thresholds", help="table of thresholds (CSV)")
    parser.add_json("--strategies", help='as JSON: ["global", 0.268]')
    parser.add_output("--metrics", help="output: scores (CSV)")
    parser.add_output("--per-class", help="output: scores of classes (CSV)")
    parser.add_output("--baselines", help="output: constant answers (CSV)")
    parser.add_output("--curves", help="output: precision-recall curves (Parquet)")
    parser.add_input(
        "--audit", required=False, help="what training is known to share with images (Parquet)"
    )
    parser.add_output(
        "--subsets", required=False, help="output: scores without what it shares (CSV)"
    )
    args = parser.parse_args(argv)
    if (args.audit is None) != (args.subsets is None):
        parser.error("--audit and --subsets go together")
    if len(args.fold_predictions) != len(args.folds):
        parser.error("--fold-predictions and --folds must name as many folds each")

    images = labelled_images(read_index(args.arrays), args.arrays)
    truth = truth_of(images, images["image_id"], "test images")
    tables = dict(zip([*args.folds, "mean"], [*args.fold_predictions, args.mean], strict=True))
    probability = {
        fold: joined_probabilities(read_probabilities(path), images["image_id"], path)
        for fold, path in tables.items()
    }
    thresholds = read_thresholds(args.thresholds)
    called = call_all(
        probability,
        {str(name): strategy_thresholds(thresholds, name) for name in args.strategies},
    )
    positives = thresholds["positives"].to_numpy(dtype=np.int64)[1:]
    if args.audit is not None:
        subsets = subsets_of(read_audit(args.audit, images["image_id"]))
        write_csv(subsets_table(truth, called, probability, subsets), args.subsets)
    write_csv(metrics_table(truth, called, probability), args.metrics)
    write_csv(per_class_table(truth, called, probability), args.per_class)
    write_csv(baselines_table(truth, positives), args.baselines)
    write_parquet(curves_table(truth, probability["mean"]), args.curves)
    record(args, [args.metrics, args.per_class, args.baselines, args.curves, args.subsets])


if __name__ == "__main__":
    run_program(main)
