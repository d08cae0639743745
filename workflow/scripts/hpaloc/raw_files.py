"""Where the files of a source lie, in a folder or in a zip archive: read by name either way."""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from hpaloc.archive import Archive, BadMember
from hpaloc.files import inside
from hpaloc.images import BadImage
from hpaloc.log import InputError

Read = Callable[[str, str], bytes]


@contextmanager
def raw_files(root: str | Path) -> Iterator[Read]:
    """A function from a path below ``root``, and the words for who asks, to a file's contents.

    ``root`` is a folder or a zip archive, which is opened once. Threads may share the function.
    It raises BadImage for a file that is missing or cannot be read, and InputError for a path
    that leaves the folder.
    """
    root = Path(root)
    if root.suffix.lower() == ".zip" and not root.exists():
        raise InputError(
            f"{root}: the archive of this source is not there any more. Put it back, or delete"
            " the source's raw/files.json and run again."
        )
    if root.is_file():
        with Archive(root) as archive:
            yield functools.partial(_read_member, archive)
    else:
        yield functools.partial(_read_file, root)


def _read_file(root: Path, name: str, where: str) -> bytes:
    try:
        return inside(root, name, where).read_bytes()
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        raise BadImage("missing" if missing else f"cannot be read ({error.strerror})") from error


def _read_member(archive: Archive, name: str, where: str) -> bytes:
    inside(archive.path, name, where)
    try:
        return archive.read(name)
    except FileNotFoundError as error:
        raise BadImage("missing") from error
    except OSError as error:
        raise BadImage(f"cannot be read ({error.strerror})") from error
    except BadMember as error:
        raise BadImage(f"damaged in {archive.path.name}: {error}") from error
