import hashlib
import io
import json
import logging
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from kaggle_server import SIGNATURE, TOKEN, KaggleServer, client_of, serving
from zygote import Zygote

import convert_shard
import fetch_kaggle
import index_kaggle
from hpaloc.classes import CHANNELS
from hpaloc.contents import read_contents, write_contents
from hpaloc.index import read_index
from hpaloc.kaggle import download as kaggle_download
from hpaloc.log import InputError, run_program
from hpaloc.transfer import size_of_file
from hpaloc.triggers import status_of_competition

COMPETITION = "human-protein-atlas-image-classification"
NETWORK = {"connections": 8, "attempts": 3, "timeout_s": 2, "private_addresses": True}
IDS = ["aa-1", "bb-2", "cc-3"]


def png(seed):
    image = np.random.default_rng(seed).integers(0, 255, (24, 24), np.uint8)
    return cv2.imencode(".png", image)[1].tobytes()


def images(ids=IDS):
    """File name to contents of four channels of each id."""
    return {
        f"{image_id}_{channel}.png": png(4 * k + c)
        for k, image_id in enumerate(ids)
        for c, channel in enumerate(CHANNELS)
    }


def zipped(files, method=zipfile.ZIP_STORED):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


TRAIN_CSV = b"Id,Target\nbb-2,16 0\naa-1,25\ncc-3,2\n"
SAMPLE_CSV = b"Id,Predicted\ncc-3,0\naa-1,0\nbb-2,0\n"


