"""The image files of a selection: fetched in shards, checked, and collected as a raw index."""

import logging
import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import simplejpeg

from hpaloc.classes import CHANNELS
from hpaloc.files import inside
from hpaloc.hpa.names import channel_addresses, channel_path, is_sirna, parse_image_id
from hpaloc.images import BadImage, Header, read_header
from hpaloc.log import InputError, some_of
from hpaloc.shards import shard_range
from hpaloc.transfer import check_free, in_gib, size_of_file
from hpaloc.web.client import fetch_all
from hpaloc.web.files import Refused, Wanted
from hpaloc.web.lock import waited_for
from hpaloc.web.policy import shown_address

# Columns of a table of fetched files, four rows an image. ``fault`` is "" for a good file,
# "sirna" (not asked for), "gone" (404 everywhere), "refused" (nothing usable at any address) or
# "unreachable" (another run may get it); ``reason`` says it in words; ``addresses`` are those that
# were to be asked, without keys, with blanks between.
FETCHED_COLUMNS = (
    "image_id", "channel", "path", "bytes", "sha256", "width", "height", "fault", "reason",
    "addresses",
)  # fmt: skip

_SIRNA = "a plate of siRNA experiments, left out by the configuration"
_LARGEST_BYTES = 32 << 20  # the real ones have up to 0.3 MB
_SMALLEST_SIDE = 32  # pixels: less is a placeholder
# Of a file of the atlas, where none is there yet: for the room on the disk.
_TYPICAL_BYTES = 150_000
_TYPES = ("image/jpeg", "image/jpg", "image/pjpeg", "application/octet-stream", "")

_log = logging.getLogger("hpaloc")


