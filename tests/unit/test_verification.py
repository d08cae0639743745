"""What is named of a source whose files are damaged: words for each of them, no traceback."""

import argparse
import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

import verify
from hpaloc.classes import CHANNELS
from hpaloc.contents import FILE_NAME, UNREADABLE, Contents, state_of, write_contents
from hpaloc.files import sha256_of_file
from hpaloc.provenance import VARIABLE, record

RAW = Path("results/sources/a/raw")
INDEX, SETTINGS = RAW / "index.parquet", RAW / "settings.json"
IMAGES = Path("results/downloads/images")


@pytest.fixture(autouse=True)
def of_a_run(tmp_path, monkeypatch) -> None:
    """The working folder of a run, whose programs leave records."""
    monkeypatch.chdir(tmp_path)
    config = Path("results/config/x.yaml")
    config.parent.mkdir(parents=True)
    config.write_text("run: config\n")
    about = {"path": str(config), "sha256": sha256_of_file(config), "bytes": config.stat().st_size}
    run = {"run": "config", "commit": None, "project": ".", "config": about}
    monkeypatch.setenv(VARIABLE, json.dumps(run))


@pytest.fixture
def collected(monkeypatch) -> None:
    """A source of fetched images, as collect_hpa_images leaves it."""
    columns = {}
    IMAGES.mkdir(parents=True)
    for channel in CHANNELS:
        (IMAGES / f"i_{channel}.jpg").write_text(channel)
        columns[f"path_{channel}"] = [f"i_{channel}.jpg"]
        columns[f"sha256_{channel}"] = [hashlib.sha256(channel.encode()).hexdigest()]
    RAW.mkdir(parents=True)
    pd.DataFrame(columns).to_parquet(INDEX)
    SETTINGS.write_text(json.dumps({"root": str(IMAGES)}))
    monkeypatch.setattr(sys, "argv", ["collect_hpa_images.py"])
    record(argparse.Namespace(name="a"), [INDEX, SETTINGS])


def verified(capsys) -> tuple[int, list[str]]:
    """Status of the program, and what it says before the repair."""
    with pytest.raises(SystemExit) as end:
        verify.main(["--threads", "2"])
        sys.exit(0)
    said = capsys.readouterr().out.partition("\nTo repair:\n")[0]
    return end.value.code, [line for line in said.splitlines() if line.startswith("results/")]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def spoil(path: Path) -> None:
    path.write_bytes(b"{" * path.stat().st_size)


@pytest.mark.parametrize("file", [INDEX, SETTINGS], ids=lambda path: path.name)
@pytest.mark.parametrize(
    ("damage", "named"),
    [(cut, "truncated"), (spoil, "edited"), (Path.unlink, "deleted")],
)
def test_a_damaged_file_of_a_fetched_source_is_named(
    collected, capsys, file: Path, damage: Callable[[Path], None], named: str
) -> None:
    assert verified(capsys) == (0, [])
    damage(file)
    status, said = verified(capsys)
    assert status == 1
    assert len(said) == 1 and said[0].startswith(f"{file}: {named}")


def test_a_fetched_image_that_changed_is_named(collected, capsys) -> None:
    (IMAGES / "i_red.jpg").write_text("RED")
    status, said = verified(capsys)
    assert status == 1
    assert len(said) == 1 and said[0].startswith(f"{IMAGES}/i_red.jpg: not as it was fetched")


def test_a_file_that_could_not_be_read_counts_once_it_can(capsys, monkeypatch) -> None:
    RAW.mkdir(parents=True)
    INDEX.write_text("index")
    monkeypatch.setattr(sys, "argv", ["index_local.py"])
    record(argparse.Namespace(name="a"), [INDEX])
    archive = Path("images.zip")
    archive.write_text("no archive")
    contents = Contents("token", "images.zip", {"": (state_of(archive), UNREADABLE)})
    write_contents(RAW / FILE_NAME, contents)
    assert verified(capsys) == (0, [])
    archive.rename("images.tif")
    write_contents(RAW / FILE_NAME, contents._replace(root="images.tif"))
    status, said = verified(capsys)
    assert status == 1 and said == [f"{INDEX}: made of images.tif, which was edited since"]
