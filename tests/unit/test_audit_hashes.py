import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from audit_case import hash_source, write_source
from hypothesis import given, settings
from hypothesis import strategies as st

from hpaloc.audit import hashes as module
from hpaloc.audit.table import Hashes, read_hashes, write_hashes
from hpaloc.audit.views import FREQUENCIES, INVERSE, VIEWS, view_of_bits, view_of_planes
from hpaloc.index import read_index
from hpaloc.log import InputError


def blobs(seed, side=96):
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side] / side
    image = np.zeros((side, side, 4))
    for cy, cx, r, *levels in rng.random((12, 7)):
        spot = np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / (0.02 + 0.06 * r) ** 2)
        image += 120 * spot[..., None] * levels
    return np.clip(image, 0, 255).astype(np.uint8)


def describe(image):
    return [part[0] for part in module.describe(module.shrink(image)[None])]


def turned(image, view):
    return np.ascontiguousarray(view_of_planes(image.transpose(2, 0, 1), view).transpose(1, 2, 0))


def test_frequencies_are_64_and_close_under_transposition():
    assert len(set(FREQUENCIES)) == 64
    assert {(v, u) for u, v in FREQUENCIES} == set(FREQUENCIES)


@pytest.mark.parametrize("number", range(8))
def test_hash_and_thumbnail_of_a_view_are_known_without_the_image(number):
    view = VIEWS[number]
    image = blobs(3)
    bits, contrast, thumbnail = describe(image)
    other_bits, other_contrast, other_thumbnail = describe(turned(image, view))
    assert np.array_equal(other_bits, view_of_bits(bits, view))
    assert np.array_equal(view_of_bits(other_bits, VIEWS[INVERSE[number]]), bits)
    assert other_contrast == pytest.approx(contrast, abs=1e-3)
    assert np.abs(other_thumbnail.astype(int) - view_of_planes(thumbnail, view)).max() <= 1


def test_names_of_views_say_what_is_done_to_the_image():
    image = blobs(4)
    for name, expected in (
        ("rotated 90", np.rot90(image)),
        ("rotated 270", np.rot90(image, 3)),
        ("mirrored left-right", image[:, ::-1]),
        ("mirrored top-bottom", image[::-1]),
    ):
        view = next(view for view in VIEWS if view.name == name)
        assert np.array_equal(turned(image, view), expected)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.3, 1))
def test_gain_hardly_changes_a_bit(seed, gain):
    image = blobs(seed)
    bits = describe(image)[0]
    darker = describe(np.rint(image * gain).astype(np.uint8))[0]
    assert np.bitwise_count(bits ^ darker).sum() <= 6


def test_smooth_light_and_flat_channels_have_no_contrast():
    y, x = np.mgrid[:96, :96] / 96
    image = np.zeros((96, 96, 4))
    image[..., 1] = 40
    image[..., 2] = 60 + 50 * x + 30 * y
    image[..., 3] = blobs(5)[..., 3]
    _, contrast, thumbnail = describe(image.astype(np.uint8))
    assert (contrast[:3] < 0.3).all() and contrast[3] > 1
    assert not thumbnail[:2].any()


def test_arrays_smaller_than_the_thumbnail_are_hashed():
    bits, contrast, thumbnail = describe(blobs(6, side=24))
    assert bits.shape == contrast.shape == (4,)
    assert thumbnail.shape == (4, 32, 32)


def test_program_hashes_every_image_in_order_and_names_the_blank(tmp_path, caplog):
    images = [blobs(seed) for seed in range(5)]
    images[3] = np.zeros_like(images[3])
    ids = ["c", "a", "b", "black", "d"]
    folder = hash_source(write_source(tmp_path / "made", images, image_id=ids))
    assert "1 of 5 images are too blank" in caplog.text and "black" in caplog.text
    index = read_index(folder / "index.parquet")
    hashes = read_hashes(folder / "hashes.parquet", index, "index")
    assert hashes.image_id.tolist() == ids
    assert hashes.blank.tolist() == [False, False, False, True, False]
    for number, image in enumerate(images):
        bits, contrast, thumbnail = describe(image)
        assert np.array_equal(hashes.bits[number], bits)
        assert np.array_equal(hashes.contrast[number], contrast)
        assert np.array_equal(hashes.thumbnail[number], thumbnail)
    first = (folder / "hashes.parquet").read_bytes()
    hash_source(folder)
    assert (folder / "hashes.parquet").read_bytes() == first


def test_thumbnails_survive_several_row_groups(tmp_path):
    rng = np.random.default_rng(0)
    n = 5000
    hashes = Hashes(
        np.array([f"i{k}" for k in range(n)], object),
        rng.integers(0, 2**64, (n, 4), np.uint64),
        rng.random((n, 4), np.float32),
        rng.integers(-127, 128, (n, 4, 32, 32), np.int8),
    )
    write_hashes(hashes, tmp_path / "hashes.parquet")
    assert pq.ParquetFile(tmp_path / "hashes.parquet").num_row_groups > 1
    index = pd.DataFrame({"image_id": hashes.image_id})
    for written, read in zip(
        hashes, read_hashes(tmp_path / "hashes.parquet", index, "x"), strict=True
    ):
        assert np.array_equal(written, read)


def test_hashes_of_other_images_and_other_tables_are_refused(tmp_path):
    folder = hash_source(write_source(tmp_path / "a", [blobs(1), blobs(2)], image_id=["x", "y"]))
    index = read_index(folder / "index.parquet")
    with pytest.raises(InputError, match="other images than"):
        read_hashes(folder / "hashes.parquet", index.iloc[::-1], "index")
    for others in (index.iloc[:1], pd.concat([index, index]), index.iloc[:0]):
        with pytest.raises(InputError, match="other images than"):
            read_hashes(folder / "hashes.parquet", others, "index")
    with pytest.raises(InputError, match="not a table of hashes"):
        read_hashes(folder / "index.parquet", index, "index")
    (folder / "hashes.parquet").write_bytes(b"PAR1 broken")
    with pytest.raises(InputError, match="not a readable table"):
        read_hashes(folder / "hashes.parquet", index, "index")
