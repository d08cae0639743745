import json
import logging
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st

import index_local
from hpaloc.classes import CHANNELS
from hpaloc.contents import read_contents, state_of
from hpaloc.convert import convert_shard
from hpaloc.files import sha256_of_file
from hpaloc.grey_range import grey_range
from hpaloc.images import plane_of_channel, read_planes, resize_area
from hpaloc.index import read_index, root_of
from hpaloc.label_table import read_labels
from hpaloc.listing import IGNORED, check_channels, ignored_by
from hpaloc.local import find_images, index_folder, tile_starts
from hpaloc.log import InputError
from hpaloc.triggers import status_of_folder

COLUMNS = dict.fromkeys(("id", "labels", "antibody", "gene", "cell_line"))


def settings_of(folder, **changes):
    return {
        "folder": str(folder),
        "pattern": "{id}_{channel}",
        "channels": {channel: channel for channel in CHANNELS},
        "ignore": list(IGNORED),
        "stack_order": list(CHANNELS),
        "slices": {},
        "incomplete": "stop",
        "labels": None,
        "columns": COLUMNS,
        "unlabelled": "stop",
        "absent": "stop",
        "grey_range": {"method": "percentile", "low": 0.1, "high": 99.9, "images": 500},
        "tiles": None,
    } | changes


def plane(seed, height=20, width=20, dtype=np.uint8):
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, (height, width), dtype)


def write_images(folder, names, template="{id}_{channel}.png", channels=CHANNELS, **options):
    for k, name in enumerate(names):
        for c, channel in enumerate(channels):
            path = folder / template.format(id=name, channel=channel)
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), plane(10 * k + c, **options))
    return folder


def index(folder, **changes):
    return index_folder("mine", settings_of(folder, **changes), workers=2)


def table(tmp_path, text):
    path = tmp_path / "labels.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_folder_becomes_an_index(tmp_path):
    folder = write_images(tmp_path / "images", ["b", "a"], height=12)
    frame = index(folder)
    assert frame["image_id"].tolist() == frame["parent"].tolist() == ["a", "b"]
    assert frame["labels"].tolist() == [None, None]
    assert frame["path_yellow"].tolist() == ["a_yellow.png", "b_yellow.png"]
    assert frame["bytes_red"].tolist() == [(folder / f"{n}_red.png").stat().st_size for n in "ab"]
    assert frame[["x", "y", "width", "height"]].to_numpy().tolist() == [[0, 0, 20, 12]] * 2
    assert frame["low_red"].isna().all()


def test_kaggles_folder_and_table(tmp_path):
    folder = write_images(tmp_path / "train", ["0a-1", "0b-2", "0c-3"])
    labels = table(tmp_path, "Id,Target\n0b-2,16 0\n0a-1,25\n0c-3,\n")
    frame = index(folder, labels=str(labels))
    assert frame["labels"].tolist() == [[25], [16, 0], []]


def test_the_atlas_folders_by_antibody(tmp_path):
    write_images(tmp_path, ["57_F11_1"], "10008/{id}_{channel}.jpg")
    assert index(tmp_path)["image_id"].tolist() == ["10008_57_F11_1"]


def test_other_names_of_channels_and_parts_that_do_not_matter(tmp_path):
    names = {"red": "w2", "green": "w3", "blue": "DAPI", "yellow": "w4"}
    write_images(tmp_path, ["s1"], "run7/{id}_z00_{channel}.tif", channels=names.values())
    frame = index(tmp_path, channels=names, pattern="{any}/{id}_z{any}_{channel}")
    assert frame["image_id"].tolist() == ["s1"]
    assert frame["path_blue"].tolist() == ["run7/s1_z00_DAPI.tif"]


def test_links_to_folders_are_followed_once(tmp_path):
    write_images(tmp_path / "far", ["a"])
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "near").symlink_to(tmp_path / "far")
    (tmp_path / "far" / "up").symlink_to(folder)
    (folder / "old_red.png").symlink_to(tmp_path / "gone")
    frame = index(folder, incomplete="quarantine")
    assert frame["image_id"].tolist() == ["near_a", "old"]
    assert frame["bytes_red"].tolist()[1] == 0


