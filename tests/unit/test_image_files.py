"""What image files say of themselves, against the plain file of the same picture."""

import io
import struct
import uuid
import zlib

import cv2
import imagecodecs
import numpy as np
import pytest
import simplejpeg
import tifffile
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from hpaloc.classes import CHANNELS
from hpaloc.colour_planes import plane_with_signal
from hpaloc.image_header import Notes, check_slices, reading_of
from hpaloc.images import (
    BadImage,
    Reading,
    chosen_plane,
    plane_of_stack,
    read_header,
    read_planes,
    reduction,
)
from hpaloc.log import InputError

HEIGHT, WIDTH = 48, 40
ALL_FOUR = Reading(stacked=True)


def picture(seed=1, dtype=np.uint8, bits=None):
    """Cells on a dark ground; no flip, turn or inversion of it is the same picture."""
    yy, xx = np.mgrid[:HEIGHT, :WIDTH]
    rng = np.random.default_rng(seed)
    plane = rng.uniform(0, 0.05, (HEIGHT, WIDTH))
    for y, x in rng.uniform(6, 34, (5, 2)):
        plane += np.exp(-(((yy - y) ** 2 + (xx - x) ** 2) / rng.uniform(8, 40)))
    top = 2 ** (bits or 8 * np.dtype(dtype).itemsize) - 1
    return np.rint(plane / plane.max() * top).astype(dtype)


def tiff(array, **options):
    file = io.BytesIO()
    tifffile.imwrite(file, array, **options)
    return file.getvalue()


def pages(*arrays, **options):
    """A TIFF file of pages that are written one by one; each with options of its own."""
    file = io.BytesIO()
    with tifffile.TiffWriter(file, **options) as writer:
        for array, more in arrays:
            writer.write(array, **more)
    return file.getvalue()


def hand_made(width, height, tags, data, order="<"):
    """A TIFF file of one strip from its tags: code to values, which are SHORT, or text."""
    tags = {256: [width], 257: [height], 259: [1], 277: [1]} | tags
    tags |= {273: [0], 278: [height], 279: [len(data)]}
    raw = {}
    for code, value in sorted(tags.items()):
        if isinstance(value, str):
            raw[code] = (2, len(value) + 1, value.encode() + b"\0")
        else:
            kind = "I" if code in (273, 279) else "H"
            raw[code] = (
                4 if kind == "I" else 3,
                len(value),
                struct.pack(f"{order}{len(value)}{kind}", *value),
            )
    at = 8 + 2 + 12 * len(raw) + 4
    raw[273] = (
        4,
        1,
        struct.pack(f"{order}I", at + sum(len(v) for _, _, v in raw.values() if len(v) > 4)),
    )
    entries, extra = b"", b""
    for code, (kind, count, value) in raw.items():
        if len(value) > 4:
            place = struct.pack(f"{order}I", at + len(extra))
            extra += value
            value = place
        entries += struct.pack(f"{order}HHI", code, kind, count) + value.ljust(4, b"\0")
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}IH", 8, len(raw))
    return head + entries + struct.pack(f"{order}I", 0) + extra + data


