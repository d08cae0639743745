"""Many files from many addresses: what is there is kept, the rest fetched politely."""

from collections.abc import Callable
from pathlib import Path

from hpaloc.web.files import Fetched, Wanted


def fetch_all(
    wanted: list[Wanted],
    check: Callable[[Path, str], None],
    network: dict,
    unit: str,
    max_bytes: int,
    gzipped: bool = False,
) -> list[Fetched]:
    """Fetches what is not there yet; the results in the order of ``wanted``.

    ``check(path, content_type)`` looks at a stored file, in a thread, and raises Refused; with a
    ``content_type`` of "" it also decides whether a file that lies there already is good.
    ``gzipped`` stores every body as a gzip file, however it came (a body that came as gzip as it
    is), else bodies are stored decoded.
    """
    raise NotImplementedError
