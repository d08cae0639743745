import hashlib
import json
import shutil
import zipfile

import cv2
import numpy as np
import pandas as pd
import pytest
import tifffile

import convert_shard
import index_arrays
import list_quarantine
from hpaloc.classes import CHANNELS
from hpaloc.images import resize_area
from hpaloc.index import ARRAYS_SCHEMA, read_index, write_index
from hpaloc.log import InputError
from hpaloc.shards import open_arrays, positions_of, read_rows

SIZE = 16


def plane(seed, size=32, dtype=np.uint8):
    return np.random.default_rng(seed).integers(1, np.iinfo(dtype).max, (size, size), dtype)


def write_source(folder, images=7):
    """Grey PNG files of ``images`` images, and their index and settings."""
    rows = []
    for k in range(images):
        row = {"image_id": f"i{k}", "parent": f"i{k}", "source": "made", "labels": [k]}
        row |= {"x": 0, "y": 0, "width": 32, "height": 32}
        for c, channel in enumerate(CHANNELS):
            path = folder / f"i{k}_{channel}.png"
            cv2.imwrite(str(path), plane(10 * k + c))
            row |= facts(path, channel)
        rows.append(row)
    save(folder, pd.DataFrame(rows))
    return folder


def facts(path, channel):
    data = path.read_bytes()
    return {
        f"path_{channel}": path.name,
        f"bytes_{channel}": len(data),
        f"sha256_{channel}": hashlib.sha256(data).hexdigest(),
    }


def save(folder, frame, settings=None):
    write_index(frame, folder / "index.parquet")
    about = {"kind": "local", "settings": settings or {}, "root": "."}
    (folder / "settings.json").write_text(json.dumps(about))


def reindex(folder, image_id, channel):
    """Lets the index tell the present contents of a file, as if it had been bad from the start."""
    frame = read_index(folder / "index.parquet")
    for name, value in facts(folder / f"{image_id}_{channel}.png", channel).items():
        frame.loc[frame["image_id"] == image_id, name] = value
    write_index(frame, folder / "index.parquet")


def run(program, **options):
    """Runs a script with ``--option value`` for each, ``--option value value`` for a list."""
    words = []
    for name, value in options.items():
        values = value if isinstance(value, list) else [value]
        words += [f"--{name.replace('_', '-')}", *map(str, values)]
    program.main(words)


def make_arrays(folder, shards=1, policy="leave_out", threads=2, size=SIZE, name="arrays"):
    out = folder / name
    out.mkdir()
    index, quarantine = folder / "index.parquet", out / "quarantine.csv"
    rows = [out / f"shard_{k:03d}.parquet" for k in range(shards)]
    for k in range(shards):
        run(
            convert_shard,
            index=index,
            settings=folder / "settings.json",
            shard=k,
            shards=shards,
            size=size,
            array=out / f"shard_{k:03d}.npy",
            rows=rows[k],
            threads=threads,
        )
    run(list_quarantine, rows=rows, quarantine=quarantine)
    run(
        index_arrays,
        raw_index=index,
        rows=rows,
        policy=policy,
        quarantine=quarantine,
        index=out / "index.parquet",
        digest=out / "index.sha256",
    )
    return out


def images_of(arrays, ids):
    frame, shards = open_arrays(arrays / "index.parquet")
    return read_rows(frame, shards, positions_of(frame, ids))


def test_images_become_rows_with_the_four_channels_last(tmp_path):
    arrays = make_arrays(write_source(tmp_path), shards=3)
    images = images_of(arrays, [f"i{k}" for k in range(7)])
    for k, image in enumerate(images):
        for c in range(4):
            assert np.array_equal(image[:, :, c], resize_area(plane(10 * k + c), SIZE, SIZE))
    frame = read_index(arrays / "index.parquet")
    assert list(frame.columns) == ARRAYS_SCHEMA.names
    assert frame["shard"].tolist() == [0, 0, 1, 1, 2, 2, 2]
    assert frame["row"].tolist() == [0, 1, 0, 1, 0, 1, 2]
    assert frame["labels"].tolist() == [[k] for k in range(7)]
    assert (arrays / "quarantine.csv").read_text() == "image_id,file,channel,reason\n"
    assert not list(arrays.glob(".*"))


