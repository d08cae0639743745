"""Figure 3: the configured augmentation, group by group, with an example of each transform."""

from pathlib import Path

from hpaloc.arguments import Parser
from hpaloc.draw_statistics import DRAWS, measured
from hpaloc.figures import augmentation, samples, style
from hpaloc.files import write_csv
from hpaloc.index import read_index
from hpaloc.log import run_program
from hpaloc.provenance import record
from hpaloc.scheme import check_scheme


def main(argv: list[str] | None = None) -> None:
    parser = Parser(description=__doc__)
    parser.add_input("--arrays", help="index of the arrays, beside its shards")
    parser.add_json(
        "--recipe",
        metavar="JSON",
        help="recipe, of which augmentation, image_size and seed are read",
    )
    parser.add_output("--table", help="output: the transforms in order (CSV)")
    parser.add_output(
        "--statistics", help="output: what many draws were beside what is stated (CSV)"
    )
    style.add_arguments(parser)
    args = parser.parse_args(argv)

    check_scheme(args.recipe["augmentation"])
    look = style.apply(args.style)
    chosen = samples.choose(read_index(args.arrays)).iloc[:1]
    (image,) = samples.read_pixels(Path(args.arrays).parent, chosen)
    write_csv(augmentation.tidy(args.recipe["augmentation"]), args.table)
    statistics = measured(
        args.recipe["augmentation"], len(image), args.recipe["image_size"], args.recipe["seed"]
    ).round(6)
    write_csv(statistics, args.statistics)
    units = augmentation.units(args.recipe, image)
    subtitle = (
        "from left to right, line by line; of parallel transforms each image and epoch gets one\n"
        f"image {chosen['image_id'].iloc[0]}; each example at the strongest setting, in the"
        f" channels that it changes\nbelow: {DRAWS:,} draws measured beside what the scheme states"
    )
    style.finish(augmentation.draw(units, statistics, look, subtitle), args)
    record(args, [args.png, args.pdf, args.table, args.statistics], pixels_of=args.arrays)


if __name__ == "__main__":
    run_program(main)