def check_jpeg(path: Path, content_type: str) -> None:
    """Raises Refused unless the file is a whole JPEG image that can be decoded to its end.

    ``content_type`` is that of the answer ("" where none is known): another kind is refused, and
    so is a page that calls itself an image. Broken images are worth asking for again.
    """
    kind = content_type.partition(";")[0].strip().lower()
    data = path.read_bytes()
    if kind.startswith("text/") or re.match(
        rb"\s*<(!doctype|html|\?xml)", data[:200], re.IGNORECASE
    ):
        raise Refused("a page instead of an image")
    if kind not in _TYPES:
        raise Refused(f"{kind[:40]!r} instead of an image")
    if not data.startswith(b"\xff\xd8\xff"):
        raise Refused(
            f"no JPEG file: it begins with {data[:8]!r}" if data else "an empty file", True
        )
    if not data.endswith(b"\xff\xd9"):
        raise Refused("a truncated JPEG file: its end marker is missing", again=True)
    try:
        header = read_header(data)
        # An eighth of the size, grey: every coded bit is read, few pixels are made of them.
        simplejpeg.decode_jpeg(
            data,
            "GRAY",
            min_height=-(-header.height // 8),
            min_width=-(-header.width // 8),
        )
    except (BadImage, ValueError) as error:
        words = str(error).strip().split("\n")[0][:100]
        raise Refused(f"a broken JPEG file ({words})", again=True) from None
    if min(header.width, header.height) < _SMALLEST_SIDE:
        raise Refused(f"{header.width} × {header.height} px: no image of cells")


def fetch_images(
    images: pd.DataFrame, shard: int, shards: int, settings: dict, downloads: Path, network: dict
) -> pd.DataFrame:
    """Fetches the images of a shard of a selection; the table of its files (FETCHED_COLUMNS).

    ``images`` is the whole selection (column ``image_id``), ``settings`` are those of an ``hpa``
    source, ``network`` the configuration's ``fetch``; files go to ``downloads/images``, where
    another program that fetches into ``downloads`` is waited for. Raises InputError for ids that
    are none, for files that could not be had this time (unless ``unreachable`` is leave_out), and
    where more images are missing than ``missing`` allows.
    """
    if images["image_id"].duplicated().any():
        doubled = images.loc[images["image_id"].duplicated(), "image_id"]
        raise InputError(f"the selection holds {doubled.iloc[0]!r} twice. Ids must be unique.")
    rows, wanted = [], {}  # by path: two ids of the paper's set may name the same files
    for row in shard_range(len(images), shard, shards):
        image_id = images["image_id"].iloc[row]
        name = parse_image_id(image_id, f"row {row + 1} of the selection")
        left_out = settings["sirna"] == "leave_out" and is_sirna(name)
        for channel in CHANNELS:
            path = channel_path(name, channel)
            addresses = channel_addresses(name, channel, network["addresses"]["images"])
            rows.append({"image_id": image_id, "channel": channel, "path": path})
            rows[-1]["addresses"] = " ".join(map(shown_address, addresses))
            if left_out:
                rows[-1] |= {"bytes": 0, "sha256": "", "fault": "sirna", "reason": _SIRNA}
                continue
            place = inside(downloads / "images", path, image_id)
            wanted.setdefault(path, Wanted(f"{image_id} ({channel})", addresses, place))
    with waited_for(downloads):
        if not all(item.path.is_file() for item in wanted.values()):
            _check_room(images, settings, downloads)
        fetched = fetch_all(list(wanted.values()), check_jpeg, network, "files", _LARGEST_BYTES)
    results = dict(zip(wanted, fetched, strict=True))
    for row in rows:
        header = None
        if "fault" not in row:
            result = results[row["path"]]
            row |= {"bytes": result.bytes, "sha256": result.sha256, "reason": result.reason}
            row["fault"] = _fault(result.reason, result.gone, result.temporary)
            header = _header(result.path) if not result.reason else None
        row |= {"width": header.width if header else 0, "height": header.height if header else 0}
    table = pd.DataFrame(rows, columns=list(FETCHED_COLUMNS))
    _report(table, shard, shards)
    _check_reached(table, settings["unreachable"])
    _check_share(table, len(images), settings["missing"])
    return table


def _check_room(images: pd.DataFrame, settings: dict, downloads: Path) -> None:
    """Raises InputError where what the whole selection still needs does not fit on the disk.

    By one file of each image, its channels in turn: the share of those that are there, and their
    mean size (where there are none, that of the atlas's).
    """
    sizes = []
    for row, image_id in enumerate(images["image_id"]):
        name = parse_image_id(image_id, f"row {row + 1} of the selection")
        if settings["sirna"] == "keep" or not is_sirna(name):
            path = channel_path(name, CHANNELS[row % len(CHANNELS)])
            sizes.append(size_of_file(downloads / "images" / path))
    there = [size for size in sizes if size]
    each = sum(there) / len(there) if there else _TYPICAL_BYTES
    files = len(CHANNELS) * (len(sizes) - len(there))
    origin = "the mean of those here" if there else "as the atlas's have"
    check_free(
        downloads,
        round(files * each),
        f"About {files} files of the selection are still to come, of {each / 1000:.0f} KB"
        f" ({origin}): {in_gib(round(files * each))}",
    )


def collect_images(
    name: str,
    images: pd.DataFrame,
    tables: Sequence[pd.DataFrame],
    settings: dict,
    downloads: Path,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The raw index of source ``name`` (see hpaloc.index), and the table of what is missing.

    ``images`` is the selection, with columns ``image_id``, ``antibody``, ``gene``, ``cell_line``
    and ``labels``, ``tables`` are those of all shards in their order. The index holds the images
    that have all four channels, in the order of the selection; the table ``image_id, antibody,
    channel, reason, address`` a row for each file that is not there. Raises InputError where
    tables and selection differ, where more is missing than ``settings["missing"]`` allows or
    nothing is left, and where fetched files are no longer in ``downloads/images``.
    """
    files = pd.concat(tables, ignore_index=True)
    expected = images["image_id"].repeat(len(CHANNELS)).tolist()
    if files["image_id"].tolist() != expected:
        raise InputError(
            "the fetched files are not those of the selection, which must have changed meanwhile."
            " Delete the tables of fetched files, beside the selection, and run again: the files"
            " themselves are kept."
        )
    lost = files[files["fault"] != ""]
    missing = _missing_table(lost, files)
    for reason, count in lost.groupby("fault")["image_id"].nunique().items():
        _log.warning("%d images are left out: %s", count, _WORDS[reason])
    _check_share(files, len(images), settings["missing"])
    kept = images[~images["image_id"].isin(set(lost["image_id"]))]
    if kept.empty:
        raise InputError(
            f"none of the {len(images)} images of the selection could be had:"
            f" {some_of(missing['reason'].unique())}."
        )
    good = files[files["image_id"].isin(set(kept["image_id"]))]
    _check_there(good, downloads / "images")
    frame = kept[["image_id", "antibody", "gene", "cell_line", "labels"]].reset_index(drop=True)
    frame = frame.assign(parent=frame["image_id"], source=name, x=0, y=0)
    for channel in CHANNELS:
        of_channel = good[good["channel"] == channel].reset_index(drop=True)
        for column in ("path", "bytes", "sha256"):
            frame[f"{column}_{channel}"] = of_channel[column]
        if channel == CHANNELS[0]:  # the conversion refuses images whose channels differ in size
            frame = frame.assign(width=of_channel["width"], height=of_channel["height"])
    return frame, missing


_WORDS = {
    "sirna": _SIRNA,
    "gone": "their files are at none of the addresses (404)",
    "refused": "what the addresses gave is no use",
    "unreachable": "the hosts could not be reached, or failed; another run may get them",
}


def _fault(reason: str, gone: bool, temporary: bool) -> str:
    if not reason:
        return ""
    if gone:
        return "gone"
    return "unreachable" if temporary else "refused"


def _header(path: Path) -> Header:
    return read_header(path.read_bytes())


def _report(table: pd.DataFrame, shard: int, shards: int) -> None:
    faults = table[table["fault"] != ""].groupby("fault")["image_id"].nunique()
    words = "".join(f", {count} images {fault}" for fault, count in faults.items())
    _log.info(
        "shard %d of %d: %d images, %.1f MB%s",
        shard, shards, table["image_id"].nunique(), table["bytes"].sum() / 1e6, words,
    )  # fmt: skip


def _check_reached(table: pd.DataFrame, policy: str) -> None:
    failed = table[table["fault"] == "unreachable"]
    if policy != "stop" or failed.empty:
        return
    examples = failed.drop_duplicates("reason").head(3)
    raise InputError(
        f"{len(failed)} of {len(table)} files could not be had this time:"
        + "".join(f"\n  {row.path}: {row.reason}" for row in examples.itertuples())
        + "\nWhat was fetched is kept: look to the connection and run again, or set the source's"
        " unreachable to leave_out to go on without them."
    )


def _check_share(table: pd.DataFrame, images: int, missing: dict) -> None:
    """Refuses more missing images, among all the selection's, than the configuration allows."""
    lost = table[~table["fault"].isin(["", "sirna", "unreachable"])]
    count = lost["image_id"].nunique()
    allowed = missing["share"] * images if missing["policy"] == "leave_out" else 0
    if count <= allowed:
        return
    examples = lost.drop_duplicates("reason").head(3)
    raise InputError(
        f"{count} of {images} images are missing, more than the configuration allows:"
        + "".join(
            f"\n  {row.image_id} ({row.channel}): {row.reason}" for row in examples.itertuples()
        )
        + "\nLook whether the addresses of the config (fetch: addresses: images) are right; to go on"
        " without these images, set its missing to {policy: leave_out, share: …}."
    )


def _missing_table(lost: pd.DataFrame, files: pd.DataFrame) -> pd.DataFrame:
    names = {
        image_id: parse_image_id(image_id, "the tables of fetched files")
        for image_id in lost["image_id"].unique()
    }
    withdrawn = _withdrawn(files)
    rows = []
    for file in lost.itertuples():
        name = names[file.image_id]
        reason = file.reason
        if file.fault == "gone" and name.antibody in withdrawn:
            reason += f"; so are all images of antibody {name.antibody}: it seems withdrawn"
        elif file.fault in ("gone", "refused") and name.suffix:
            reason += f"; the id has the suffix {name.suffix}, which not all hosts know"
        rows.append((file.image_id, name.antibody, file.channel, reason, file.addresses))
    return pd.DataFrame(rows, columns=["image_id", "antibody", "channel", "reason", "address"])


def _withdrawn(files: pd.DataFrame) -> set[str]:
    """Antibodies none of whose files that were asked for exist."""
    asked = files[files["fault"] != "sirna"]
    antibody = asked["image_id"].str.partition("_")[0]
    gone = (asked["fault"] == "gone").groupby(antibody).all()
    return set(gone.index[gone])


def _check_there(files: pd.DataFrame, folder: Path) -> None:
    absent = [
        row.path
        for row in files.itertuples()
        if not (folder / row.path).is_file() or (folder / row.path).stat().st_size != row.bytes
    ]
    if absent:
        raise InputError(
            f"{folder}: {len(absent)} files that were fetched are no longer there as they were:"
            f" {some_of(absent)}. Delete the tables of fetched files, beside the selection, and run"
            " again: only these are fetched."
        )
