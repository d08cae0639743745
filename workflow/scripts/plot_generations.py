"""The paper's last figure: generations of models against their training F1."""

from hpaloc.arguments import Parser
from hpaloc.figures import generations, style
from hpaloc.figures.tables import read_folds
from hpaloc.files import write_csv
from hpaloc.log import run_program
from hpaloc.provenance import record


def main(argv: list[str] | None = None) -> None:
    parser = Parser(description=__doc__)
    parser.add_input("--epochs", nargs="+", help="epochs.parquet of every recipe and fold")
    parser.add_argument(
        "--recipes",
        required=True,
        nargs="+",
        help="recipe of each of these files; generations are numbered in this order",
    )
    parser.add_argument(
        "--folds", required=True, nargs="+", type=int, help="fold of each of these files"
    )
    parser.add_output("--table", help="output: what is drawn (CSV)")
    style.add_arguments(parser)
    args = parser.parse_args(argv)

    look = style.apply(args.style)
    epochs = read_folds(args.epochs, args.folds, generations.COLUMNS, args.recipes)
    table = generations.tidy(epochs)
    write_csv(table, args.table)
    style.finish(generations.draw(table, look), args)
    record(args, [args.png, args.pdf, args.table])


if __name__ == "__main__":
    run_program(main)
