"""Finds the thresholds of all classes and of each class from out-of-fold predictions."""

import logging

from hpaloc.arguments import Parser
from hpaloc.calling import fold_thresholds, pooled_validation, threshold_table
from hpaloc.files import write_csv
from hpaloc.index import read_index
from hpaloc.log import run_program
from hpaloc.provenance import record

log = logging.getLogger("hpaloc")


def main(argv: list[str] | None = None) -> None:
    parser = Parser(description=__doc__)
    parser.add_input("--validation", nargs="+", help="validation probabilities of each fold")
    parser.add_input("--epochs", nargs="+", help="epoch tables of the same folds")
    parser.add_argument("--folds", required=True, nargs="+", type=int, help="numbers of the folds")
    parser.add_input("--arrays", help="index of the arrays, for the labels")
    parser.add_argument(
        "--smoothing", required=True, type=float, help="weight of the newest epoch, 0 to 1"
    )
    parser.add_output("--thresholds", help="output: table of thresholds (CSV)")
    args = parser.parse_args(argv)
    if not len(args.validation) == len(args.epochs) == len(args.folds):
        parser.error("--validation, --epochs and --folds must name as many folds each")

    pools = pooled_validation(args.validation, args.epochs)
    log.info(
        "%d images from the validation sets of folds %s; thresholds smoothed over %d epochs",
        len(pools[0]), ", ".join(map(str, args.folds)), len(pools),
    )  # fmt: skip
    index = read_index(args.arrays)
    table = threshold_table(pools, index, args.smoothing)
    # The paper trained one fold: its thresholds alone stand beside those of all.
    first = pooled_validation(args.validation[:1], args.epochs[:1])
    table = table.join(fold_thresholds(first, index, args.smoothing, args.folds[0]))
    without = table.loc[table["fallback"] != "", "name"].tolist()
    if without:
        log.warning("no positives, so that the global threshold is used: %s", ", ".join(without))
    write_csv(table, args.thresholds)
    record(args, [args.thresholds])


if __name__ == "__main__":
    run_program(main)
