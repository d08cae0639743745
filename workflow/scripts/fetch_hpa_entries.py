"""Fetches the atlas's entries of genes."""

import argparse
import json

from hpaloc.files import write_csv, write_digest
from hpaloc.hpa.download import fetch_entries
from hpaloc.log import run_program
from hpaloc.provenance import record
from hpaloc.text_table import read_text_table


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--genes", required=True, help="the genes (fetch_hpa_genes)")
    parser.add_argument("--downloads", required=True, help="folder of what is fetched of the atlas")
    parser.add_argument("--network", required=True, help="settings of the network, JSON")
    parser.add_argument("--entries", required=True, help="out: the entries, and genes without one")
    parser.add_argument("--digest", help="out: sha256 of that table")
    arguments = parser.parse_args(argv)

    genes = read_text_table(arguments.genes, ["gene"])["gene"]
    entries = fetch_entries(genes, arguments.downloads, json.loads(arguments.network))
    write_csv(entries, arguments.entries)
    if arguments.digest:
        write_digest(arguments.entries, arguments.digest)
    record(arguments, [arguments.entries, arguments.digest])


if __name__ == "__main__":
    run_program(main)