def test_files_that_do_not_fit_are_logged(tmp_path, caplog):
    write_images(tmp_path, ["a"])
    (tmp_path / "overview.png").write_bytes(b"")
    (tmp_path / "._a_red.png").write_bytes(b"")
    (tmp_path / "notes.txt").write_bytes(b"")
    assert len(index(tmp_path)) == 1
    assert "1 image files do not fit" in caplog.text
    assert "overview.png" in caplog.text


def test_pictures_that_are_no_images_of_their_own_are_left_out(tmp_path, caplog):
    write_images(tmp_path, ["plate_B02_s1"])
    write_images(tmp_path, ["plate_B02_s1_thumb"])
    write_images(tmp_path, ["plate_B02_s1"], "{id}_{channel}_Preview.png")
    write_images(tmp_path, ["plate_B02_s1"], "Thumbs/{id}_{channel}.png")
    write_images(tmp_path, ["SYNOPHOTO_THUMB_M"], "@eaDir/plate_B02_s1_red.png/{id}.jpg", ["red"])
    assert index(tmp_path)["image_id"].tolist() == ["plate_B02_s1"]
    assert "13 image files are left out by ignore (*[._-]thumb*.*, " in caplog.text
    caplog.clear()
    ids = index(tmp_path, ignore=["Thumbs/"])["image_id"].tolist()
    assert ids == ["plate_B02_s1", "plate_B02_s1_thumb"]  # a list replaces the default
    assert "4 image files are left out by ignore (Thumbs/): Thumbs/plate_B02" in caplog.text
    caplog.clear()
    assert len(index(tmp_path, ignore=[])) == 3
    assert "ignore" not in caplog.text
    with pytest.raises(InputError, match=r"no image file fits.*all 17 of them are left out by ig"):
        index(tmp_path, ignore=["*"])


@pytest.mark.parametrize(
    ("pattern", "matched", "others"),
    [
        (IGNORED[0], ["s1_thumb_w1.TIF", "b/s1_w1_thumb2F.tif", "s1.Thumb.png"], ["thumb.tif"]),
        (IGNORED[0], ["a-thumbnail.png"], ["mouse_thumb/a.png", "athumb_red.png"]),
        (IGNORED[1], ["a_preview.jpg", "a/B.PREVIEW.png"], ["a_preview_red.png", "preview/a.png"]),
        ("thumbs/", ["thumbs/a.png", "x/Thumbs/y/a.png"], ["thumbs", "x/thumbs", "xthumbs/a.png"]),
        ("old", ["old", "old/a.png", "x/old/a.png"], ["older/a.png", "x/old.png"]),
        ("/old", ["old", "old/a.png"], ["x/old/a.png"]),
        ("x/*.tif", ["x/a.tif"], ["x/y/a.tif", "a.tif", "y/x/a.tif"]),
        ("x/**/a?.tif", ["x/a1.tif", "x/y/z/a2.tif"], ["x/a.tif", "y/a1.tif", "x/a12.tif"]),
        ("x/**", ["x/a", "x/y/a"], ["x", "y/a"]),
        ("[!a-c]?.png", ["d1.png"], ["a1.png", "d.png", "/1.png"]),
        ("a[]]b[[]", ["a]b["], ["a]b"]),
        ("a[b", ["a[b"], ["ab"]),
        ("a[].tif", ["a[].tif"], ["a.tif", "a].tif"]),
        ("[]x", ["[]x"], ["x", "]x"]),
        ("[!]x", ["[!]x"], ["ax", "!x"]),
        ("[^]", ["[^]"], ["a", "^"]),
        ("[!]]x", ["ax"], ["]x"]),
        ("[a-]x", ["-x", "ax"], ["bx"]),
        ("[+--]x", [",x"], [".x"]),
        ("[a&&b]", ["&", "b"], ["&&"]),
        (r"[\d^]", ["\\", "d", "^"], ["5"]),
        ("a.(b)+", ["a.(b)+"], ["axb"]),
        ("Zu\u0308rich*", ["Z\u00fcrich_red.png", "zu\u0308rich"], ["Zurich"]),
    ],
)
def test_patterns_of_names_to_ignore(pattern, matched, others):
    is_ignored = ignored_by([pattern])
    assert [is_ignored(path) for path in matched] == [True] * len(matched)
    assert [is_ignored(path) for path in others] == [False] * len(others)
    assert ignored_by(["zzz", pattern])(matched[0])


