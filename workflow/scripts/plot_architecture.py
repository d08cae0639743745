"""Figure 4: the architecture of a recipe's network, read off the network itself."""

from hpaloc.arguments import Parser
from hpaloc.figures import anatomy, architecture, style
from hpaloc.files import write_csv
from hpaloc.log import run_program
from hpaloc.network import build_network
from hpaloc.provenance import record


def main(argv: list[str] | None = None) -> None:
    parser = Parser(description=__doc__)
    parser.add_json(
        "--recipe",
        help="as JSON: network, image_size, pool, dropout, channel_means, normalise",
    )
    parser.add_output("--table", help="output: parts and their sizes (CSV)")
    style.add_arguments(parser)
    args = parser.parse_args(argv)

    look = style.apply(args.style)
    table = anatomy.inspect(build_network(args.recipe), args.recipe["image_size"])
    write_csv(table, args.table)
    style.finish(architecture.draw(table, look, args.recipe["network"]), args)
    record(args, [args.png, args.pdf, args.table])


if __name__ == "__main__":
    run_program(main)
