import csv
import hashlib
import logging
import random
import re
import resource
import shutil
import time

import pytest
import safetensors.torch
import timm
import torch
from hub_server import SIGNATURE, TOKEN, HubServer
from kaggle_server import serving
from zygote import Zygote

import fetch_weights
from hpaloc import pretrained
from hpaloc.log import InputError, run_program
from hpaloc.network import build_network, four_channel_stem, load_pretrained, network_names
from hpaloc.pretrained import Pin, read_pin

COMMIT = "54b09b4" + "0" * 33
# The hub has no such network; a file of it is a quarter of the smallest that it has.
PIN = Pin("seresnext_small", "timm/small.in1k", "54b09b4", "model.safetensors", "")
NAME = "timm/small.in1k/model.safetensors"
RECIPE = {"network": PIN.network, "image_size": 32, "pool": 1, "dropout": 0.0}
RECIPE |= {"normalise": "fixed", "channel_means": [0.0] * 4}


@pytest.fixture(scope="module")
def weights():
    """A file as the hub has them: of three channels, with a classifier."""
    torch.manual_seed(3)
    tensors = build_network(RECIPE).body.state_dict()
    tensors["conv1.weight"] = torch.rand(64, 3, 7, 7)
    tensors["fc.weight"], tensors["fc.bias"] = torch.rand(1000, 1024), torch.rand(1000)
    return safetensors.torch.save({name: tensor.contiguous() for name, tensor in tensors.items()})


@pytest.fixture(autouse=True)
def pinned(monkeypatch):
    monkeypatch.setattr(fetch_weights, "read_pin", lambda _: PIN)


@pytest.fixture()
def hub(weights, monkeypatch):
    from huggingface_hub import constants

    server = HubServer({NAME: weights}, commits=[COMMIT, "9" * 40])
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 2**20)
    template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(pretrained, "_PAUSE_S", 0)
    with serving(server):
        yield server


def arguments(tmp_path, *more, network=PIN.network):
    return [
        *("--network", network, "--downloads", str(tmp_path / "downloads"), *more),
        *("--weights", str(tmp_path / "w.safetensors"), "--digest", str(tmp_path / "w.sha256")),
    ]


def fetch(tmp_path, *more, network=PIN.network):
    fetch_weights.main(arguments(tmp_path, *more, network=network))
    return (tmp_path / "w.safetensors").read_bytes()


def test_weights_are_fetched_at_the_pinned_commit_and_once(hub, weights, tmp_path):
    assert fetch(tmp_path) == weights
    assert (tmp_path / "w.sha256").read_text().strip() == hashlib.sha256(weights).hexdigest()
    assert any(f"/resolve/{COMMIT}/" in asked[1] for asked in hub.asked)
    asked = len(hub.asked)
    assert fetch(tmp_path) == weights
    assert len(hub.asked) == asked
    network = build_network(RECIPE)
    load_pretrained(network, tmp_path / "w.safetensors")
    stem = safetensors.torch.load(weights)["conv1.weight"]
    assert torch.equal(network.body.conv1.weight, four_channel_stem(stem))


def test_the_token_goes_to_the_hub_alone(hub, tmp_path):
    fetch(tmp_path)
    tokens = {asked[1].startswith("/storage/"): asked[3] for asked in hub.asked}
    assert tokens == {False: f"Bearer {TOKEN}", True: None}


def test_weights_that_changed_where_they_are_kept_are_fetched_again(hub, weights, tmp_path):
    fetch(tmp_path)
    kept = next((tmp_path / "downloads").rglob("model.safetensors"))
    kept.write_bytes(weights[:-1] + b"x")
    assert fetch(tmp_path) == weights
    assert len(hub.bodies()) == 2


@pytest.mark.parametrize("fault", ["reset", "busy", "corrupt"])
def test_a_fault_of_the_network_is_overcome(hub, weights, tmp_path, fault, monkeypatch):
    hub.faults = [fault]
    monkeypatch.setattr(time, "sleep", lambda _: None)
    assert fetch(tmp_path) == weights
    if fault == "reset":
        assert len(hub.bodies()) == 2


def drive(url, argv):
    """The program, in a process that was forked with its modules."""
    from huggingface_hub import constants

    constants.ENDPOINT, constants.DOWNLOAD_CHUNK_SIZE = url, 2**20
    constants.HUGGINGFACE_CO_URL_TEMPLATE = url + "/{repo_id}/resolve/{revision}/{filename}"
    fetch_weights.read_pin = lambda _: PIN
    run_program(lambda: fetch_weights.main(argv))