@given(st.text(st.sampled_from("ab[]!^-*?/\\&"), max_size=12))
@pytest.mark.filterwarnings("error")
def test_a_pattern_to_ignore_is_understood_or_named(pattern):
    try:
        ignored_by([pattern])("a/b]-c")
    except InputError as error:
        assert "names no character" in str(error)


@pytest.mark.parametrize("pattern", ["[z-a]*", "x/[!b-a]"])
def test_a_pattern_of_no_character_is_refused(pattern):
    with pytest.raises(InputError, match=r"ignore: \[.+ in the pattern '.+a.+' names no character"):
        ignored_by(["*.tif", pattern])


def test_names_compare_in_one_unicode_form(tmp_path):
    composed, decomposed = "Z\u00fcrich", "Zu\u0308rich"
    channels = dict(
        zip(CHANNELS, ("rouge\u0301", "vert\u0301", "bleu\u0301", "jaune\u0301"), strict=True)
    )
    folder = write_images(tmp_path / "images", [decomposed], channels=channels.values())
    write_images(
        folder,
        ["plain"],
        channels=[text.replace("e\u0301", "\u00e9") for text in channels.values()],
    )
    labels = table(tmp_path, f"Id,Target\nplain,0\n{composed},5\n")
    frame = index(folder, labels=str(labels), channels=channels)
    assert frame["image_id"].tolist() == [composed, "plain"]
    assert frame["labels"].tolist() == [[5], [0]]
    assert (frame["width"] == 20).all()
    for path in frame["path_red"]:  # as it is on disk
        assert path in os.listdir(folder)
    pattern = f"{composed[:3]}{{id}}_{{channel}}"
    assert index(folder, pattern=pattern, channels=channels)["image_id"].tolist() == ["ich"]
    labels = table(tmp_path, f"Id,Target\n{composed},0\n{decomposed},5\n")
    with pytest.raises(InputError, match=f"line 3: image '{composed}' is in line 2 already"):
        index(folder, labels=str(labels), channels=channels)


def test_files_whose_names_differ_in_their_unicode_form_only_are_refused(tmp_path):
    write_images(tmp_path, ["Z\u00fcrich", "Zu\u0308rich"])
    with pytest.raises(InputError, match=r"'Z\\xfcrich_blue.png'") as error:
        index(tmp_path)
    assert "are both the blue channel of image 'Z\u00fcrich'" in str(error.value)
    assert r"(Unicode NFC and NFD: 'Zu\u0308rich_blue.png', " in str(error.value)


