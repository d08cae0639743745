"""The record of a job: what it says, where it lies, and that it says nothing that changes."""

import argparse
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

import tabulate_provenance
from hpaloc import provenance
from hpaloc.config import resolve
from hpaloc.provenance import (
    UNKNOWN_MAKER,
    maker,
    record,
    sum_of_record,
    sum_of_shard,
    text_of_record,
)
from hpaloc.run_description import commit_of, describe_run

PROJECT = Path(__file__).resolve().parents[2]


@pytest.fixture
def run(tmp_path, monkeypatch) -> dict:
    """A folder where Snakemake would run, with the variable that it sets; the configuration."""
    monkeypatch.chdir(tmp_path)
    config = resolve(yaml.safe_load((PROJECT / "config.yaml").read_text()))
    monkeypatch.setenv(provenance.VARIABLE, describe_run(config, "paper", PROJECT))
    return config


def a_job(**more) -> argparse.Namespace:
    Path("in.csv").write_text("a\n1\n")
    for folder in ("figures", "tables"):
        Path(folder).mkdir(exist_ok=True)
        Path(folder, "of.csv").write_text("b\n2\n")
    return argparse.Namespace(
        counts="in.csv", png="figures/of.csv", table=Path("tables/of.csv"), threads=2,
        name="figures", recipe={"seed": 7}, **more,
    )  # fmt: skip


