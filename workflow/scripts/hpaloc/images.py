"""Image files to planes: what a file is, its planes, and planes at another size.

Contents decide, never the name: a JPEG file named .png is read as the JPEG file that it is.
"""

import functools
import io
import logging
import math
import struct
import zlib
from collections.abc import Iterator, Sequence

import cv2
import imagecodecs
import numpy as np
import simplejpeg

from hpaloc.colour_planes import plane_with_signal
from hpaloc.image_header import BadImage, Header, Reading
from hpaloc.tiff_image import RGBA_NOTE, WHAT_IS_READ, tiff_header, tiff_planes

# What tifffile logs of a broken file, line by line, the error that it raises says once.
logging.getLogger("tifffile").setLevel(logging.CRITICAL)

_FORMATS = (
    ("JPEG", b"\xff\xd8\xff"),
    ("PNG", b"\x89PNG\r\n\x1a\n"),
    ("TIFF", b"II*\0"),
    ("TIFF", b"MM\0*"),
    ("TIFF", b"II+\0"),
    ("TIFF", b"MM\0+"),
    ("NPY", b"\x93NUMPY"),
)
# What is told by its name when it is refused.
_OTHERS = (
    ("JPEG XL", b"\xff\x0a"),
    ("JPEG XL", b"\0\0\0\x0cJXL \r\n"),
    ("JPEG 2000", b"\0\0\0\x0cjP  \r\n"),
    ("JPEG 2000", b"\xff\x4f\xff\x51"),
    ("JPEG XR", b"II\xbc"),
    ("GIF", b"GIF8"),
    ("BMP", b"BM"),
    ("WebP", b"RIFF"),
    ("Zeiss CZI", b"ZISRAWFILE"),
    ("Leica LIF", b"\x70\0\0\0"),
    ("Nikon ND2", b"\xda\xce\xbe\x0a"),
    ("HDF5 (Imaris)", b"\x89HDF\r\n\x1a\n"),
    ("OLE (Olympus OIB, Zeiss ZVI)", b"\xd0\xcf\x11\xe0"),
    ("zip (NPZ)", b"PK\x03\x04"),
    ("gzip", b"\x1f\x8b"),
    ("PDF", b"%PDF"),
)
_PNG_COLOURS = {0: "grey", 2: "RGB", 3: "palette", 4: "grey and opacity", 6: "RGBA"}

# Broken headers tell of more than there is; no job has the memory for so many grey values.
_MOST_VALUES = 2**32
_CHANNEL = Reading()


def read_header(data: bytes, reading: Reading = _CHANNEL) -> Header:
    """The header of a file's contents, its planes as ``reading`` means them.

    They are 1 (grey) or 3 (RGB) of a file of one channel, 4 of a file of all. Raises BadImage
    where the file is not an image, or not such a one.
    """
    name = _format(data)
    try:
        header = _HEADERS[name](data, reading)
    except (BadImage, MemoryError):
        raise
    except Exception as error:  # a decoder may raise anything on a broken file
        raise BadImage(f"the {name} header cannot be read ({_words(error)})") from error
    if header.dtype not in ("uint8", "uint16"):
        raise BadImage(f"holds {header.dtype} values: {WHAT_IS_READ}")
    if min(header.height, header.width, header.planes) < 1:
        raise BadImage("holds no pixels")
    if header.height * header.width * header.planes > _MOST_VALUES:
        size = f"{header.width} × {header.height} px in {header.planes} planes"
        raise BadImage(f"truncated or broken {name} file (it claims {size})")
    if reading.stacked and header.planes != 4:
        number = f"{header.planes} plane{'s' if header.planes > 1 else ''}"
        raise BadImage(
            f"holds {number} where all 4 channels are due: put {{channel}} into the pattern if each"
            " file is one channel"
        )
    if header.orientation >= 5:
        header = header._replace(height=header.width, width=header.height)
    if header.orientation > 1:
        note = f"turned or mirrored as its orientation tag, {header.orientation}, says"
        header = header._replace(notes=(*header.notes, note))
    return header


