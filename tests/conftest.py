"""Fixtures that tests of all kinds use."""

import logging
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data for checks, beside the project; tests of it skip where it is absent."""
    folder = PROJECT.parent / "shared"
    if not (folder / "data").is_dir():
        pytest.skip(f"the real data for checks are not here: {folder}")
    return folder


@pytest.fixture
def logging_kept():
    """run_program takes the log over, to a stream that is closed once the test has ended."""
    handlers, level = logging.root.handlers[:], logging.root.level
    yield
    logging.captureWarnings(False)
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)