def test_more_shards_than_images(tmp_path):
    arrays = make_arrays(write_source(tmp_path, images=2), shards=4)
    assert len(images_of(arrays, ["i0", "i1"])) == 2
    assert np.load(arrays / "shard_000.npy").shape == (0, SIZE, SIZE, 4)


def truncate(path):
    path.write_bytes(path.read_bytes()[:200])


def to_html(path):
    path.write_text("<html>404 not found</html>")


def to_black(path):
    cv2.imwrite(str(path), np.zeros((32, 32), np.uint8))


def to_other_size(path):
    cv2.imwrite(str(path), plane(1, size=24))


BAD = [
    (truncate, "truncated or broken PNG|truncated PNG"),
    (to_html, "not a JPEG, PNG, TIFF or NPY file"),
    (to_black, "all black"),
    (to_other_size, "wrong size: 24 × 24 px.*32 × 32"),
    (lambda path: path.write_bytes(b""), "empty file"),
]


@pytest.mark.parametrize(("damage", "reason"), BAD)
def test_a_bad_file_leaves_its_image_out_and_the_others_as_they_are(tmp_path, damage, reason):
    folder = write_source(tmp_path, images=10)  # one digit less in the file's header
    damage(folder / "i2_green.png")
    reindex(folder, "i2", "green")
    arrays = make_arrays(folder, shards=2)
    listed = pd.read_csv(arrays / "quarantine.csv")
    assert listed[["image_id", "file", "channel"]].to_numpy().tolist() == [
        ["i2", "i2_green.png", "green"]
    ]
    assert listed["reason"].str.contains(reason).all()
    left = [f"i{k}" for k in range(10) if k != 2]
    assert read_index(arrays / "index.parquet")["image_id"].tolist() == left
    for image_id, image in zip(left, images_of(arrays, left), strict=True):
        assert np.array_equal(image[:, :, 0], resize_area(plane(10 * int(image_id[1])), SIZE, SIZE))


def test_files_that_change_or_vanish_after_indexing_are_found(tmp_path):
    folder = write_source(tmp_path)
    (folder / "i0_red.png").unlink()
    (folder / "i1_blue.png").write_bytes((folder / "i1_blue.png").read_bytes() + b"x")
    data = bytearray((folder / "i3_yellow.png").read_bytes())
    data[-1] ^= 1
    (folder / "i3_yellow.png").write_bytes(data)
    listed = pd.read_csv(make_arrays(folder) / "quarantine.csv").set_index("image_id")
    assert listed.loc["i0", "reason"] == "missing"
    assert "changed since it was indexed" in listed.loc["i1", "reason"]
    assert "other contents of the same size" in listed.loc["i3", "reason"]
    assert len(listed) == 3


def test_a_jpeg_file_named_png_is_fine(tmp_path):
    folder = write_source(tmp_path)
    smooth = cv2.GaussianBlur(plane(1, size=32), (0, 0), 4)
    jpeg = cv2.imencode(".jpg", smooth)[1].tobytes()
    (folder / "i0_red.png").write_bytes(jpeg)
    reindex(folder, "i0", "red")
    image = images_of(make_arrays(folder, policy="stop"), ["i0"])[0]
    assert np.abs(image[:, :, 0].astype(int) - resize_area(smooth, SIZE, SIZE)).max() < 12


def test_the_policy_stop_names_table_rows_and_remedy(tmp_path):
    folder = write_source(tmp_path)
    truncate(folder / "i2_green.png")
    with pytest.raises(InputError) as caught:
        make_arrays(folder, policy="stop")
    message = str(caught.value)
    for part in (
        "quarantine.csv: 1 of 7",
        "i2: i2_green.png (green)",
        "leave_out",
    ):
        assert part in message
    assert (folder / "arrays/quarantine.csv").exists()
    assert not (folder / "arrays/index.parquet").exists()


