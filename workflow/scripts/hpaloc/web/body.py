"""The body of an answer, on its way into a file: decoded or gzipped, never more than allowed."""

import zlib
from typing import BinaryIO

from hpaloc.web.files import Refused, Unreachable

_GZIP = b"\x1f\x8b"
_DECODED = ("", "identity")
_CODED = ("gzip", "x-gzip", "deflate")


def body_writer(file: BinaryIO, encoding: str, gzipped: bool, max_bytes: int) -> "BodyWriter":
    """What takes the body of an answer with that Content-Encoding. Raises Refused for others."""
    encoding = encoding.strip().lower()
    if encoding not in _DECODED + _CODED:
        raise Refused(f"sent as {encoding[:20]!r}, which was not asked for")
    if gzipped and encoding in _DECODED:
        return GzippingWriter(file, max_bytes)
    if not gzipped and encoding in _CODED:
        return DecodingWriter(file, max_bytes)
    if gzipped and encoding == "deflate":
        raise Refused("sent as 'deflate', which was not asked for")
    return BodyWriter(file, max_bytes)


class BodyWriter:
    """Stores what comes as it is."""

    _packed = 1.0  # a body is stored in this part of its size at least: what comes ends too

    def __init__(self, file: BinaryIO, max_bytes: int):
        self._file, self._max_bytes, self._stored = file, max_bytes, 0
        self._left = (max_bytes + 1000) / self._packed

    def write(self, data: bytes) -> None:
        """Takes a part. Raises Refused beyond ``max_bytes`` (as stored), OSError of the disk."""
        self._left -= len(data)
        if self._left < 0:
            raise Refused(f"larger than {self._max_bytes} bytes")
        self._take(data)

    def _take(self, data: bytes) -> None:
        self._store(data)

    def close(self) -> None:
        """Ends the body. Raises Unreachable where its end is missing."""

    def _store(self, data: bytes) -> None:
        self._stored += len(data)
        if self._stored > self._max_bytes:
            raise Refused(f"larger than {self._max_bytes} bytes")
        self._file.write(data)


class DecodingWriter(BodyWriter):
    """Stores a body that comes as gzip or deflate decoded; a bomb ends at ``max_bytes``."""

    _packed = 0.99  # what cannot be packed is a little larger than as it is

    def __init__(self, file: BinaryIO, max_bytes: int):
        super().__init__(file, max_bytes)
        self._decoder = zlib.decompressobj(47)  # gzip or zlib, as its header says

    def _take(self, data: bytes) -> None:
        try:
            while data and not self._decoder.eof:
                # One byte more than is allowed shows that there is too much.
                room = self._max_bytes - self._stored + 1
                self._store(self._decoder.decompress(data, room))
                data = self._decoder.unconsumed_tail
        except zlib.error:
            raise Refused("a broken gzip stream", again=True) from None
        if self._decoder.unused_data or data:
            raise Refused("more after the end of its gzip stream", again=True)

    def close(self) -> None:
        if not self._decoder.eof:
            raise Unreachable("truncated")


class GzippingWriter(BodyWriter):
    """Stores a body that comes plain as gzip, the same bytes for the same body.

    A body that is a gzip file itself is stored as it is.
    """

    _packed = 1 / 20

    def __init__(self, file: BinaryIO, max_bytes: int):
        super().__init__(file, max_bytes)
        self._coder = zlib.compressobj(6, zlib.DEFLATED, 31)  # with gzip's header, without a time
        self._begin = b""  # until there is enough of it to tell what it is
        self._known = self._is_gzip = False

    def _take(self, data: bytes) -> None:
        if not self._known:
            self._begin += data
            if len(self._begin) < len(_GZIP):
                return
            data, self._known = self._begin, True
            self._is_gzip = data.startswith(_GZIP)
        self._store(data if self._is_gzip else self._coder.compress(data))

    def close(self) -> None:
        if not self._known:
            self._store(self._coder.compress(self._begin))
        if not self._is_gzip:
            self._store(self._coder.flush())