def sha256(path: str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def test_a_record_lies_in_every_folder_of_the_outputs(run):
    job = a_job()
    record(job, [job.png, None, job.table])
    beside = [Path(folder, "of.provenance.json") for folder in ("figures", "tables")]
    texts = {path.read_text() for path in beside}
    assert len(texts) == 1
    about = json.loads(texts.pop())
    assert about["inputs"] == {"in.csv": {"bytes": 4, "sha256": sha256("in.csv")}}
    assert about["outputs"].keys() == {"figures/of.csv", "tables/of.csv"}
    assert about["seed"] == 7
    assert about["run"] == "paper"
    assert about["versions"]["numpy"] == np.__version__
    assert "snakemake" not in about["versions"]  # what is not imported has no part in it
    assert about["sha256"] == sum_of_record(about)
    record(job, [job.png, None, job.table])
    assert {path.read_text() for path in beside} == {
        json.dumps(about, indent=2, sort_keys=True) + "\n"
    }


def test_the_configuration_that_is_kept_resolves_to_itself(run):
    job = a_job()
    assert not Path("results").exists()  # a dry run leaves nothing
    record(job, [job.table])
    kept = json.loads(Path("tables/of.provenance.json").read_text())["config"]
    assert sha256(kept["path"]) == kept["sha256"]
    config = yaml.safe_load(Path(kept["path"]).read_text())
    assert config == run
    assert resolve(config) == run


def test_run_by_hand_a_program_leaves_no_record(run, monkeypatch):
    monkeypatch.delenv(provenance.VARIABLE)
    job = a_job()
    record(job, [job.table])
    assert not Path("tables/of.provenance.json").exists()


def test_a_file_of_odd_name_is_an_input_too(run):
    Path("with blank, and ü.csv").write_text("c\n")
    job = a_job(answers=["with blank, and ü.csv", "no\0path"])
    record(job, [job.table])
    about = json.loads(Path("tables/of.provenance.json").read_text())
    assert "with blank, and ü.csv" in about["inputs"]


def a_maker(gpu: str | None, torch_version: str) -> dict:
    versions = {"python": "3", "torch": torch_version}
    return {"commit": "c0ffee", "device": {"cpu": "Xeon", "gpu": gpu}, "versions": versions}


def test_several_gpus_are_told_from_one(run, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H100")
    assert maker(0)["device"]["gpu"] is None
    assert maker(1)["device"]["gpu"] == "NVIDIA H100"
    assert maker(4)["device"]["gpu"] == "4 × NVIDIA H100"
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    assert maker()["device"]["gpu"] == "NVIDIA H100"


def test_the_table_names_all_who_made_a_result_and_what_is_not_known(run):
    job = a_job()
    makers = {
        "one": [a_maker("A100", "2.9"), a_maker("H100", "2.15")],
        "two": [a_maker(None, "2.15")],
        "unknown": [UNKNOWN_MAKER],
        "older": [a_maker("V100", "2.9")],
    }
    made = [Path("results", name, "of.csv") for name in makers]
    for path in made:
        path.parent.mkdir(parents=True)
        path.write_text("b\n")
        record(job, [path], makers=makers[path.parent.name])
    older = made[-1].with_suffix(provenance.SUFFIX)
    about = json.loads(older.read_text())
    del about["earlier_makers"]
    older.write_text(text_of_record(about | {"sha256": sum_of_record(about)}))
    tabulate_provenance.main(
        ["--results", "results", "--made", *map(str, made), "--table", "t.csv", "--config", "c"]
    )
    table = pd.read_csv("t.csv", keep_default_na=False).set_index("device")
    assert list(table.index) == ["H100", "V100", "Xeon", "unknown"]
    assert table["earlier"]["H100"] == "A100, commit c0ffee, python 3, torch 2.9"
    assert not table["earlier"][["V100", "Xeon", "unknown"]].any()
    assert table["packages"].to_list() == ["torch 2.15", "torch 2.9", "torch 2.15", ""]
    assert table["commit"]["unknown"] == table["python"]["unknown"] == "unknown"


def test_the_sum_of_a_shard_needs_no_second_reading_and_sees_every_byte(tmp_path):
    path = tmp_path / "shard_000.npy"
    images = np.random.default_rng(1).integers(0, 256, (3, 8, 8, 4), dtype=np.uint8)
    np.save(path, images)
    each = "".join(hashlib.sha256(image).hexdigest() for image in images)
    pixels = hashlib.sha256(each.encode()).hexdigest()
    known = sum_of_shard(path, pixels)
    assert sum_of_shard(path) == known
    whole = path.read_bytes()
    # Every bit of the header, and the first and last of the pixels.
    for place in (*range(128), 128, len(whole) - 1):
        for bit in range(8):
            changed = bytearray(whole)
            changed[place] ^= 1 << bit
            path.write_bytes(changed)
            try:
                assert sum_of_shard(path) != known
            except ValueError:
                assert place < 128
    path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"no whole \.npy file"):
        sum_of_shard(path)


def test_the_commit_of_a_clone_and_of_no_clone(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert commit_of(tmp_path) is None

    def git(*arguments: str) -> str:
        who = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
        command = ["git", "-C", str(tmp_path), *who, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    git("init", "-q")
    (tmp_path / "a").write_text("1")
    git("add", "a")
    git("commit", "-qm", "first")
    git("tag", "v1")
    commit = git("rev-parse", "HEAD")
    assert commit_of(tmp_path) == commit
    (tmp_path / "results").write_text("not tracked")
    assert commit_of(tmp_path) == commit
    (tmp_path / "a").write_text("2")
    assert commit_of(tmp_path) == f"{commit}-dirty"
    if os.geteuid() == 0:  # as on a volume of another user's
        for path in (tmp_path, *tmp_path.rglob("*")):
            os.chown(path, 54321, 54321)
        assert commit_of(tmp_path) == f"{commit}-dirty"


def test_where_the_commit_cannot_be_told_that_of_the_job_s_submission_is_taken(run, monkeypatch):
    submitted = json.loads(os.environ[provenance.VARIABLE]) | {"commit": "abc"}
    monkeypatch.setenv("PATH", "")  # no git
    monkeypatch.setenv(provenance.VARIABLE, json.dumps(submitted))
    assert json.loads(describe_run(run, "paper", PROJECT)) == submitted
    # Of another run, of another configuration, of somebody else's, of nobody.
    assert json.loads(describe_run(run, "other", PROJECT))["commit"] is None
    assert json.loads(describe_run(run | {"gpus_per_fold": 2}, "paper", PROJECT))["commit"] is None
    for text in ("[]", "{", '{"commit": "abc"}', "3"):
        monkeypatch.setenv(provenance.VARIABLE, text)
        assert json.loads(describe_run(run, "paper", PROJECT))["commit"] is None
    monkeypatch.delenv(provenance.VARIABLE)
    assert json.loads(describe_run(run, "paper", PROJECT))["commit"] is None


def test_what_snakemake_imports_of_it_needs_no_numpy():
    code = "import sys, hpaloc.provenance; sys.exit('numpy' in sys.modules)"
    folder = PROJECT / "workflow/scripts"
    done = subprocess.run([sys.executable, "-c", code], check=False, cwd=folder)
    assert done.returncode == 0
