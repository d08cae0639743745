"""Where the time of a training step goes."""

from hpaloc.arguments import Parser
from hpaloc.figures import style, training_step
from hpaloc.figures.tables import read_table
from hpaloc.log import run_program
from hpaloc.provenance import record


def main(argv: list[str] | None = None) -> None:
    parser = Parser(description=__doc__)
    parser.add_input("--times", help="tables/training_step.csv")
    style.add_arguments(parser)
    args = parser.parse_args(argv)

    look = style.apply(args.style)
    times = read_table(args.times, training_step.COLUMNS, training_step.NUMBERS)
    style.finish(training_step.draw(times, look), args)
    record(args, [args.png, args.pdf])


if __name__ == "__main__":
    run_program(main)
