"""Figure 1: two samples of the data, four channels and their composite."""

from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from hpaloc.classes import CHANNEL_STAINS, CHANNELS, CLASS_NAMES
from hpaloc.figures import style as look
from hpaloc.files import map_array
from hpaloc.log import InputError

WHITE_PERCENTILE = 99.8
COLUMNS = ("image_id", "labels", "shard", "row")


def choose(index: pd.DataFrame) -> pd.DataFrame:
    """Two images: the first with two or more labels, and the first such that shares none of them.

    Where there is no second of that kind, the next image with other labels, or else
    the next image at all. Raises InputError where the index has fewer than two images.
    """
    if len(index) < 2:
        raise InputError(f"two samples are drawn, but the index has {len(index)} image(s).")
    labels = [frozenset(_labels(cell)) for cell in index["labels"]]
    first = next((i for i, one in enumerate(labels) if len(one) >= 2), 0)

    def preference(i: int) -> tuple[bool, bool, bool, int]:
        several, apart = len(labels[i]) >= 2, not labels[i] & labels[first]
        return (not (several and apart), not several, labels[i] == labels[first], i)

    second = min((i for i in range(len(index)) if i != first), key=preference)
    return index.iloc[[first, second]]


def read_pixels(folder: str | Path, chosen: pd.DataFrame) -> list[np.ndarray]:
    """The arrays (S × S × 4, uint8) of rows of an arrays index that lies in ``folder``."""
    images = []
    for shard, row in zip(chosen["shard"], chosen["row"], strict=True):
        path = Path(folder) / f"shard_{shard:03d}.npy"
        try:
            images.append(map_array(path)[row].copy())
        except (OSError, ValueError, IndexError) as error:
            raise InputError(f"{path}: row {row} cannot be read ({error}).") from None
    return images


def tidy(chosen: pd.DataFrame, images: list[np.ndarray]) -> pd.DataFrame:
    """One row per sample and channel: what is drawn, and the grey value that is drawn white."""
    rows = []
    for sample, (record, pixels) in enumerate(
        zip(chosen.to_dict("records"), images, strict=True), 1
    ):
        labels = _labels(record["labels"])
        for number, channel in enumerate(CHANNELS):
            plane = pixels[..., number]
            rows.append(
                {
                    "sample": sample,
                    "image_id": record["image_id"],
                    "labels": " ".join(map(str, labels)),
                    "names": "; ".join(CLASS_NAMES[label] for label in labels),
                    "cell_line": record.get("cell_line"),
                    "channel": channel,
                    "stain": CHANNEL_STAINS[number],
                    "mean": round(float(plane.mean()), 4),
                    "white": max(1.0, float(np.percentile(plane, WHITE_PERCENTILE))),
                }
            )
    return pd.DataFrame(rows)


def draw(table: pd.DataFrame, images: list[np.ndarray], style: dict[str, Any]) -> Figure:
    """A row per sample: the four channels in grey and the composite in the channels' colours."""
    fig = look.figure(style, height_mm=100)
    side = images[0].shape[0]
    look.title(
        fig,
        "Two samples of the training images: four channels and their composite",
        f"arrays of {side} × {side} px; each channel stretched to its {WHITE_PERCENTILE} %"
        " percentile for display",
    )
    line = 1.6 * mpl.rcParams["font.size"] / (fig.get_figheight() * look.POINTS_PER_INCH)
    look.keep_free(fig, bottom=line)
    fig.get_layout_engine().set(hspace=0.14, wspace=0.02)
    axes = fig.subplots(len(images), 5)
    for sample, (row, pixels) in enumerate(zip(axes, images, strict=True), 1):
        about = table[table["sample"] == sample]
        scaled = np.clip(pixels / about["white"].to_numpy(), 0, 1)
        for number, channel in enumerate(CHANNELS):
            row[number].imshow(scaled[..., number], cmap="gray", vmin=0, vmax=1)
            if sample == 1:
                row[number].set_title(
                    f"{channel}\n{CHANNEL_STAINS[number]}", weight="normal", loc="center"
                )
        row[4].imshow(composite(scaled))
        if sample == 1:
            row[4].set_title("composite\nin these colours", weight="normal", loc="center")
        below = row[0].text(0, -0.04, _caption(about.iloc[0]), transform=row[0].transAxes, va="top")
        # As wide as the row: the layout would make the first column as wide as the text.
        below.set_in_layout(False)
        for ax in row:
            ax.set_axis_off()
    return fig


def composite(scaled: np.ndarray) -> np.ndarray:
    """S × S × 4 in 0..1 as RGB: yellow, the faintest in shape, at half strength in red and green."""
    red, green, blue, yellow = np.moveaxis(scaled, -1, 0)
    return np.clip(np.stack([red + yellow / 2, green + yellow / 2, blue], axis=-1), 0, 1)


def _caption(record: pd.Series) -> str:
    names = record["names"].replace("; ", " + ") or "no label"
    line = f"  ·  cell line {record['cell_line']}" if isinstance(record["cell_line"], str) else ""
    return f"{names}{line}  ·  {record['image_id']}"


def _labels(cell: Any) -> list[int]:
    return [] if cell is None or isinstance(cell, float) else [int(label) for label in cell]