def test_no_image_left_is_an_error_under_any_policy(tmp_path):
    folder = write_source(tmp_path, images=2)
    for k in range(2):
        (folder / f"i{k}_red.png").unlink()
    with pytest.raises(InputError, match="none of the 2 images"):
        make_arrays(folder, policy="leave_out")


def test_a_path_that_leaves_the_folder_is_refused(tmp_path):
    folder = write_source(tmp_path)
    frame = read_index(folder / "index.parquet")
    frame.loc[0, "path_red"] = "../secret.png"
    write_index(frame, folder / "index.parquet")
    with pytest.raises(InputError, match=r"i0: the path '\.\./secret\.png' leaves"):
        make_arrays(folder)
    assert not list((folder / "arrays").iterdir())


def test_the_same_files_give_the_same_bytes_with_any_number_of_threads(tmp_path):
    folder = write_source(tmp_path)
    truncate(folder / "i2_green.png")
    one = make_arrays(folder, shards=2, threads=1, name="one")
    two = make_arrays(folder, shards=2, threads=4, name="two")
    for file in one.iterdir():
        assert file.read_bytes() == (two / file.name).read_bytes(), file.name


def test_the_digest_covers_every_pixel(tmp_path):
    folder = write_source(tmp_path)
    before = make_arrays(folder, shards=2, name="one")
    changed = plane(60)
    changed[0, 0] ^= 128
    cv2.imwrite(str(folder / "i6_red.png"), changed)
    reindex(folder, "i6", "red")
    after = make_arrays(folder, shards=2, name="two")
    lines = [(a / "index.sha256").read_text().split() for a in (before, after)]
    assert lines[0][:2] == lines[1][:2]
    assert lines[0][2] != lines[1][2]
    sums = [hashlib.sha256(row).hexdigest() for row in np.load(after / "shard_001.npy")]
    assert lines[1][2] == hashlib.sha256("".join(sums).encode()).hexdigest()


def test_tiles_are_cut_from_their_box(tmp_path):
    folder = write_source(tmp_path, images=2)
    frame = read_index(folder / "index.parquet")
    tiles = frame.loc[frame.index.repeat(2)].reset_index(drop=True)
    tiles["image_id"] += ["_a", "_b"] * 2
    tiles[["x", "y", "width", "height"]] = [[0, 0, 16, 16], [16, 8, 16, 16]] * 2
    write_index(tiles, folder / "index.parquet")
    images = images_of(make_arrays(folder, shards=3, size=8), tiles["image_id"])
    assert np.array_equal(images[3][:, :, 1], resize_area(plane(11)[8:24, 16:32], 8, 8))
    assert np.array_equal(images[0][:, :, 0], resize_area(plane(0)[:16, :16], 8, 8))


def test_tiles_of_files_that_are_decoded_at_different_sizes(tmp_path):
    folder = write_source(tmp_path, images=1)
    smooth = cv2.GaussianBlur(plane(1), (0, 0), 3)
    (folder / "i0_red.png").write_bytes(cv2.imencode(".jpg", smooth)[1].tobytes())
    reindex(folder, "i0", "red")
    frame = read_index(folder / "index.parquet").assign(image_id="tile", x=16, width=16, height=16)
    write_index(frame, folder / "index.parquet")
    image = images_of(make_arrays(folder, size=4), ["tile"])[0]  # red at a quarter, green in full
    assert np.abs(image[:, :, 0] - resize_area(smooth[:16, 16:], 4, 4).astype(int)).max() < 8
    assert np.array_equal(image[:, :, 1], resize_area(plane(1)[:16, 16:], 4, 4))


