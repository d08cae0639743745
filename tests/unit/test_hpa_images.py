"""Atlas images: names, what a good file is, shards, what is missing, and the raw index."""

import hashlib
import json
import random
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import simplejpeg
from atlas_server import NOT_FOUND, Answer, AtlasServer, atlas_answers, flat_images
from hypothesis import given
from hypothesis import strategies as st
from workspace import PROJECT
from zygote import Zygote

import collect_hpa_images
import fetch_hpa_images
from hpaloc.classes import CHANNELS
from hpaloc.hpa.images import check_jpeg, collect_images, fetch_images
from hpaloc.hpa.names import (
    channel_addresses,
    channel_path,
    id_of_address,
    is_sirna,
    parse_image_id,
)
from hpaloc.index import read_index
from hpaloc.log import InputError, run_program
from hpaloc.web.files import Refused

IDS = ["1_2_A1_1", "1_2_A1_2", "20_fp3_B12_1", "300_4_C3_7_cr580610dc203b9", "5_si6_H11_1"]


def network(server) -> dict:
    old = server.url("/images/{antibody}/{plate}_{well}_{n}{suffix}_{colour}.jpg")
    new = server.url("/{antibody}/{plate}_{well}_{n}_{colour}.jpg")
    return {
        "connections": 4, "requests_per_second": None, "attempts": 2, "timeout_s": 0.5,
        "contact": "", "private_addresses": True, "addresses": {"images": [old, new]},
    }  # fmt: skip


def settings(**more) -> dict:
    missing = {"policy": "leave_out", "share": 0.5}
    return {"sirna": "leave_out", "unreachable": "stop", "missing": missing, **more}


ALL = {"policy": "leave_out", "share": 1.0}


def selection(ids=IDS) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "image_id": ids,
            "walk": range(len(ids)),
            "gene": "ENSG00000000003",
            "antibody": [image_id.partition("_")[0] for image_id in ids],
            "cell_line": "U-2 OS",
            "labels": [[25, 0]] * len(ids),
        }
    )


@pytest.fixture
def server():
    with AtlasServer(atlas_answers(image=flat_images())) as server:
        yield server


def fetch(server, folder, ids=IDS, shard=0, shards=1, **more) -> pd.DataFrame:
    return fetch_images(selection(ids), shard, shards, settings(**more), folder, network(server))


def faults(table: pd.DataFrame) -> dict[str, str]:
    """The fault of each image that has one (of its last faulty channel)."""
    bad = table[table["fault"] != ""]
    return dict(zip(bad["image_id"], bad["fault"], strict=True))


# Names


@given(
    st.integers(0, 10**6), st.sampled_from(["57", "si35", "fp12"]), st.sampled_from("ABH"),
    st.integers(1, 24), st.integers(0, 99), st.sampled_from(["", "_cr580610dc203b9"]),
)  # fmt: skip
def test_ids_and_addresses_are_each_others_inverse(antibody, plate, row, column, n, suffix):
    image_id = f"{antibody}_{plate}_{row}{column}_{n}{suffix}"
    name = parse_image_id(image_id, "here")
    assert name.image_id == image_id
    assert is_sirna(name) == plate.startswith("si")
    (address,) = channel_addresses(
        name, "red", ["http://a/images/{antibody}/{plate}_{well}_{n}{suffix}_{colour}.jpg"]
    )
    assert id_of_address(address) == image_id
    assert id_of_address(address.replace("_red", "_blue_red_green")) == image_id
    assert channel_path(name, "red") == f"{antibody}/{plate}_{row}{column}_{n}{suffix}_red.jpg"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1_2_A1",
        "1_2_A1_1_xy",
        "../2_A1_1",
        "1_../_A1_1",
        "1_2_A1_1\n",
        "a_2_A1_1",
        "1_2_A1_1_cr/",
    ],
)
def test_what_is_no_id_is_named(text):
    with pytest.raises(InputError, match=r"row 7: .* is no id"):
        parse_image_id(text, "row 7")