@pytest.mark.parametrize(
    ("paths", "pattern", "said"),
    [
        (
            ["a/b_red", "a_b_green", "a_b_blue", "a_b_yellow"],
            "{id}_{channel}",
            "a/b_red.png and a_b_blue.png would be one image, 'a_b': / in an id becomes _, so 'a/b'",
        ),
        (["a/b_c", "a_b/c"], "{id}", "a/b_c.png and a_b/c.png would be one image, 'a_b_c'"),
        (
            ["p1/s_red", "p1/s_green", "p2/s_blue", "p2/s_yellow"],
            "{any}/{id}_{channel}",
            "p1/s_green.png and p2/s_blue.png would be one image, 's', with channels in different",
        ),
        (
            ["red/p1/s", "green/p2/s", "blue/p1/s", "yellow/p1/s"],
            "{channel}/{any}/{id}",
            "with channels in different folders",
        ),
        (["red/s", "green/s", "blue/s", "yellow/s"], "{channel}/{id}", None),
        (["1_red/s", "2_green/s", "3_blue/s", "4_yellow/s"], "{any}_{channel}/{id}", None),
        (
            ["p/s_red_1", "p/s_green_2", "p/s_blue_3", "p/s_yellow_4"],
            "{any}/{id}_{channel}_{any}",
            None,
        ),
        (["p/red/s", "p/green/s", "p/blue/s", "p/yellow/s"], "{id}/{channel}/s", None),
    ],
)
def test_four_files_become_one_image_only_if_they_are_meant_to(tmp_path, paths, pattern, said):
    for path in paths:
        file = tmp_path / f"{path}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(file), plane(1))
    if said is None:
        assert len(index(tmp_path, pattern=pattern)) == 1
        return
    with pytest.raises(InputError) as error:
        index(tmp_path, pattern=pattern)
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("paths", "pattern", "mixed"),
    [
        # Two sites of a well, with two channels each.
        (["A1_s1_red", "A1_s1_blue", "A1_s2_green", "A1_s2_yellow"], "{id}_{any}_{channel}", "A1"),
        (["red_p1/x", "green_p2/x", "blue_p1/x", "yellow_p1/x"], "{channel}_{any}/{id}", "x"),
        (["red/x_1", "green/x_1", "blue/x_2", "yellow/x_2"], "{channel}/{id}_{any}", "x"),
        (
            [
                *("A_s1_red_0", "A_s2_green_1", "A_s1_blue_2", "A_s1_yellow_3"),
                *("B_s1_red_0", "B_s1_green_1", "B_s1_blue_2", "B_s1_yellow_3"),
            ],
            "{id}_{any}_{channel}_{any}",
            "A",
        ),
        # The number of the channel; a time or an id of each file; the same everywhere.
        (
            [f"{i}_{c}_ch{k // 2}" for i in "AB" for k, c in enumerate(CHANNELS)],
            "{id}_{channel}_{any}",
            None,
        ),
        (
            [f"{i}_{c}_{i}{k}f3e" for i in "AB" for k, c in enumerate(CHANNELS)],
            "{id}_{channel}_{any}",
            None,
        ),
        ([f"{i}_z0_{c}" for i in "AB" for c in CHANNELS], "{id}_{any}_{channel}", None),
        ([f"{i}_z{i}_{c}" for i in "AB" for c in CHANNELS], "{id}_{any}_{channel}", None),
        (["A_1", "B_2"], "{id}_{any}", None),
    ],
)
def test_images_whose_files_may_not_belong_together_are_warned_of(
    tmp_path, caplog, paths, pattern, mixed
):
    for path in paths:
        file = tmp_path / f"{path}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    names = {channel: channel for channel in CHANNELS}
    files = find_images(tmp_path, pattern, names)
    assert len(files) == len({path.split("_")[0] for path in paths} if "/" not in paths[0] else "x")
    if mixed is None:
        assert "differ in {any}" not in caplog.text
        return
    assert f"1 images are made of files that differ in {{any}} of the pattern {pattern}" in (
        caplog.text
    )
    assert f"by channel: {mixed} ({min(paths)}.png, " in caplog.text


def test_files_with_other_endings_are_logged(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    write_images(tmp_path, ["a"])
    for name in ("a.czi", "b.CZI", "plate.HTD", "readme"):
        (tmp_path / name).write_bytes(b"")
    index(tmp_path)
    assert "4 files are no PNG" in caplog.text
    assert "left out: 1 without, 2 .czi, 1 .htd" in caplog.text


def test_names_in_another_coding_are_refused(tmp_path):
    write_images(tmp_path, ["a"])
    name = os.fsdecode(bytes(tmp_path) + b"/\xb5m_red.png")
    Path(name).write_bytes(b"")
    with pytest.raises(InputError, match=r"the names of 1 files are not UTF-8.*Rename them"):
        index(tmp_path)


def test_a_missing_file_is_named_as_it_would_be(tmp_path):
    texts = {"red": "r", "green": "g", "blue": "b", "yellow": "y"}
    write_images(tmp_path, ["a", "b"], channels=texts.values())
    (tmp_path / "a_r.png").unlink()
    frame = index(tmp_path, channels=texts, incomplete="quarantine")
    assert frame["path_red"].tolist() == ["a_r.png", "b_r.png"]


def test_files_that_are_no_images_stay_in_the_index(tmp_path, caplog):
    write_images(tmp_path, ["a", "b"])
    for channel in CHANNELS:
        (tmp_path / f"a_{channel}.png").write_text("<html>")
    frame = index(tmp_path)
    assert frame["width"].tolist() == [0, 20]
    assert "4 of 8 files cannot be used: a_blue.png and 3 more: not a JPEG" in caplog.text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"folder": "nowhere"}, "nowhere: there is no such folder"),
        ({"pattern": "{id}-{channel}"}, "no image file fits the pattern.*found a_blue.png"),
        ({"pattern": "{channel}"}, r"must hold \{id\} once"),
        ({"pattern": "{id}_{colour}"}, "pattern"),
        ({"channels": dict.fromkeys(CHANNELS, "x")}, "a text of its own"),
        (
            {"channels": {**{c: c for c in CHANNELS}, "yellow": "er"}},
            "no image has a file of the yellow channel.*'er'",
        ),
    ],
)
def test_settings_that_cannot_be_meant(tmp_path, changes, message):
    write_images(tmp_path, ["a"])
    with pytest.raises(InputError, match=message):
        index(**{"folder": tmp_path} | changes)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"red": 5}, r'--channels: 5 of red is not .* Quote it: \{"red": "5"\}\.'),
        ({"red": 1.5}, r'Quote it: \{"red": "1.5"\}'),
        ({"red": None}, r"None of red is not what file names call it, a text in double quotes\.$"),
        ({"red": True}, r"True of red is not .*quotes\.$"),
        ({"red": ""}, "'' of red"),
        ({"red": ["w1"]}, r"\['w1'\] of red"),
        ({"rad": "w1"}, "'rad' is not a channel; the channels are red, green"),
        ([], r"\[\] is not a mapping"),
        (["red"], "is not a mapping"),
        (5, "5 is not a mapping"),
        (None, "None is not a mapping"),
    ],
)
def test_what_does_not_name_channels_is_refused(value, message):
    with pytest.raises(InputError, match=message):
        check_channels(value, "--channels")
    check_channels({"red": "5", "blue": "DAPI"}, "--channels")
    check_channels({}, "--channels")


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"no \.png, .* file at all"):
        index(tmp_path)


