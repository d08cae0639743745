"""Figure 2: label counts of the training and validation split of a fold."""

from hpaloc.arguments import Parser
from hpaloc.figures import split, style
from hpaloc.figures.tables import read_table
from hpaloc.log import run_program
from hpaloc.provenance import record


def main(argv: list[str] | None = None) -> None:
    parser = Parser(description=__doc__)
    parser.add_input("--counts", help="images of each class and split (CSV)")
    parser.add_argument("--fold", type=int, default=1, help="fold to draw (default 1)")
    style.add_arguments(parser)
    args = parser.parse_args(argv)

    look = style.apply(args.style)
    counts = read_table(args.counts, split.COLUMNS, split.NUMBERS)
    style.finish(split.draw(counts, args.fold, look), args)
    record(args, [args.png, args.pdf])


if __name__ == "__main__":
    run_program(main)
