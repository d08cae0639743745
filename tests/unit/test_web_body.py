"""Bodies on their way into files: as they come, decoded, gzipped, and never too much."""

import gzip
import io
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpaloc.web.body import body_writer
from hpaloc.web.files import Refused, Unreachable

BODY = b"<entry>" + b"text " * 1000


def stored(body: bytes, encoding: str, gzipped: bool, most: int = 10**6, piece: int = 7) -> bytes:
    file = io.BytesIO()
    writer = body_writer(file, encoding, gzipped, most)
    for start in range(0, len(body), piece):
        writer.write(body[start : start + piece])
    writer.close()
    return file.getvalue()


@given(st.binary(max_size=200), st.integers(1, 50))
def test_every_way_keeps_the_contents(body, piece):
    packed = gzip.compress(body, mtime=0)
    assert stored(body, "", False, piece=piece) == body
    assert stored(packed, "gzip", False, piece=piece) == body
    assert stored(zlib.compress(body), "deflate", False, piece=piece) == body
    assert stored(packed, "gzip", True, piece=piece) == packed
    if not body.startswith(b"\x1f\x8b"):
        assert gzip.decompress(stored(body, "", True, piece=piece)) == body


def test_gzipping_makes_the_same_bytes_however_the_body_comes_in_pieces():
    assert stored(BODY, "", True, piece=1) == stored(BODY, "identity", True, piece=4096)


def test_a_gzip_file_is_not_packed_twice():
    packed = gzip.compress(BODY, mtime=0)
    assert stored(packed, "", True, piece=1) == packed


def test_no_more_than_allowed_is_stored():
    for encoding, body in (("", BODY), ("gzip", gzip.compress(BODY, mtime=0))):
        assert stored(body, encoding, False, most=len(BODY)) == BODY
        with pytest.raises(Refused, match="larger than"):
            stored(body, encoding, False, most=len(BODY) - 1)


def test_a_bomb_is_stopped_before_it_is_unpacked():
    bomb = gzip.compress(bytes(50_000_000))
    file = io.BytesIO()
    writer = body_writer(file, "gzip", False, 1000)
    with pytest.raises(Refused, match="larger than"):
        writer.write(bomb)
    assert len(file.getvalue()) <= 1001


@pytest.mark.parametrize(
    ("encoding", "gzipped", "begin", "more"),
    [
        ("gzip", False, gzip.compress(BODY, mtime=0), b"x" * 1000),  # after its end
        ("deflate", False, b"\x78\x01", b"\0\0\0\xff\xff" * 200),  # blocks of nothing
        ("", True, b"<entry>", b" " * 1000),  # packs well
    ],
)
def test_a_body_that_never_ends_is_ended_though_little_of_it_is_stored(
    encoding, gzipped, begin, more
):
    writer = body_writer(io.BytesIO(), encoding, gzipped, 10_000)
    with pytest.raises(Refused, match=r"larger than|after the end"):
        writer.write(begin)
        for _ in range(1000):
            writer.write(more)


def test_broken_and_cut_streams():
    packed = gzip.compress(BODY, mtime=0)
    with pytest.raises(Unreachable, match="truncated"):
        stored(packed[:-9], "gzip", False)
    with pytest.raises(Refused, match="broken gzip") as refusal:
        stored(packed[:20] + b"\0\0\0\0" + packed[24:], "gzip", False)
    assert refusal.value.again
    with pytest.raises(Refused, match="'br'"):
        stored(BODY, "br", False)