def packed(plane, bits):
    """Rows of grey values of fewer bits than a byte has, or of 10 to 14, as TIFF and PNG pack."""
    rows = []
    for row in plane:
        text = "".join(f"{value:0{bits}b}" for value in row)
        text += "0" * (-len(text) % 8)
        rows.append(int(text, 2).to_bytes(len(text) // 8, "big"))
    return rows


def png_chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(rows, width, bits, colour, extra=b""):
    head = struct.pack(">IIBBBBB", width, len(rows), bits, colour, 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + row for row in rows))
    return (
        b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", head) + extra + png_chunk(b"IDAT", body)
        + png_chunk(b"IEND", b"")
    )  # fmt: skip


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def read(data, channel="green", reading=None):
    """The plane of a channel's file; its header must tell of it what it is."""
    reading = reading or Reading()
    header, planes = read_header(data, reading), read_planes(data, reading=reading)
    assert planes.shape == (header.height, header.width, header.planes)
    assert planes.dtype == header.dtype
    return chosen_plane(planes, channel)[0]


def full(plane, bits):
    """Grey values of few bits as 8 bits have them."""
    return np.rint(plane * (255 / (2**bits - 1))).astype(np.uint8) if bits < 8 else plane


# ---------------------------------------------------------------- the cross product of TIFF

# How samples and axes are written: the array of a plane, options, and whether it is one channel.
KINDS = {
    "left to the writer": (lambda p: p, {}, True),
    "grey": (lambda p: p, {"photometric": "minisblack"}, True),
    "white is 0": (lambda p: np.iinfo(p.dtype).max - p, {"photometric": "miniswhite"}, True),
    "grey in RGB": (lambda p: np.dstack([p] * 3), {"photometric": "rgb"}, True),
    "green": (lambda p: np.dstack([p * 0, p, p * 0]), {"photometric": "rgb"}, True),
    "magenta": (lambda p: np.dstack([p, p * 0, p]), {"photometric": "rgb"}, True),
    "RGBA": (
        lambda p: np.dstack([p * 0, p, p * 0, p[::-1]]),
        {"photometric": "rgb", "extrasamples": ["unassalpha"]},
        True,
    ),
    "opacity": (
        lambda p: np.dstack([p, p[::-1]]),
        {"photometric": "minisblack", "extrasamples": ["unassalpha"]},
        True,
    ),
    "full opacity that was multiplied": (
        lambda p: np.dstack([p, np.full_like(p, np.iinfo(p.dtype).max)]),
        {"photometric": "minisblack", "extrasamples": ["assocalpha"]},
        True,
    ),
    "multiplied": (
        lambda p: np.dstack([p, p[::-1]]),
        {"photometric": "minisblack", "extrasamples": ["assocalpha"]},
        False,
    ),
    "two samples": (
        lambda p: np.dstack([p, p[::-1]]),
        {"photometric": "minisblack", "extrasamples": ["unspecified"]},
        False,
    ),
    "overlay": (lambda p: np.dstack([p, p[::-1], p[:, ::-1]]), {"photometric": "rgb"}, False),
    "CMYK": (
        lambda p: np.dstack([np.iinfo(p.dtype).max - p] * 3 + [p * 0]),
        {"photometric": "separated"},
        False,
    ),
    "CIELab": (lambda p: np.dstack([p, p * 0, p * 0]), {"photometric": "cielab"}, False),
    "four samples": (lambda p: np.dstack([p] * 4), {"photometric": "minisblack"}, False),
}
LOSSLESS = (
    None, "zlib", "lzw", "packbits", "zstd", "lzma", "png", "webp", "jpeg2000", "jpegxl", "jpegxr",
    "lerc",
)  # fmt: skip


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
@given(
    kind=st.sampled_from(sorted(KINDS)),
    dtype=st.sampled_from([np.uint8, np.uint16]),
    planar=st.sampled_from(["contig", "separate"]),
    compression=st.sampled_from(LOSSLESS),
    predictor=st.booleans(),
    byteorder=st.sampled_from("<>"),
    tile=st.sampled_from([None, (16, 32)]),
    rows=st.sampled_from([None, 7]),
    big=st.booleans(),
    axes=st.sampled_from(["", "", "", "Z", "T", "C", "Q"]),
    container=st.sampled_from(["", "ome", "imagej", "plain"]),
    count=st.sampled_from([3, 4, 5]),
)  # fmt: skip
def test_every_tiff_file_gives_the_plain_picture_or_says_why_not(
    kind, dtype, planar, compression, predictor, byteorder, tile, rows, big, axes, container, count
):
    make, options, is_one = KINDS[kind]
    plane = picture(1, dtype)
    array = make(plane)
    if (kind, container) == ("white is 0", "imagej"):
        array = plane  # what ImageJ shows by an inverting look-up table
    has_samples = array.ndim == 3
    assume(planar == "contig" or has_samples)
    array_of_rgb = options.get("photometric") == "rgb"
    # tifffile writes these as other than what was asked: RGB, and swapped bytes.
    assume(container != "imagej" or (axes != "Q" and (array_of_rgb or not has_samples)))
    assume((compression, dtype, byteorder) != ("jpeg2000", np.uint16, ">"))
    if has_samples:
        options = options | {"planarconfig": planar}
        array = array if planar == "contig" else np.moveaxis(array, 2, 0)
    inner = "YX" if not has_samples else "YXS" if planar == "contig" else "SYX"
    if axes:
        mirrored = array[..., ::-1, :] if inner == "YXS" else array[..., ::-1]
        array = np.stack([array, mirrored, array, mirrored, array][:count])
    if container != "plain":
        options = options | {"metadata": {"axes": axes + inner}}
    if compression == "webp":
        options = options | {"compressionargs": {"lossless": True}}
    if compression == "jpegxr":
        options = options | {"compressionargs": {"level": 1.0}}
    options |= {"metadata": None} if container == "plain" else {}
    try:
        data = tiff(
            array, compression=compression, predictor=predictor or None, byteorder=byteorder,
            tile=tile, rowsperstrip=None if tile else rows,
            bigtiff=big, ome=container == "ome", imagej=container == "imagej", **options,
        )  # fmt: skip
    except Exception:  # noqa: BLE001  no such file is written, for many reasons
        assume(False)
    if is_one and not axes:
        assert np.array_equal(read(data), plane)
        return
    with pytest.raises(BadImage) as caught:
        read(data)
    assert len(str(caught.value)) > 20
    if axes in ("Z", "T") and is_one and container != "plain":
        assert f"a {axes} axis of {count}" in str(caught.value)
        key = axes.lower()
        assert np.array_equal(read(data, reading=Reading(False, {key: 1})), plane)
        if "opacity" not in kind and kind != "RGBA":
            both = np.maximum(plane, plane[:, ::-1])
            assert np.array_equal(read(data, reading=Reading(False, {key: "max"})), both)
        with pytest.raises(BadImage, match="there is no slice 6"):
            read(data, reading=Reading(False, {key: 6}))
    elif axes == "C" and is_one and container != "plain":
        assert f"a C axis of {count} channels" in str(caught.value)
    elif kind == "left to the writer" and container == "plain" and count < 5:
        assert "different pictures" in str(caught.value)  # nothing says that they are not RGB
    elif axes and is_one and container != "ome":  # OME has no axes but Z, C and T
        assert f"{count} pages, an axis that the file does not name" in str(caught.value)
        assert np.array_equal(read(data, reading=Reading(False, {"pages": 1})), plane)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("fill_order", [1, 2])
@pytest.mark.parametrize("photometric", [None, 0, 1])
@pytest.mark.parametrize("bits", [1, 2, 3, 4, 6, 8, 10, 12, 14, 16])
def test_tiff_of_any_number_of_bits(bits, photometric, fill_order, order):
    plane = picture(1, np.uint8 if bits <= 8 else np.uint16, bits)
    stored = 2**bits - 1 - plane if photometric == 0 else plane
    data = b"".join(packed(stored, bits))
    if bits == 16:
        data = stored.astype(f"{order}u2").tobytes()
    if fill_order == 2:
        data = bytes(int(f"{byte:08b}"[::-1], 2) for byte in data)
    tags = {258: [bits], 266: [fill_order]}
    tags |= {} if photometric is None else {262: [photometric]}
    found = read(hand_made(WIDTH, HEIGHT, tags, data, order))
    assert np.array_equal(found, full(plane, bits))


@pytest.mark.parametrize("tag", [None, 1, 0])
def test_white_that_is_0_is_inverted_unless_imagej_wrote_it(tag):
    plane = picture()
    tags = {258: [8]} | ({} if tag is None else {262: [tag]})
    data = hand_made(WIDTH, HEIGHT, tags, plane.tobytes())
    assert bool(read_header(data).notes) == (tag == 0)
    assert np.array_equal(read(data), 255 - plane if tag == 0 else plane)
    imagej = hand_made(WIDTH, HEIGHT, tags | {270: "ImageJ=1.54f\n"}, plane.tobytes())
    assert np.array_equal(read(imagej), plane)  # its inverting look-up table is for display
    assert bool(read_header(imagej).notes) == (tag == 0)


def ramp(colour, falling=False):
    table = np.arange(256)[:: -1 if falling else 1]
    return np.array([table * on * 257 for on in colour], np.uint16)


@pytest.mark.parametrize("colour", [(1, 1, 1), (0, 1, 0), (1, 0, 1)])
@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_palettes_are_expanded(bits, colour):
    plane = picture(1, np.uint8, bits)
    table = np.rint(np.arange(2**bits) * (255 / (2**bits - 1))).astype(np.uint16)
    colours = [entry for on in colour for entry in (table * on * 257).tolist()]
    data = b"".join(packed(plane, bits))
    tags = {258: [bits], 262: [3], 320: colours}
    assert np.array_equal(read(hand_made(WIDTH, HEIGHT, tags, data)), full(plane, bits))
    entries = np.array(colours, np.uint16).reshape(3, -1).T // 257
    chunk = png_chunk(b"PLTE", entries.astype(np.uint8).tobytes())
    for more in (b"", png_chunk(b"tRNS", b"\0\x80")):
        written = png(packed(plane, bits), WIDTH, bits, 3, chunk + more)
        assert np.array_equal(read(written), full(plane, bits))


def test_a_palette_is_another_order_of_the_values_but_a_table_of_imagej_is_for_display():
    plane = picture()
    falling = tiff(255 - plane, photometric="palette", colormap=ramp((1, 1, 1), falling=True))
    assert np.array_equal(read(falling), plane)
    shown = {258: [8], 262: [3], 270: "ImageJ=1.54f\n"}
    for falls in (False, True):
        tags = shown | {320: ramp((0, 1, 0), falls).ravel().tolist()}
        data = hand_made(WIDTH, HEIGHT, tags, plane.tobytes())
        assert np.array_equal(read(data), plane)
        assert bool(read_header(data).notes) == falls
    fire = np.stack([np.minimum(np.arange(256) * n, 255) * 257 for n in (3, 1, 2)])
    with pytest.raises(BadImage, match=r"look-up table of ImageJ .* Lookup Tables > Grays"):
        read(hand_made(WIDTH, HEIGHT, shown | {320: fire.ravel().tolist()}, plane.tobytes()))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"photometric": "separated"}, "inks .CMYK."),
        ({"photometric": "cielab"}, "CIELAB"),
        ({"photometric": "ycbcr"}, "YCbCr that is not JPEG"),
        ({"photometric": "cfa"}, "CFA"),
    ],
)
def test_what_is_neither_grey_nor_rgb_is_refused_by_its_name(options, words):
    samples = {"separated": 4, "cfa": 1}.get(options["photometric"], 3)
    array = np.dstack([picture()] * samples).squeeze()
    with pytest.raises(BadImage, match=f"{words}.*export it"):
        read_header(tiff(array, **options))