@pytest.fixture()
def kaggle(monkeypatch, tmp_path):
    """A server in Kaggle's place, a made token, a home without any other, and no waiting."""
    from kagglesdk import kaggle_env

    for name in list(os.environ):
        if name.startswith("KAGGLE"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("KAGGLE_CONFIG_DIR", str(tmp_path / "home"))
    monkeypatch.setenv("KAGGLE_API_TOKEN", TOKEN)
    monkeypatch.setattr(kaggle_download, "backoff", lambda *_: 0.0)
    padding = {"readme.bin": random.Random(0).randbytes(6_000_000)}
    server = KaggleServer({"train.zip": zipped(images() | padding), "train.csv": TRAIN_CSV})
    monkeypatch.setitem(kaggle_env._env_to_endpoint, kaggle_env.KaggleEnv.PROD, server.url)
    with serving(server):
        yield server


def settings(folder="none", part="train"):
    return {"kind": "kaggle", "competition": COMPETITION, "part": part, "folder": str(folder)}


def arguments(tmp_path, settings, network=NETWORK):
    return [
        *("--settings", json.dumps(settings), "--network", json.dumps(network)),
        *("--downloads", str(tmp_path / "downloads"), "--files", str(tmp_path / "files.json")),
    ]


def fetch(tmp_path, network=NETWORK, **about):
    fetch_kaggle.main(arguments(tmp_path, settings(**about), network))
    return json.loads((tmp_path / "files.json").read_text())


def index(tmp_path, name="kaggle", workers=2, **about):
    index_kaggle.main(
        [
            *("--name", name, "--settings", json.dumps(settings(**about))),
            *("--files", str(tmp_path / "files.json"), "--workers", str(workers)),
            *("--index", str(tmp_path / "index.parquet"), "--digest", str(tmp_path / "index.sha")),
            *("--settings-out", str(tmp_path / "settings.json")),
        ]
    )
    return read_index(tmp_path / "index.parquet")


def fetched(tmp_path, name):
    return tmp_path / "downloads" / COMPETITION / name


def test_what_is_fetched_is_the_same_bytes_and_described_without_the_network(kaggle, tmp_path):
    files = fetch(tmp_path)
    assert fetched(tmp_path, "train.zip").read_bytes() == kaggle.files["train.zip"]
    assert fetched(tmp_path, "train.csv").read_bytes() == TRAIN_CSV
    assert files["images"]["form"] == "zip"
    assert files["images"]["members"] == 12
    assert files["table"]["sha256"] == hashlib.sha256(TRAIN_CSV).hexdigest()
    asked = len(kaggle.asked)
    assert fetch(tmp_path) == files
    assert len(kaggle.asked) == asked
    assert not list(fetched(tmp_path, "partial").iterdir())


def test_the_token_goes_to_the_api_alone(kaggle, tmp_path):
    fetch(tmp_path)
    assert {asked[3] for asked in kaggle.asked if asked[0] == "POST"} == {f"Bearer {TOKEN}"}
    assert {asked[3] for asked in kaggle.asked if asked[0] == "GET"} == {None}


@pytest.mark.parametrize("form", ["files", "unpacked", "archive", "zipped table"])
def test_what_the_user_has_is_used_without_network_or_client(tmp_path, form, monkeypatch):
    folder = tmp_path / "mine"
    folder.mkdir()
    if form == "archive":
        whole = {"train.csv": TRAIN_CSV, "sample_submission.csv": SAMPLE_CSV}
        whole |= {f"train/{name}": data for name, data in images().items()}
        whole |= {f"test/{name}": data for name, data in images(["zz-9"]).items()}
        (folder / f"{COMPETITION}.zip").write_bytes(zipped(whole))
    elif form == "unpacked":
        (folder / "train").mkdir()
        for name, data in images().items():
            (folder / "train" / name).write_bytes(data)
        (folder / "train.csv").write_bytes(TRAIN_CSV)
    else:
        (folder / "train.zip").write_bytes(zipped(images()))
        if form == "files":
            (folder / "train.csv").write_bytes(TRAIN_CSV)
        else:
            (folder / "train.csv.zip").write_bytes(zipped({"train.csv": TRAIN_CSV}))
    for module in [name for name in sys.modules if name.split(".")[0] == "kagglehub"]:
        monkeypatch.delitem(sys.modules, module)
    files = fetch(tmp_path, folder=folder)
    assert "kagglehub" not in sys.modules
    assert files["images"]["members"] == 12
    assert files["images"]["prefix"] == ("train/" if form == "archive" else "")
    frame = index(tmp_path, folder=folder)
    assert frame["image_id"].tolist() == ["bb-2", "aa-1", "cc-3"]


def test_the_index_has_the_rows_of_the_table_in_its_order(kaggle, tmp_path):
    fetch(tmp_path)
    frame = index(tmp_path)
    assert frame["image_id"].tolist() == ["bb-2", "aa-1", "cc-3"]
    assert frame["labels"].tolist() == [[16, 0], [25], [2]]
    assert set(frame["source"]) == {"kaggle"}
    assert (frame[["width", "height"]] == 24).all(axis=None)
    for name, data in images(IDS).items():
        image_id, channel = name[:-4].split("_")
        row = frame.set_index("image_id").loc[image_id]
        assert row[f"path_{channel}"] == name
        assert row[f"bytes_{channel}"] == len(data)
        assert row[f"sha256_{channel}"] == hashlib.sha256(data).hexdigest()
    about = json.loads((tmp_path / "settings.json").read_text())
    assert about["kind"] == "kaggle"
    assert about["labelled"]
    assert about["root"] == str(fetched(tmp_path, "train.zip"))


def test_real_images_in_an_archive(shared, tmp_path):
    folder = shared / "data" / "kaggle"
    files = {path.name: path.read_bytes() for path in (folder / "train_512").glob("*.png")}
    ids = {name.rsplit("_", 1)[0] for name in files}
    lines = (folder / "train.csv").read_text().splitlines()
    kept = [line for line in lines if line.split(",")[0] in ids]
    (tmp_path / "train.csv").write_text("\n".join([lines[0], *kept]) + "\n")
    (tmp_path / "train.zip").write_bytes(zipped(files, zipfile.ZIP_DEFLATED))
    fetch(tmp_path, folder=tmp_path)
    frame = index(tmp_path, folder=tmp_path)
    assert frame["image_id"].tolist() == [line.split(",")[0] for line in kept]
    assert [" ".join(map(str, labels)) for labels in frame["labels"]] == [
        line.split(",")[1] for line in kept
    ]
    assert (frame[["width", "height"]] == 512).all(axis=None)


def test_a_zip_archive_and_its_unpacked_folder_give_the_same_arrays(kaggle, tmp_path):
    made = []
    fetch(tmp_path)
    folder = tmp_path / "mine" / "train"
    folder.mkdir(parents=True)
    for name, data in images().items():
        (folder / name).write_bytes(data)
    shutil.copy(fetched(tmp_path, "train.csv"), folder.parent)
    for source in ("none", folder.parent):
        fetch(tmp_path, folder=source)
        index(tmp_path, folder=source)
        out = tmp_path / f"array{len(made)}.npy"
        convert_shard.main(
            [
                *("--index", str(tmp_path / "index.parquet"), "--size", "16", "--threads", "2"),
                *("--settings", str(tmp_path / "settings.json"), "--shard", "0", "--shards", "1"),
                *("--array", str(out), "--rows", str(tmp_path / "rows.parquet")),
            ]
        )
        made.append(np.load(out))
    assert made[0].shape == (3, 16, 16, 4)
    assert np.array_equal(*made)


def test_the_test_part_has_no_labels_and_the_order_of_the_submission(kaggle, tmp_path):
    kaggle.files |= {"test.zip": zipped(images()), "sample_submission.csv": SAMPLE_CSV}
    fetch(tmp_path, part="test")
    assert not fetched(tmp_path, "train.zip").exists()
    frame = index(tmp_path, part="test")
    assert frame["image_id"].tolist() == ["cc-3", "aa-1", "bb-2"]
    assert frame["labels"].isna().all()
    assert not json.loads((tmp_path / "settings.json").read_text())["labelled"]


@pytest.mark.parametrize(
    ("files", "table", "message"),
    [
        (images(IDS[:2]), TRAIN_CSV, r"1 rows have no image .*cc-3"),
        (images([*IDS, "dd-4"]), TRAIN_CSV, r"1 images have no row .*dd-4"),
        (
            {name: data for name, data in images().items() if name != "aa-1_blue.png"},
            TRAIN_CSV,
            r"1 images lack channels: aa-1 has no blue",
        ),
        (images(), b"Id,Target\naa-1,99\n", r"train\.csv, line 2: '99'"),
        (images(), b"Name,Target\naa-1,1\n", r"no column Id"),
    ],
)
def test_tables_and_images_that_do_not_match_are_refused(tmp_path, files, table, message):
    (tmp_path / "train.zip").write_bytes(zipped(files))
    (tmp_path / "train.csv").write_bytes(table)
    fetch(tmp_path, folder=tmp_path)
    with pytest.raises(InputError, match=message):
        index(tmp_path, folder=tmp_path)
    assert not (tmp_path / "index.parquet").exists()


def index_in(source, folder):
    """Plan, then the jobs of a source whose files lie in ``folder``: token and index."""
    token = status_of_competition(source, True).token
    raw, about = source / "raw", json.dumps(settings(folder))
    fetch_kaggle.main(
        [
            *("--settings", about, "--downloads", str(source / "downloads"), "--network", "{}"),
            *("--files", str(raw / "files.json")),
        ]
    )
    index_kaggle.main(
        [
            *("--name", "kaggle", "--settings", about, "--files", str(raw / "files.json")),
            *("--contents", token, "--index", str(raw / "index.parquet")),
            *("--digest", str(raw / "index.sha"), "--settings-out", str(raw / "settings.json")),
        ]
    )
    return token, read_index(raw / "index.parquet")


@pytest.mark.parametrize("archive", ["train.csv.zip", f"{COMPETITION}.zip"])
def test_labels_that_change_in_an_archive_are_noticed(tmp_path, archive):
    folder, source = tmp_path / "mine", tmp_path / "source"
    folder.mkdir()
    (folder / "train.zip").write_bytes(zipped(images()))
    (folder / archive).write_bytes(zipped({"train.csv": TRAIN_CSV}))
    token, _ = index_in(source, folder)
    os.utime(folder / archive, (1, 1))
    assert status_of_competition(source, True).token == token

    (folder / archive).write_bytes(zipped({"train.csv": TRAIN_CSV.replace(b",25", b",26")}))
    status = status_of_competition(source, True)
    assert (status.changes.edited, status.token == token) == ([str(folder / archive)], False)
    again, frame = index_in(source, folder)
    assert frame["labels"].tolist() == [[16, 0], [26], [2]]
    assert again == status.token == status_of_competition(source, True).token

    (folder / archive).unlink()  # what was made of it stays
    assert status_of_competition(source, True).token == again


def test_what_an_older_version_found_names_no_archive(tmp_path):
    folder, source = tmp_path / "mine", tmp_path / "source"
    folder.mkdir()
    (folder / "train.zip").write_bytes(zipped(images()))
    (folder / "train.csv.zip").write_bytes(zipped({"train.csv": TRAIN_CSV}))
    token, _ = index_in(source, folder)
    record, archive = source / "raw/files.json", str(folder / "train.csv.zip")
    found = json.loads(record.read_text())
    assert found.pop("table_archive")["path"] == archive
    record.write_text(json.dumps(found))
    contents = read_contents(source / "raw/contents.json")
    del contents.files[archive]
    write_contents(source / "raw/contents.json", contents)
    assert status_of_competition(source, True) == (token, len(contents.files), ([], [], [], []))


def test_an_archive_of_the_table_that_changed_since_it_was_found_is_refused(tmp_path):
    (tmp_path / "train.zip").write_bytes(zipped(images()))
    (tmp_path / "train.csv.zip").write_bytes(zipped({"train.csv": TRAIN_CSV}))
    fetch(tmp_path, folder=tmp_path)
    (tmp_path / "train.csv.zip").write_bytes(zipped({"train.csv": TRAIN_CSV + b"dd-4,1\n"}))
    with pytest.raises(InputError, match=r"train\.csv\.zip: has changed since .*files\.json"):
        index(tmp_path, folder=tmp_path)
    (tmp_path / "train.csv.zip").unlink()
    assert len(index(tmp_path, folder=tmp_path)) == 3  # the copy of the table is there


def test_a_table_that_changes_while_images_are_read_is_noticed(tmp_path, monkeypatch):
    folder, source = tmp_path / "mine", tmp_path / "source"
    folder.mkdir()
    (folder / "train.zip").write_bytes(zipped(images()))
    table, real = folder / "train.csv", index_kaggle.index_part
    table.write_bytes(TRAIN_CSV)

    def edited_meanwhile(*arguments):
        frame = real(*arguments)
        table.write_bytes(TRAIN_CSV.replace(b",25", b",26"))
        return frame

    monkeypatch.setattr(index_kaggle, "index_part", edited_meanwhile)
    token, _ = index_in(source, folder)
    assert status_of_competition(source, True).changes.edited == [str(table)]
    assert status_of_competition(source, True).token != token


def test_the_table_is_recorded_as_read(tmp_path, inputs_of):
    (tmp_path / "train.zip").write_bytes(zipped(images()))
    (tmp_path / "train.csv").write_bytes(TRAIN_CSV)
    fetch(tmp_path, folder=tmp_path)
    index(tmp_path, folder=tmp_path)
    files, table = str(tmp_path / "files.json"), str(tmp_path / "train.csv")
    assert inputs_of(tmp_path / "files.json") == {table}
    assert inputs_of(tmp_path / "index.parquet") == {table, files}


def test_files_that_changed_since_they_were_found_are_refused(tmp_path):
    (tmp_path / "train.zip").write_bytes(zipped(images()))
    (tmp_path / "train.csv").write_bytes(TRAIN_CSV)
    fetch(tmp_path, folder=tmp_path)
    (tmp_path / "train.zip").write_bytes(zipped(images() | {"aa-1_red.png": png(99)}))
    with pytest.raises(InputError, match=r"train\.zip: has changed since .*files\.json"):
        index(tmp_path, folder=tmp_path)
    (tmp_path / "train.zip").unlink()
    with pytest.raises(InputError, match=r"train\.zip: was there"):
        index(tmp_path, folder=tmp_path)


def test_a_damaged_member_of_an_archive_is_named(tmp_path):
    data = bytearray(zipped(images()))
    where = data.index(images()["bb-2_green.png"])
    data[where + 60] ^= 1
    (tmp_path / "train.zip").write_bytes(data)
    (tmp_path / "train.csv").write_bytes(TRAIN_CSV)
    fetch(tmp_path, folder=tmp_path)
    with pytest.raises(InputError, match=r"damaged: bb-2_green\.png: its checksum is wrong"):
        index(tmp_path, folder=tmp_path)


def test_an_archive_within_the_archive_is_refused_with_the_command_to_unpack_it(tmp_path):
    whole = zipped({"train.csv": TRAIN_CSV, "train.zip": zipped(images())})
    (tmp_path / f"{COMPETITION}.zip").write_bytes(whole)
    with pytest.raises(InputError, match=rf"unzip {COMPETITION}\.zip train\.zip"):
        fetch(tmp_path, folder=tmp_path)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("reset", "the connection failed"),
        ("busy", "answered 503"),
        ("silent", "no answer within"),
        ("trickle", "too slow"),
        ("trickled head", "too slow"),
        ("page", "a web page"),
        ("corrupt", "MD5 sum"),
    ],
)
def test_a_fault_of_the_network_is_overcome(kaggle, tmp_path, fault, words, caplog, monkeypatch):
    # Enough tries for a machine so busy that a good one is too slow as well.
    monkeypatch.setattr(kaggle_download, "_PATIENCE", 3 if "trickle" in fault else 100)
    kaggle.faults = [fault]
    fetch(tmp_path, NETWORK | {"timeout_s": 0.3, "attempts": 20})
    assert words in caplog.text
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)
    assert fetched(tmp_path, "train.zip").read_bytes() == kaggle.files["train.zip"]