def test_doubled_ids_name_both_files(tmp_path):
    write_images(tmp_path, ["a"])
    cv2.imwrite(str(tmp_path / "a_red.tif"), plane(1))
    with pytest.raises(InputError, match=r"a_red.png and a_red.tif are both the red channel.*'a'"):
        index(tmp_path)


def test_missing_channels_stop_or_go_to_quarantine(tmp_path):
    folder = write_images(tmp_path / "images", ["a", "b"])
    (folder / "b_green.png").unlink()
    with pytest.raises(InputError, match="1 channel files are missing: b lacks green"):
        index(folder)
    frame = index(folder, incomplete="quarantine")
    assert frame["path_green"].tolist() == ["a_green.png", "b_green.png"]
    convert_shard(
        frame, folder, CHANNELS, 0, 1, 20, tmp_path / "a.npy", tmp_path / "a.parquet", threads=1
    )
    assert len(np.load(tmp_path / "a.npy")) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Id,Target\na,0\nb,28\n", "labels.csv, line 3: '28' is neither"),
        ("Id,Target\na,0\nb,Cytosoll\n", "labels.csv, line 3: 'Cytosoll'"),
        ("Id,Target\na,0 0\nb,1\n", "labels.csv, line 2: a class is named twice"),
        ("Id,Target\na,0\nb\n", "labels.csv, line 3: 'b' has 1 cells, the header has 2"),
        ("Id,Target\na,0\n\na,1\n", "labels.csv, line 4: image 'a' is in line 2"),
        ("Id,Target\n,0\n", "labels.csv, line 2: no image id"),
        (
            "Id,Classes\na,0\n",
            "line 1: no column target or .* for the labels.*Name it as columns.labels",
        ),
        ("Id,image,Target\na,a,0\n", "Id, image may all be the id.*Name one as columns.id"),
        ("", "labels.csv: an empty table"),
        ("Id,Target\na,0\n", "1 images have no row in .*labels.csv: b"),
        ("Id,Target\na,0\nb,1\nc,2\n", "labels.csv: 1 rows have no image.*: c"),
        ('Id,Target\na,"0\n', "labels.csv, line 2: not a row of a CSV"),
    ],
)
def test_tables_of_labels_that_are_wrong(tmp_path, text, message):
    folder = write_images(tmp_path / "images", ["a", "b"])
    with pytest.raises(InputError, match=message):
        index(folder, labels=str(table(tmp_path, text)))


