"""A folder of a user's own images as a source: names to channels, labels to images, tiles."""

import logging
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from hpaloc.classes import CHANNELS
from hpaloc.file_facts import file_columns, image_size, scan_files, some_reasons
from hpaloc.grey_range import grey_ranges
from hpaloc.image_header import reading_of
from hpaloc.label_table import read_labels
from hpaloc.listing import (
    IMAGE_SUFFIXES,
    ignored_by,
    list_images,
    other_endings,
    pattern_regex,
)
from hpaloc.log import InputError, some_of
from hpaloc.unicode import nfc

_log = logging.getLogger("hpaloc")


def index_folder(name: str, settings: dict, workers: int) -> pd.DataFrame:
    """The raw index (see hpaloc.index) of a folder of images, sorted by image id.

    ``settings`` are those of a ``local`` source, all keys present: ``folder``, ``pattern``,
    ``channels``, ``ignore``, ``stack_order``, ``slices``, ``incomplete``, ``labels``, ``columns``,
    ``unlabelled``, ``absent``, ``grey_range`` and ``tiles``. Files that are no images stay in the index: the
    conversion lists them. Raises InputError for a folder or a table that cannot be meant.
    """
    folder = Path(settings["folder"])
    files = find_images(folder, settings["pattern"], settings["channels"], settings["ignore"])
    complete(files, folder, settings)
    table = None
    if settings["labels"] is not None:
        table = read_labels(settings["labels"], settings["columns"])
        files = _labelled(files, table, folder, settings)
    paths = sorted({path for paths in files.values() for path in paths})
    facts, bad = scan_files(
        lambda path: (folder / path).read_bytes(), paths, workers, reading_of(settings)
    )
    if bad:
        _log.warning(
            "%s: %d of %d files cannot be used: %s",
            folder, len(bad), len(paths), some_reasons(bad),
        )  # fmt: skip
    ranges = grey_ranges(
        folder,
        files,
        {path: fact.header for path, fact in facts.items()},
        settings,
        workers,
    )
    sizes = {image_id: image_size(paths, facts) for image_id, paths in files.items()}
    box = _tile_side(sizes, folder, settings["tiles"])
    rows = []
    for image_id, paths in sorted(files.items()):
        about = table[image_id] if table else {"labels": None}
        row = {"image_id": image_id, "parent": image_id, "source": name, **about}
        rows += _boxes(row | file_columns(paths, facts, ranges), sizes[image_id], box)
    frame = pd.DataFrame(rows).sort_values("image_id", kind="stable", ignore_index=True)
    stretched = frame[frame["width"] != frame["height"]]
    if len(stretched):
        _log.warning(
            "%d images are not square and will be stretched to squares (the first is %s);"
            " tiles keep the shape of cells",
            len(stretched), stretched["image_id"].iloc[0],
        )  # fmt: skip
    return frame


