"""Pairs of images that are the same field of cells: candidates by hash, verified by thumbnails.

Every image is compared with every other in eight views, in blocks of XOR and bit counts that
fit the processor's cache. Only channels that are telling in both images count. A candidate whose
hashes differ in at most a quarter of these bits is verified: two images are twins where the
normalised correlation of the thumbnails is at least ``LEAST_CORRELATION`` in every such channel.

Time grows with the square of the images: 42,183 take less than a minute on two cores, a million
some six hours. Memory grows with the images: the hashes themselves, and 0.3 KB of each beside.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd

from hpaloc.audit.table import FEWEST_CHANNELS, Hashes
from hpaloc.audit.views import INVERSE, VIEWS, view_of_bits, view_of_planes
from hpaloc.classes import CHANNELS
from hpaloc.log import InputError, Progress

BITS = 64  # of a channel

# Measured in benchmarks/audit.md: planted twins (another size, JPEG at quality 50, gain 0.5 to 2
# with clipping, all together) differ in at most 0.1 of the bits and correlate by at least 0.93,
# images of different cells correlate by at most 0.6. The first limit only saves work.
LARGEST_DISTANCE = 0.25
LEAST_CORRELATION = 0.8

# A source with more is no set of single images (a film, one image under many names); a table
# of all its pairs would help nobody.
MOST_PAIRS = 1_000_000

_ROWS, _COLUMNS = 64, 4096  # of a block: 256 KiB of counts
_VERIFIED = 1024  # candidates verified at a time: 32 MB of thumbnails as float32

CORRELATIONS = [f"correlation_{channel}" for channel in CHANNELS]


def twins_within(hashes: Hashes, parent: np.ndarray, threads: int, where: str) -> pd.DataFrame:
    """Twins among the images of one source; tiles of one ``parent`` (n values) are none.

    Columns as ``twins_between``, a before b in the order of ``hashes``.
    """
    codes = pd.factorize(parent)[0]

    def wanted(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        return codes[first] != codes[second]

    pairs = _twins(hashes, hashes, wanted, threads, where, within=True)
    swapped = (pairs["a"] > pairs["b"]).to_numpy()
    pairs.loc[swapped, ["a", "b"]] = pairs.loc[swapped, ["b", "a"]].to_numpy()
    pairs.loc[swapped, "view"] = INVERSE[pairs.loc[swapped, "view"]]
    return pairs.sort_values(["a", "b"], ignore_index=True)


def twins_between(first: Hashes, second: Hashes, threads: int, where: str) -> pd.DataFrame:
    """Twins of an image of ``first`` and one of ``second``, sorted.

    Columns a and b (rows of ``first`` and ``second``), distance (share of the compared bits that
    differ), correlation_<channel> (NaN where a channel was not compared), view (the number in
    VIEWS of how a must be turned to be b; of several the one of the greatest least correlation).
    Raises InputError where there are more than MOST_PAIRS; ``where`` names the images for it.
    """
    pairs = _twins(first, second, None, threads, where, within=False)
    return pairs.sort_values(["a", "b"], ignore_index=True)


def pairs_table(
    pairs: pd.DataFrame,
    first: pd.DataFrame,
    second: pd.DataFrame,
) -> pd.DataFrame:
    """Twins in words: ``first`` and ``second`` are the indexes that the rows a and b refer to.

    Columns image_id_a, image_id_b, distance, correlation_<channel>, orientation (how image a must
    be turned to be image b), same_labels (True, False, or nothing where an image has none).
    """
    labels_a = first["labels"].to_numpy()[pairs["a"]]
    labels_b = second["labels"].to_numpy()[pairs["b"]]
    same = [
        None if a is None or b is None else set(a) == set(b)
        for a, b in zip(labels_a, labels_b, strict=True)
    ]
    return pd.DataFrame(
        {
            "image_id_a": first["image_id"].to_numpy(object)[pairs["a"]],
            "image_id_b": second["image_id"].to_numpy(object)[pairs["b"]],
            "distance": pairs["distance"].round(4),
            **{name: pairs[name].astype(np.float64).round(4) for name in CORRELATIONS},
            "orientation": [VIEWS[number].name for number in pairs["view"]],
            "same_labels": pd.array(same, dtype="boolean"),
        }
    )


def _twins(
    first: Hashes,
    second: Hashes,
    wanted: Callable[[np.ndarray, np.ndarray], np.ndarray] | None,
    threads: int,
    where: str,
    within: bool,
) -> pd.DataFrame:
    search = _Search(first, second, wanted, within)
    tasks = list(search.tasks())
    progress = Progress("compared", sum(task[3] for task in tasks), "pairs of images")
    found, count = [], 0
    executor = ThreadPoolExecutor(threads)
    try:
        for task, twins in zip(tasks, executor.map(search.run, tasks), strict=True):
            progress.add(task[3])
            found.append(twins)
            count += len(twins)
            if count > MOST_PAIRS:
                a = first.image_id[twins["a"].iloc[0]]
                b = second.image_id[twins["b"].iloc[0]]
                raise InputError(
                    f"{where}: more than {MOST_PAIRS} pairs of images are the same field of cells,"
                    f" such as {a!r} and {b!r}. Take repeated images out of the source."
                )
    finally:
        executor.shutdown(cancel_futures=True)
    return pd.concat([_no_twins(), *found], ignore_index=True)


class _Search:
    """One comparison of two sets of images, cut into tasks that share nothing but its arrays."""

    def __init__(self, first: Hashes, second: Hashes, wanted: Callable | None, within: bool):
        self.sides = (first, second)
        self.wanted, self.within = wanted, within
        self.turned = [view_of_bits(first.bits, view) for view in VIEWS]
        self.planes = second.bits.T
        self.groups = tuple(_groups(hashes) for hashes in self.sides)

    def tasks(self) -> Iterator[tuple[int, int, int, int]]:
        """(group of a, group of b, first row in group a, number of pairs)."""
        for a, (telling_a, rows_a) in enumerate(self.groups[0]):
            for b, (telling_b, rows_b) in enumerate(self.groups[1]):
                if (self.within and b < a) or (telling_a & telling_b).sum() < FEWEST_CHANNELS:
                    continue
                for start in range(0, len(rows_a), _ROWS):
                    height = min(_ROWS, len(rows_a) - start)
                    width = len(rows_b) - (start if self.within and a == b else 0)
                    yield a, b, start, height * width

    def run(self, task: tuple[int, int, int, int]) -> pd.DataFrame:
        a, b, start, _ = task
        (telling_a, rows_a), (telling_b, rows_b) = self.groups[0][a], self.groups[1][b]
        channels = np.flatnonzero(telling_a & telling_b)
        rows = rows_a[start : start + _ROWS]
        same_group = self.within and a == b
        # Narrow blocks stay in the cache; their buffers are made once.
        differing = np.empty((len(rows), _COLUMNS), np.uint64)
        counts = np.empty((2, len(rows), _COLUMNS), np.uint8)
        limit = int(LARGEST_DISTANCE * BITS * len(channels))
        found = []
        for left in range(start if same_group else 0, len(rows_b), _COLUMNS):
            columns = rows_b[left : left + _COLUMNS]
            words = self.planes[channels][:, columns]
            for view, turned in enumerate(self.turned):
                distance = _distances(turned[rows][:, channels], words, differing, counts)
                y, x = np.divmod(np.flatnonzero(distance <= limit), distance.shape[1])
                distances = distance[y, x]
                if same_group:
                    above = left + x > start + y
                    y, x, distances = y[above], x[above], distances[above]
                if len(y):
                    shares = distances / (BITS * len(channels))
                    found += self.verified(rows[y], columns[x], shares, view, channels)
        if not found:
            return _no_twins()
        # The same pair may be alike in several views: the best stays.
        table = pd.concat(found, ignore_index=True)
        table["least"] = table[CORRELATIONS].min(axis=1)
        table = table.sort_values(["a", "b", "least", "view"], ascending=[True, True, False, True])
        return table.drop_duplicates(["a", "b"]).drop(columns="least")

    def verified(
        self, a: np.ndarray, b: np.ndarray, distance: np.ndarray, view: int, channels: np.ndarray
    ) -> list[pd.DataFrame]:
        """Those of the candidates that are twins."""
        if self.wanted is not None:
            kept = self.wanted(a, b)
            a, b, distance = a[kept], b[kept], distance[kept]
        tables = []
        for start in range(0, len(a), _VERIFIED):
            part = slice(start, start + _VERIFIED)
            thumbnails = (
                view_of_planes(self.sides[0].thumbnail[a[part]][:, channels], VIEWS[view]),
                self.sides[1].thumbnail[b[part]][:, channels],
            )
            values = np.full((len(a[part]), len(CHANNELS)), np.nan, np.float32)
            values[:, channels] = correlation(*thumbnails)
            alike = values[:, channels].min(axis=1) >= LEAST_CORRELATION
            tables.append(
                pd.DataFrame(
                    {
                        "a": a[part][alike],
                        "b": b[part][alike],
                        "distance": distance[part][alike],
                        **dict(zip(CORRELATIONS, values[alike].T, strict=True)),
                        "view": np.full(alike.sum(), view),
                    }
                )
            )
        return tables


def correlation(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Normalised correlation of each channel of n pairs of thumbnails: float32 n × channels.

    Thumbnails are int8 n × channels × 32 × 32; a flat one correlates with nothing: 0.
    """
    centred = []
    for thumbnails in (first, second):
        values = thumbnails.astype(np.float32)
        values -= values.mean(axis=(2, 3), keepdims=True)
        centred.append(values)
    a, b = centred
    squares = np.einsum("ncyx,ncyx->nc", a, a) * np.einsum("ncyx,ncyx->nc", b, b)
    return np.einsum("ncyx,ncyx->nc", a, b) / np.sqrt(np.maximum(squares, 1))


