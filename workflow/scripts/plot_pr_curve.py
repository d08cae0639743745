"""Figure 8: precision-recall curves of the final model on a test source."""

from hpaloc.arguments import Parser
from hpaloc.figures import pr_curve, style
from hpaloc.figures.tables import read_table
from hpaloc.log import run_program
from hpaloc.provenance import record


def main(argv: list[str] | None = None) -> None:
    parser = Parser(description=__doc__)
    parser.add_input("--curves", help="points of the curves (Parquet)")
    parser.add_input("--metrics", help="scores of folds and strategies (CSV)")
    parser.add_input(
        "--thresholds", required=False, help="table of thresholds (CSV), for the number"
    )
    parser.add_argument("--strategy", required=True, help="strategy whose point is marked")
    parser.add_argument("--recipe", required=True, help="name of the recipe, for the title")
    parser.add_argument("--source", required=True, help="name of the test source, for the title")
    style.add_arguments(parser)
    args = parser.parse_args(argv)

    look = style.apply(args.style)
    curves = read_table(args.curves, pr_curve.COLUMNS)
    metrics = read_table(args.metrics, ("fold", "strategy", "metric", "value"))
    thresholds = read_table(args.thresholds, ("class", "raw")) if args.thresholds else None
    point = pr_curve.operating_point(metrics, args.strategy)
    point_name = pr_curve.strategy_in_words(args.strategy, thresholds)
    subtitle = f"recipe {args.recipe}, mean of its trained folds, on test source {args.source}"
    style.finish(pr_curve.draw(curves, look, subtitle, point, point_name), args)
    record(args, [args.png, args.pdf])


if __name__ == "__main__":
    run_program(main)