def find_images(
    folder: Path, pattern: str, channels: dict[str, str], ignore: Sequence[str] = ()
) -> dict[str, list[str]]:
    """The files of every image of a folder and its subfolders: image id to four paths.

    ``pattern`` describes a path within the folder without its extension: ``{id}`` is the id
    (``/`` in it becomes ``_``), ``{channel}`` the name of a channel in ``channels`` (channel to
    the text in file names), ``{any}`` a part of one name that does not matter: a
    warning names images whose files differ in it other than by channel. Without ``{channel}`` each
    file holds all four planes. A channel without a file is "". Files and
    folders whose names begin with a dot are left out, and those that ``ignore`` names (glob
    patterns, see ``hpaloc.listing.ignored_by``).

    Names are compared, and ids given, in Unicode NFC; paths are as they are on disk. Raises
    InputError where files of different folders would become one image.
    """
    if not folder.is_dir():
        raise InputError(
            f"{folder}: there is no such folder of images. Put them there, or name the folder where"
            " they are."
        )
    regex = pattern_regex(pattern, channels)
    channel_of = {nfc(text): channel for channel, text in channels.items()}
    found: dict[str, dict[str, str]] = {}
    place_of: dict[str, tuple[dict[str, str], str]] = {}
    # What {any} is in the file of each channel, where the files of an image may differ in it.
    each_of: dict[str, dict[str, list[str]]] = {}
    strange = []
    every = [path for path, _ in list_images(folder)]
    is_ignored = ignored_by(ignore)
    ignored = [path for path in every if is_ignored(path)]
    listed = [path for path in every if not is_ignored(path)] if ignored else every
    coded = [path for path in listed if not _is_utf_8(path)]
    if coded:
        raise InputError(
            f"{folder}: the names of {len(coded)} files are not UTF-8: {some_of(coded)}."
            " Rename them, or their folder."
        )
    for path in listed:
        match = regex.fullmatch(nfc(path[: path.rindex(".")]))
        if match is None:
            strange.append(path)
            continue
        parts = match.groupdict()
        text = parts.pop("channel", None)
        each = [parts.pop(name) for name in [*parts] if name.startswith("each")]
        image_id = parts["id"].replace("/", "_")
        files = found.setdefault(image_id, {})
        _check_place(parts, path, *place_of.setdefault(image_id, (parts, path)), folder)
        for channel in CHANNELS if text is None else [channel_of[text]]:
            if channel in files:
                raise InputError(_doubled(files[channel], path, channel, image_id, folder))
            files[channel] = path
            if each:
                each_of.setdefault(image_id, {})[channel] = each
    if ignored:
        _log.warning(
            "%s: %d image files are left out by ignore (%s): %s",
            folder, len(ignored), ", ".join(ignore), some_of(ignored),
        )  # fmt: skip
    if strange:
        _log.warning(
            "%s: %d image files do not fit the pattern %s and are left out: %s",
            folder, len(strange), pattern, some_of(strange),
        )  # fmt: skip
    if mixed := _mixed(each_of):
        named = some_of(
            f"{image_id} ({', '.join(sorted(set(found[image_id].values())))})" for image_id in mixed
        )
        _log.warning(
            "%s: %d images are made of files that differ in {any} of the pattern %s, and not only"
            " by channel: %s. If these are different images, let {id} cover that part",
            folder, len(mixed), pattern, named,
        )  # fmt: skip
    others = other_endings(folder)
    if others:
        _log.info(
            "%s: %d files are no PNG, JPG, TIFF or NPY by their ending and are left out: %s",
            folder, others.total(),
            ", ".join(f"{count} {end or 'without'}" for end, count in sorted(others.items())),
        )  # fmt: skip
    if not found:
        raise InputError(
            f"{folder}: no image file fits the pattern {pattern!r} with the channels"
            f" {', '.join(channels.values())}; "
            + (
                f"found {some_of(strange)}."
                if strange
                else f"all {len(ignored)} of them are left out by ignore: {some_of(ignored)}."
                if ignored
                else f"no {', '.join(IMAGE_SUFFIXES)} file at all."
            )
        )
    return {
        image_id: [files.get(channel, "") for channel in CHANNELS]
        for image_id, files in found.items()
    }


def _check_place(
    parts: dict[str, str], path: str, first: dict[str, str], first_path: str, folder: Path
) -> None:
    """Refuses a file of another place than the first one of the same id.

    ``parts``: what the pattern's {id}, and {any} in names of folders, are in the path.
    """
    if parts == first:
        return
    image_id = parts["id"].replace("/", "_")
    both = f"{folder}: {first_path} and {path} would be one image, {image_id!r}"
    if parts["id"] != first["id"]:
        raise InputError(
            f"{both}: / in an id becomes _, so {first['id']!r} and {parts['id']!r} are the same."
            " Rename one of them, or make each folder a source of its own."
        )
    raise InputError(
        f"{both}, with channels in different folders. If these are different images, let {{id}} of"
        " the pattern cover the folder's name in place of {any}. If they are one image, move its"
        " channels into one folder, or let {channel} stand in the name of the folder that differs."
    )


def _mixed(each_of: dict[str, dict[str, list[str]]]) -> list[str]:
    """The images whose files may not belong together, by what {any} is in them.

    ``each_of`` has it by image and channel, for each {any} in order. Files of an image may well
    differ in it: by channel, alike in all images (``ch00``), or each file from all others (a time,
    an id).
    """
    mixed: set[str] = set()
    count = len(next(iter(next(iter(each_of.values())).values()))) if each_of else 0
    for k in range(count):
        of_channel: dict[str, set[str]] = {}
        of_image: dict[str, set[str]] = {}
        files = 0
        for image_id, by_channel in each_of.items():
            for channel, each in by_channel.items():
                of_channel.setdefault(channel, set()).add(each[k])
                of_image.setdefault(image_id, set()).add(each[k])
                files += 1
        by_channel = len(each_of) > 1 and all(len(values) == 1 for values in of_channel.values())
        all_differ = len(set().union(*of_channel.values())) == files
        if not by_channel and not all_differ:
            mixed |= {image_id for image_id, values in of_image.items() if len(values) > 1}
    return sorted(mixed)


def _doubled(first: str, second: str, channel: str, image_id: str, folder: Path) -> str:
    message = f"{folder}: {first} and {second} are both the {channel} channel of image {image_id!r}"
    if first != second and nfc(first) == nfc(second):
        return (
            f"{message}. Their names differ only in how accented letters are stored (Unicode NFC"
            f" and NFD: {first!a}, {second!a}), as after copying between a Mac and another"
            " computer. Remove one."
        )
    return (
        f"{message}. Ids must be unique: remove one, or let {{id}} of the pattern cover more of the"
        " path."
    )