@pytest.mark.parametrize(
    "url",
    [
        "http://v18.proteinatlas.org/images/4109/11813_B_8_5.jpg",
        "http://v18.proteinatlas.org/images/4109/11813_B_8_5_rna_selected.jpg",
        "http://v18.proteinatlas.org/images/4109/if_selected.jpg",
        "http://v18.proteinatlas.org/images/4109/24_H11_1_selected.jpg",
        "http://v18.proteinatlas.org/images_protein_array/4109_medium.png",
        "http://[x/4109/24_H11_1_red.jpg",
        f"http://a/4109/24_H11_1{'_red' * 20_000}.png",
        "",
    ],
)
def test_other_pictures_of_the_entries_have_no_id(url):
    assert id_of_address(url) is None


def test_templates_with_unknown_names_are_refused():
    name = parse_image_id("1_2_A1_1", "here")
    for template in ("http://a/{gene}.jpg", "http://a/{}", "http://a/{n", "http://a/{n.x}"):
        with pytest.raises(InputError, match="cannot be filled in"):
            channel_addresses(name, "red", [template])


def test_every_id_of_the_shared_list_is_read(shared):
    table = pd.read_csv(shared / "data" / "hpa_v18" / "HPAv18RBGY_wodpl.csv")
    names = [parse_image_id(image_id, "the list") for image_id in table["Id"]]
    assert len(names) == 74_606
    assert sum(map(is_sirna, names)) == 1574
    assert sum(name.suffix != "" for name in names) == 1406
    assert len({channel_path(name, "red") for name in names}) == len(names)


def test_composites_of_the_shared_entries_have_their_ids(shared):
    table = pd.read_csv(shared / "data" / "hpa_v18" / "expected_images.csv")
    for url in table["url"]:
        parse_image_id(id_of_address(url), url)


# What a good file is


def jpeg(side: int = 64, seed: int = 1) -> bytes:
    noise = np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)
    return simplejpeg.encode_jpeg(noise, 80)


def judged(tmp_path, data: bytes, content_type: str = "image/jpeg") -> str:
    """Why the file is refused, or ""."""
    path = tmp_path / "a.jpg"
    path.write_bytes(data)
    try:
        check_jpeg(path, content_type)
    except Refused as refusal:
        return f"{'again: ' if refusal.again else ''}{refusal}"
    return ""


def test_good_images_pass(tmp_path):
    for kind in (
        "image/jpeg",
        "image/jpeg; charset=utf-8",
        "IMAGE/JPG",
        "application/octet-stream",
        "",
    ):
        assert judged(tmp_path, jpeg(), kind) == ""


@pytest.mark.parametrize(
    ("data", "kind", "reason"),
    [
        (b"<!DOCTYPE html><html>", "text/html", "a page instead"),
        (b"<!DOCTYPE html><html>", "image/jpeg", "a page instead"),
        (b"  <html>", "", "a page instead"),
        (jpeg(), "text/plain", "a page instead"),
        (jpeg(), "image/png", "'image/png' instead"),
        (b"", "image/jpeg", "again: an empty file"),
        (b"\x89PNG\r\n\x1a\n", "image/jpeg", "again: no JPEG file"),
        (jpeg()[:-1], "image/jpeg", "again: a truncated JPEG"),
        (jpeg() + b"\0", "image/jpeg", "again: a truncated JPEG"),
        (jpeg()[:-2000] + b"\xff\xd9", "image/jpeg", "again: a broken JPEG"),
        (jpeg()[:700] + bytes(400) + jpeg()[1100:], "image/jpeg", "again: a broken JPEG"),
        (b"\xff\xd8\xff\xd9", "image/jpeg", "again: a broken JPEG"),
        (jpeg(16), "image/jpeg", "16 × 16 px"),
    ],
)
def test_bad_files_are_refused(tmp_path, data, kind, reason):
    assert judged(tmp_path, data, kind).startswith(reason)


def test_the_real_files_pass(tmp_path, shared):
    for path in (shared / "data" / "hpa_v18" / "images").glob("*/*.jpg"):
        check_jpeg(path, "image/jpeg")


# Shards