def test_a_box_outside_of_the_file_is_found(tmp_path):
    folder = write_source(tmp_path, images=2)
    frame = read_index(folder / "index.parquet")
    frame["image_id"] += "_tile"
    frame.loc[1, "x"] = 1
    write_index(frame, folder / "index.parquet")
    listed = pd.read_csv(make_arrays(folder) / "quarantine.csv")
    assert listed["image_id"].tolist() == ["i1_tile"]
    assert "box 32 × 32 at (1, 0)" in listed.loc[0, "reason"]


def test_stacks_of_16_bits_are_scaled_by_the_range_of_the_index(tmp_path):
    folder = write_source(tmp_path, images=2)
    order = ["yellow", "blue", "green", "red"]
    stack = np.stack([plane(k, dtype=np.uint16) for k in range(4)])
    tifffile.imwrite(folder / "i0.tif", stack, photometric="minisblack")
    frame = read_index(folder / "index.parquet")
    for channel in CHANNELS:
        for name, value in facts(folder / "i0.tif", channel).items():
            frame.loc[0, name] = value
        frame.loc[0, [f"low_{channel}", f"high_{channel}"]] = [1000, 50_000]
    save(folder, frame, {"stack_order": order})
    arrays = make_arrays(folder, size=32)
    image = images_of(arrays, ["i0"])[0]
    for k, channel in enumerate(order):
        true = np.rint(np.clip((stack[k] - 1000.0) / 49_000, 0, 1) * 255)
        assert np.abs(image[:, :, CHANNELS.index(channel)] - true).max() <= 1

    shutil.rmtree(arrays)
    save(folder, frame.assign(low_red=np.nan, high_red=np.nan), {"stack_order": order})
    listed = pd.read_csv(make_arrays(folder, size=32) / "quarantine.csv")
    assert listed["image_id"].tolist() == ["i0"]
    assert "no grey values" in listed.loc[0, "reason"]


