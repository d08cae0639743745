"""Fixtures that tests of all kinds use."""

import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from hpaloc.files import sha256_of_file
from hpaloc.provenance import SUFFIX, VARIABLE

PROJECT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data for checks, beside the project; tests of it skip where it is absent."""
    folder = PROJECT.parent / "shared"
    if not (folder / "data").is_dir():
        pytest.skip(f"the real data for checks are not here: {folder}")
    return folder


@pytest.fixture
def inputs_of(tmp_path, monkeypatch) -> Callable[[Path], set[str]]:
    """Programs leave records, as in a run; gives the files that one says were read for a result."""
    config = tmp_path / "config_of_the_run.yaml"
    config.touch()
    run = {"run": "test", "commit": None, "project": ".", "config": {"path": str(config)}}
    monkeypatch.setenv(VARIABLE, json.dumps(run))

    def recorded(result: Path) -> set[str]:
        inputs = json.loads(result.with_suffix(SUFFIX).read_text())["inputs"]
        for path, facts in inputs.items():
            assert facts["sha256"] == sha256_of_file(path)
        return set(inputs)

    return recorded


@pytest.fixture
def logging_kept():
    """run_program takes the log over, to a stream that is closed once the test has ended."""
    handlers, level = logging.root.handlers[:], logging.root.level
    yield
    logging.captureWarnings(False)
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)
