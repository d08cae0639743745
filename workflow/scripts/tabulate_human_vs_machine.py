"""Tabulates people, the network and constant answers as in Table II, and by class."""

import numpy as np

from hpaloc.arguments import Parser
from hpaloc.calling import read_thresholds, strategy_thresholds
from hpaloc.comparison import (
    check_names,
    class_comparison_table,
    comparison_table,
    of_person,
    on_test_images,
)
from hpaloc.evaluation import constant_answers, joined_probabilities, labelled_images
from hpaloc.files import write_csv
from hpaloc.index import read_index
from hpaloc.log import run_program
from hpaloc.predictions import read_probabilities, truth_of
from hpaloc.provenance import record
from hpaloc.tables import AS_TEXT, read_table
from hpaloc.thresholds import call_labels

TABLE_2 = (
    "metric",
    "human_published",
    "human_recomputed",
    "machine_published",
    "machine_recomputed",
)


def main(argv: list[str] | None = None) -> None:
    parser = Parser(description=__doc__)
    parser.add_input("--arrays", help="index of the test arrays, for the labels")
    parser.add_argument("--fold", required=True, help="number of the first trained fold")
    parser.add_input("--fold-predictions", help="its probabilities (Parquet)")
    parser.add_input("--mean", help="mean probabilities of the folds (Parquet)")
    parser.add_input("--thresholds", help="table of thresholds (CSV)")
    parser.add_argument("--strategy", required=True, help="strategy that calls the labels")
    parser.add_json(
        "--answers",
        required=False,
        default=[],
        help='sheets of people, as JSON: [{"name": …, "answers": CSV, "truth": CSV or null}]',
    )
    parser.add_input("--published", help="the paper's Table II (CSV)")
    parser.add_output("--table", help="output: scores by answerer (CSV)")
    parser.add_output("--per-class", help="output: scores by class (CSV)")
    args = parser.parse_args(argv)

    images = labelled_images(read_index(args.arrays), args.arrays)
    truth = truth_of(images, images["image_id"], "test images")
    thresholds = read_thresholds(args.thresholds)
    cuts = strategy_thresholds(thresholds, args.strategy)
    network = {
        name: call_labels(
            joined_probabilities(read_probabilities(path), images["image_id"], path), cuts
        )
        for name, path in (
            (f"network, fold {args.fold}", args.fold_predictions),
            ("network, mean of folds", args.mean),
        )
    }
    positives = thresholds["positives"].to_numpy(dtype=np.int64)[1:]
    answerers = on_test_images(truth, network, constant_answers(positives))
    for sheet in args.answers:
        answerers += of_person(sheet, images["image_id"].tolist(), truth, network)
    check_names(answerers)
    published = read_table(args.published, TABLE_2, **AS_TEXT)
    write_csv(comparison_table(answerers, published), args.table)
    write_csv(class_comparison_table(answerers), args.per_class)
    sheets = [sheet[key] for sheet in args.answers for key in ("answers", "truth")]
    record(args, [args.table, args.per_class], also_read=sheets)


if __name__ == "__main__":
    run_program(main)
