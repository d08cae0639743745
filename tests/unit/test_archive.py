import io
import os
import stat
import struct
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpaloc import archive
from hpaloc.archive import Archive, BadMember
from hpaloc.images import BadImage
from hpaloc.log import InputError
from hpaloc.raw_files import raw_files


def made(path, entries, method=zipfile.ZIP_STORED):
    """A zip archive of (name or ZipInfo, contents) pairs; doubled names are written twice."""
    with zipfile.ZipFile(path, "w") as opened:
        for name, data in entries:
            opened.writestr(name, data, method)
    return path


@settings(max_examples=30)
@given(
    st.dictionaries(st.from_regex(r"[a-z]{1,8}(/[a-zä]{1,8})?", fullmatch=True), st.binary()),
    st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]),
)
def test_members_are_read_as_they_were_written(tmp_path_factory, files, method):
    path = made(tmp_path_factory.mktemp("zip") / "a.zip", files.items(), method)
    with Archive(path) as opened:
        assert set(opened.members) == set(files)
        assert {name: opened.read(name) for name in files} == files


def test_many_threads_read_at_a_time(tmp_path):
    files = {f"{k}.png": bytes([k]) * (1000 + k) for k in range(200)}
    path = made(tmp_path / "a.zip", files.items(), zipfile.ZIP_DEFLATED)
    with Archive(path) as opened, ThreadPoolExecutor(8) as executor:
        names = list(files) * 5
        assert list(executor.map(opened.read, names)) == [files[name] for name in names]


def linked(name):
    info = zipfile.ZipInfo(name)
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([("../evil.png", b"x")], r"1 of 1 members .*'\.\./evil\.png' leaves the folder"),
        ([("a/../../evil.png", b"x")], "leaves the folder"),
        ([("/etc/passwd", b"x")], "is no relative path"),
        ([("a\\..\\evil.png", b"x")], "is no relative path"),
        ([("C:/evil.png", b"x")], "is no relative path"),
        ([("a.png", b"x"), ("a.png", b"y")], r"1 of 2 members .*'a\.png' stands twice"),
        ([("a//b.png", b"y")], r"'a//b\.png' is no plain name"),
        ([("./b.png", b"y")], "is no plain name"),
        ([(linked("a.png"), b"/etc/passwd")], "is a link"),
        ([("a.png", bytes(10**6))], r"grows from \d+ to 1000000 bytes"),
    ],
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_members_that_cannot_be_trusted_are_refused(tmp_path, entries, message):
    path = made(tmp_path / "a.zip", entries, zipfile.ZIP_DEFLATED)
    with pytest.raises(InputError, match=message):
        Archive(path)


def changed(data, signature, offset, form, value):
    """A zip archive with one field of its first record of a kind changed."""
    data = bytearray(data)
    struct.pack_into(form, data, data.index(signature) + offset, value)
    return bytes(data)


CENTRAL, LOCAL = b"PK\x01\x02", b"PK\x03\x04"


@pytest.mark.parametrize(
    ("offset", "form", "value", "message"),
    [
        (8, "<H", 1, "is encrypted"),
        (10, "<H", 99, "is compressed in a way"),
    ],
)
def test_members_that_cannot_be_read_are_refused(tmp_path, offset, form, value, message):
    data = made(tmp_path / "a.zip", [("a.png", b"x")]).read_bytes()
    (tmp_path / "a.zip").write_bytes(changed(data, CENTRAL, offset, form, value))
    with pytest.raises(InputError, match=message):
        Archive(tmp_path / "a.zip")


def test_members_that_share_bytes_are_refused(tmp_path):
    path = made(tmp_path / "a.zip", [("a.png", b"x" * 99), ("b.png", b"y" * 99)])
    data = bytearray(path.read_bytes())
    struct.pack_into("<I", data, data.rindex(CENTRAL) + 42, 5)
    path.write_bytes(data)
    with pytest.raises(InputError, match="shares bytes"):
        Archive(path)


def test_members_that_claim_more_bytes_than_there_are_are_refused(tmp_path):
    data = made(tmp_path / "a.zip", [("a.png", b"x" * 99)]).read_bytes()
    (tmp_path / "a.zip").write_bytes(changed(data, CENTRAL, 20, "<I", 2**32 - 2))
    with pytest.raises(InputError, match="ends behind the end of the archive"):
        Archive(tmp_path / "a.zip")


