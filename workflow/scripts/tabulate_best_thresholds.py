"""Sets the best thresholds beside those of the paper's Table I."""

from hpaloc.arguments import Parser
from hpaloc.calling import read_thresholds
from hpaloc.files import write_csv
from hpaloc.log import run_program
from hpaloc.provenance import record
from hpaloc.tables import read_table

UNMATCHED = "published rows of classes were computed on samples by an indexing slip: the method"
UNMATCHED += " can be matched, the numbers cannot"


def main(argv: list[str] | None = None) -> None:
    parser = Parser(description=__doc__)
    parser.add_input("--thresholds", help="table of thresholds (CSV)")
    parser.add_input("--published", help="the paper's Table I (CSV)")
    parser.add_output("--table", help="output: both side by side (CSV)")
    args = parser.parse_args(argv)

    ours = read_thresholds(args.thresholds)
    # As text: the published digits stay as they were printed.
    published = read_table(args.published, ("class", "raw", "smoothed"), dtype=str).set_index(
        "class"
    )
    of_fold = [name for name in ours.columns if "_fold_" in name]
    columns = ["class", "name", "positives", "raw", "smoothed", "frequency_matched", *of_fold]
    table = ours[columns].round(6)
    table["published_raw"] = ours["class"].map(published["raw"])
    table["published_smoothed"] = ours["class"].map(published["smoothed"])
    table["fallback"] = ours["fallback"]
    table["note"] = [""] + [UNMATCHED] * (len(table) - 1)
    write_csv(table, args.table)
    record(args, [args.table])


if __name__ == "__main__":
    run_program(main)
