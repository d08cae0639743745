"""Fetches the atlas's table of genes, and lists those whose entries a source needs."""

import logging

import pandas as pd

from hpaloc.arguments import Parser
from hpaloc.files import write_csv
from hpaloc.hpa.download import fetch_genes_table
from hpaloc.hpa.genes import chosen_genes, read_genes
from hpaloc.log import run_program
from hpaloc.provenance import record


def main(argv: list[str] | None = None) -> None:
    parser = Parser(description=__doc__)
    parser.add_json("--settings", help="settings of the source, JSON")
    parser.add_output_folder("--downloads", help="folder of what is fetched of the atlas")
    parser.add_json("--network", help="settings of the network, JSON")
    parser.add_output("--genes", help="out: the genes, in the order of the walk")
    arguments = parser.parse_args(argv)

    settings = arguments.settings
    table = settings["genes_table"]
    if table is None:
        table = fetch_genes_table(arguments.downloads, arguments.network)
    genes = read_genes(table)
    chosen = chosen_genes(genes, settings["select"])
    logging.getLogger("hpaloc").info("%d of the table's %d genes", len(chosen), len(genes))
    rows = [(gene.gene, gene.name, gene.reliability, ";".join(gene.locations)) for gene in chosen]
    write_csv(
        pd.DataFrame(rows, columns=["gene", "name", "reliability", "locations"]), arguments.genes
    )
    record(arguments, [arguments.genes], also_read=[table])


if __name__ == "__main__":
    run_program(main)
