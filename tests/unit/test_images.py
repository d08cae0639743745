import io

import cv2
import numpy as np
import pytest
import simplejpeg
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from hpaloc.classes import CHANNELS
from hpaloc.colour_planes import RGB_PLANE
from hpaloc.images import (
    BadImage,
    Header,
    Reading,
    plane_of_channel,
    plane_of_stack,
    read_header,
    read_planes,
    reduction,
    resize_area,
    to_8_bit,
)

LUMA = {"red": 0.299, "green": 0.587, "blue": 0.114, "yellow": 0.886}


def signal(size, seed, dtype=np.uint8):
    """Blobs on a dark ground, blurred as by a microscope and mostly dim as cells are."""
    noise = np.random.default_rng(seed).random((size, size), np.float32) - 0.5
    blobs = sum(cv2.GaussianBlur(noise, (0, 0), s) * s**1.2 for s in (2.5, 6, 15))
    blobs = np.clip(blobs / blobs.max(), 0, 1) ** 1.5
    return (blobs * np.iinfo(dtype).max).astype(dtype)


def colour_coded(plane, channel, quality=50):
    """A JPEG file as the Human Protein Atlas serves them: 4:2:0, the signal in its colour."""
    rgb = np.zeros((*plane.shape, 3), np.uint8)
    for k in {"red": [0], "green": [1], "blue": [2], "yellow": [0, 1]}[channel]:
        rgb[:, :, k] = plane
    return simplejpeg.encode_jpeg(rgb, quality=quality, colorsubsampling="420")


def png(array):
    return cv2.imencode(".png", array)[1].tobytes()


def tiff(array, **options):
    file = io.BytesIO()
    tifffile.imwrite(file, array, **options)
    return file.getvalue()


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def pil(image, name):
    file = io.BytesIO()
    image.save(file, name)
    return file.getvalue()


def psnr(one, other):
    error = np.mean((one.astype(np.float64) - other.astype(np.float64)) ** 2)
    return 10 * np.log10(255**2 / error) if error else np.inf


def convert(data, channel, size):
    header = read_header(data)
    fraction = reduction(header, [(0, 0, header.width, header.height)], size)
    return resize_area(plane_of_channel(read_planes(data, fraction), channel), size, size)


@pytest.mark.parametrize("channel", CHANNELS)
def test_colour_coded_files_give_the_true_signal_and_luma_does_not(channel):
    true = signal(512, CHANNELS.index(channel))
    data = colour_coded(true, channel)
    small = resize_area(true, 128, 128)
    ours = convert(data, channel, 128)
    assert psnr(ours, small) > 35
    grey = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)
    luma = resize_area(grey, 128, 128)
    assert luma.mean() / small.mean() == pytest.approx(LUMA[channel], abs=0.03)
    assert psnr(luma, small) < psnr(ours, small) - 5


@pytest.mark.parametrize("size", [864, 1024])
@pytest.mark.parametrize("channel", ["red", "blue", "yellow"])
def test_scaled_decoding_is_within_45_db_of_full_decoding(size, channel):
    data = colour_coded(signal(size, 3), channel)
    full = plane_of_channel(read_planes(data), channel)
    assert full.shape == (size, size)
    assert psnr(convert(data, channel, 256), resize_area(full, 256, 256)) >= 45


def test_the_real_atlas_image_has_the_right_planes(shared):
    folder = shared / "data/hpa_v18/images/10008_57_F11_1"
    for channel in CHANNELS:
        data = (folder / f"57_F11_1_{channel}.jpg").read_bytes()
        full = np.asarray(Image.open(io.BytesIO(data)))
        true = resize_area(np.ascontiguousarray(full[:, :, RGB_PLANE[channel]]), 512, 512)
        small = convert(data, channel, 512)
        assert psnr(small, true) >= 45
        others = [
            k
            for k in range(3)
            if k not in ([0, 1] if channel == "yellow" else [RGB_PLANE[channel]])
        ]
        assert small.mean() > 5 * max(full[:, :, k].mean() for k in others)


