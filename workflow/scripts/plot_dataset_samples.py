"""Figure 1: two samples of the training images, four channels and their composite."""

from pathlib import Path

from hpaloc.arguments import Parser
from hpaloc.figures import samples, style
from hpaloc.files import write_csv
from hpaloc.index import read_index
from hpaloc.log import run_program
from hpaloc.provenance import record


def main(argv: list[str] | None = None) -> None:
    parser = Parser(description=__doc__)
    parser.add_input("--arrays", help="index of the arrays, beside its shards")
    parser.add_output("--table", help="output: what is drawn (CSV)")
    style.add_arguments(parser)
    args = parser.parse_args(argv)

    look = style.apply(args.style)
    chosen = samples.choose(read_index(args.arrays))
    images = samples.read_pixels(Path(args.arrays).parent, chosen)
    table = samples.tidy(chosen, images)
    write_csv(table, args.table)
    style.finish(samples.draw(table, images, look), args)
    record(args, [args.png, args.pdf, args.table], pixels_of=args.arrays)


if __name__ == "__main__":
    run_program(main)
