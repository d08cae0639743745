"""Changed files of a source: found by their contents, hinted at by time stamps."""

import json
import os
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpaloc.contents import (
    UNREADABLE,
    Changes,
    Contents,
    changes,
    read_contents,
    renewed,
    state_of,
    sum_of_file,
    sums_of_files,
    token_of,
    write_contents,
)
from hpaloc.listing import FileState, image_states
from hpaloc.log import InputError
from hpaloc.triggers import (
    AS_FOUND,
    NOTHING_KNOWN,
    status_of_competition,
    status_of_folder,
    status_of_list,
)


def replace_keeping_time(path: Path, data: bytes) -> None:
    """Other contents of the same length, with the time of modification that the old ones had."""
    before = path.stat()
    assert len(data) == before.st_size
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    images = tmp_path / "images"
    (images / "plate").mkdir(parents=True)
    for name in ("a_red.png", "a_green.png", "plate/b_red.png"):
        (images / name).write_bytes(name.encode())
    return images


def contents_of(folder: Path) -> Contents:
    states = image_states(folder)
    files = {name: (state, sum_of_file(f"{folder}/{name}")) for name, state in states.items()}
    return Contents(token_of(states), str(folder), files)


def test_states_are_of_image_files_by_their_relative_path(folder):
    (folder / ".hidden.png").touch()
    (folder / "notes.txt").touch()
    (folder / "gone.png").symlink_to("nowhere.png")
    (folder / "plate" / "up").symlink_to(folder, target_is_directory=True)
    states = image_states(folder)
    assert list(states) == ["a_green.png", "a_red.png", "gone.png", "plate/b_red.png"]
    assert states["gone.png"] == FileState(0, 0, 0)
    assert states["a_red.png"] == state_of(folder / "a_red.png")
    assert states["a_red.png"].bytes == len("a_red.png")


def test_a_folder_that_cannot_be_listed_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"file: the folder cannot be read \(Not a directory\)"):
        image_states(tmp_path / "file")


def test_nothing_is_read_where_nothing_was_touched(folder, monkeypatch):
    contents = contents_of(folder)
    monkeypatch.setattr("hpaloc.contents.sum_of_file", None)
    assert changes(contents, image_states(folder)) == Changes([], [], [], [])


def test_touched_files_are_not_changed(folder):
    contents = contents_of(folder)
    for path in folder.rglob("*.png"):
        os.utime(path, (1, 1))
    found = changes(contents, image_states(folder))
    assert not found
    assert sorted(found.touched) == sorted(contents.files)
    again = renewed(contents, image_states(folder))
    assert again.token == contents.token
    assert changes(again, image_states(folder)) == Changes([], [], [], [])


@pytest.mark.parametrize("keep_time", [False, True])
def test_other_contents_of_the_same_length_are_found(folder, keep_time):
    contents = contents_of(folder)
    path = folder / "a_red.png"
    if keep_time:
        replace_keeping_time(path, b"other 9 B")
    else:
        path.write_bytes(b"other 9 B")
    found = changes(contents, image_states(folder))
    assert found.edited == ["a_red.png"]
    assert str(found) == "1 file edited (a_red.png)"
    assert token_of(image_states(folder)) != contents.token


def test_added_and_removed_files_are_found_without_reading(folder, monkeypatch):
    contents = contents_of(folder)
    (folder / "a_red.png").rename(folder / "c_red.png")
    (folder / "a_green.png").write_bytes(b"longer than before")
    monkeypatch.setattr("hpaloc.contents.sum_of_file", None)
    found = changes(contents, image_states(folder))
    assert (found.edited, found.added, found.removed) == (
        ["a_green.png"], ["c_red.png"], ["a_red.png"]
    )  # fmt: skip
    assert str(found) == (
        "1 file edited (a_green.png), 1 file added (c_red.png), 1 file removed (a_red.png)"
    )


def test_a_file_that_was_not_used_is_not_read(folder, monkeypatch):
    contents = contents_of(folder)
    state, _ = contents.files["a_red.png"]
    contents.files["a_red.png"] = (state, "")
    os.utime(folder / "a_red.png", (1, 1))
    monkeypatch.setattr("hpaloc.contents.sum_of_file", None)
    assert changes(contents, image_states(folder)) == Changes([], [], [], ["a_red.png"])


