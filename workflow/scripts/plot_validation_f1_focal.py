"""Figure 6: validation F1 and focal score by epoch of a recipe."""

from hpaloc.arguments import Parser
from hpaloc.figures import style, validation
from hpaloc.figures.tables import read_folds
from hpaloc.files import write_csv
from hpaloc.log import run_program
from hpaloc.provenance import record


def main(argv: list[str] | None = None) -> None:
    parser = Parser(description=__doc__)
    parser.add_input("--epochs", nargs="+", help="epochs.parquet of every fold")
    parser.add_argument(
        "--folds", required=True, nargs="+", type=int, help="numbers of the same folds"
    )
    parser.add_argument("--recipe", required=True, help="name of the recipe, for the title")
    parser.add_output("--table", help="output: what is drawn (CSV)")
    style.add_arguments(parser)
    args = parser.parse_args(argv)

    look = style.apply(args.style)
    table = validation.tidy_scores(read_folds(args.epochs, args.folds, validation.SCORE_COLUMNS))
    write_csv(table, args.table)
    style.finish(validation.draw_scores(table, look, args.recipe), args)
    record(args, [args.png, args.pdf, args.table])


if __name__ == "__main__":
    run_program(main)
