"""Image files to planes: what a file is, its planes, and planes at another size.

Contents decide, never the name: a JPEG file named .png is read as the JPEG file that it is.
"""

import functools
import io
import logging
import math
import zlib
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import imagecodecs
import numpy as np
import simplejpeg
import tifffile

# What tifffile logs of a broken file, line by line, the error that it raises says once.
logging.getLogger("tifffile").setLevel(logging.CRITICAL)

# The plane of an RGB file that holds the signal of a colour-coded channel: yellow is R and G
# alike. Luma would scale the channels by 0.299, 0.587, 0.114 and 0.886 and lose most of blue.
RGB_PLANE = {"red": 0, "green": 1, "blue": 2, "yellow": 0}

_FORMATS = (
    ("JPEG", b"\xff\xd8\xff"),
    ("PNG", b"\x89PNG\r\n\x1a\n"),
    ("TIFF", b"II*\0"),
    ("TIFF", b"MM\0*"),
    ("TIFF", b"II+\0"),
    ("TIFF", b"MM\0+"),
    ("NPY", b"\x93NUMPY"),
)
# IHDR's colour type: the number of planes after a palette is expanded.
_PNG_PLANES = {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}


# Broken headers tell of more than there is; no job has the memory for so many grey values.
_MOST_VALUES = 2**32


class BadImage(Exception):
    """Why a file is no image that can be used."""


class Header(NamedTuple):
    """Format, size in pixels, number of planes, and dtype ("uint8" or "uint16") of a file."""

    format: str
    height: int
    width: int
    planes: int
    dtype: str


def read_header(data: bytes) -> Header:
    """The header of a file's contents; raises BadImage where it is not an image."""
    name = _format(data)
    try:
        if name == "JPEG":
            height, width, colour, _ = simplejpeg.decode_jpeg_header(data)
            if colour.upper() in ("CMYK", "YCCK"):
                raise BadImage(f"a JPEG file in {colour}: neither greyscale nor RGB")
            header = Header(name, height, width, 1 if colour.upper() == "GRAY" else 3, "uint8")
        elif name == "PNG":
            header = _png_header(data)
        else:
            shape, dtype, planes_first = _array_layout(name, data)
            height, width = shape[-2:] if planes_first else shape[:2]
            planes = shape[0] if planes_first else shape[2]
            header = Header(name, height, width, planes, dtype)
    except (BadImage, MemoryError):
        raise
    except Exception as error:  # a decoder may raise anything on a broken file
        raise BadImage(f"the {name} header cannot be read ({_words(error)})") from error
    if header.dtype not in ("uint8", "uint16"):
        raise BadImage(f"holds {header.dtype} values: only 8 and 16 bits without sign are read")
    if min(header.height, header.width, header.planes) < 1:
        raise BadImage("holds no pixels")
    if header.height * header.width * header.planes > _MOST_VALUES:
        size = f"{header.width} × {header.height} px in {header.planes} planes"
        raise BadImage(f"truncated or broken {name} file (it claims {size})")
    return header