def test_what_lacks_a_row_or_an_image_is_left_out_where_the_settings_say_so(tmp_path, caplog):
    folder = write_images(tmp_path / "images", ["a", "b"])
    labels = str(table(tmp_path, "Id,Target\nb,0\nc,1\n"))
    frame = index(folder, labels=labels, unlabelled="leave_out", absent="leave_out")
    assert frame["image_id"].tolist() == ["b"]
    assert "1 images have no row" in caplog.text
    assert "1 rows have no image" in caplog.text
    with pytest.raises(InputError, match="no id of the table is an image of"):
        labels = str(table(tmp_path, "Id,Target\nx,0\n"))
        index(folder, labels=labels)


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("Id,Target\na,16 0\n", [16, 0]),
        ("id;labels\na;Cytosol|Rods & rings\n", [25, 27]),
        ("Image\tLabel\na\tnuclear membrane; 4\n", [1, 4]),
        ('\ufeffId,Target\r\na,"Cytosol,Nucleoli"\r\n', [25, 2]),
        ("id,target\na,3;4|5\n", [3, 4, 5]),
        ("id,target\na,\n", []),
    ],
)
def test_labels_by_number_and_by_name(tmp_path, text, labels):
    assert read_labels(table(tmp_path, text), COLUMNS)["a"]["labels"] == labels


def test_metadata_and_named_columns(tmp_path):
    text = "well,Cell line,Antibody,call\na,U-2 OS,HPA1,1\nb,,HPA2,2\n"
    rows = read_labels(table(tmp_path, text), {**COLUMNS, "id": "well", "labels": "call"})
    assert rows["a"] == {"labels": [1], "antibody": "HPA1", "cell_line": "U-2 OS"}
    assert rows["b"]["cell_line"] is None


def test_16_bit_images_get_one_range_per_channel_of_the_whole_source(tmp_path):
    write_images(tmp_path, ["a", "b"], "{id}_{channel}.tif", dtype=np.uint16)
    cv2.imwrite(str(tmp_path / "b_blue.tif"), plane(5))
    frame = index(tmp_path)
    both = np.stack([plane(0, dtype=np.uint16), plane(10, dtype=np.uint16)])
    assert frame["low_red"].nunique() == 1
    assert frame["low_red"][0] == pytest.approx(np.percentile(both, 0.1), abs=200)
    assert frame["high_red"][0] == pytest.approx(np.percentile(both, 99.9), abs=200)
    assert frame["low_blue"].isna().tolist() == [False, True]  # 8 bits need no range
    maximum = {"method": "maximum", "value": {c: 4095 + k for k, c in enumerate(CHANNELS)}}
    frame = index(tmp_path, grey_range=maximum)
    assert frame[["low_green", "high_green"]].to_numpy().tolist() == [[0, 4096]] * 2


def test_broken_16_bit_files_are_left_to_the_conversion(tmp_path, caplog):
    write_images(tmp_path, ["a"])
    for channel in CHANNELS:
        path = tmp_path / f"z_{channel}.tif"
        tifffile.imwrite(path, plane(1, dtype=np.uint16), compression="zlib")
        with tifffile.TiffFile(path) as file:
            start = file.pages[0].dataoffsets[0]
        data = path.read_bytes()
        path.write_bytes(data[:start] + b"broken" + data[start + 6 :])
    frame = index(tmp_path)
    assert frame["low_red"].isna().all()
    assert "none of 1 16-bit files can be read: z_red.tif: truncated or broken" in caplog.text
    assert "channel red: 1 files have 8 bits and keep their grey values" in caplog.text


def test_files_in_which_white_is_0_do_not_widen_the_grey_range(tmp_path):
    for kind in ("plain", "inverted"):
        for number in range(4):
            for c, channel in enumerate(CHANNELS):
                values = plane(10 * number + c, dtype=np.uint16) // 16
                path = tmp_path / kind / f"i{number}_{channel}.tif"
                path.parent.mkdir(exist_ok=True)
                options = {"photometric": "minisblack"}
                if kind == "inverted" and number % 2:
                    values, options = 65535 - values, {"photometric": "miniswhite"}
                tifffile.imwrite(path, values, **options)
    columns = [f"{end}_{channel}" for end in ("low", "high") for channel in CHANNELS]
    plain, inverted = (index(tmp_path / kind)[columns] for kind in ("plain", "inverted"))
    assert plain.equals(inverted) and (plain < 4096).all(axis=None)