def _groups(hashes: Hashes) -> list[tuple[np.ndarray, np.ndarray]]:
    """Images by their telling channels: (bool 4, rows), without those that are blank."""
    masks, group = np.unique(hashes.telling, axis=0, return_inverse=True)
    return [
        (mask, np.flatnonzero(group == number))
        for number, mask in enumerate(masks)
        if mask.sum() >= FEWEST_CHANNELS
    ]


def _distances(
    rows: np.ndarray, words: np.ndarray, differing: np.ndarray, counts: np.ndarray
) -> np.ndarray:
    """Bits in which hashes differ: uint8 n × m, of uint64 n × channels and channels × m.

    Written to the buffers ``differing`` (uint64) and ``counts`` (uint8 2 × …) of at least n × m.
    """
    differing = differing[:, : words.shape[1]]
    total, one = counts[:, :, : words.shape[1]]
    for channel, word in enumerate(words):
        np.bitwise_xor(rows[:, channel, None], word, out=differing)
        if channel == 0:
            np.bitwise_count(differing, out=total)
        else:
            # All 256 bits, an exact negative, would count as 0: verification refuses it.
            np.add(total, np.bitwise_count(differing, out=one), out=total)
    return total


def _no_twins() -> pd.DataFrame:
    types = {"a": np.intp, "b": np.intp, "distance": np.float64}
    types |= dict.fromkeys(CORRELATIONS, np.float32) | {"view": np.intp}
    return pd.DataFrame({name: np.empty(0, dtype) for name, dtype in types.items()})