def test_the_real_kaggle_files_shrink_by_area(shared):
    name = "000a6c98-bb9b-11e8-b2b9-ac1f6b6435d0_green.png"
    large = (shared / "data/kaggle/full_size" / name).read_bytes()
    small = (shared / "data/kaggle/train_512" / name).read_bytes()
    boxed = plane_of_channel(read_planes(small), "green")
    assert np.abs(convert(large, "green", 512).astype(int) - boxed).max() <= 1


ALL_FOUR = Reading(stacked=True)
GREY = signal(48, 1)
DEEP = signal(48, 2, np.uint16)


@pytest.mark.parametrize(
    ("data", "plane"),
    [
        (png(GREY), GREY),
        (png(DEEP), DEEP),
        (pil(Image.fromarray(GREY).convert("P"), "PNG"), GREY),
        (tiff(GREY), GREY),
        (tiff(DEEP, compression="zlib"), DEEP),
        (tiff(DEEP, byteorder=">"), DEEP),
        (tiff(DEEP[None, :, :, None]), DEEP),
        (npy(DEEP.astype(">u2")), DEEP),
        (npy(np.asfortranarray(GREY)), GREY),
        (pil(Image.fromarray(GREY), "TIFF"), GREY),
    ],
)
def test_grey_files_give_their_plane_for_any_channel(data, plane):
    header = read_header(data)
    assert (header.height, header.width, header.dtype) == (*plane.shape, plane.dtype)
    for channel in CHANNELS:
        read = plane_of_channel(read_planes(data), channel)
        assert read.dtype == plane.dtype
        assert np.array_equal(read, plane)


@pytest.mark.parametrize("encode", [lambda rgb: png(rgb[:, :, ::-1]), tiff])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_colour_files_give_the_plane_of_the_channel(encode, dtype):
    for channel, colour in (("red", [0]), ("green", [1]), ("blue", [2]), ("yellow", [0, 1])):
        rgb = np.zeros((32, 32, 3), dtype)
        rgb[:, :, colour] = signal(32, 1, dtype)[:, :, None]
        planes = read_planes(encode(rgb))
        assert np.array_equal(plane_of_channel(planes, channel), rgb[:, :, colour[0]])


def test_opacity_is_not_a_channel():
    rgba = np.dstack([signal(32, 1)] * 3 + [signal(32, 2)])
    planes = read_planes(pil(Image.fromarray(rgba, "RGBA"), "PNG"))
    assert np.array_equal(plane_of_channel(planes, "yellow"), rgba[:, :, 0])


@pytest.mark.parametrize("encode", [npy, lambda stack: tiff(stack, photometric="minisblack")])
@pytest.mark.parametrize("planes_first", [True, False])
def test_stacks_give_planes_in_the_order_that_is_set(encode, planes_first):
    order = ["blue", "green", "red", "yellow"]
    stack = np.stack([signal(32, k, np.uint16) for k in range(4)], axis=0 if planes_first else 2)
    planes = read_planes(encode(stack), reading=ALL_FOUR)
    for k, channel in enumerate(order):
        true = stack[k] if planes_first else stack[:, :, k]
        assert np.array_equal(plane_of_stack(planes, channel, order), true)
    with pytest.raises(BadImage, match="holds 3 planes where all 4 channels are due"):
        plane_of_stack(planes[:, :, :3], "red", order)


@pytest.mark.parametrize(
    "data",
    [
        png(signal(96, 1)),
        colour_coded(signal(96, 1), "green"),
        tiff(signal(96, 1)),
        tiff(signal(96, 1), compression="zlib"),
        npy(signal(96, 1)),
    ],
    ids=["png", "jpeg", "tiff", "tiff-zlib", "npy"],
)
@pytest.mark.parametrize("left", [0.02, 0.3, 0.7, 0.99])
def test_truncated_files_are_found(data, left):
    read_planes(data)
    with pytest.raises(BadImage):
        read_planes(data[: int(len(data) * left)])


