"""What the programs say in their warnings, for a benchmark that depends on it."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def warnings_that_begin(words: str) -> Iterator[list[logging.LogRecord]]:
    """Collects the warnings of the programs that begin with ``words``, which are logged as well."""
    found: list[logging.LogRecord] = []

    def note(record: logging.LogRecord) -> bool:
        if record.levelno >= logging.WARNING and record.getMessage().startswith(words):
            found.append(record)
        return True

    log = logging.getLogger("hpaloc")
    log.addFilter(note)
    try:
        yield found
    finally:
        log.removeFilter(note)
