"""Where the competition's files lie: what the user has, whatever its form, and what was fetched."""

import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from hpaloc.archive import Archive, BadMember
from hpaloc.contents import sum_of_file
from hpaloc.files import sha256_of_file, written_whole
from hpaloc.listing import IMAGE_SUFFIXES, list_images, listing_digest
from hpaloc.log import InputError, some_of

_log = logging.getLogger("hpaloc")

# The table of each part: labels, or only the ids that a submission must have.
TABLES = {"train": "train.csv", "test": "sample_submission.csv"}

_AGAIN = "Delete it and run fetch_kaggle again."


def find_table(places: Sequence[Path], competition: str, part: str) -> tuple[Path, str] | None:
    """The table of a part in the first place that has it: a file, and its member of an archive.

    The member is "" for the table itself. It may also lie in its own zip file, as the
    competition's page hands it out, or in the archive of the whole competition.
    """
    name = TABLES[part]
    for place in places:
        if (place / name).is_file():
            return place / name, ""
        for archive in (place / f"{name}.zip", place / f"{competition}.zip"):
            if archive.is_file():
                with Archive(archive) as opened:
                    if name in opened.members:
                        return archive, name
    return None


def find_images(places: Sequence[Path], competition: str, part: str) -> Path | None:
    """The images of a part in the first place that has them.

    In order: the part's archive, its unpacked folder, the archive of the whole competition.
    """
    for place in places:
        for path in (place / f"{part}.zip", place / part, place / f"{competition}.zip"):
            if path.is_file() or (path.is_dir() and any(path.iterdir())):
                return path
    return None


def unpacked(archive: Path, member: str, path: Path) -> Path:
    """``path``, which becomes the table that is a member of an archive."""
    with Archive(archive) as opened:
        try:
            data = opened.read(member)
        except BadMember as error:
            raise InputError(
                f"{archive}: the member {member} is damaged ({error}). Delete the archive and"
                " download it again."
            ) from error
    with written_whole(path) as aside:
        aside.write_bytes(data)
    return path


def describe_table(path: Path) -> dict[str, Any]:
    return {"path": path.as_posix(), "bytes": path.stat().st_size, "sha256": sha256_of_file(path)}


def describe_archive(path: Path, member: str) -> dict[str, Any]:
    """The archive that a table is unpacked from, and what tells another one apart."""
    return {"path": path.as_posix(), "member": member, "sum": sum_of_file(path.as_posix())}


def describe_images(path: Path, part: str) -> dict[str, Any]:
    """What index and conversion need to know of the images, and what tells others apart.

    ``prefix`` is what names begin with in an archive; ``digest`` covers the names and sizes, and
    in an archive the checksums, of all ``members``.
    """
    if path.is_dir():
        listed = list_images(path)
        if not listed:
            raise InputError(
                f"{path}: the folder holds no images. Remove it, or unpack them there."
            )
        return {
            "path": path.as_posix(),
            "form": "folder",
            "prefix": "",
            "members": len(listed),
            "bytes": sum(size for _, size in listed),
            "digest": listing_digest(listed),
        }
    with Archive(path) as archive:
        prefix = prefix_of(path, list(archive.members), part)
        infos = [archive.members[name] for name in image_names(archive.members, prefix)]
    lines = "".join(f"{info.filename}\t{info.file_size}\t{info.CRC:08x}\n" for info in infos)
    return {
        "path": path.as_posix(),
        "form": "zip",
        "prefix": prefix,
        "members": len(infos),
        "bytes": path.stat().st_size,
        "digest": hashlib.sha256(lines.encode()).hexdigest(),
    }


def read_found(path: str | Path) -> dict[str, Any]:
    """What fetch_kaggle found (``hpaloc.kaggle.fetch.find_or_fetch``), from its JSON file."""
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
        whole = found["part"] in TABLES and all(
            "path" in found[what] for what in ("table", "images")
        )
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise InputError(f"{path}: cannot be read ({error!r}). {_AGAIN}") from error
    if not whole:
        raise InputError(f"{path}: does not name the competition's files. {_AGAIN}")
    return found


def paths_found(found: dict[str, Any]) -> list[str]:
    """The files and folders that fetch_kaggle found; what an older version wrote names no archive."""
    named = [found["table"], found["images"], found.get("table_archive")]
    return list(dict.fromkeys(what["path"] for what in named if what is not None))


def image_names(names: Sequence[str], prefix: str) -> list[str]:
    """The images among the names of an archive that begin with ``prefix``, sorted."""
    return sorted(name for name in names if name.startswith(prefix) and _is_image(name))


def prefix_of(path: Path, names: Sequence[str], part: str) -> str:
    """The folder of a part's images within an archive: ``train/`` or "".

    Raises InputError for an archive that holds others, or archives in its turn.
    """
    images = [name for name in names if _is_image(name)]
    for prefix in (f"{part}/", ""):
        # Images of the other part lie beside them where the archive is the whole competition's.
        if any(PurePosixPath(name).parent.as_posix() == (prefix[:-1] or ".") for name in images):
            return prefix
    nested = [name for name in names if name.lower().endswith(".zip")]
    if f"{part}.zip" in nested:
        raise InputError(
            f"{path}: holds {part}.zip as a whole. An archive in an archive cannot be read in"
            f" place: unpack this one member (unzip {path.name} {part}.zip) into {path.parent}."
        )
    raise InputError(
        f"{path}: no images in {part}/ or at its top; it holds"
        f" {some_of(sorted(names)) or 'nothing'}. It is no archive of the competition's {part} images."
    )


def _is_image(name: str) -> bool:
    path = PurePosixPath(name)
    # macOS adds a hidden twin of each file to the archives that it makes.
    hidden = path.name.startswith(".") or path.parts[0] == "__MACOSX"
    return name.lower().endswith(IMAGE_SUFFIXES) and not hidden