def read_planes(data: bytes, reduce: int = 1) -> np.ndarray:
    """The planes of a file's contents, uint8 or uint16, H × W × P, C order, RGB for colours.

    ``reduce`` is 1, 2, 4 or 8: a JPEG file is decoded at that fraction of its size (rounded up),
    which averages its pixels before they are made; other formats must be read with 1.
    Raises BadImage for truncated and broken files.
    """
    header = read_header(data)
    if header.format != "JPEG" and reduce != 1:
        raise ValueError("only JPEG files are decoded at a fraction of their size")
    try:
        if header.format == "JPEG":
            planes = simplejpeg.decode_jpeg(
                data,
                "GRAY" if header.planes == 1 else "RGB",
                min_height=-(-header.height // reduce),
                min_width=-(-header.width // reduce),
            )
        elif header.format == "PNG":
            _check_png_chunks(data)
            planes = imagecodecs.png_decode(data)
        elif header.format == "TIFF":
            with tifffile.TiffFile(io.BytesIO(data)) as file:
                planes = file.series[0].asarray(maxworkers=1)
        else:
            planes = np.load(io.BytesIO(data), allow_pickle=False)
    except (BadImage, MemoryError):
        raise
    except Exception as error:  # as above
        raise BadImage(f"truncated or broken {header.format} file ({_words(error)})") from error
    if header.format in ("TIFF", "NPY"):
        shape, _, planes_first = _array_layout(header.format, data)
        planes = planes.reshape(shape)
        planes = np.moveaxis(planes, 0, -1) if planes_first else planes
    elif planes.ndim == 2:
        planes = planes[:, :, None]
    native = planes.astype(header.dtype, copy=False)
    return np.ascontiguousarray(native)


def reduction(header: Header, boxes: list[tuple[int, int, int, int]], size: int) -> int:
    """The largest fraction 1/8, 1/4, 1/2 or 1 at which a JPEG file may be decoded.

    ``boxes`` (x, y, width, height in pixels of the file) are what is cut out of it and brought
    to ``size``. What is left to average is either nothing or enough of a factor: averaging twice
    over nearly equal grids blurs, the more the coarser they are. With these factors a real HPA
    image of 1728 px is within 45 dB of the exact area means at every size from 96 to 512 px.
    Boxes must fall on whole pixels of the smaller grid.
    """
    if header.format != "JPEG":
        return 1
    for fraction, enough in ((8, 3.0), (4, 3.0), (2, 1.5)):
        left = min(min(box[2:]) for box in boxes) / fraction / size
        if (left == 1 or left >= enough) and all(v % fraction == 0 for box in boxes for v in box):
            return fraction
    return 1


def plane_of_channel(planes: np.ndarray, channel: str) -> np.ndarray:
    """The plane H × W of one channel in a file of that channel (grey, or colour-coded RGB)."""
    count = planes.shape[2]
    if count == 1:
        return planes[:, :, 0]
    if count in (3, 4):  # a fourth plane of a colour file is its opacity
        return cv2.extractChannel(planes, RGB_PLANE[channel])
    raise BadImage(f"holds {count} planes where one channel is one grey or one RGB plane")


def plane_of_stack(planes: np.ndarray, channel: str, order: Sequence[str]) -> np.ndarray:
    """The plane H × W of one channel in a stack whose planes come in ``order``."""
    if planes.shape[2] != len(order):
        raise BadImage(f"holds {planes.shape[2]} planes where all {len(order)} channels are due")
    return np.ascontiguousarray(planes[:, :, order.index(channel)])


def resize_area(plane: np.ndarray, height: int, width: int) -> np.ndarray:
    """A plane (uint8 or float32) at another size, each axis by itself.

    Shrinking averages area, so nothing aliases; enlarging is bilinear. An image that is not
    square is stretched to the size asked for.
    """
    rows, columns = plane.shape
    smaller = (min(height, rows), min(width, columns))
    if smaller != (rows, columns):
        plane = _shrink(plane, *smaller)
    if smaller != (height, width):
        plane = cv2.resize(plane, (width, height), interpolation=cv2.INTER_LINEAR)
    return plane


def to_8_bit(plane: np.ndarray, low: float, high: float) -> np.ndarray:
    """Grey values as uint8: ``low`` and below become 0, ``high`` and above 255, linear between."""
    scaled = (plane.astype(np.float32) - np.float32(low)) * np.float32(255 / (high - low))
    return np.rint(np.clip(scaled, 0, 255)).astype(np.uint8)


def _shrink(plane: np.ndarray, height: int, width: int) -> np.ndarray:
    """Area averaging: by OpenCV, or where that is slow as two products with small matrices.

    864 to 512 pixels is 32 times 27 to 16: each axis is one 16 × 27 matrix for all blocks, four
    times as fast as OpenCV's INTER_AREA and equal to it. OpenCV is faster for whole factors,
    and for sizes that share no factor.
    """
    rows, columns = plane.shape
    down, across = _area_weights(rows, height), _area_weights(columns, width)
    whole = rows % height == 0 and columns % width == 0
    if whole or max(down.shape[1], across.shape[1]) > 64:
        return cv2.resize(plane, (width, height), interpolation=cv2.INTER_AREA)
    blocks = plane.astype(np.float32, copy=False).reshape(-1, down.shape[1], columns)
    shorter = np.matmul(down, blocks).reshape(-1, across.shape[1])
    small = np.matmul(shorter, across.T).reshape(height, width)
    return cv2.convertScaleAbs(small) if plane.dtype == np.uint8 else small


@functools.cache
def _area_weights(length: int, target: int) -> np.ndarray:
    """Weights (target / g) × (length / g) of area averaging, g their greatest common divisor."""
    common = math.gcd(length, target)
    length, target = length // common, target // common
    edges = np.arange(target + 1) * (length / target)
    pixels = np.arange(length)
    shares = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return (np.clip(shares, 0, 1) * (target / length)).astype(np.float32)


def _format(data: bytes) -> str:
    for name, magic in _FORMATS:
        if data.startswith(magic):
            return name
    if not data:
        raise BadImage("empty file")
    raise BadImage(f"not a JPEG, PNG, TIFF or NPY file: it begins with {data[:12]!r}")


def _png_header(data: bytes) -> Header:
    if len(data) < 29 or data[12:16] != b"IHDR":
        raise BadImage("truncated or broken PNG file (no IHDR)")
    width, height = int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
    bits, colour = data[24], data[25]
    if colour not in _PNG_PLANES:
        raise BadImage(f"truncated or broken PNG file (colour type {colour})")
    return Header("PNG", height, width, _PNG_PLANES[colour], "uint16" if bits == 16 else "uint8")


def _check_png_chunks(data: bytes) -> None:
    """Walks a PNG file to its IEND chunk: decoders forgive a missing end and some bad sums."""
    start = 8
    while start + 12 <= len(data):
        length = int.from_bytes(data[start : start + 4], "big")
        end = start + 12 + length
        if end > len(data):
            break
        view = memoryview(data)[start + 4 : end - 4]
        if zlib.crc32(view) != int.from_bytes(data[end - 4 : end], "big"):
            raise BadImage(f"broken PNG file (checksum of the chunk at byte {start})")
        if view[:4] == b"IEND":
            return
        start = end
    raise BadImage("truncated PNG file")


def _array_layout(name: str, data: bytes) -> tuple[tuple[int, int, int], str, bool]:
    """Shape with three axes, dtype, and whether the planes come first, of a TIFF or NPY file.

    The plane axis of three is the one that the file names (TIFF's samples or channels), else
    the shorter of the first and the last.
    """
    if name == "TIFF":
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            series = file.series[0]
            shape, dtype, axes = series.shape, series.dtype, series.axes
    else:
        file = io.BytesIO(data)
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0
        if version != (1, 0):
            read = np.lib.format.read_array_header_2_0
        shape, _, dtype = read(file)
        axes = "?" * len(shape)
    kept = [i for i, length in enumerate(shape) if length > 1 or len(shape) <= 2]
    shape = tuple(shape[i] for i in kept)
    axes = "".join(axes[i] for i in kept)
    if len(shape) == 2:
        return (*shape, 1), dtype.name, False
    if len(shape) != 3:
        raise BadImage(f"an array of shape {shape}: neither one plane nor a stack of planes")
    if axes.endswith("S"):
        planes_first = False
    elif axes[0] in "SC":
        planes_first = True
    else:
        planes_first = shape[0] <= shape[2]
    return shape, dtype.name, planes_first


def _words(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:120] or type(error).__name__
