"""Where the time of a training step goes."""

import argparse

import pandas as pd

from hpaloc.figures import style, training_step
from hpaloc.log import run_program
from hpaloc.provenance import record


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", required=True, help="tables/training_step.csv")
    style.add_arguments(parser)
    args = parser.parse_args(argv)

    look = style.apply(args.style)
    style.finish(training_step.draw(pd.read_csv(args.times), look), args)
    record(args, [args.png, args.pdf])


if __name__ == "__main__":
    run_program(main)
