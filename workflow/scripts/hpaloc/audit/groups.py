"""Groups of duplicates: twins, twins of twins and so on are one group."""

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from hpaloc.log import InputError


def duplicate_groups(image_id: np.ndarray, pairs: pd.DataFrame) -> pd.DataFrame:
    """The group of every image: image_id, duplicates (the first id of its group in ABC order).

    ``pairs`` has columns a and b, rows of ``image_id``. An image without twin is a group of its own.
    """
    count = len(image_id)
    edges = (np.ones(len(pairs), dtype=bool), (pairs["a"].to_numpy(), pairs["b"].to_numpy()))
    graph = coo_array(edges, shape=(count, count))
    group = connected_components(graph, directed=False)[1]
    table = pd.DataFrame({"image_id": image_id})
    return table.assign(duplicates=table["image_id"].groupby(group).transform("min"))


def read_groups(path: str | Path, index: pd.DataFrame, where: str | Path) -> pd.Series:
    """The group of each image of ``index`` (read from ``where``), in its order.

    Raises InputError unless the table holds every image of the index, once.
    """
    try:
        table = pd.read_parquet(path, columns=["image_id", "duplicates"])
    except (OSError, ValueError, pa.ArrowException) as error:
        raise InputError(f"{path}: not a table of groups of duplicates ({error}).") from error
    groups = table.drop_duplicates("image_id").set_index("image_id")["duplicates"]
    groups = groups.reindex(index["image_id"])
    if len(table) != len(index) or groups.isna().any():
        raise InputError(f"{path}: holds other images than {where}. Delete it and make it again.")
    return groups.reset_index(drop=True)
