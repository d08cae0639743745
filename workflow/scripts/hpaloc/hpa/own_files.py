"""The files of the user's own that the settings of an hpa source name.

Apart from what reads them, since the Snakefile asks too, and Snakemake comes without numpy.
"""

from typing import Any


def selection_files(settings: dict[str, Any]) -> list[str]:
    """What ``hpaloc.hpa.selection`` reads: a list of image ids, and the table that genes are drawn
    from, where they were not drawn before their entries were fetched."""
    select, files = settings["select"], []
    if isinstance(select["ids"], str):
        files.append(select["ids"])
    is_drawn = isinstance(select["genes"], dict) and settings["index"] != "atlas"
    if is_drawn and settings["genes_table"] is not None:
        files.append(settings["genes_table"])
    return files


def genes_files(settings: dict[str, Any]) -> list[str]:
    """What the genes whose entries are fetched are chosen from; nothing where that is fetched."""
    table = settings["genes_table"]
    return [table] if settings["index"] == "atlas" and table is not None else []


def is_list(index: str) -> bool:
    """Whether the ``index`` of an hpa source is a list of images, not a folder of entries."""
    return index.lower().endswith((".csv", ".tsv", ".txt"))
