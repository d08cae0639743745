"""Scores the predictions of every trained fold and of their mean on a labelled source."""

import argparse
import json

import numpy as np

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
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--arrays", required=True, help="index of the arrays, for the labels")
    parser.add_argument(
        "--fold-predictions", required=True, nargs="+", help="probabilities of each fold (Parquet)"
    )
    parser.add_argument("--folds", required=True, nargs="+", help="numbers of the same folds")
    parser.add_argument("--mean", required=True, help="mean probabilities of the folds (Parquet)")
    parser.add_argument("--thresholds", required=True, help="table of thresholds (CSV)")
    parser.add_argument(
        "--strategies", required=True, type=json.loads, help='as JSON: ["global", 0.268]'
    )
    parser.add_argument("--metrics", required=True, help="output: scores (CSV)")
    parser.add_argument("--per-class", required=True, help="output: scores of classes (CSV)")
    parser.add_argument("--baselines", required=True, help="output: constant answers (CSV)")
    parser.add_argument("--curves", required=True, help="output: precision-recall curves (Parquet)")
    parser.add_argument("--audit", help="what training is known to share with images (Parquet)")
    parser.add_argument("--subsets", help="output: scores without what it shares (CSV)")
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
