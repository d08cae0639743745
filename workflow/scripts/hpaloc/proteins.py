"""Names of antibodies and genes, such that those of two sources can be compared."""

import logging
import re

import pandas as pd

from hpaloc.hpa.entry import GENE
from hpaloc.log import some_of

log = logging.getLogger("hpaloc")

_ENSEMBL = rf"^({GENE.pattern})(?:\.[0-9]+)?$"


def antibody_number(name: str) -> str:
    """``HPA004109`` and ``4109`` as ``4109``: the atlas's folders are the numbers of the names.

    Names of other makers stay as they are, without blanks around them.
    """
    match = re.fullmatch(r"(?:HPA|CAB)?0*([0-9]+)", name.strip())
    return match[1] if match else name.strip()


def comparable_genes(
    first: pd.Series, second: pd.Series, names: tuple[str, str]
) -> tuple[pd.Series, pd.Series]:
    """The genes of two sources of these names, missing where they cannot be compared.

    Where any is an Ensembl id (taken without the number of its version), symbols and other names
    are missing, with a warning: not to find TSPAN6 among ids does not mean that it is not there.
    """
    genes = [column.astype("string") for column in (first, second)]
    ids = [column.str.extract(_ENSEMBL, expand=False) for column in genes]
    if all(column.isna().all() for column in ids):
        return genes[0], genes[1]
    for name, given, known in zip(names, genes, ids, strict=True):
        others = given[given.notna() & known.isna()]
        if len(others):
            log.warning(
                "%d of %d genes of %s are no Ensembl ids, as others are, and count as not known: %s",
                others.nunique(), given.nunique(), name, some_of(others.unique()),
            )  # fmt: skip
    return ids[0], ids[1]
