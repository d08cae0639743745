import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpaloc.index import write_index
from hpaloc.log import InputError
from hpaloc.shards import open_arrays, positions_of, read_rows, shard_name, shard_range


def write_arrays(folder, counts=(3, 0, 2), size=4):
    rows = [(shard, row) for shard, count in enumerate(counts) for row in range(count)]
    frame = pd.DataFrame(rows, columns=["shard", "row"])
    frame["image_id"] = frame["parent"] = [f"i{k}" for k in range(len(rows))]
    frame["source"] = "made"
    for name in ("x", "y", "width", "height"):
        frame[name] = size
    write_index(frame, folder / "index.parquet")
    rng = np.random.default_rng(1)
    for shard, count in enumerate(counts):
        pixels = rng.integers(0, 256, (count, size, size, 4), np.uint8)
        np.save(folder / shard_name(shard), pixels)
    return folder / "index.parquet"


@given(st.integers(0, 5000), st.integers(1, 60))
def test_shards_share_the_images_out_evenly(images, shards):
    ranges = [shard_range(images, shard, shards) for shard in range(shards)]
    assert [row for part in ranges for row in part] == list(range(images))
    assert max(map(len, ranges)) - min(map(len, ranges)) <= 1


def test_rows_come_in_the_order_asked_for(tmp_path):
    frame, shards = open_arrays(write_arrays(tmp_path))
    assert [len(pixels) for pixels in shards] == [3, 0, 2]
    positions = positions_of(frame, ["i4", "i0", "i2", "i4"])
    images = read_rows(frame, shards, positions)
    assert images.shape == (4, 4, 4, 4)
    for image, (shard, row) in zip(images, [(2, 1), (0, 0), (0, 2), (2, 1)], strict=True):
        assert np.array_equal(image, shards[shard][row])


def test_rows_are_written_into_the_array_given(tmp_path):
    frame, shards = open_arrays(write_arrays(tmp_path))
    out = np.zeros((5, 4, 4, 4), np.uint8)
    images = read_rows(frame, shards, np.array([3, 1]), out)
    assert np.shares_memory(images, out)
    assert len(images) == 2
    assert np.array_equal(out[1], shards[0][1])
    assert not out[2:].any()


def test_shards_are_mapped_and_read_only(tmp_path):
    _, shards = open_arrays(write_arrays(tmp_path))
    assert isinstance(shards[0], np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        shards[0][0] = 0


def test_unknown_ids_are_refused(tmp_path):
    frame, _ = open_arrays(write_arrays(tmp_path))
    with pytest.raises(InputError, match=r"1 image ids are not in the arrays.*'i9'"):
        positions_of(frame, ["i1", "i9"])


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.unlink(),
        lambda path: path.write_bytes(path.read_bytes()[:-1]),
        lambda path: path.write_bytes(b"no array"),
        lambda path: np.save(path, np.zeros((2, 4, 4, 4), np.uint8)),
        lambda path: np.save(path, np.zeros((3, 8, 8, 4), np.uint8)),
        lambda path: np.save(path, np.zeros((3, 4, 4, 4), np.float32)),
    ],
)
def test_shards_that_do_not_fit_the_index_are_refused(tmp_path, damage):
    index = write_arrays(tmp_path)
    damage(tmp_path / shard_name(0))
    with pytest.raises(InputError, match=r"shard_00\d.npy"):
        open_arrays(index)
