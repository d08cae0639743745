"""Zip archives read in place, by many threads at a time; what cannot be trusted is refused."""

import os
import stat
import struct
import zipfile
import zlib
from pathlib import Path
from typing import BinaryIO, Self

from hpaloc.log import InputError, some_of

# No image of the atlas is larger; one that claims to be would fill the memory of a job.
MOST_BYTES = 2**28
# Images are compressed already. A member that grows a hundredfold was made to fill a disk.
_MOST_GROWTH = 100
_SMALL = 1000

_LOCAL_HEADER = struct.Struct("<4s22xHH")
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_NOT_A_DIRECTORY = (
    zipfile.BadZipFile,
    OSError,
    EOFError,
    NotImplementedError,
    OverflowError,
    RuntimeError,
    ValueError,
    struct.error,
)


class BadMember(Exception):
    """Why the bytes of one member are not what the archive's directory says."""


class Archive:
    """An open zip archive: ``members`` (name to zipfile.ZipInfo, without folders) and ``read``.

    Raises InputError, saying what to do, for a file that is no whole zip archive, and for names
    that leave the folder, stand twice or are links, encrypted members, compressions other than
    stored and deflated, members that share bytes or lie outside of the file, and sizes that only
    a zip bomb has.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self._file = _opened(path)
        try:
            infos = _directory(path, self._file)
            _check(path, infos, os.fstat(self._file.fileno()).st_size)
        except InputError:
            self._file.close()
            raise
        self.members = {info.filename: info for info in infos if not info.is_dir()}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def read(self, name: str) -> bytes:
        """The contents of a member, its length and checksum verified.

        Any number of threads may read at a time: nothing is shared but the open file, and that
        is read at given places. Raises FileNotFoundError, or BadMember where the archive is
        damaged.
        """
        info = self.members.get(name)
        if info is None:
            raise FileNotFoundError(name)
        claimed = max(info.file_size, info.compress_size)
        if claimed > MOST_BYTES:
            raise BadMember(f"claims {claimed} bytes, more than an image has")
        descriptor = self._file.fileno()
        header = os.pread(descriptor, _LOCAL_HEADER.size, info.header_offset)
        if len(header) < _LOCAL_HEADER.size or header[:4] != b"PK\3\4":
            raise BadMember(f"no member begins at byte {info.header_offset}")
        _, name_length, extra_length = _LOCAL_HEADER.unpack(header)
        start = info.header_offset + _LOCAL_HEADER.size + name_length + extra_length
        data = os.pread(descriptor, info.compress_size, start)
        if len(data) < info.compress_size:
            raise BadMember("the archive ends within it")
        if info.compress_type == zipfile.ZIP_DEFLATED:
            data = _inflated(data, info.file_size)
        if len(data) != info.file_size:
            raise BadMember(f"has another length than the {info.file_size} bytes it claims")
        if zlib.crc32(data) != info.CRC:
            raise BadMember("its checksum is wrong")
        return data


def _opened(path: str | Path) -> BinaryIO:
    try:
        return open(path, "rb")
    except FileNotFoundError as error:
        raise InputError(f"{path}: there is no such archive.") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}).") from error


def _directory(path: str | Path, file: BinaryIO) -> list[zipfile.ZipInfo]:
    try:
        with zipfile.ZipFile(file) as archive:
            return archive.infolist()
    except _NOT_A_DIRECTORY as error:
        raise InputError(
            f"{path}: not a whole zip archive ({_words(error)}). It was cut off or is"
            " something else: delete it and download it again."
        ) from error


def _inflated(data: bytes, size: int) -> bytes:
    inflate = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        # One byte more than it claims, so that more is noticed but never unpacked.
        return inflate.decompress(data, size + 1)
    except zlib.error as error:
        raise BadMember(f"cannot be unpacked ({error})") from error


def _check(path: str | Path, infos: list[zipfile.ZipInfo], size: int) -> None:
    """Raises InputError where the directory of an archive of ``size`` bytes cannot be trusted."""
    seen: set[str] = set()
    bad = []
    for info in infos:
        name = info.filename.removesuffix("/")
        if reason := _fault(info, name in seen):
            bad.append(f"{info.filename!r} {reason}")
        seen.add(name)
    ends = 0
    for info in sorted(infos, key=lambda info: info.header_offset):
        if info.header_offset < ends:
            bad.append(f"{info.filename!r} shares bytes with another member")
        ends = info.header_offset + _LOCAL_HEADER.size + info.compress_size
        if ends > size:
            bad.append(f"{info.filename!r} ends behind the end of the archive")
    if bad:
        raise InputError(
            f"{path}: refused, for {len(bad)} of {len(infos)} members are not what an archive of"
            f" images has: {some_of(bad)}. Download it again from where it is published."
        )


def _fault(info: zipfile.ZipInfo, doubled: bool) -> str:
    parts = info.filename.removesuffix("/").split("/")
    if info.filename.startswith("/") or "\\" in info.filename or ":" in parts[0]:
        return "is no relative path"
    if ".." in parts:
        return "leaves the folder"
    # Written in one way only, no two names can be the same file.
    if "" in parts or "." in parts or "\0" in info.orig_filename:
        return "is no plain name of a file"
    if doubled:
        return "stands twice"
    if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "is a link or a device"
    if info.flag_bits & 0x1:
        return "is encrypted"
    if info.compress_type not in _METHODS:
        return "is compressed in a way that is not read here"
    if info.file_size > _MOST_GROWTH * max(info.compress_size, _SMALL):
        return f"grows from {info.compress_size} to {info.file_size} bytes"
    return ""


def _words(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