def test_an_archive_that_is_replaced_while_it_is_open_is_read_as_it_was(tmp_path, monkeypatch):
    path = made(tmp_path / "a.zip", [("a.png", b"first")])
    other = made(tmp_path / "b.zip", [("b.png", b"other"), ("a.png", b"later")])
    check = archive._check

    def replaced_meanwhile(*arguments):
        other.rename(path)
        check(*arguments)

    monkeypatch.setattr(archive, "_check", replaced_meanwhile)
    with Archive(path) as opened:
        assert opened.read("a.png") == b"first"


def test_an_archive_that_is_refused_stays_open_nowhere(tmp_path):
    path = made(tmp_path / "a.zip", [("../evil.png", b"x")])
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        with pytest.raises(InputError):
            Archive(path)
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize(
    "data", [b"", b"<html>404</html>", b"PK\x05\x06", bytes(100)], ids=["", "html", "end", "zeros"]
)
def test_what_is_no_archive_is_named_with_what_to_do(tmp_path, data):
    (tmp_path / "a.zip").write_bytes(data)
    with pytest.raises(InputError, match=r"a\.zip: not a whole zip archive.*download it again"):
        Archive(tmp_path / "a.zip")
    with pytest.raises(InputError, match=r"b\.zip: there is no such archive"):
        Archive(tmp_path / "b.zip")


@given(st.integers(0, 10**6), st.integers(0, 255))
def test_an_archive_with_any_byte_changed_gives_the_true_contents_or_an_error(
    tmp_path_factory, place, value
):
    files = {"a.png": b"first" * 20, "b.png": b"second" * 20}
    buffer = io.BytesIO()
    made(buffer, files.items(), zipfile.ZIP_DEFLATED)
    data = bytearray(buffer.getvalue())
    data[place % len(data)] = value
    path = tmp_path_factory.mktemp("zip") / "a.zip"
    path.write_bytes(data)
    try:
        with Archive(path) as opened:
            for name in opened.members:
                assert opened.read(name) in files.values()
    except (InputError, BadMember):
        pass


def test_damage_within_an_archive_is_told(tmp_path):
    path = made(tmp_path / "a.zip", [("a.png", b"x" * 99), ("b.png", bytes(range(99)))])
    whole = path.read_bytes()
    where = whole.index(b"x" * 99)
    for data, message in (
        (whole[:where] + b"y" + whole[where + 1 :], "checksum"),
        (changed(whole, LOCAL, 0, "<I", 0), "no member begins at byte 0"),
        (changed(whole, CENTRAL, 24, "<I", 98), "another length than the 98 bytes"),
    ):
        path.write_bytes(data)
        with Archive(path) as opened:
            with pytest.raises(BadMember, match=message):
                opened.read("a.png")
            with pytest.raises(FileNotFoundError):
                opened.read("c.png")


def test_no_more_is_unpacked_than_a_member_claims(tmp_path, monkeypatch):
    inflated = []

    class Watched:
        def __init__(self, _):
            self.inflate = zlib._decompressobj(-15)

        def decompress(self, data, most):
            inflated.append(len(out := self.inflate.decompress(data, most)))
            return out

    path = made(tmp_path / "a.zip", [("a.png", bytes(90_000))], zipfile.ZIP_DEFLATED)
    path.write_bytes(changed(path.read_bytes(), CENTRAL, 24, "<I", 500))
    monkeypatch.setattr(zlib, "_decompressobj", zlib.decompressobj, raising=False)
    monkeypatch.setattr(archive.zlib, "decompressobj", Watched)
    with Archive(path) as opened, pytest.raises(BadMember, match="another length"):
        opened.read("a.png")
    assert inflated == [501]


def test_a_member_larger_than_any_image_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(archive, "MOST_BYTES", 100)
    with (
        Archive(made(tmp_path / "a.zip", [("a.png", b"x" * 101)])) as opened,
        pytest.raises(BadMember, match="claims 101 bytes"),
    ):
        opened.read("a.png")


def test_a_folder_and_an_archive_are_read_alike(tmp_path):
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "a.png").write_bytes(b"x")
    made(tmp_path / "a.zip", [("train/a.png", b"x")])
    for root in (tmp_path, tmp_path / "a.zip"):
        with raw_files(root) as read:
            assert read("train/a.png", "image a") == b"x"
            with pytest.raises(BadImage, match="missing"):
                read("train/b.png", "image b")
            with pytest.raises(InputError, match=r"image c: the path '\.\./c\.png' leaves"):
                read("../c.png", "image c")
    with (
        pytest.raises(InputError, match="not there any more"),
        raw_files(tmp_path / "gone.zip"),
    ):
        pass