@pytest.mark.parametrize("dtype", [np.int16, np.uint32, np.float32, np.float64, np.int8])
def test_values_that_are_not_8_or_16_bits_are_refused(dtype):
    for data in (tiff(picture().astype(dtype)), npy(picture().astype(dtype))):
        with pytest.raises(BadImage, match=f"holds {np.dtype(dtype).name} values"):
            read_header(data)


@pytest.mark.parametrize("stored", ["minisblack", "ycbcr", "rgb"])
def test_tiff_that_is_compressed_as_jpeg(stored):
    plane = cv2.GaussianBlur(picture(), (0, 0), 3)
    array = plane if stored == "minisblack" else np.dstack([plane * 0, plane, plane * 0])
    more = {"level": 95} | ({"outcolorspace": stored} if stored != "minisblack" else {})
    photometric = "minisblack" if stored == "minisblack" else "rgb"
    data = tiff(array, photometric=photometric, compression="jpeg", compressionargs=more)
    assert np.abs(read(data).astype(int) - plane).max() <= 6


def test_cmyk_of_jpeg_is_refused():
    file = io.BytesIO()
    Image.new("CMYK", (16, 16)).save(file, "JPEG")
    with pytest.raises(BadImage, match=r"CMYK.*export it in RGB"):
        read_header(file.getvalue())