def test_a_file_that_could_not_be_read_counts_as_edited_once_it_can(folder):
    contents = contents_of(folder)
    link = folder / "link.png"
    link.symlink_to(folder.parent / "later.png")
    files = contents.files | {"link.png": (image_states(folder)["link.png"], UNREADABLE)}
    contents = contents._replace(files=files)
    for read in (True, False):
        assert changes(contents, image_states(folder), read) == Changes([], [], [], [])
    (folder.parent / "later.png").write_bytes(b"")
    for read in (True, False):
        assert changes(contents, image_states(folder), read).edited == ["link.png"]

    link.unlink()  # another link that leads nowhere either
    link.symlink_to("nowhere.png")
    contents = renewed(contents, image_states(folder) | {"link.png": FileState(1, 1, 1)})
    assert changes(contents, image_states(folder)) == Changes([], [], [], ["link.png"])


def test_a_fault_of_the_disk_that_passed_is_noticed_whatever_the_time_stamps(folder, tmp_path):
    source, settings = tmp_path / "source", {"folder": str(folder), "ignore": []}
    token = token_of(image_states(folder))
    contents = contents_of(folder)
    contents.files["a_red.png"] = (contents.files["a_red.png"][0], UNREADABLE)
    index(source, "raw", contents)
    planned = status_of_folder(settings, source, True)
    assert planned.changes.edited == ["a_red.png"]
    assert planned.token != token
    # The process on a node, which reads none of them, and the next plan say the same.
    assert status_of_folder(settings, source, False).token == planned.token
    assert status_of_folder(settings, source, True).token == planned.token
    index(source, "raw", contents_of(folder)._replace(token=planned.token))
    assert status_of_folder(settings, source, True) == (planned.token, 3, ([], [], [], []))


def test_sums_are_of_what_can_be_read(folder):
    (folder / "gone.png").symlink_to("nowhere.png")
    (folder / "no.zip").write_bytes(b"no archive")
    sums = sums_of_files(str(folder), ["a_red.png", "gone.png", "no.zip"], 2)
    assert sums == {
        "a_red.png": sum_of_file(str(folder / "a_red.png")),
        "gone.png": UNREADABLE,
        "no.zip": UNREADABLE,
    }
    assert sums_of_files(str(folder / "a_red.png"), [""], 1) == {"": sums["a_red.png"]}


names = st.text(st.characters(blacklist_characters="/\0"), min_size=1)
files = st.dictionaries(
    names,
    st.tuples(st.builds(FileState, *[st.integers(0, 2**63)] * 3), st.sampled_from(["", "a" * 64])),
)


@given(files)
def test_a_table_is_read_as_it_was_written(tmp_path_factory, files):
    path = tmp_path_factory.mktemp("contents") / "contents.json"
    contents = Contents("token", "folder", files)
    write_contents(path, contents)
    assert read_contents(path) == contents


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"token": 1, "root": "", "files": {"a": 3}}'])
def test_a_damaged_table_is_none(tmp_path, text):
    path = tmp_path / "contents.json"
    assert read_contents(path) is None
    path.write_text(text)
    assert read_contents(path) is None


def test_the_sum_of_an_archive_is_that_of_its_members(tmp_path):
    one, other = tmp_path / "one.zip", tmp_path / "other.zip"
    for path, method in ((one, zipfile.ZIP_STORED), (other, zipfile.ZIP_DEFLATED)):
        with zipfile.ZipFile(path, "w", method) as archive:
            archive.writestr("a.png", b"a" * 1000)
    assert one.stat().st_size != other.stat().st_size
    assert sum_of_file(str(one)) == sum_of_file(str(other))
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr("a.png", b"b" * 1000)
    assert sum_of_file(str(one)) != sum_of_file(str(other))
    other.write_bytes(b"not an archive")
    with pytest.raises(OSError, match="not a zip archive"):
        sum_of_file(str(other))


def index(source: Path, part: str, contents: Contents) -> None:
    """What the job leaves that indexes a source."""
    write_contents(source / part / "contents.json", contents)