def test_four_files_an_image_in_its_place_with_sums(server, tmp_path):
    table = fetch(server, tmp_path)
    assert list(table["image_id"]) == [image_id for image_id in IDS for _ in CHANNELS]
    assert list(table["channel"]) == [*CHANNELS] * len(IDS)
    assert faults(table) == {"5_si6_H11_1": "sirna"}
    assert not any("si6" in path for path in server.counts)
    good = table[table["fault"] == ""]
    for row in good.itertuples():
        body = (tmp_path / "images" / row.path).read_bytes()
        name = parse_image_id(row.image_id, "here")
        assert body == flat_images()(name.image_id, row.channel)
        assert (row.bytes, row.width, row.height) == (len(body), 64, 64)
    # Today's host is not asked where the first one has it.
    assert all(path.startswith("/images/") for path in server.counts)


def test_sirna_plates_are_fetched_where_they_are_kept(server, tmp_path):
    assert faults(fetch(server, tmp_path, sirna="keep")) == {}


def test_shards_are_parts_of_the_selection_and_share_nothing(server, tmp_path):
    ids = [f"1_2_A1_{n}" for n in range(7)]
    tables = [fetch(server, tmp_path, ids, shard, 3) for shard in range(3)]
    assert [len(table) for table in tables] == [8, 8, 12]
    whole = pd.concat(tables, ignore_index=True)
    assert list(whole["image_id"].unique()) == ids
    assert set(server.counts.values()) == {1}


def test_an_image_that_stands_twice_in_the_paper_s_set_is_fetched_once(server, tmp_path):
    ids = ["1_2_A1_1", "1_2_A1_2", "1_2_A1_1_w1042"]
    table = fetch(server, tmp_path, ids)
    assert faults(table) == {}
    assert set(server.counts.values()) == {1}
    frame, _ = collect(tmp_path, [table], ids)
    assert list(frame["image_id"]) == ids
    assert frame["sha256_green"][2] == frame["sha256_green"][0] != frame["sha256_green"][1]


def test_a_second_run_asks_for_nothing_and_writes_the_same_table(server, tmp_path):
    first = fetch(server, tmp_path)
    asked = len(server.asked)
    pd.testing.assert_frame_equal(fetch(server, tmp_path), first)
    assert len(server.asked) == asked


def test_a_corrupt_image_is_asked_for_again_and_never_stored(server, tmp_path):
    path = "/images/1/2_A1_1_red.jpg"
    broken = jpeg()[:-2000] + b"\xff\xd9"
    server.faults[path] = [Answer(body=broken)]
    assert faults(fetch(server, tmp_path, IDS[:2])) == {}
    assert server.counts[path] == 2
    server.faults["/images/9/2_A1_1_red.jpg"] = [Answer(body=broken)] * 9
    server.faults["/9/2_A1_1_red.jpg"] = [Answer(body=broken)] * 9
    table = fetch(server, tmp_path, [*IDS[:2], "9_2_A1_1"])
    assert faults(table) == {"9_2_A1_1": "refused"}
    assert not (tmp_path / "images" / "9" / "2_A1_1_red.jpg").exists()


def test_unreachable_files_stop_the_run_or_are_listed(server, tmp_path):
    for path in ("/images/1/2_A1_2_blue.jpg", "/1/2_A1_2_blue.jpg"):
        server.faults[path] = [Answer(503)] * 99
    with pytest.raises(
        InputError, match=r"1 of 8 files (.|\n)*1/2_A1_2_blue.jpg: .*503(.|\n)*run again"
    ):
        fetch(server, tmp_path, IDS[:2])
    table = fetch(server, tmp_path, IDS[:2], unreachable="leave_out")
    assert faults(table) == {"1_2_A1_2": "unreachable"}
    assert len(list(tmp_path.glob("images/1/*.jpg"))) == 7


def test_strange_ids_stop_before_anything_is_asked(server, tmp_path):
    with pytest.raises(InputError, match=r"row 2 of the selection: '\.\./x' is no id"):
        fetch(server, tmp_path, ["1_2_A1_1", "../x"])
    with pytest.raises(InputError, match="'1_2_A1_1' twice"):
        fetch(server, tmp_path, ["1_2_A1_1"] * 2)
    assert not server.asked