def test_jpeg_of_12_bits_is_refused():
    data = imagecodecs.jpeg_encode(picture(1, np.uint16, 12), bitspersample=12)
    with pytest.raises(BadImage, match="a JPEG file of 12 bits"):
        read_header(data)


# ---------------------------------------------------------------- PNG and NPY


@pytest.mark.parametrize("clear", [False, True])
@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_grey_png_of_any_number_of_bits_with_and_without_a_clear_value(bits, clear):
    plane = picture(1, np.uint16 if bits == 16 else np.uint8, bits)
    extra = png_chunk(b"tRNS", b"\0\1") if clear else b""
    assert np.array_equal(read(png(packed(plane, bits), WIDTH, bits, 0, extra)), full(plane, bits))


@pytest.mark.parametrize("opacity", ["full", "varied"])
@pytest.mark.parametrize("colour", [4, 6])
@pytest.mark.parametrize("dtype", [">u1", ">u2"])
def test_opacity_of_png_is_ignored(dtype, colour, opacity):
    plane = picture(1, dtype)
    over = np.full_like(plane, np.iinfo(dtype).max) if opacity == "full" else picture(2, dtype)
    array = np.dstack([plane] * (1 if colour == 4 else 3) + [over]).astype(dtype)
    rows = [row.tobytes() for row in array]
    assert np.array_equal(read(png(rows, WIDTH, array.itemsize * 8, colour)), plane)


def test_an_animated_png_is_refused():
    frames = png_chunk(b"acTL", struct.pack(">II", 2, 0))
    with pytest.raises(BadImage, match="animated PNG"):
        read_header(png(packed(picture(), 8), WIDTH, 8, 0, frames))


@pytest.mark.parametrize(
    ("shape", "stacked", "layout"),
    [
        ((HEIGHT, WIDTH), False, "YX"),
        ((1, HEIGHT, WIDTH), False, "YX"),
        ((HEIGHT, WIDTH, 1), False, "YX"),
        ((4, 1, WIDTH), False, None),  # four planes 1 px high, or one plane 4 px high
        ((1, HEIGHT, WIDTH, 1), False, "YX"),
        ((4, 1, HEIGHT, WIDTH), True, "CYX"),
        ((3, HEIGHT, WIDTH), False, None),
        ((HEIGHT, WIDTH, 3), False, None),
        ((HEIGHT, WIDTH, 4), False, None),
        ((3, WIDTH, 3), False, None),
        ((4, HEIGHT, WIDTH), True, "CYX"),
        ((1, HEIGHT, WIDTH, 4), True, "YXC"),
        ((HEIGHT, WIDTH), True, None),
        ((3, HEIGHT, WIDTH), True, None),
        ((4, HEIGHT, 4), True, None),
        ((2, 4, HEIGHT, WIDTH), True, None),
    ],
)
def test_npy_arrays_are_read_only_where_their_axes_are_clear(shape, stacked, layout):
    array = np.random.default_rng(1).integers(0, 255, shape, np.uint8)
    data, reading = npy(array), Reading(stacked)
    if layout is None:
        with pytest.raises(BadImage, match=r"no names of its axes|1 plane where all 4"):
            read_header(data, reading)
        return
    planes = read_planes(data, reading=reading)
    plain = array.squeeze()
    plain = plain[:, :, None] if layout == "YX" else plain
    assert np.array_equal(planes, np.moveaxis(plain, 0, 2) if layout == "CYX" else plain)


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (imagecodecs.jpegxl_encode(picture()), "JPEG XL"),
        (imagecodecs.jpeg2k_encode(picture()), "JPEG 2000"),
        (imagecodecs.webp_encode(np.dstack([picture()] * 3)), "WebP"),
        (b"GIF89a" + bytes(20), "GIF"),
        (b"ZISRAWFILE" + bytes(20), "Zeiss CZI"),
        (b"\x89HDF\r\n\x1a\n" + bytes(20), "HDF5"),
        (bytes(128) + b"DICM", "DICOM"),
        (b"\0\0\0\x20ftypheic" + bytes(20), "HEIF"),
    ],
)
def test_other_formats_are_refused_by_their_names(data, name):
    with pytest.raises(BadImage, match=f"{name}.*export it as TIFF or PNG"):
        read_header(data)


# ---------------------------------------------------------------- orientation


