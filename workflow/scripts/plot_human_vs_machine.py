"""Figure 9: accuracy of people, network and constant answers, by class and over all classes."""

from hpaloc.arguments import Parser
from hpaloc.figures import people, style
from hpaloc.figures.tables import read_table
from hpaloc.log import run_program
from hpaloc.provenance import record


def main(argv: list[str] | None = None) -> None:
    parser = Parser(description=__doc__)
    parser.add_input("--per-class", help="scores of classes by answerer (CSV)")
    parser.add_input("--scores", help="Table II, a column per answerer (CSV)")
    parser.add_argument("--recipe", required=True, help="name of the recipe, for the title")
    parser.add_argument("--source", required=True, help="name of the test source, for the title")
    style.add_arguments(parser)
    args = parser.parse_args(argv)

    look = style.apply(args.style)
    classes = read_table(args.per_class, people.CLASS_COLUMNS)
    scores = people.long_scores(read_table(args.scores, people.SCORE_COLUMNS))
    subtitle = f"recipe {args.recipe} on test source {args.source}"
    style.finish(people.draw(classes, scores, look, subtitle), args)
    record(args, [args.png, args.pdf])


if __name__ == "__main__":
    run_program(main)