def test_a_download_goes_on_where_it_ended(kaggle, tmp_path):
    # Every try asks for the whole first, then for the rest: it is sent on to a new address.
    kaggle.faults = ["reset", "", "reset", "", "reset", "", ""]
    fetch(tmp_path)
    ranges = [wanted for wanted in kaggle.storage_requests() if wanted]
    size = len(kaggle.files["train.zip"])
    starts = [int(wanted[6:-1]) for wanted in ranges]
    assert len(starts) == 3
    # The client writes whole MiB: what was left of one is asked for again.
    assert size // 2 - 2**20 <= starts[0] <= starts[1] <= starts[2]
    assert fetched(tmp_path, "train.zip").read_bytes() == kaggle.files["train.zip"]


@pytest.mark.parametrize("fault", ["error on resume", "ignores range"])
def test_something_else_appended_on_resume_is_found_and_fetched_once_more(
    kaggle, tmp_path, fault, caplog
):
    caplog.set_level(logging.INFO)
    kaggle.faults = ["reset", "", fault]
    fetch(tmp_path)
    assert fetched(tmp_path, "train.zip").read_bytes() == kaggle.files["train.zip"]
    assert "fetched once more" in caplog.text


def test_a_file_that_is_broken_twice_is_an_error_in_words(kaggle, tmp_path):
    kaggle.faults = ["corrupt", "corrupt"]
    with pytest.raises(InputError, match=r"broken from Kaggle twice: its MD5 sum"):
        fetch(tmp_path)
    assert not fetched(tmp_path, "train.zip").exists()
    assert not fetched(tmp_path, "partial/train.zip").exists()