def test_a_png_file_without_its_end_or_with_a_wrong_sum_is_found():
    data = png(GREY)
    with pytest.raises(BadImage, match="truncated PNG"):
        read_planes(data[:-5])
    wrong = bytearray(data)
    wrong[len(data) // 2] ^= 1
    with pytest.raises(BadImage, match="broken PNG"):
        read_planes(bytes(wrong))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "empty file"),
        (b"<!DOCTYPE html><html>404</html>", "not a JPEG, PNG, TIFF or NPY file.*<!DOCTYPE"),
        (npy(np.zeros((8, 8), np.float32)), "float32"),
        (tiff(np.zeros((8, 8), np.int16)), "int16"),
        (npy(np.zeros((2, 4, 8, 8), np.uint8)), r"an array of shape \(2, 4, 8, 8\)"),
        (npy(np.zeros((2, 8, 8), np.uint8)), r"\(2, 8, 8\), which has no names of its axes"),
        (npy(np.zeros((8, 8, 3), np.uint8)), r"\(8, 8, 3\), which has no names of its axes"),
        (npy(np.zeros((0, 8), np.uint8)), "no pixels"),
        (pil(Image.new("CMYK", (16, 16)), "JPEG"), "CMYK"),
    ],
)
def test_what_is_no_image_is_refused(data, message):
    with pytest.raises(BadImage, match=message):
        read_header(data)


def test_a_broken_header_that_claims_a_huge_image_is_refused():
    header = {"descr": "<u2", "fortran_order": False, "shape": (4, 2**20, 2**20)}
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, header)
    with pytest.raises(BadImage, match=r"broken NPY file \(it claims 1048576 × 1048576 px in 4"):
        read_planes(file.getvalue(), reading=ALL_FOUR)


def test_pickled_arrays_are_not_loaded():
    with pytest.raises(BadImage, match="object"):
        read_planes(npy(np.array([[{}]], dtype=object)))


def area_weights(length, target):
    fine = np.repeat(np.eye(length), target, axis=0).reshape(target, length, length)
    return fine.mean(axis=1)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 40), st.integers(0, 9))
def test_shrinking_averages_area(rows, columns, size, seed):
    plane = np.random.default_rng(seed).integers(0, 256, (rows, columns)).astype(np.float32)
    height, width = min(rows, size), min(columns, size)
    true = area_weights(rows, height) @ plane @ area_weights(columns, width).T
    assert np.allclose(resize_area(plane, height, width), true, atol=0.01)
    rounded = resize_area(plane.astype(np.uint8), height, width)
    assert rounded.dtype == np.uint8
    assert np.abs(rounded - true).max() <= 0.51


def test_shrinking_does_not_alias_and_enlarging_interpolates():
    stripes = np.tile(np.array([0, 200], np.uint8), (64, 32))
    assert (resize_area(stripes, 32, 32) == 100).all()
    ramp = np.tile(np.array([0, 100], np.uint8), (2, 1))
    assert (np.diff(resize_area(ramp, 4, 4)[0].astype(int)) >= 0).all()
    assert resize_area(stripes, 128, 16).shape == (128, 16)


@pytest.mark.parametrize(
    ("side", "boxes", "size", "fraction"),
    [
        (2048, None, 512, 4),
        (1728, None, 512, 2),
        (3072, None, 512, 2),
        (1100, None, 512, 1),  # 550 to 512 would blur twice
        (512, None, 512, 1),
        (300, None, 512, 1),
        (1727, None, 512, 1),
        (2048, [(0, 0, 1024, 1024), (1024, 0, 1024, 1024)], 512, 2),
        (2048, [(0, 0, 1024, 1024), (1023, 0, 1024, 1024)], 512, 1),
    ],
)
def test_the_fraction_of_decoding(side, boxes, size, fraction):
    boxes = boxes or [(0, 0, side, side)]
    assert reduction(Header("JPEG", side, side, 3, "uint8"), boxes, size) == fraction
    assert reduction(Header("PNG", side, side, 1, "uint8"), boxes, size) == 1


def test_grey_ranges_map_to_0_and_255():
    plane = np.array([[0, 100, 600, 1100, 65535]], np.uint16)
    assert to_8_bit(plane, 100, 1100).tolist() == [[0, 0, 128, 255, 255]]