def exif(orientation):
    return struct.pack("<2sHIHHHIHHI", b"II", 42, 8, 1, 274, 3, 1, orientation, 0, 0)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_as_their_orientation_says(orientation):
    plane = cv2.GaussianBlur(picture(), (0, 0), 2)
    told = Image.Exif()
    told[274] = orientation
    file = io.BytesIO()
    Image.fromarray(plane).save(file, "JPEG", quality=95, exif=told)
    true = np.asarray(ImageOps.exif_transpose(Image.open(file)))
    assert np.abs(read(file.getvalue()).astype(int) - true).max() <= 1
    header = read_header(file.getvalue())
    assert bool(header.notes) == (orientation != 1)
    whole = [(0, 0, header.width, header.height)]
    assert reduction(header, whole, 8) == (2 if orientation == 1 else 1)

    turned = Image.fromarray(plane)
    turned.getexif()[274] = orientation
    true = np.asarray(ImageOps.exif_transpose(turned))
    chunk = png_chunk(b"eXIf", exif(orientation))
    assert np.array_equal(read(png(packed(plane, 8), WIDTH, 8, 0, chunk)), true)
    tags = {258: [8], 262: [1], 274: [orientation]}
    assert np.array_equal(read(hand_made(WIDTH, HEIGHT, tags, plane.tobytes())), true)


# ---------------------------------------------------------------- pages of TIFF


def test_pages_that_are_reduced_copies_are_left_out():
    plane = picture()
    small = np.ascontiguousarray(plane[::4, ::4])
    options = {"photometric": "minisblack", "metadata": None}
    reduced = options | {"subfiletype": 1}
    for data in (
        pages((plane, options), (small, reduced)),
        pages((small, reduced), (plane, options)),
        pages((small, options), (plane, options)),  # of the same shape: no tag is needed
        pages((plane, options), (np.dstack([small] * 3), {"photometric": "rgb", "metadata": None})),
        pages((plane, options | {"subifds": 2}), (small, reduced), (small[::2, ::2], reduced)),
        pages((small, reduced | {"subifds": 1}), (plane, options)),  # the picture is below it
        pages((plane, {"photometric": "minisblack"}), (small, {"subfiletype": 1})),
        pages(
            (plane, {"photometric": "minisblack", "subifds": 1}),
            (small, {"photometric": "minisblack", "subfiletype": 1}), ome=True,
        ),
    ):  # fmt: skip
        assert np.array_equal(read(data), plane)
    for more in (options, reduced):
        notes = read_header(pages((plane, options), (small, more))).notes
        assert ("left out as copies" in " ".join(notes)) == (more is options)


def test_pages_that_are_other_pictures_are_refused():
    options = {"photometric": "minisblack", "metadata": None}
    plane = picture()
    for data, words in (
        (pages((plane, options), (plane[:40], options)), "several pictures .1 of 40 × 48 px"),
        (pages((plane, options), (plane[:10, :20], options)), "several pictures"),
        (pages((plane, options), (picture(2, np.uint16), options)), "pages of different kinds"),
        (pages((plane, {}), (picture(2), {}), ome=True), "OME-TIFF file of 2 images"),
        (pages((np.stack([plane] * 2), {}), (np.stack([plane] * 2), {})), "several pictures"),
        (pages((plane, {}), (picture(2)[:40], {})), "several pictures"),
    ):
        with pytest.raises(BadImage, match=f"{words}.*export one"):
            read_header(data)


def test_pages_that_were_written_one_by_one_are_an_axis_without_a_name():
    stack = [picture(k) for k in range(4)]
    for options in ({"photometric": "minisblack"}, {"photometric": "minisblack", "metadata": None}):
        data = pages(*((plane, options) for plane in stack))
        with pytest.raises(BadImage, match="4 pages, an axis that the file does not name"):
            read_header(data)
        assert np.array_equal(read(data, reading=Reading(False, {"pages": 3})), stack[2])
        assert np.array_equal(read_planes(data, reading=ALL_FOUR), np.dstack(stack))
        assert "axis has no name" in read_header(data, ALL_FOUR).notes[0]


def test_an_imagej_stack_that_is_cut_off_is_not_its_first_slice():
    stack = np.stack([picture(k) for k in range(5)])
    data = tiff(stack, imagej=True, metadata={"axes": "ZYX"})
    whole = tiff(picture(0), imagej=True)
    assert np.array_equal(read(whole), picture(0))
    for left in (0.5, 0.9):
        with pytest.raises(BadImage, match="truncated or broken"):
            read(data[: int(len(data) * left)], reading=Reading(False, {"z": 1}))


@pytest.mark.parametrize("tag", ["StripOffsets", "StripByteCounts"])
def test_strips_that_are_not_there_are_no_black_rows(tag):
    data = bytearray(tiff(picture(), rowsperstrip=8, metadata=None))
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        found = file.pages[0].tags[tag]
        place, size = found.valueoffset, found.valuebytecount // found.count
    data[place + 5 * size : place + 6 * size] = bytes(size)  # as an interrupted writer leaves it
    with pytest.raises(BadImage, match=r"truncated or broken TIFF file .it lacks 1 of 6 strips"):
        read(bytes(data))
    higher = bytearray(tiff(picture(), metadata=None, rowsperstrip=8))
    with tifffile.TiffFile(io.BytesIO(higher)) as file:
        higher[file.pages[0].tags["ImageLength"].valueoffset + 2] = 1
    with pytest.raises(BadImage, match="it lacks 8192 of 8198 strips"):
        read(bytes(higher))


