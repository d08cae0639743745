"""Measures on this machine where the time of a training step goes."""

import logging

from hpaloc.arguments import Parser, not_negative
from hpaloc.compute import choose_compute
from hpaloc.files import write_csv
from hpaloc.fold_data import fold_data
from hpaloc.gpu_memory import shortage_in_words
from hpaloc.log import run_program
from hpaloc.provenance import record
from hpaloc.training_step import time_steps

log = logging.getLogger("hpaloc")


def main(argv: list[str] | None = None) -> None:
    parser = Parser(description=__doc__)
    parser.add_input("--arrays", help="index of the arrays (Parquet)")
    parser.add_input("--folds", help="image_id, group, fold (Parquet)")
    parser.add_argument("--fold", required=True, type=int, help="validation fold, from 1")
    parser.add_json("--recipe", help="whole recipe (JSON)")
    parser.add_argument("--gpus", type=not_negative, default=1, help="0: run on the CPU")
    parser.add_argument(
        "--workers", type=not_negative, default=1, help="processes that make batches"
    )
    parser.add_argument("--seconds", type=float, default=20.0, help="of measuring, about")
    parser.add_output("--table", help="output (CSV)")
    args = parser.parse_args(argv)

    data = fold_data(args.arrays, args.folds, args.fold, args.workers)
    with shortage_in_words(
        f"a training step of {args.recipe['network']} at {args.recipe['image_size']} px",
        "Not one image fits beside the network and its optimizer: use a smaller image_size or"
        " network, a GPU with more memory, or end what else runs on this one.",
    ):
        compute = choose_compute(args.recipe["precision"], args.recipe["torch_threads"], args.gpus)
        table = time_steps(args.recipe, args.fold, data, compute, args.seconds)
    for row in table.itertuples():
        log.info("%s: %.3g ms, %.0f %%", row.part, row.milliseconds, 100 * row.share)
    log.info("%.1f images/s over %d steps", table["images_per_second"][0], table["steps"][0])
    write_csv(table, args.table)
    record(args, [args.table], pixels_of=args.arrays, repeatable=False)


if __name__ == "__main__":
    run_program(main)