def test_missing_disk_space_is_told_before_anything_is_asked(server, tmp_path, monkeypatch):
    """By the size of the files that are there: those of all shards, not of this one only."""
    ids = [f"1_2_A1_{n}" for n in range(40)]

    def free(size):
        usage = shutil.disk_usage(tmp_path)._replace(free=size)
        monkeypatch.setattr("hpaloc.transfer.shutil.disk_usage", lambda _: usage)

    free(2**30 + 160 * 150_000 - 2**20)
    with pytest.raises(
        InputError,
        match=r"hpa: 1\.0 MiB of disk space are missing\. About 160 files .* of 150 KB \(as the",
    ):
        fetch(server, tmp_path / "hpa", ids, 0, 4)
    assert not server.asked
    monkeypatch.undo()
    fetch(server, tmp_path / "hpa", ids, 0, 4)
    asked = len(server.asked)
    free(2**30 + 120 * 700)  # the files have 700 and some bytes
    with pytest.raises(InputError, match=r"About 120 files .* of 1 KB \(the mean of those here\)"):
        fetch(server, tmp_path / "hpa", ids, 1, 4)
    fetch(server, tmp_path / "hpa", ids, 0, 4)  # nothing is to come here
    assert len(server.asked) == asked
    free(2**30 + 120 * 1500)
    fetch(server, tmp_path / "hpa", ids, 1, 4)


def test_keys_in_addresses_are_in_no_table(server, tmp_path):
    about = network(server)
    key = server.url("/images/{antibody}/{plate}_{well}_{n}_{colour}.jpg?key=secret")
    about["addresses"]["images"] = [key.replace("//", "//me:secret@")]
    withdrawn(server, "1")
    known = server.answers
    server.answers = lambda path: known(path.partition("?")[0])
    table = fetch_images(selection(IDS[:3]), 0, 1, settings(missing=ALL), tmp_path, about)
    _, missing = collect(tmp_path, [table], IDS[:3], missing=ALL)
    assert set(missing["antibody"]) == {"1"}
    assert "secret" not in table.to_csv() + missing.to_csv()
    assert missing["address"][0] == server.url("/images/1/2_A1_1_red.jpg")


# What is missing, and the index


def withdrawn(server, antibody: str) -> None:
    server.every = lambda path, number: NOT_FOUND if f"/{antibody}/" in path else None


def collect(folder, tables, ids=IDS, **more):
    return collect_images("atlas", selection(ids), tables, settings(**more), folder)


def test_the_index_has_the_whole_images_in_the_order_of_the_selection(server, tmp_path):
    tables = [fetch(server, tmp_path, shard=shard, shards=2) for shard in range(2)]
    frame, missing = collect(tmp_path, tables)
    assert list(frame["image_id"]) == IDS[:4]
    assert set(missing["image_id"]) == {"5_si6_H11_1"} and len(missing) == 4
    assert missing["reason"].unique().tolist() == [
        "a plate of siRNA experiments, left out by the configuration"
    ]
    row = frame.iloc[3]
    assert (row["source"], row["antibody"], row["gene"]) == ("atlas", "300", "ENSG00000000003")
    assert row["path_yellow"] == "300/4_C3_7_cr580610dc203b9_yellow.jpg"
    assert (row["x"], row["y"], row["width"], row["height"]) == (0, 0, 64, 64)


def test_missing_images_are_listed_with_reasons_and_addresses(server, tmp_path):
    server.faults["/images/20/fp3_B12_1_green.jpg"] = [
        Answer(body=b"<html>", content_type="text/html")
    ]
    server.faults["/20/fp3_B12_1_green.jpg"] = [NOT_FOUND]
    withdrawn(server, "1")
    table = fetch(server, tmp_path, missing={"policy": "leave_out", "share": 0.7})
    share = {"policy": "leave_out", "share": 0.6}
    frame, missing = collect(tmp_path, [table], missing=share)
    assert list(frame["image_id"]) == ["300_4_C3_7_cr580610dc203b9"]
    assert list(missing.columns) == ["image_id", "antibody", "channel", "reason", "address"]
    first = missing.iloc[0]
    assert "404" in first["reason"] and "antibody 1: it seems withdrawn" in first["reason"]
    assert first["address"] == " ".join(
        server.url(path) for path in ("/images/1/2_A1_1_red.jpg", "/1/2_A1_1_red.jpg")
    )
    page = missing[missing["antibody"] == "20"]
    assert list(page["channel"]) == ["green"] and "a page instead" in page["reason"].iloc[0]
    assert "withdrawn" not in page["reason"].iloc[0]