def test_percentiles_are_exact():
    values = np.random.default_rng(1).integers(0, 5000, 100_000)
    histogram = np.bincount(values, minlength=2**16)
    wanted = {"method": "percentile", "low": 1.0, "high": 99.5}
    low, high = grey_range(histogram, wanted, "red")
    assert (low, high) == tuple(np.percentile(values, [1, 99.5], method="inverted_cdf"))


@pytest.mark.parametrize(("share", "warned"), [(0.005, False), (0.02, True)])
@pytest.mark.parametrize("method", ["maximum", "percentile"])
def test_saturation_over_one_percent_is_warned_of(share, warned, method, caplog):
    histogram = np.zeros(2**16, np.int64)
    histogram[:4000] = round(1e6 * (1 - share) / 4000)
    histogram[4095] = round(1e6 * share)
    wanted = {"method": method, "low": 0.1, "high": 99.9, "value": 4095}
    with caplog.at_level(logging.WARNING):
        assert grey_range(histogram, wanted, "red")[1] == 4095
    assert ("2.0 % of the pixels are saturated" in caplog.text) == warned


def test_a_range_without_width_is_refused():
    histogram = np.zeros(2**16, np.int64)
    histogram[0] = 100
    with pytest.raises(InputError, match="both the grey value 0"):
        grey_range(histogram, {"method": "percentile", "low": 0.1, "high": 99.9}, "red")


def test_stacks(tmp_path):
    for name in ("a", "b"):
        stack = np.stack([plane(k, 24, 24, np.uint16) for k in range(4)])
        (tmp_path / "set").mkdir(exist_ok=True)
        tifffile.imwrite(tmp_path / "set" / f"{name}.tif", stack, photometric="minisblack")
    np.save(tmp_path / "set" / "c.npy", plane(9, 24, 96).reshape(24, 24, 4))
    frame = index(tmp_path, pattern="set/{id}")
    assert frame["image_id"].tolist() == ["a", "b", "c"]
    assert frame["path_red"].tolist() == frame["path_yellow"].tolist()
    assert frame["width"].tolist() == [24] * 3
    assert frame["high_yellow"].notna().tolist() == [True, True, False]