@pytest.fixture(scope="module")
def zygote():
    with Zygote(
        "test_fetch_weights", "huggingface_hub.file_download", "huggingface_hub.hf_api"
    ) as z:
        yield z


def test_kill_9_twenty_times_loses_and_repeats_nothing(hub, weights, tmp_path, zygote):
    hub.pace_s = 0.005
    moments, sizes = random.Random(7), [0]
    for number in range(20):
        requests = len(hub.bodies())
        zygote.start(hub.url, arguments(tmp_path))
        while len(hub.bodies()) == requests:
            assert zygote.is_running()
            time.sleep(0.002)
        assert hub.bodies()[-1] == (f"bytes={sizes[-1]}-" if sizes[-1] else None)
        (partial,) = (tmp_path / "downloads").rglob("*.part")
        while number % 3 == 0 and partial.stat().st_size == sizes[-1]:  # some have come on
            time.sleep(0.002)
        time.sleep(moments.uniform(0, 0.06))
        zygote.kill()
        assert weights.startswith(partial.read_bytes())
        sizes.append(partial.stat().st_size)
    assert sizes == sorted(sizes) and len(set(sizes)) > 5
    assert not (tmp_path / "w.safetensors").exists()
    hub.pace_s = 0
    asked = len(hub.bodies())
    assert fetch(tmp_path) == weights
    assert hub.bodies()[asked:] == [f"bytes={sizes[-1]}-"]


def test_a_kill_between_the_sum_and_the_file_costs_no_second_download(
    hub, weights, tmp_path, monkeypatch
):
    """Whatever of the last two steps is missing, the next run takes what came."""
    real, steps = pretrained.os.replace, []

    def killed(*places):
        steps.append(places)
        raise KeyboardInterrupt

    monkeypatch.setattr(pretrained.os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        fetch(tmp_path)
    monkeypatch.setattr(pretrained.os, "replace", real)
    assert fetch(tmp_path) == weights
    assert len(hub.bodies()) == 1


def test_of_two_runs_at_once_the_second_waits_and_finds_the_file(
    hub, weights, tmp_path, zygote, caplog
):
    caplog.set_level(logging.INFO)
    hub.pace_s = 0.01
    zygote.start(hub.url, arguments(tmp_path))
    while not hub.bodies():
        assert zygote.is_running()
        time.sleep(0.002)
    assert fetch(tmp_path) == weights
    assert f"waiting for process {zygote.child} on " in caplog.text
    assert len(hub.bodies()) == 1
    zygote.kill()


def test_a_disk_that_fills_keeps_what_came(hub, weights, tmp_path):
    """A limit on the size of files stands for the disk: the same refusal of the same write."""
    former = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3 * 2**20, former[1]))
    try:
        with pytest.raises(InputError, match=r"no room left \(File too large.* 3\.0 MiB, is kept"):
            fetch(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, former)
    assert fetch(tmp_path) == weights
    assert hub.bodies() == [None, f"bytes={3 * 2**20}-"]


def test_missing_disk_space_is_told_before_anything_is_fetched(hub, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=2**20)
    monkeypatch.setattr("hpaloc.transfer.shutil.disk_usage", lambda _: usage)
    with pytest.raises(InputError, match=r"GiB of disk space are missing"):
        fetch(tmp_path)
    assert not hub.bodies()