def tile_starts(length: int, tile: int) -> list[int]:
    """Where tiles of ``tile`` pixels begin along an axis of ``length`` ≥ ``tile`` pixels.

    As few tiles as cover the axis, all of the same size and all inside: the first begins at 0,
    the last ends at ``length``, and neighbours share evenly what is too much.
    """
    count = -(-length // tile)
    if count == 1:
        return [0]
    return [k * (length - tile) // (count - 1) for k in range(count)]


def complete(
    files: dict[str, list[str]],
    folder: Path,
    settings: dict,
    otherwise: str = "set incomplete to quarantine",
) -> None:
    """Refuses missing channel files, or fills in the names that are expected for them.

    ``files`` of ``find_images``; reads ``channels``, ``pattern`` and ``incomplete``. ``otherwise``
    says how to go on without these images.
    """
    texts = settings["channels"]
    for k, channel in enumerate(CHANNELS):
        if not any(paths[k] for paths in files.values()):
            raise InputError(
                f"{folder}: no image has a file of the {channel} channel"
                f" ({texts[channel]!r} in the pattern {settings['pattern']!r})."
            )
    missing = [
        (image_id, k) for image_id, paths in sorted(files.items()) for k in range(4) if not paths[k]
    ]
    if not missing:
        return
    named = some_of(f"{image_id} lacks {texts[CHANNELS[k]]}" for image_id, k in missing)
    if settings["incomplete"] == "stop":
        raise InputError(
            f"{folder}: {len(missing)} channel files are missing: {named}. Add them, remove the"
            f" other files of these images, or {otherwise}."
        )
    _log.warning("%s: %d channel files are missing: %s", folder, len(missing), named)
    regex = pattern_regex(settings["pattern"], texts)
    for image_id, k in missing:
        path = nfc(next(path for path in files[image_id] if path))
        start, end = regex.fullmatch(path[: path.rindex(".")]).span("channel")
        files[image_id][k] = path[:start] + nfc(texts[CHANNELS[k]]) + path[end:]


def _labelled(
    files: dict[str, list[str]], table: dict[str, dict], folder: Path, settings: dict
) -> dict[str, list[str]]:
    """The images that have a row of labels; what lacks one or the other is refused or logged."""
    both = {image_id: paths for image_id, paths in files.items() if image_id in table}
    if not both:
        raise InputError(
            f"{settings['labels']}: no id of the table is an image of {folder}: the table has"
            f" {some_of(sorted(table)) or 'no rows'}, the folder {some_of(sorted(files))}."
        )
    for key, lacking, what, other in (
        ("unlabelled", sorted(files.keys() - table.keys()), "images", "row in"),
        ("absent", sorted(table.keys() - files.keys()), "rows", "image for them in"),
    ):
        if not lacking:
            continue
        first, second = (folder, settings["labels"])
        if key == "absent":
            first, second = second, first
        message = f"{first}: {len(lacking)} {what} have no {other} {second}: {some_of(lacking)}"
        if settings[key] == "stop":
            raise InputError(f"{message}. Fix the table, or set {key} to leave_out.")
        _log.warning("%s; left out", message)
    return both


def _tile_side(sizes: dict[str, tuple[int, int]], folder: Path, tiles: dict | None) -> int | None:
    """Side of a tile in pixels of the files; refused where it is more than an image has."""
    if tiles is None:
        return None
    box = tiles["size"]
    if tiles["pixel_size"] is not None and tiles["source_pixel_size"] is not None:
        box = max(1, round(box * tiles["pixel_size"] / tiles["source_pixel_size"]))
    small = [
        f"{image_id} has {width} × {height} px"
        for image_id, (width, height) in sorted(sizes.items())
        if 0 < min(width, height) < box
    ]
    if small:
        raise InputError(
            f"{folder}: a tile of {tiles['size']} px is {box} px of the file, more than"
            f" {len(small)} of {len(sizes)} images have: {some_of(small)}. Choose smaller tiles,"
            " or remove these images."
        )
    return box


def _boxes(row: dict, size: tuple[int, int], box: int | None) -> list[dict]:
    """The rows of one image: itself, or its tiles of ``box`` pixels."""
    width, height = size
    if box is None or size == (0, 0):
        return [{**row, "x": 0, "y": 0, "width": width, "height": height}]
    return [
        {**row, "image_id": f"{row['image_id']}_y{y:05d}_x{x:05d}",
         "x": x, "y": y, "width": box, "height": box}
        for y in tile_starts(height, box)
        for x in tile_starts(width, box)
    ]  # fmt: skip


def _is_utf_8(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True