def test_a_broken_archive_is_found_without_a_sum_to_compare(kaggle, tmp_path):
    kaggle.md5 = False
    kaggle.files["train.zip"] = kaggle.files["train.zip"][:-100]
    with pytest.raises(InputError, match=r"twice: .*not a whole zip archive"):
        fetch(tmp_path)


def test_an_archive_that_kaggle_means_and_nobody_should_open_is_fetched_once(kaggle, tmp_path):
    kaggle.files["train.zip"] = zipped(images() | {"../evil.png": b"x"})
    with pytest.raises(InputError, match=r"'\.\./evil\.png' leaves the folder"):
        fetch(tmp_path)
    assert len(kaggle.storage_requests()) == 1


def test_a_partial_file_of_something_that_changed_is_begun_again(kaggle, tmp_path, caplog):
    kaggle.faults = ["reset"] * 20
    with pytest.raises(InputError, match=r"the connection failed.*is kept"):
        fetch(tmp_path, NETWORK | {"attempts": 1})
    partial = fetched(tmp_path, "partial/train.zip")
    assert partial.stat().st_size > 0
    kaggle.faults = []
    kaggle.files["train.zip"] = zipped(images() | {"other.bin": bytes(7_000_000)})
    fetch(tmp_path)
    assert "has changed since; begun again" in caplog.text
    assert fetched(tmp_path, "train.zip").read_bytes() == kaggle.files["train.zip"]