def ome_set(names, own, size_z, planes_of):
    """The OME-XML of one file of a set: ``planes_of`` gives (C, Z, IFD) of each name."""
    ids = {name: f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, name)}" for name in names}
    data = "".join(
        f'<TiffData FirstC="{c}" FirstZ="{z}" FirstT="0" IFD="{ifd}" PlaneCount="1">'
        f'<UUID FileName="{name}">{ids[name]}</UUID></TiffData>'
        for name in names
        for c, z, ifd in planes_of[name]
    )
    channels = "".join(f'<Channel ID="Channel:0:{c}" SamplesPerPixel="1"/>' for c in range(4))
    return (
        '<?xml version="1.0" encoding="UTF-8"?>'
        f'<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="{ids[own]}">'
        '<Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="uint8"'
        f' SizeX="{WIDTH}" SizeY="{HEIGHT}" SizeC="4" SizeZ="{size_z}" SizeT="1">{channels}{data}'
        "</Pixels></Image></OME>"
    )


@pytest.mark.parametrize("slices", [1, 3])
def test_each_file_of_an_ome_set_gives_its_own_planes(slices):
    names = [f"set_{channel}.ome.tif" for channel in CHANNELS]
    planes_of = {n: [(c, z, z) for z in range(slices)] for c, n in enumerate(names)}
    for c, name in enumerate(names):
        xml = ome_set(names, name, slices, planes_of)
        stack = np.stack([picture(10 * c + z) for z in range(slices)])
        data = tiff(stack, description=xml, metadata=None, photometric="minisblack")
        if slices > 1:
            with pytest.raises(BadImage, match="a Z axis of 3 slices"):
                read(data)
        for z in range(slices):
            found = read(data, CHANNELS[c], Reading(False, {"z": z + 1}))
            assert np.array_equal(found, stack[z])


@pytest.mark.parametrize("axis", ["Z", "T", "C", "Q"])
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("options", [{}, {"photometric": "minisblack"}, {"compression": "zlib"}])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_planes_that_were_stored_as_colours_are_what_their_axis_says(dtype, options, last, axis):
    stack = np.dstack([picture(k, dtype) for k in range(4)])
    stored = stack if last else np.moveaxis(stack, 2, 0)
    data = tiff(stored, metadata={"axes": f"YX{axis}" if last else f"{axis}YX"}, **options)
    if axis in "CQ":
        assert np.array_equal(read_planes(data, reading=ALL_FOUR), stack)
    if axis != "C":
        key = {"Z": "z", "T": "t", "Q": "pages"}[axis]
        for wanted, true in (("max", stack.max(axis=2)), (2, stack[:, :, 1])):
            assert np.array_equal(read(data, reading=Reading(False, {key: wanted})), true)


def one_by_one(planes, description=None, **options):
    """Pages that are written one by one, the first with a description."""
    options = {"photometric": "minisblack", "metadata": None, "contiguous": False} | options
    return pages(*((p, options | ({} if k else {"description": description}))
                   for k, p in enumerate(planes)))  # fmt: skip


def ome_xml(blocks="", z=3):
    return (
        '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">'
        f'<Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint8" SizeC="1"'
        f' SizeX="{WIDTH}" SizeY="{HEIGHT}" SizeZ="{z}" SizeT="1">{blocks}</Pixels></Image></OME>'
    )


SMALL = [picture(k)[:8, :8] for k in range(4)]


@pytest.mark.parametrize(
    "data",
    [
        one_by_one(SMALL),
        one_by_one(SMALL, '{"shape": [4, 8, 8]}', compression="zlib"),
        *(
            tiff(np.stack(SMALL), metadata={"axes": "ZYX"}, **more)
            for more in ({"ome": True}, {"imagej": True}, {"compression": "zlib"}, {})
        ),
    ],
)
def test_a_stack_that_is_cut_anywhere_is_never_another_picture(data):
    for slices in ({}, {"z": 1, "pages": 1}, {"z": "max", "pages": "max"}):
        for stacked in (False, True):
            reading = Reading(stacked, slices)
            try:
                true = read_planes(data, reading=reading)
            except BadImage:
                true = None
            for length in range(8, len(data), 3):
                try:
                    found = read_planes(data[:length], reading=reading)
                except BadImage:
                    continue
                assert true is not None and np.array_equal(found, true)


def test_descriptions_that_name_more_pages_than_there_are_are_refused_at_once():
    one = [picture()]
    for data in (
        one_by_one(one, ome_xml("<TiffData/>")),
        one_by_one(one, ome_xml()),
        one_by_one(one * 2, ome_xml("<TiffData/>", z=10**12)),
        one_by_one(one * 2, ome_xml('<TiffData IFD="0" NumPlanes="3"/>')),
        one_by_one(one, ome_xml('<TiffData FirstZ="0" IFD="0"/><TiffData FirstZ="1" IFD="0"/>')),
        one_by_one(one * 2, '{"shape": [3, 48, 40]}', compression="zlib"),
        one_by_one(one * 2, '{"shape": [3, 48, 40], "axes": "ZYX"}', compression="zlib"),
    ):
        for slices in ({}, {"z": 1}, {"z": "max"}):
            with pytest.raises(BadImage, match="truncated or broken TIFF"):
                read(data, reading=Reading(False, slices))