def test_a_trickle_ends_and_the_next_try_goes_on(hub, weights, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(pretrained, "_PIECE_S", 0.3)
    hub.faults = ["trickle"]
    assert fetch(tmp_path) == weights
    assert "too slow" in caplog.text and len(hub.bodies()) == 2


@pytest.mark.parametrize("silent", ["/commits/", "/resolve/"])
def test_a_hub_that_never_answers_is_told(hub, tmp_path, monkeypatch, silent):
    monkeypatch.setattr(pretrained, "_ANSWER_S", 0.2)
    hub.silent = silent
    with pytest.raises(InputError, match=r"\(too slow, 3 tries\).*login node"):
        fetch(tmp_path)


@pytest.mark.parametrize("commit", ["54b09b4/../../../evil", "54b09b4\x1b[2J", "54b09b4"])
def test_a_commit_is_a_hash_before_it_names_a_folder(hub, tmp_path, commit):
    hub.commits = [commit]
    with pytest.raises(InputError, match="0 of 1 commits begin with '54b09b4'"):
        fetch(tmp_path)


@pytest.mark.parametrize(
    "leads_to", ["ftp://a.example.org/x", "file:///etc/passwd", "http://169.254.169.254/x"]
)
def test_the_hub_cannot_send_anywhere(hub, tmp_path, monkeypatch, leads_to):
    from huggingface_hub import constants

    named = hub.url.replace("127.0.0.1", "localhost")
    template = named + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    hub.leads_to = leads_to
    with pytest.raises(InputError, match=r"an address that is not asked.*pretrained: null"):
        fetch(tmp_path, "--revision", COMMIT)


def test_another_sha256_than_the_pinned_one_is_refused_before_it_is_fetched(hub, tmp_path):
    pin = PIN._replace(sha256="0" * 64)
    with pytest.raises(InputError, match=r"pinned is 0{64}"):
        pretrained.fetch_weights(pin, tmp_path / "downloads", tmp_path / "w.safetensors")
    assert not hub.bodies()


def test_a_file_that_is_broken_twice_is_an_error_in_words(hub, tmp_path):
    hub.faults = ["corrupt", "corrupt"]
    with pytest.raises(InputError, match=r"broken .* twice: its sha256.*pretrained: null"):
        fetch(tmp_path)
    assert not list((tmp_path / "downloads").rglob("model.*"))


def test_tensors_of_another_network_are_refused(hub, tmp_path):
    hub.files[NAME] = safetensors.torch.save({"conv1.weight": torch.zeros(3)})
    with pytest.raises(InputError, match=r"conv1\.weight has shape .*of another network"):
        fetch(tmp_path)
    assert not (tmp_path / "w.safetensors").exists()


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (401, r"answered 401.*HF_TOKEN.*login node"),
        (403, r"answered 403.*HF_TOKEN"),
        (404, r"answered 404.*weights\.csv.*pretrained: PATH.*pretrained: null"),
        (503, r"answered 503, 3 tries\).*login node"),
    ],
)
def test_what_the_hub_refuses_is_told_with_the_choices(
    hub, tmp_path, capfd, logging_kept, status, message, monkeypatch
):
    monkeypatch.setattr(time, "sleep", lambda _: None)
    hub.status = status
    with pytest.raises(SystemExit) as ended:
        run_program(lambda: fetch(tmp_path, "--revision", COMMIT))
    assert ended.value.code == 1
    shown = capfd.readouterr()
    assert re.search(message, shown.err)
    assert "Traceback" not in shown.err
    assert TOKEN not in shown.out + shown.err


def test_no_line_shows_a_token_or_a_signed_address(hub, tmp_path, caplog, capfd, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda _: None)
    caplog.set_level(logging.DEBUG)
    hub.faults = ["reset", "busy", "corrupt", "corrupt"]
    with pytest.raises(InputError, match="broken") as caught:
        fetch(tmp_path)
    shown = capfd.readouterr()
    for secret in (TOKEN, SIGNATURE):
        assert secret not in shown.out + shown.err + caplog.text + str(caught.value)


def test_a_host_that_cannot_be_reached_is_told_with_the_choices(hub, tmp_path, monkeypatch):
    from huggingface_hub import constants

    template = "http://127.0.0.1:1/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    with pytest.raises(InputError, match=r"Connection refused, 3 tries\).*login node.*null"):
        fetch(tmp_path, "--revision", COMMIT)


@pytest.mark.parametrize("revision", ["1234567", "54b0", "main"])
def test_a_revision_that_is_not_one_commit_is_refused(hub, tmp_path, revision):
    with pytest.raises(InputError, match=rf"of 2 commits begin with '{revision}'"):
        fetch(tmp_path, "--revision", revision)


@pytest.mark.parametrize("network", ["seresnext_small", "legacy_seresnext26_32x4d", "nonsense"])
def test_a_network_without_a_pin_is_told_what_to_do(network):
    with pytest.raises(InputError, match=r"weights\.csv.*Add a row.*pretrained: PATH"):
        read_pin(network)


def test_pins_are_of_the_networks_and_repositories_that_timm_knows():
    with open(pretrained.PINS, newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            assert row["network"] in network_names()
            assert read_pin(row["network"]).hub_id == row["hub_id"]
            assert row["hub_id"] == timm.models.get_pretrained_cfg(row["network"]).hf_hub_id
            assert re.fullmatch("[0-9a-f]{7}|[0-9a-f]{40}", row["revision"])
            assert row["file"] == "model.safetensors"