def test_a_whole_partial_file_is_compared_before_it_is_taken(kaggle, tmp_path):
    kaggle.faults = ["reset"]
    with pytest.raises(InputError):
        fetch(tmp_path, NETWORK | {"attempts": 1})
    partial = fetched(tmp_path, "partial/train.zip")
    data = bytearray(kaggle.files["train.zip"])
    data[1000] ^= 1
    partial.write_bytes(data)
    fetch(tmp_path)
    assert fetched(tmp_path, "train.zip").read_bytes() == kaggle.files["train.zip"]


def test_a_csv_that_comes_in_a_zip_file_is_unpacked(kaggle, tmp_path):
    kaggle.files["train.csv"] = zipped({"train.csv": TRAIN_CSV}, zipfile.ZIP_DEFLATED)
    fetch(tmp_path)
    assert fetched(tmp_path, "train.csv").read_bytes() == TRAIN_CSV


def test_where_the_part_is_not_served_the_whole_archive_is(kaggle, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    del kaggle.files["train.zip"]
    whole = {f"train/{name}": data for name, data in images().items()}
    kaggle.files[f"{COMPETITION}.zip"] = zipped(whole | {"train.csv": TRAIN_CSV})
    files = fetch(tmp_path)
    assert "the archive of the whole competition is fetched" in caplog.text
    assert files["images"]["prefix"] == "train/"
    assert index(tmp_path)["path_red"].tolist()[0] == "train/bb-2_red.png"
    # Its table is read from it: no further request.
    assert all("train.csv" not in asked[1] for asked in kaggle.asked)


def test_nothing_served_at_all_tells_what_to_do_by_hand(kaggle, tmp_path):
    kaggle.files.clear()
    with pytest.raises(InputError, match=r"no train\.zip or .*\(404\).*in a browser.*mine/train"):
        fetch(tmp_path, folder=tmp_path / "mine")


def test_missing_disk_space_is_told_before_anything_is_written(kaggle, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=2**20)
    monkeypatch.setattr("hpaloc.transfer.shutil.disk_usage", lambda _: usage)
    with pytest.raises(InputError, match=r"1\.00 GiB of disk space are missing"):
        fetch(tmp_path)
    assert not fetched(tmp_path, "partial/train.zip").exists()


def test_a_disk_that_fills_keeps_what_came(kaggle, tmp_path):
    """A limit on the size of files stands for the disk: the same refusal of the same write."""
    former = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3 * 2**20, former[1]))
    try:
        with pytest.raises(InputError, match=r"no room left \(File too large.* 3\.0 MiB, is kept"):
            fetch(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, former)
    fetch(tmp_path)
    assert kaggle.storage_requests()[2:3] == [f"bytes={3 * 2**20}-"]


