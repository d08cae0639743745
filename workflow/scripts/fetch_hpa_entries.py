"""Fetches the atlas's entries of genes."""

from hpaloc.arguments import Parser
from hpaloc.files import write_csv, write_digest
from hpaloc.hpa.download import fetch_entries
from hpaloc.log import run_program
from hpaloc.provenance import record
from hpaloc.text_table import read_text_table


def main(argv: list[str] | None = None) -> None:
    parser = Parser(description=__doc__)
    parser.add_input("--genes", help="the genes (fetch_hpa_genes)")
    parser.add_output_folder("--downloads", help="folder of what is fetched of the atlas")
    parser.add_json("--network", help="settings of the network, JSON")
    parser.add_output("--entries", help="out: the entries, and genes without one")
    parser.add_output("--digest", required=False, help="out: sha256 of that table")
    arguments = parser.parse_args(argv)

    genes = read_text_table(arguments.genes, ["gene"])["gene"]
    entries = fetch_entries(genes, arguments.downloads, arguments.network)
    write_csv(entries, arguments.entries)
    if arguments.digest:
        write_digest(arguments.entries, arguments.digest)
    record(arguments, [arguments.entries, arguments.digest])


if __name__ == "__main__":
    run_program(main)