@given(st.integers(1, 400), st.data())
def test_tiles_cover_an_axis_evenly(length, data):
    tile = data.draw(st.integers(1, length))
    starts = tile_starts(length, tile)
    assert starts[0] == 0
    assert starts[-1] + tile == length
    steps = np.diff(starts)
    assert (steps <= tile).all()  # no gap
    assert len(steps) == 0 or (steps.min() >= 1 and np.ptp(steps) <= 1)
    assert len(starts) == -(-length // tile)  # as few as possible


def test_tiles_of_an_image(tmp_path):
    write_images(tmp_path, ["a"], height=30, width=50)
    frame = index(tmp_path, tiles={"size": 10, "pixel_size": 0.2, "source_pixel_size": 0.1})
    assert frame["image_id"].tolist() == [
        f"a_y{y:05d}_x{x:05d}" for y in (0, 10) for x in (0, 15, 30)
    ]
    assert set(frame["parent"]) == {"a"}
    assert set(frame["width"]) == set(frame["height"]) == {20}
    assert frame["path_red"].nunique() == 1
    write_images(tmp_path, ["b"], height=40, width=40)
    with pytest.raises(InputError, match=r"1 of 2 images have: a has 50 × 30 px\. Choose smaller"):
        index(tmp_path, tiles={"size": 31, "pixel_size": None, "source_pixel_size": None})


def test_images_that_will_be_stretched_are_warned_of(tmp_path, caplog):
    write_images(tmp_path, ["a", "b"], height=30, width=50)
    index(tmp_path)
    assert "2 images are not square" in caplog.text


def test_the_program_writes_index_digest_and_settings(tmp_path, inputs_of):
    folder = write_images(tmp_path / "images", ["a"])
    settings = settings_of(folder, labels=str(table(tmp_path, "Id,Target\na,3\n")))
    out = tmp_path / "raw"
    options = {
        "--name": "mine",
        "--settings": json.dumps(settings),
        "--index": f"{out}/index.parquet",
        "--digest": f"{out}/index.sha256",
        "--settings-out": f"{out}/settings.json",
        "--workers": "2",
    }
    index_local.main([word for option in options.items() for word in option])

    written = json.loads((out / "settings.json").read_text())
    assert written == {
        "kind": "local",
        "settings": settings,
        "root": str(folder),
        "simulated": False,
        "labelled": True,
        "listing": {"labels": sha256_of_file(settings["labels"])},
    }
    contents = read_contents(out / "contents.json")
    assert contents.root == str(folder)
    assert contents.files == {
        f"a_{c}.png": (state_of(folder / f"a_{c}.png"), sha256_of_file(folder / f"a_{c}.png"))
        for c in CHANNELS
    }
    assert inputs_of(out / "index.parquet") == {settings["labels"]}
    frame = read_index(out / "index.parquet")
    assert frame["source"].tolist() == ["mine"]
    assert (root_of(written, out / "index.parquet") / frame["path_red"][0]).is_file()


def run_program_on(settings, source):
    """Plan and job of a source: the token of its files."""
    token = status_of_folder(settings, source, True).token
    raw = source / "raw"
    options = {
        "--name": "mine",
        "--settings": json.dumps(settings),
        "--contents": token,
        "--index": f"{raw}/index.parquet",
        "--digest": f"{raw}/index.sha256",
        "--settings-out": f"{raw}/settings.json",
    }
    index_local.main([word for option in options.items() for word in option])
    return token


def test_a_file_that_could_not_be_read_is_indexed_again_once_it_can(tmp_path):
    folder = write_images(tmp_path / "images", ["a"])
    (folder / "a_red.png").rename(tmp_path / "red.png")
    (folder / "a_red.png").symlink_to(tmp_path / "later.png")
    settings, source = settings_of(folder), tmp_path / "source"
    token = run_program_on(settings, source)
    assert status_of_folder(settings, source, True).token == token
    (tmp_path / "red.png").rename(tmp_path / "later.png")
    status = status_of_folder(settings, source, True)
    assert (status.changes.edited, status.token == token) == (["a_red.png"], False)
    assert run_program_on(settings, source) == status.token
    assert status_of_folder(settings, source, True).token == status.token
    assert read_index(source / "raw/index.parquet")["bytes_red"][0] > 0


def test_labels_that_change_while_they_are_read_differ_from_what_is_recorded(
    tmp_path, monkeypatch, inputs_of
):
    folder = write_images(tmp_path / "images", ["a"])
    labels = table(tmp_path, "Id,Target\na,3\n")
    before, real = sha256_of_file(labels), index_local.index_folder

    def edited_meanwhile(*arguments):
        frame = real(*arguments)
        labels.write_text("Id,Target\na,4\n")
        return frame

    monkeypatch.setattr(index_local, "index_folder", edited_meanwhile)
    run_program_on(settings_of(folder, labels=str(labels)), tmp_path / "source")
    about = json.loads((tmp_path / "source/raw/settings.json").read_text())
    assert about["listing"]["labels"] == before
    record = json.loads((tmp_path / "source/raw/index.provenance.json").read_text())
    assert record["inputs"][str(labels)]["sha256"] == before


def test_the_real_kaggle_images_in_tiles(shared, tmp_path):
    folder = shared / "data/kaggle/full_size"
    frame = index(
        folder,
        labels=str(shared / "data/kaggle/train.csv"),
        absent="leave_out",
        tiles={"size": 512, "pixel_size": 0.16, "source_pixel_size": 0.08},
    )
    assert frame["parent"].nunique() == 5
    assert len(frame) == 4 * 4 + 9  # four images of 2048 px, one of 3072
    assert all(frame["labels"])
    part = frame[frame["parent"] == frame["parent"][0]].reset_index(drop=True)
    array, rows = tmp_path / "shard.npy", tmp_path / "shard.parquet"
    convert_shard(part, folder, CHANNELS, 0, 1, 512, array, rows, threads=2)
    tiles = np.load(array)
    assert len(tiles) == len(part)
    for k in (0, len(part) - 1):
        row = part.loc[k]
        for c, channel in enumerate(CHANNELS):
            whole = plane_of_channel(
                read_planes((folder / row[f"path_{channel}"]).read_bytes()), channel
            )
            cut = whole[row["y"] : row["y"] + 1024, row["x"] : row["x"] + 1024]
            assert np.array_equal(tiles[k, :, :, c], resize_area(cut, 512, 512))