@pytest.mark.parametrize(
    ("leads_to", "words"),
    [
        ("ftp://a.example.org/x", "from http to ftp"),
        ("file:///etc/passwd", "from http to file"),
        ("http://169.254.169.254/latest/meta-data", "private network"),
        ("http://[::ffff:127.0.0.1]/x", "private network"),
    ],
)
def test_kaggle_cannot_send_anywhere(kaggle, tmp_path, leads_to, words):
    kaggle.leads_to = leads_to
    with pytest.raises(InputError, match=f"is not followed: redirected .*{words}"):
        fetch(tmp_path, NETWORK | {"private_addresses": False})
    assert len(kaggle.asked) == 1


@pytest.mark.parametrize(
    ("path", "words"), [("/round", "redirected in a loop"), ("/on/1", "redirected again and again")]
)
def test_redirects_without_an_end_are_told(kaggle, tmp_path, path, words):
    kaggle.leads_to = path
    with pytest.raises(InputError, match=words):
        fetch(tmp_path)
    assert len(kaggle.asked) < 10


def test_a_page_that_is_called_json_is_asked_for_again(kaggle, tmp_path):
    kaggle.status, kaggle.json = 502, False
    with pytest.raises(InputError, match=r"an answer that nobody can read \(3 tries\)"):
        fetch(tmp_path)


