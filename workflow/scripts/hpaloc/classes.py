"""The 28 subcellular locations, the four channels, and label lists as text."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from hpaloc.log import InputError

if TYPE_CHECKING:  # the configuration is checked where Snakemake runs, which comes without NumPy
    import numpy as np

CLASSES_CSV = Path(__file__).resolve().parents[3] / "resources" / "classes.csv"

with open(CLASSES_CSV, newline="", encoding="utf-8") as _file:
    CLASS_NAMES: tuple[str, ...] = tuple(row["name"] for row in csv.DictReader(_file))

N_CLASSES = len(CLASS_NAMES)
_NUMBER_OF_NAME = {name.lower(): number for number, name in enumerate(CLASS_NAMES)}

# The order of the planes of every array: channels last, always these four.
CHANNELS = ("red", "green", "blue", "yellow")
CHANNEL_STAINS = ("microtubules", "protein", "nucleus", "endoplasmic reticulum")

PROBABILITY_COLUMNS = tuple(f"p{number:02d}" for number in range(N_CLASSES))


def _is_class_number(word: str) -> bool:
    # int() also takes "+1", "1_0" and Arabic-Indic digits, and fails at thousands of digits.
    return word.isascii() and word.isdigit() and len(word) <= 2 and int(word) < N_CLASSES


def class_number(text: str, where: str) -> int:
    """The class of a number or of a name of resources/classes.csv (case does not count)."""
    word = text.strip()
    if _is_class_number(word):
        return int(word)
    if word.lower() in _NUMBER_OF_NAME:
        return _NUMBER_OF_NAME[word.lower()]
    raise InputError(
        f"{where}: {word!r} is neither a class number from 0 to {N_CLASSES - 1}"
        f" nor a class name ({', '.join(CLASS_NAMES)})."
    )


def format_labels(labels: Iterable[int]) -> str:
    """``[16, 0]`` as ``"16 0"``, the format of Kaggle's tables."""
    return " ".join(str(label) for label in labels)


def multi_hot(label_lists: Iterable[Iterable[int]]) -> np.ndarray:
    """Label lists of n images as a bool array n × 28."""
    import numpy as np

    lists = [list(labels) for labels in label_lists]
    lengths = [len(labels) for labels in lists]
    classes = np.fromiter(chain.from_iterable(lists), dtype=np.int64, count=sum(lengths))
    hot = np.zeros((len(lists), N_CLASSES), dtype=bool)
    hot[np.repeat(np.arange(len(lists)), lengths), classes] = True
    return hot