def test_a_list_of_pages_that_is_a_circle_is_refused():
    data = bytearray(one_by_one([picture()] * 2))
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        first, last = (page.offset for page in file.pages)
    (count,) = struct.unpack_from("<H", data, last)
    struct.pack_into("<I", data, last + 2 + 12 * count, first)
    with pytest.raises(BadImage, match="list of pages is a circle"):
        read_header(bytes(data))


def test_pages_of_an_ome_file_are_never_an_axis_without_a_name():
    stack = [picture(k) for k in range(4)]
    for blocks in ("", "<MetadataOnly/>"):
        data = one_by_one(stack, ome_xml(blocks, z=4))
        with pytest.raises(BadImage, match="a Z axis of 4 slices"):
            read_header(data, ALL_FOUR)
        assert np.array_equal(read(data, reading=Reading(False, {"z": 3})), stack[2])
    for text in (
        ome_xml(z=4).replace("</Image>", ""),
        ome_xml(z=4)[:-9],
        '<OME><BinaryOnly MetadataFile="a.companion.ome"/></OME>',
    ):
        with pytest.raises(BadImage, match="does not say what its 4 pages are"):
            read_header(one_by_one(stack, text), ALL_FOUR)
        alone = one_by_one(stack[:1], text)
        assert np.array_equal(read(alone), stack[0])
        assert "is ignored" in read_header(alone).notes[0]


@pytest.mark.parametrize("description", [None, ome_xml("<TiffData/>", z=2), "shaped"])
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"photometric": "miniswhite"}, "photometric interpretation"),
        ({"extratags": [(274, "H", 1, 3, False)]}, "orientation"),
        ({"photometric": "palette"}, "palette"),
    ],
)
def test_pages_that_mean_their_values_in_different_ways_are_refused(options, words, description):
    if description == "shaped":
        description = f'{{"shape": [2, {HEIGHT}, {WIDTH}], "axes": "ZYX"}}'
    plain = {"photometric": "minisblack", "metadata": None, "contiguous": False}
    first = plain | {"description": description}
    if words == "palette":
        first |= options | {"colormap": ramp((1, 0, 0))}
        options = options | {"colormap": ramp((0, 1, 0))}
    data = pages((picture(), first), (picture(2), plain | options))
    with pytest.raises(BadImage, match=f"page 2 has another {words} than page 1"):
        read_header(data, Reading(False, {"z": 2, "pages": 2}))


def test_an_ome_file_that_lacks_pages_is_broken_and_entities_are_refused():
    stack = np.stack([picture(k) for k in range(3)])
    xml = ome_set(["a"], "a", 5, {"a": [(0, z, z) for z in range(5)]})
    options = {"metadata": None, "photometric": "minisblack"}
    with pytest.raises(BadImage, match="names page 3, it has 3 pages"):
        read_header(tiff(stack, description=xml, **options))
    bomb = xml.replace("<OME", '<!DOCTYPE OME [<!ENTITY a "a">]><OME', 1)
    with pytest.raises(BadImage, match="entities"):
        read_header(tiff(stack, description=bomb, **options))


@pytest.mark.parametrize(
    ("axes", "options", "words"),
    [
        ("CYX", {"ome": True}, None),
        ("CYX", {"imagej": True}, None),
        ("CYX", {}, None),
        ("QYX", {}, None),
        ("YXS", {"planarconfig": "contig"}, None),
        ("SYX", {"planarconfig": "separate"}, None),
        ("ZYX", {"ome": True}, "a Z axis of 4 slices"),
        ("TYX", {"imagej": True}, "a T axis of 4 time points"),
    ],
)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_files_of_all_four_channels(axes, options, words, dtype):
    order = ["blue", "green", "red", "yellow"]
    stack = np.stack([picture(k, dtype) for k in range(4)])
    stored = np.moveaxis(stack, 0, 2) if axes == "YXS" else stack
    data = tiff(stored, photometric="minisblack", metadata={"axes": axes}, **options)
    if words:
        with pytest.raises(BadImage, match=words):
            read_header(data, ALL_FOUR)
        with pytest.raises(BadImage, match="holds 1 plane where all 4 channels are due"):
            read_header(data, Reading(True, {axes[0].lower(): "max"}))
        return
    planes = read_planes(data, reading=ALL_FOUR)
    for k, channel in enumerate(order):
        assert np.array_equal(plane_of_stack(planes, channel, order), stack[k])
    assert bool(read_header(data, ALL_FOUR).notes) == (axes == "QYX")
    with pytest.raises(BadImage):
        read(data)


@pytest.mark.parametrize("container", ["imagej", "ome"])
def test_slices_of_a_file_of_all_four_channels(container):
    stack = np.stack([[picture(10 * z + c) for c in range(4)] for z in range(3)])
    data = tiff(stack, photometric="minisblack", metadata={"axes": "ZCYX"}, **{container: True})
    for wanted, true in (("max", stack.max(axis=0)), (2, stack[1])):
        planes = read_planes(data, reading=Reading(True, {"z": wanted}))
        assert np.array_equal(planes, np.moveaxis(true, 0, 2))