def test_a_pause_that_kaggle_asks_for_is_kept_up_to_a_limit(kaggle, tmp_path, monkeypatch):
    pauses = []
    monkeypatch.setattr(kaggle_download, "time", SimpleNamespace(sleep=pauses.append))
    kaggle.status = 429
    for kaggle.retry_after in ("7", "99999999"):
        with pytest.raises(InputError, match="429"):
            fetch(tmp_path)
    assert pauses == [7, 7, 20, 20]


SECRETS = (TOKEN, SIGNATURE, "X-Sig", "secret")


def secretless(text):
    return not any(secret in text for secret in SECRETS)


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (401, r"does not accept the token.*settings.*KAGGLE_API_TOKEN.*kaggle\.json"),
        (403, rf"not accepted.*https://www\.kaggle\.com/competitions/{COMPETITION}/rules"),
        (404, r"by hand|in a browser"),
        (429, r"answered 429.*3 tries"),
        (500, r"answered 500"),
        (418, r"answered 418, which no further try"),
    ],
)
def test_what_kaggle_refuses_is_told_with_the_steps_to_take(
    kaggle, tmp_path, capfd, logging_kept, status, message
):
    kaggle.status = status
    with pytest.raises(SystemExit) as ended:
        run_program(lambda: fetch(tmp_path))
    assert ended.value.code == 1
    shown = capfd.readouterr()
    assert re.search(message, shown.err)
    assert "Traceback" not in shown.err
    assert secretless(shown.out + shown.err)


@pytest.mark.parametrize("fault", ["reset", "silent", "busy", "corrupt", "page"])
def test_faults_show_no_secret(kaggle, tmp_path, caplog, capfd, fault):
    caplog.set_level(logging.DEBUG)
    kaggle.faults = [fault] * 9
    with pytest.raises(InputError) as caught:
        fetch(tmp_path, NETWORK | {"attempts": 2, "timeout_s": 0.3})
    shown = capfd.readouterr()
    assert secretless(shown.out + shown.err + caplog.text + str(caught.value))


@pytest.mark.parametrize("token", [f"{TOKEN}\n{TOKEN}", TOKEN * 40, "töken\u2028secret"])
def test_a_malformed_token_is_no_traceback_and_stays_secret(
    kaggle, tmp_path, monkeypatch, capfd, logging_kept, token
):
    monkeypatch.setenv("KAGGLE_API_TOKEN", token)
    with pytest.raises(SystemExit):
        run_program(lambda: fetch(tmp_path))
    shown = capfd.readouterr()
    assert "token" in shown.err
    assert "Traceback" not in shown.err
    assert secretless(shown.out + shown.err)


def test_a_client_that_prints_its_requests_is_kept_from_it(kaggle, tmp_path, monkeypatch, capfd):
    from kagglesdk import kaggle_env

    endpoints = kaggle_env._env_to_endpoint
    monkeypatch.setitem(endpoints, kaggle_env.KaggleEnv.TEST, kaggle.url)
    monkeypatch.setenv("KAGGLE_API_ENVIRONMENT", "TEST")  # which is for Kaggle's own developers
    fetch(tmp_path)
    shown = capfd.readouterr()
    assert secretless(shown.out + shown.err)


def test_a_missing_token_gives_both_forms(kaggle, tmp_path, monkeypatch):
    monkeypatch.delenv("KAGGLE_API_TOKEN")
    with pytest.raises(InputError, match=r"settings.*~/\.kaggle/access_token.*kaggle\.json"):
        fetch(tmp_path)
    assert not kaggle.asked


def test_a_broken_kaggle_json_is_named(kaggle, tmp_path, monkeypatch):
    monkeypatch.delenv("KAGGLE_API_TOKEN")
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "kaggle.json").write_text('{"username": "me", "key": "secret')
    with pytest.raises(InputError, match=r"kaggle\.json") as caught:
        fetch(tmp_path)
    assert secretless(str(caught.value))


