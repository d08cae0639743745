"""Figure 5: the nine losses and scores of every training step of a recipe."""

from hpaloc.arguments import Parser
from hpaloc.figures import style, training_losses
from hpaloc.figures.tables import read_folds
from hpaloc.files import write_csv
from hpaloc.log import run_program
from hpaloc.provenance import record


def main(argv: list[str] | None = None) -> None:
    parser = Parser(description=__doc__)
    parser.add_input("--steps", nargs="+", help="steps.parquet of every fold")
    parser.add_argument(
        "--folds", required=True, nargs="+", type=int, help="numbers of the same folds"
    )
    parser.add_argument("--recipe", required=True, help="name of the recipe, for the title")
    parser.add_output("--table", help="output: what is drawn (CSV)")
    style.add_arguments(parser)
    args = parser.parse_args(argv)

    look = style.apply(args.style)
    steps = read_folds(args.steps, args.folds, training_losses.COLUMNS)
    table = training_losses.tidy(steps)
    write_csv(table, args.table)
    style.finish(training_losses.draw(table, look, args.recipe), args)
    record(args, [args.png, args.pdf, args.table])


if __name__ == "__main__":
    run_program(main)
