"""CSV lists ``Id,Target`` of atlas images (such as HPAv18RBGY_wodpl.csv) as a list of images."""

import logging
from pathlib import Path

import pandas as pd

from hpaloc.hpa.atlas import ATLAS_SCHEMA, LEFT_OUT_COLUMNS, name_columns
from hpaloc.hpa.names import channel_addresses, parse_image_id
from hpaloc.label_table import RENAME_COLUMNS, labelled_rows
from hpaloc.log import InputError, some_of

log = logging.getLogger("hpaloc")

_COMPOSITE = "http://v18.proteinatlas.org/images/{antibody}/{plate}_{well}_{n}{suffix}_{colour}.jpg"
_COLUMNS = dict.fromkeys(("id", "labels", "antibody", "gene", "cell_line"))


def read_image_list(
    path: str | Path, bad_entries: str = "skip"
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The images of a list, and the rows that name none.

    Ids have four parts ``<antibody>_<plate>_<well>_<n>`` or five (``_cr<hash>``), labels are
    class numbers or names; columns for gene and cell line are taken where the list has them. The
    first table has the columns of ATLAS_SCHEMA, ``walk`` being the number of the row, the second
    one ``file`` and ``reason``. With ``bad_entries`` "stop", an id that is none is an InputError;
    as are a malformed table, a doubled id, and a list without any image.
    """
    rows, left_out = [], []
    for number, (line, image_id, labels, about) in enumerate(
        labelled_rows(path, _COLUMNS, RENAME_COLUMNS)
    ):
        try:
            name = parse_image_id(image_id, f"line {line}")
        except InputError as error:
            if bad_entries == "stop":
                raise InputError(f"{path}, {error} Fix it, or set bad_entries: skip.") from None
            left_out.append((Path(path).name, str(error)))
            continue
        (url,) = channel_addresses(name, "blue_red_green", [_COMPOSITE])
        known = {key: about.get(key) for key in ("gene", "cell_line")}
        rows.append({**known, "labels": labels, **name_columns(name), "walk": number, "url": url})
    if not rows:
        raise InputError(
            f"{path}: no row names an atlas image. {some_of(reason for _, reason in left_out)}"
        )
    if left_out:
        log.warning(
            "%s: %d rows name no atlas image, left out: %s",
            path,
            len(left_out),
            some_of(reason for _, reason in left_out),
        )
    return (
        pd.DataFrame(rows, columns=ATLAS_SCHEMA.names),
        pd.DataFrame(left_out, columns=LEFT_OUT_COLUMNS),
    )