def test_a_host_that_cannot_be_reached_is_told_in_words(kaggle, tmp_path, monkeypatch):
    from kagglesdk import kaggle_env

    kaggle.server_close()
    monkeypatch.setitem(
        kaggle_env._env_to_endpoint, kaggle_env.KaggleEnv.PROD, "http://127.0.0.1:1"
    )
    with pytest.raises(InputError, match=r"Connection refused\).*3 tries.*in a browser"):
        fetch(tmp_path)


def program(kaggle, tmp_path):
    """The program in a process of its own, which asks the server."""
    code = client_of(kaggle.url) + "import fetch_kaggle, hpaloc.log;"
    code += "hpaloc.log.run_program(fetch_kaggle.main)"
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments(tmp_path, settings(), NETWORK | {"timeout_s": 30})],
        env=os.environ | {"PYTHONPATH": str(Path(fetch_kaggle.__file__).parent)},
        stderr=subprocess.PIPE,
        text=True,
    )


def drive(url, secret, argv):
    """The program, in a process that was forked with its modules."""
    from kagglesdk import kaggle_env

    os.environ |= {"KAGGLE_API_TOKEN": secret}
    kaggle_env._env_to_endpoint[kaggle_env.KaggleEnv.PROD] = url
    run_program(lambda: fetch_kaggle.main(argv))


def test_kill_9_twenty_times_loses_and_repeats_nothing(kaggle, tmp_path):
    whole = zipped(images() | {"readme.bin": random.Random(1).randbytes(48_000_000)})
    kaggle.files["train.zip"] = whole
    kaggle.pace_s = 0.01
    kaggle.may_end.clear()
    partial = fetched(tmp_path, "partial/train.zip")
    argv = arguments(tmp_path, settings(), NETWORK | {"timeout_s": 30})
    moments, sizes = random.Random(7), [0]
    with Zygote("test_kaggle", "kagglehub.clients", "kagglesdk.kaggle_client") as zygote:
        for number in range(20):
            # The first request is the one that tells what the file is, a second goes on from there.
            requests = len(kaggle.storage_requests()) + (2 if sizes[-1] else 1)
            zygote.start(kaggle.url, TOKEN, argv)
            while len(kaggle.storage_requests()) < requests:
                assert zygote.is_running()
                time.sleep(0.002)
            begin = f"bytes={sizes[-1]}-" if sizes[-1] else None
            assert kaggle.storage_requests()[-1] == begin
            while number % 3 == 0 and size_of_file(partial) == sizes[-1]:  # some have come on
                time.sleep(0.002)
            time.sleep(moments.uniform(0, 0.06))
            zygote.kill()
            begun = partial.read_bytes() if partial.exists() else b""
            assert whole.startswith(begun)
            assert not fetched(tmp_path, "train.zip").exists()
            sizes.append(len(begun))
    assert sizes == sorted(sizes) and len(set(sizes)) > 5
    kaggle.pace_s = 0
    kaggle.may_end.set()
    fetch(tmp_path)
    assert kaggle.storage_requests()[-2] == f"bytes={sizes[-1]}-"
    assert fetched(tmp_path, "train.zip").read_bytes() == whole


def test_of_two_runs_at_once_the_second_waits_and_finds_the_file(kaggle, tmp_path):
    kaggle.may_end.clear()
    first = program(kaggle, tmp_path)
    while not kaggle.storage_requests():
        assert first.poll() is None
        threading.Event().wait(0.01)
    second = program(kaggle, tmp_path)
    waits = next(line for line in second.stderr if "waiting" in line)
    kaggle.may_end.set()
    assert f"waiting for process {first.pid}" in waits
    assert first.wait(30) == 0
    assert second.wait(30) == 0
    assert len(kaggle.storage_requests()) == 2  # one for each file


def test_progress_has_the_rate_and_the_time_left(tmp_path, caplog):
    from hpaloc.transfer import growth_logged

    caplog.set_level(logging.INFO)
    path = tmp_path / "train.zip"
    with growth_logged(path, 4 * 2**20, every_s=0.05):
        path.write_bytes(bytes(2**20))
        time.sleep(0.2)
    assert "train.zip: 1.0 MiB of 4.0 MiB (25 %)" in caplog.text
    assert "MB/s" in caplog.text
    assert "left" in caplog.text