def test_the_token_of_a_folder_stays_with_its_contents(folder, tmp_path):
    source, settings = tmp_path / "source", {"folder": str(folder), "ignore": []}
    first = status_of_folder(settings, source, True)
    assert first == (token_of(image_states(folder)), 3, None)
    index(source, "raw", contents_of(folder)._replace(token=first.token))
    assert status_of_folder(settings, source, True).token == first.token

    for path in folder.rglob("*.png"):
        os.utime(path, (1, 1))
    # Only the process that plans reads files; it leaves what it found for those on nodes.
    assert status_of_folder(settings, source, False).token != first.token
    assert status_of_folder(settings, source, True).token == first.token
    assert status_of_folder(settings, source, False).token == first.token

    replace_keeping_time(folder / "a_red.png", b"other 9 B")
    changed = status_of_folder(settings, source, True)
    assert changed.token != first.token
    assert changed.changes.edited == ["a_red.png"]
    assert status_of_folder(settings, source, False).token == changed.token

    index(source, "raw", contents_of(folder)._replace(token=changed.token))
    assert status_of_folder(settings, source, True).token == changed.token
    assert (
        status_of_folder({"folder": str(tmp_path / "gone"), "ignore": []}, source, True).token
        == changed.token
    )


def test_nothing_is_known_of_a_folder_that_never_was(tmp_path):
    assert (
        status_of_folder({"folder": str(tmp_path / "gone"), "ignore": []}, tmp_path, True)
        == NOTHING_KNOWN
    )


def test_the_token_of_a_list_or_a_folder_of_entries(tmp_path):
    source, path = tmp_path / "source", tmp_path / "list.csv"
    assert status_of_list(path, source, True) == NOTHING_KNOWN
    path.write_text("Id,Target\n1_1_A1_1,0\n")
    first = status_of_list(path, source, True)
    contents = Contents(first.token, str(path), {"": (state_of(path), sum_of_file(str(path)))})
    index(source, "atlas", contents)
    os.utime(path, (1, 1))
    assert status_of_list(path, source, True).token == first.token
    replace_keeping_time(path, b"Id,Target\n1_1_A1_1,5\n")
    assert status_of_list(path, source, True).token != first.token

    entries = tmp_path / "entries"
    entries.mkdir()
    for name in ("a.xml", "b.XML.gz", "notes.txt"):
        (entries / name).write_text(name)
    assert status_of_list(entries, tmp_path / "other", True).files == 2


@pytest.mark.parametrize("form", ["folder", "zip"])
def test_the_token_of_the_competition_stays_with_its_table_and_images(tmp_path, form):
    source = tmp_path / "source"
    assert status_of_competition(source, True) == (AS_FOUND, 0, None)
    table, images = (
        tmp_path / "train.csv",
        tmp_path / ("train" if form == "folder" else "train.zip"),
    )

    def put(pixels: bytes) -> None:
        if form == "folder":
            images.mkdir(exist_ok=True)
            (images / "a_red.png").write_bytes(pixels)
        else:
            with zipfile.ZipFile(images, "w") as archive:
                archive.writestr("a_red.png", pixels)

    table.write_text("Id,Target\na,0\n")
    put(b"1234")
    found = {"table": {"path": str(table)}, "images": {"path": str(images)}}
    (source / "raw").mkdir(parents=True)
    (source / "raw/files.json").write_text(json.dumps(found))
    image = images / "a_red.png" if form == "folder" else images
    paths = [str(table), str(image)]
    files = {path: (state_of(path), sum_of_file(path)) for path in paths}
    index(source, "raw", Contents(AS_FOUND, "", files))
    assert status_of_competition(source, True).token == AS_FOUND

    put(b"1234")  # written again, the same
    os.utime(table, (1, 1))
    assert status_of_competition(source, True).token == AS_FOUND
    put(b"4321")
    changed = status_of_competition(source, True)
    assert changed.token != AS_FOUND
    assert changed.changes.edited == [str(image)]
    put(b"1234")
    table.write_text("Id,Target\na,5\n")
    assert status_of_competition(source, True).changes.edited == [str(table)]

    for path in (table, image):  # what was made of them stays
        path.unlink()
    if form == "folder":
        images.rmdir()
    assert status_of_competition(source, True).token == AS_FOUND
