"""Joins the shards of a source under one index, if the config allows what is in quarantine."""

from hpaloc.arguments import Parser
from hpaloc.convert import index_arrays
from hpaloc.index import read_index
from hpaloc.log import run_program
from hpaloc.provenance import record


def main(argv: list[str] | None = None) -> None:
    parser = Parser(description=__doc__)
    parser.add_input("--raw-index", help="index of the raw images")
    parser.add_input("--rows", nargs="+", help="tables of the shards, in order")
    parser.add_input("--quarantine", help="table that list_quarantine wrote")
    parser.add_argument("--policy", required=True, choices=["stop", "leave_out"])
    parser.add_output("--index", help="out: index of the arrays (Parquet)")
    parser.add_output("--digest", help="out: sha256 of the index and all pixels")
    arguments = parser.parse_args(argv)

    index_arrays(
        raw=read_index(arguments.raw_index),
        rows=arguments.rows,
        quarantine=arguments.quarantine,
        policy=arguments.policy,
        index=arguments.index,
        digest=arguments.digest,
    )
    record(arguments, [arguments.index, arguments.digest])


if __name__ == "__main__":
    run_program(main)