def test_a_full_disk_is_told_before_any_work(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("hpaloc.convert.os.posix_fallocate", full)
    folder = write_source(tmp_path, images=2)
    with pytest.raises(InputError, match=r"no room for a shard.*No space left"):
        make_arrays(folder)
    assert not list((folder / "arrays").iterdir())


def test_an_archive_is_read_in_place_and_its_damaged_members_are_listed(tmp_path):
    folder = write_source(tmp_path)
    whole = make_arrays(folder, name="whole")
    files = sorted(folder.glob("*.png"))
    with zipfile.ZipFile(folder / "raw.zip", "w") as archive:
        for path in files:
            archive.write(path, path.name)
    damaged = (folder / "i2_green.png").read_bytes()
    for path in files:
        path.unlink()
    about = {"kind": "kaggle", "settings": {}, "root": str(folder / "raw.zip")}
    (folder / "settings.json").write_text(json.dumps(about))
    same = make_arrays(folder, shards=2, name="zipped")
    assert np.array_equal(np.load(whole / "shard_000.npy")[:3], np.load(same / "shard_000.npy"))
    data = bytearray((folder / "raw.zip").read_bytes())
    data[data.index(damaged) + len(damaged) // 2] ^= 1
    (folder / "raw.zip").write_bytes(data)
    listed = pd.read_csv(make_arrays(folder, name="less") / "quarantine.csv")
    assert listed["image_id"].tolist() == ["i2"]
    assert listed["reason"].tolist() == ["damaged in raw.zip: its checksum is wrong"]


def colour_jpeg(path, value_of):
    grey = cv2.resize(plane(3, size=8), (32, 32), interpolation=cv2.INTER_CUBIC)
    rgb = np.dstack([grey * on for on in value_of]).astype(np.uint8)
    cv2.imwrite(str(path), rgb[:, :, ::-1])
    return grey


def test_how_files_were_understood_is_said_once_for_the_source(tmp_path, caplog):
    folder = write_source(tmp_path)
    for k in (1, 3, 6):  # in three shards
        grey = colour_jpeg(folder / f"i{k}_green.png", (1, 0, 1))
        reindex(folder, f"i{k}", "green")
    tifffile.imwrite(folder / "white.tif", 255 - plane(20), photometric="miniswhite")
    (folder / "white.tif").rename(folder / "i2_red.png")
    reindex(folder, "i2", "red")
    arrays = make_arrays(folder, shards=3, policy="stop")
    images = images_of(arrays, ["i1", "i2", "i3", "i6"])
    for number in (0, 2, 3):
        assert np.array_equal(images[number][:, :, 1], resize_area(grey, SIZE, SIZE))
    assert np.array_equal(images[1][:, :, 0], resize_area(plane(20), SIZE, SIZE))
    said = [entry.message for entry in caplog.records if entry.levelname == "WARNING"]
    assert len(said) == 2
    assert "in the red and blue planes, where the atlas's files have it in green" in said[0]
    assert said[0].endswith("the red plane is taken (3 files, the first is i1_green.png)")
    assert said[1].startswith("white is 0 (PhotometricInterpretation): the values are inverted (1")
    # And the arrays do not depend on shards or threads.
    one = make_arrays(folder, shards=1, threads=1, name="one")
    two = make_arrays(folder, shards=1, threads=4, name="two")
    for file in one.iterdir():
        assert file.read_bytes() == (two / file.name).read_bytes(), file.name
    whole = np.concatenate([np.load(arrays / f"shard_{k:03d}.npy") for k in range(3)])
    assert np.array_equal(np.load(one / "shard_000.npy"), whole)


def test_ordinary_files_leave_no_notes(tmp_path, caplog):
    folder = write_source(tmp_path)
    for channel, colour in zip(CHANNELS, [(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0)], strict=True):
        colour_jpeg(folder / f"i0_{channel}.png", colour)
        reindex(folder, "i0", channel)
    make_arrays(folder, policy="stop")
    assert not [entry for entry in caplog.records if entry.levelname == "WARNING"]


@pytest.mark.parametrize(("slices", "true"), [({"z": "max"}, "max"), ({"z": 2}, 1), ({}, None)])
def test_slices_are_taken_as_the_source_says(tmp_path, slices, true):
    folder = write_source(tmp_path)
    stack = np.stack([plane(50), plane(51), plane(52)])
    tifffile.imwrite(folder / "z.tif", stack, imagej=True, metadata={"axes": "ZYX"})
    (folder / "z.tif").rename(folder / "i4_green.png")
    reindex(folder, "i4", "green")
    save(folder, read_index(folder / "index.parquet"), {"slices": slices})
    arrays = make_arrays(folder)
    if true is None:
        listed = pd.read_csv(arrays / "quarantine.csv")
        assert listed[["file", "channel"]].to_numpy().tolist() == [["i4_green.png", "green"]]
        assert "a Z axis of 3 slices: set slices to {z: max}" in listed["reason"][0]
        return
    true = stack.max(axis=0) if true == "max" else stack[true]
    image = images_of(arrays, ["i4"])[0]
    assert np.array_equal(image[:, :, 1], resize_area(true, SIZE, SIZE))


def test_an_overlay_is_quarantined_and_a_black_picture_is_called_black(tmp_path):
    folder = write_source(tmp_path)
    overlay = np.dstack([plane(k) for k in range(3)])
    cv2.imwrite(str(folder / "i1_blue.png"), overlay)
    cv2.imwrite(str(folder / "i2_red.png"), np.zeros((32, 32, 3), np.uint8))
    flat = np.zeros((32, 32, 3), np.uint8)
    flat[:, :, 0] = 9  # blue in OpenCV's order
    cv2.imwrite(str(folder / "i3_red.png"), flat)
    for image_id, channel in (("i1", "blue"), ("i2", "red"), ("i3", "red")):
        reindex(folder, image_id, channel)
    listed = pd.read_csv(make_arrays(folder) / "quarantine.csv").set_index("image_id")["reason"]
    assert "planes hold different pictures" in listed["i1"]
    assert listed["i2"] == "blank: every pixel has the value 0 (all black)"
    assert listed["i3"] == "blank: every pixel has the value 9"