def test_the_suffix_of_an_id_is_in_the_reason_and_today_s_host_gets_none(server, tmp_path):
    server.every = lambda path, number: NOT_FOUND if "/300/" in path and "red" in path else None
    table = fetch(server, tmp_path)
    _, missing = collect(tmp_path, [table])
    reason = missing.loc[missing["antibody"] == "300", "reason"].item()
    assert "the id has the suffix _cr580610dc203b9" in reason
    assert server.counts["/images/300/4_C3_7_cr580610dc203b9_red.jpg"] == 1
    assert server.counts["/300/4_C3_7_red.jpg"] == 1


def test_more_missing_than_allowed_stops_and_says_what_to_do(server, tmp_path):
    withdrawn(server, "1")
    for missing in ({"policy": "leave_out", "share": 0.3}, {"policy": "stop", "share": 1.0}):
        with pytest.raises(InputError, match=r"2 of 5 images are missing(.|\n)*404(.|\n)*share"):
            fetch(server, tmp_path, missing=missing)
    table = fetch(server, tmp_path, missing={"policy": "leave_out", "share": 0.4})
    with pytest.raises(InputError, match="2 of 5 images are missing"):
        collect(tmp_path, [table], missing={"policy": "stop", "share": 1.0})


def test_nothing_left_is_refused(server, tmp_path):
    share = {"policy": "leave_out", "share": 1.0}
    withdrawn(server, "1")
    table = fetch(server, tmp_path, IDS[:2], missing=share)
    with pytest.raises(InputError, match=r"none of the 2 images .*404"):
        collect(tmp_path, [table], IDS[:2], missing=share)


def test_tables_of_another_selection_and_vanished_files_are_named(server, tmp_path):
    table = fetch(server, tmp_path, IDS[:2])
    with pytest.raises(InputError, match="are not those of the selection"):
        collect(tmp_path, [table], IDS[:3])
    (tmp_path / "images" / "1" / "2_A1_2_blue.jpg").unlink()
    with pytest.raises(InputError, match="1 files that were fetched are no longer there"):
        collect(tmp_path, [table], IDS[:2])


# The programs


def test_programs_from_selection_to_index(server, tmp_path):
    selection().to_parquet(tmp_path / "images.parquet")
    text = json.dumps(settings())
    fetched = [str(tmp_path / f"fetched_{k:03d}.parquet") for k in range(2)]
    places = ["--images", str(tmp_path / "images.parquet"), "--downloads", str(tmp_path / "hpa")]
    for shard, path in enumerate(fetched):
        fetch_hpa_images.main(
            [*places, "--shard", str(shard), "--shards", "2", "--settings", text,
             "--network", json.dumps(network(server)), "--fetched", path]
        )  # fmt: skip
    out = tmp_path / "raw"
    arguments = [
        *places, "--name", "atlas", "--settings", text, "--fetched", *fetched,
        "--index", str(out / "index.parquet"), "--digest", str(out / "index.sha256"),
        "--settings-out", str(out / "settings.json"), "--missing", str(out / "missing.csv"),
    ]  # fmt: skip
    collect_hpa_images.main(arguments)
    frame = read_index(out / "index.parquet")
    assert list(frame["image_id"]) == IDS[:4] and frame["labels"][0] == [25, 0]
    about = json.loads((out / "settings.json").read_text())
    assert about["root"] == f"{tmp_path}/hpa/images" and about["labelled"] is True
    for path in frame["path_red"]:
        assert (Path(about["root"]) / path).is_file()
    # All of it again, from nothing: the same bytes.
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    for path in (tmp_path / "hpa" / "images").rglob("*.jpg"):
        path.unlink()
    fetch_images(selection(), 0, 1, settings(), tmp_path / "hpa", network(server))
    collect_hpa_images.main(arguments)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def drive(argv):
    """The program, in a process that was forked with its modules."""
    run_program(lambda: fetch_hpa_images.main(argv))