def test_rgba_holds_four_channels_only_where_its_opacity_is_a_picture():
    stack = np.dstack([picture(k) for k in range(4)])
    rows = [row.tobytes() for row in stack]
    flat = stack.copy()
    flat[:, :, 3] = 255
    for data, opaque in (
        (png(rows, WIDTH, 8, 6), png([row.tobytes() for row in flat], WIDTH, 8, 6)),
        (tiff(stack, photometric="rgb"), tiff(flat, photometric="rgb")),
    ):
        assert np.array_equal(read_planes(data, reading=ALL_FOUR), stack)
        assert "opacity" in read_header(data, ALL_FOUR).notes[0]
        with pytest.raises(BadImage, match="opacity, which is the same everywhere"):
            read_planes(opaque, reading=ALL_FOUR)


# ---------------------------------------------------------------- colours

COLOURS = {
    "red": (1, 0, 0), "green": (0, 1, 0), "blue": (0, 0, 1), "yellow": (1, 1, 0),
    "magenta": (1, 0, 1), "cyan": (0, 1, 1), "grey": (1, 1, 1), "orange": (1, 0.6, 0),
}  # fmt: skip


def blurred(seed, side=160):
    return cv2.resize(picture(seed), (side, side), interpolation=cv2.INTER_CUBIC)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("colour", COLOURS)
@pytest.mark.parametrize("channel", CHANNELS)
def test_the_plane_with_the_signal_is_taken_whatever_its_colour(channel, colour, dtype):
    plane = blurred(1).astype(dtype) * (1 if dtype == np.uint8 else 100)
    rgb = np.dstack([np.rint(plane * on).astype(dtype) for on in COLOURS[colour]])
    number, note = plane_with_signal(rgb, channel)
    assert COLOURS[colour][number] > 0
    assert np.array_equal(rgb[:, :, number], np.rint(plane * COLOURS[colour][number]))
    usual = (channel, "grey") if channel != "yellow" else ("yellow", "grey", "orange")
    assert bool(note) == (colour not in usual)
    if dtype == np.uint8:
        for quality, subsampling in ((50, "420"), (90, "444")):
            jpeg = simplejpeg.encode_jpeg(rgb, quality=quality, colorsubsampling=subsampling)
            found, said = plane_with_signal(read_planes(jpeg), channel)
            assert COLOURS[colour][found] > 0 and bool(said) == bool(note)


@pytest.mark.parametrize("gain", [0.01, 0.03, 0.1, 0.3])
@pytest.mark.parametrize("quality", [30, 50, 90])
@pytest.mark.parametrize("channel", CHANNELS)
def test_dim_files_in_the_colours_of_the_atlas_are_read_as_ever(channel, quality, gain):
    noise = np.random.default_rng(1).normal(1, 1, (160, 160))
    plane = np.clip(np.rint(blurred(1) * gain + noise), 0, 255).astype(np.uint8)
    rgb = np.dstack([plane * on for on in COLOURS[channel]]).astype(np.uint8)
    jpeg = simplejpeg.encode_jpeg(rgb, quality=quality, colorsubsampling="420")
    number, note = plane_with_signal(read_planes(jpeg), channel)
    assert (number, note) == (CHANNELS.index(channel) % 3, "")


def test_planes_of_different_pictures_are_refused_by_their_names():
    one, other = blurred(1), blurred(2)
    for rgb, words in (
        (np.dstack([one, one * 0, other]), "red and blue planes hold different pictures"),
        (np.dstack([one, other, one * 0]), "red and green planes hold different pictures"),
        (np.dstack([one, other, blurred(3)]), "hold different pictures"),
    ):
        for channel in CHANNELS:
            with pytest.raises(BadImage, match=f"{words}.*{channel} channel.*export"):
                plane_with_signal(rgb, channel)


def test_a_few_bright_spots_between_the_rows_that_are_looked_at_are_seen():
    rgb = np.zeros((960, 960, 3), np.uint8)
    rgb[105, 300:304, [0]] = 255
    assert plane_with_signal(rgb, "green")[0] == 0


def test_black_is_said_only_of_what_is_black():
    black = np.zeros((200, 200, 3), np.uint8)
    assert plane_with_signal(black, "green") == (1, "")
    flat = black.copy()
    flat[:, :, 2] = 200  # one value, but not black
    for some in (flat, flat[:20]):
        assert plane_with_signal(some, "green")[0] == 2
    hot = black.copy()
    hot[50, 50, 2] = 255  # one pixel is enough
    assert plane_with_signal(hot, "green")[0] == 2


# ---------------------------------------------------------------- settings and notes


def test_settings_say_how_files_are_meant():
    assert reading_of({}) == Reading()
    assert reading_of({"pattern": "{id}"}) == ALL_FOUR
    settings = {"pattern": "{id}_{channel}", "slices": {"z": "max", "t": None, "pages": 2}}
    assert reading_of(settings) == Reading(False, settings["slices"])
    check_slices(settings["slices"], "--slices")
    for wrong in ({"y": "max"}, {"z": 0}, {"z": "mean"}, {"z": True}, {"z": 1.5}, ["z"], "max"):
        with pytest.raises(InputError, match="--slices: "):
            check_slices(wrong, "--slices")


def test_notes_are_counted_and_name_the_same_file_in_any_order():
    lines = []
    for files in (["b", "a", "c"], ["c", "b", "a"]):
        notes = Notes()
        for file in files:
            notes.add("inverted", file)
        notes.add("turned", "x")
        lines.append(notes.lines())
    assert lines[0] == lines[1]
    assert lines[0] == ["inverted (3 files, the first is a)", "turned (1 file, the first is x)"]
