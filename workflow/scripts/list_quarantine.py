"""Lists the images of all shards that could not be used, with file, channel and reason."""

import logging

from hpaloc.arguments import Parser
from hpaloc.convert import list_quarantine
from hpaloc.log import run_program
from hpaloc.provenance import record


def main(argv: list[str] | None = None) -> None:
    parser = Parser(description=__doc__)
    parser.add_input("--rows", nargs="+", help="tables of the shards, in order")
    parser.add_output("--quarantine", help="out: table of these images (CSV)")
    arguments = parser.parse_args(argv)

    listed = list_quarantine(arguments.rows, arguments.quarantine)
    log = logging.getLogger("hpaloc")
    log.log(
        logging.WARNING if len(listed) else logging.INFO,
        "%d images are in quarantine, listed in %s", len(listed), arguments.quarantine,
    )  # fmt: skip
    for reason, count in listed["reason"].value_counts().head(20).items():
        log.info("  %d: %s", count, reason)
    record(arguments, [arguments.quarantine])


if __name__ == "__main__":
    run_program(main)