def read_planes(data: bytes, reduce: int = 1, reading: Reading = _CHANNEL) -> np.ndarray:
    """The planes of a file's contents, uint8 or uint16, H × W × P, C order, RGB for colours.

    ``reduce`` is 1, 2, 4 or 8: a JPEG file is decoded at that fraction of its size (rounded up),
    which averages its pixels before they are made; other formats must be read with 1.
    P is as in ``read_header``. Raises BadImage for truncated and broken files.
    """
    header = read_header(data, reading)
    if header.format != "JPEG" and reduce != 1:
        raise ValueError("only JPEG files are decoded at a fraction of their size")
    try:
        if header.format == "JPEG":
            stored = (header.height, header.width)[:: -1 if header.orientation >= 5 else 1]
            planes = simplejpeg.decode_jpeg(
                data,
                "GRAY" if header.planes == 1 else "RGB",
                min_height=-(-stored[0] // reduce),
                min_width=-(-stored[1] // reduce),
            )
        elif header.format == "PNG":
            planes = _png_planes(data, header, reading)
        elif header.format == "TIFF":
            planes = tiff_planes(data, reading)
        else:
            planes = _npy_planes(data, reading)
    except (BadImage, MemoryError):
        raise
    except Exception as error:  # as above
        raise BadImage(f"truncated or broken {header.format} file ({_words(error)})") from error
    if planes.ndim == 2:
        planes = planes[:, :, None]
    planes = _turned(planes, header.orientation)
    native = planes.astype(header.dtype, copy=False)
    return np.ascontiguousarray(native)


def reduction(header: Header, boxes: list[tuple[int, int, int, int]], size: int) -> int:
    """The largest fraction 1/8, 1/4, 1/2 or 1 at which a JPEG file may be decoded.

    ``boxes`` (x, y, width, height in pixels of the file) are what is cut out of it and brought
    to ``size``. What is left to average is either nothing or enough of a factor: averaging twice
    over nearly equal grids blurs, the more the coarser they are. With these factors a real HPA
    image of 1728 px is within 45 dB of the exact area means at every size from 96 to 512 px.
    Boxes must fall on whole pixels of the smaller grid, which a picture that is turned counts
    from another edge.
    """
    if header.format != "JPEG" or header.orientation != 1:
        return 1
    for fraction, enough in ((8, 3.0), (4, 3.0), (2, 1.5)):
        left = min(min(box[2:]) for box in boxes) / fraction / size
        if (left == 1 or left >= enough) and all(v % fraction == 0 for box in boxes for v in box):
            return fraction
    return 1


def plane_of_channel(planes: np.ndarray, channel: str) -> np.ndarray:
    """The plane H × W of one channel in a file of that channel (grey, or RGB in one colour)."""
    return chosen_plane(planes, channel)[0]


def chosen_plane(planes: np.ndarray, channel: str) -> tuple[np.ndarray, str]:
    """The same, and a note where it is not the plane of the atlas's colour ("" else).

    Raises BadImage where planes hold different pictures.
    """
    count = planes.shape[2]
    if count == 1:
        return planes[:, :, 0], ""
    if count != 3:
        raise BadImage(f"holds {count} planes where one channel is one grey or one RGB plane")
    number, note = plane_with_signal(planes, channel)
    return cv2.extractChannel(planes, number), note


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
    beginning = f"not a JPEG, PNG, TIFF or NPY file: it begins with {data[:12]!r}"
    for name, magic in _OTHERS:
        if data.startswith(magic):
            raise BadImage(f"{beginning}, as {name} does; export it as TIFF or PNG")
    if data[4:8] == b"ftyp":
        raise BadImage(f"{beginning}, as HEIF and AVIF do; export it as TIFF or PNG")
    if data[128:132] == b"DICM":
        raise BadImage("not a JPEG, PNG, TIFF or NPY file but DICOM; export it as TIFF or PNG")
    raise BadImage(beginning)


# ---------------------------------------------------------------- JPEG


def _jpeg_header(data: bytes, reading: Reading) -> Header:
    orientation = 1
    for marker, start, end in _jpeg_segments(data):
        if marker == 0xE1 and data[start : start + 6] == b"Exif\0\0":
            orientation = _exif_orientation(data[start + 6 : end])
        # Begin of a frame, whatever its coding; what else lies in this range are tables.
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC) and data[start] != 8:
            raise BadImage(f"a JPEG file of {data[start]} bits: only 8 are read; export it as TIFF")
    height, width, colour, _ = simplejpeg.decode_jpeg_header(data)
    if colour.upper() in ("CMYK", "YCCK"):
        raise BadImage(f"a JPEG file in {colour}: neither greyscale nor RGB; export it in RGB")
    planes = 1 if colour.upper() == "GRAY" else 3
    return Header("JPEG", height, width, planes, "uint8", orientation)


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Marker, begin and end of the contents of each segment before the pixels."""
    start = 2
    while start + 5 <= len(data) and data[start] == 0xFF:
        marker = data[start + 1]
        if marker in (0xDA, 0xD9):  # the scan, the end
            return
        if marker == 0xFF:  # a byte that fills
            start += 1
        elif marker == 0x01 or 0xD0 <= marker <= 0xD8:  # markers without contents
            start += 2
        else:
            end = start + 2 + int.from_bytes(data[start + 2 : start + 4], "big")
            yield marker, start + 4, end
            start = end


def _exif_orientation(exif: bytes) -> int:
    """Tag 274 of the first folder of Exif data, which is laid out as TIFF; 1 where it lacks."""
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    if order is None:
        return 1
    try:
        (folder,) = struct.unpack_from(f"{order}I", exif, 4)
        (count,) = struct.unpack_from(f"{order}H", exif, folder)
        for place in range(folder + 2, folder + 2 + 12 * count, 12):
            tag, kind, _, value = struct.unpack_from(f"{order}HHIH", exif, place)
            if (tag, kind) == (274, 3):
                return value if 1 <= value <= 8 else 1
    except struct.error:
        pass
    return 1


def _turned(planes: np.ndarray, orientation: int) -> np.ndarray:
    """A picture as its orientation (1 to 8) says that it is to be seen; pixels stay as they are."""
    if orientation >= 5:
        planes = planes.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        planes = planes[::-1]
    if orientation in (2, 3, 6, 7):
        planes = planes[:, ::-1]
    return planes


# ---------------------------------------------------------------- PNG


def _png_header(data: bytes, reading: Reading) -> Header:
    if len(data) < 29 or data[12:16] != b"IHDR":
        raise BadImage("truncated or broken PNG file (no IHDR)")
    width, height = int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
    bits, colour = data[24], data[25]
    if colour not in _PNG_COLOURS:
        raise BadImage(f"truncated or broken PNG file (colour type {colour})")
    orientation, notes = 1, ()
    for kind, start, end in _png_chunks(data):
        if kind == b"acTL" and int.from_bytes(data[start : start + 4], "big") > 1:
            raise BadImage("an animated PNG file: export one picture a file")
        if kind == b"eXIf":
            orientation = _exif_orientation(data[start:end])
    planes = 1 if colour in (0, 4) else 3
    if reading.stacked and colour == 6:
        planes, notes = 4, (RGBA_NOTE,)
    dtype = "uint16" if bits == 16 else "uint8"
    return Header("PNG", height, width, planes, dtype, orientation, notes)


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Kind, begin and end of the contents of each whole chunk."""
    start = 8
    while start + 12 <= len(data):
        end = start + 12 + int.from_bytes(data[start : start + 4], "big")
        if end > len(data):
            return
        yield data[start + 4 : start + 8], start + 8, end - 4
        start = end


def _png_planes(data: bytes, header: Header, reading: Reading) -> np.ndarray:
    """Planes without opacity: it tells how a picture is laid over another, not what it shows."""
    _check_png_chunks(data)
    planes = imagecodecs.png_decode(data)
    if planes.ndim == 2:
        return planes
    if header.planes == 4 and planes[:, :, 3].min() == planes[:, :, 3].max():
        raise BadImage(
            "holds red, green, blue and opacity, which is the same everywhere, where all 4 channels"
            " are due"
        )
    return planes[:, :, : header.planes]


def _check_png_chunks(data: bytes) -> None:
    """Walks a PNG file to its IEND chunk: decoders forgive a missing end and some bad sums."""
    for kind, start, end in _png_chunks(data):
        if zlib.crc32(memoryview(data)[start - 4 : end]) != int.from_bytes(
            data[end : end + 4], "big"
        ):
            raise BadImage(f"broken PNG file (checksum of the chunk at byte {start - 8})")
        if kind == b"IEND":
            return
    raise BadImage("truncated PNG file")


# ---------------------------------------------------------------- NPY


def _npy_header(data: bytes, reading: Reading) -> Header:
    file = io.BytesIO(data)
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0
    if version != (1, 0):
        read = np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    height, width, planes = _npy_layout(shape, reading)[0]
    return Header("NPY", height, width, planes, dtype.name)


def _npy_layout(shape: tuple[int, ...], reading: Reading) -> tuple[tuple[int, int, int], bool]:
    """Height, width and planes of an array without names of its axes, and whether planes come
    first."""
    kept = tuple(n for n in shape if n != 1) if len(shape) > 2 else shape
    # An axis of length 1 between two others can be the height of planes, or no axis at all.
    between = any(
        n == 1 and max(shape[:k]) > 1 and max(shape[k + 1 :]) > 1
        for k, n in enumerate(shape[1:-1], 1)
    )
    if len(kept) == 2 and not between:
        return (*kept, 1), False
    if not reading.stacked:
        raise BadImage(
            f"an array of shape {shape}, which has no names of its axes, where a file is one"
            " channel: save height × width"
        )
    if len(kept) != 3 or (kept[0] == 4) == (kept[-1] == 4):
        raise BadImage(
            f"an array of shape {shape}, which has no names of its axes, where all 4 channels are"
            " due: save 4 × height × width or height × width × 4"
        )
    if kept[0] == 4:
        return (kept[1], kept[2], 4), True
    return kept, False


def _npy_planes(data: bytes, reading: Reading) -> np.ndarray:
    planes = np.load(io.BytesIO(data), allow_pickle=False)
    (height, width, count), planes_first = _npy_layout(planes.shape, reading)
    if planes_first:
        return np.moveaxis(planes.reshape(count, height, width), 0, -1)
    return planes.reshape(height, width, count)


_HEADERS = {
    "JPEG": _jpeg_header,
    "PNG": _png_header,
    "TIFF": tiff_header,
    "NPY": _npy_header,
}


def _words(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:120] or type(error).__name__