def test_kill_9_twenty_times_and_then_every_file_is_right_and_none_came_twice(tmp_path):
    ids = [f"1_2_A1_{n}" for n in range(50)]
    selection(ids).to_parquet(tmp_path / "images.parquet")
    moments, whole = random.Random(7), {}
    with (
        AtlasServer(atlas_answers(image=flat_images())) as server,
        Zygote("test_hpa_images", "pyarrow.parquet") as zygote,
    ):
        about = network(server) | {"requests_per_second": 100}
        argv = [
            "--images", str(tmp_path / "images.parquet"), "--shard", "0", "--shards", "1",
            "--settings", json.dumps(settings()), "--network", json.dumps(about),
            "--downloads", str(tmp_path / "hpa"), "--fetched", str(tmp_path / "fetched.parquet"),
        ]  # fmt: skip
        known = server.answers
        # Slow enough that kills hit the middle of files.
        server.every = lambda path, _: Answer(body=known(path).body, piece=200, pause_s=0.004)
        for _ in range(20):
            before = len(server.asked)
            zygote.start(argv)
            while len(server.asked) == before:
                assert zygote.is_running()
                time.sleep(0.002)
            time.sleep(moments.uniform(0, 0.08))
            zygote.kill()
            counts = server.counts
            assert all(counts[path] == count for path, count in whole.items())
            whole = {
                f"/images/1/{path.name}": counts[f"/images/1/{path.name}"]
                for path in (tmp_path / "hpa" / "images" / "1").glob("[!.]*.jpg")
            }
            for path in whole:
                stored = tmp_path / "hpa" / path.removeprefix("/")
                assert stored.read_bytes() == known(path).body
        assert 0 < len(whole) < 200 and not (tmp_path / "fetched.parquet").exists()
        server.every = lambda path, _: None
        argv[argv.index("--network") + 1] = json.dumps(network(server))
        fetch_hpa_images.main(argv)
        assert all(server.counts[path] == count for path, count in whole.items())
    table = pd.read_parquet(tmp_path / "fetched.parquet")
    assert faults(table) == {} and len(table) == 200
    left = [path.name for path in (tmp_path / "hpa" / "images").rglob("*") if path.is_file()]
    assert len(left) == 200
    for row in table.itertuples():
        body = (tmp_path / "hpa" / "images" / row.path).read_bytes()
        assert body == known(f"/images/{row.path}").body
        assert hashlib.sha256(body).hexdigest() == row.sha256


def test_of_two_runs_at_once_the_second_waits_and_fetches_nothing_twice(tmp_path):
    ids = [f"1_2_A1_{n}" for n in range(12)]
    selection(ids).to_parquet(tmp_path / "images.parquet")
    with AtlasServer(atlas_answers(image=flat_images()), latency_s=0.05) as server:
        commands = [
            [sys.executable, PROJECT / "workflow" / "scripts" / "fetch_hpa_images.py",
             "--images", tmp_path / "images.parquet", "--shard", "0", "--shards", "1",
             "--settings", json.dumps(settings()), "--network", json.dumps(network(server)),
             "--downloads", tmp_path / "hpa", "--fetched", tmp_path / f"{k}.parquet"]
            for k in range(2)
        ]  # fmt: skip
        processes = [
            subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for command in commands
        ]
        words = [process.communicate(timeout=60)[1] for process in processes]
        assert [process.returncode for process in processes] == [0, 0], words
        assert set(server.counts.values()) == {1} and len(server.counts) == 48
    waited = [text for text in words if "waiting for process" in text]
    holders = [p.pid for p, text in zip(processes, words, strict=True) if text not in waited]
    assert len(waited) == 1
    assert re.search(rf"waiting for process {holders[0]} on ", waited[0])
    assert (tmp_path / "0.parquet").read_bytes() == (tmp_path / "1.parquet").read_bytes()
