"""config/hpa_mini.yaml as it is, whole, against an atlas on this machine, and without a network.

The atlas serves simulated cells: the scores say nothing of accuracy on real ones.
"""

import json
import shutil
import subprocess
import sys

import made_atlas
import pandas as pd
import pytest
from atlas_server import Answer, AtlasServer
from workspace import copy_project

MINI = ["config/hpa_mini.yaml", "config/mirror.yaml"]


def answers(path):
    found = made_atlas.answer(path)
    return found and Answer(body=found[0], content_type=found[1])


def can_leave_the_network() -> bool:
    done = subprocess.run(["unshare", "-rn", "true"], check=False, capture_output=True)
    return done.returncode == 0


@pytest.fixture(scope="module")
def mini(tmp_path_factory):
    """The finished run: fetched from a server, all the rest in a namespace without any network."""
    if shutil.which("unshare") is None or not can_leave_the_network():
        pytest.skip("unshare -rn does not work here: a namespace without a network is needed")
    workspace = copy_project(tmp_path_factory.mktemp("mini") / "project")
    with AtlasServer(answers) as server:
        mirror = {
            "requests_per_second": None,
            "private_addresses": True,
            "addresses": made_atlas.addresses(server.url()),
        }
        workspace.configure({"fetch": mirror}, overlay="mirror")
        fetched = workspace.run("fetch", "--cores", "2", overlay=MINI)
        asked = [asked.path for asked in server.asked]
    assert fetched.returncode == 0, fetched.stdout[-6000:] + fetched.stderr[-6000:]
    # The server is gone, and there is no network at all: not even a loopback.
    done = workspace.run("--cores", "2", overlay=MINI, before=["unshare", "-rn"])
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-6000:]
    return workspace.path / "results", asked


def test_nothing_was_fetched_twice(mini):
    asked = mini[1]
    assert len(asked) == len(set(asked))
    assert len(asked) > 500


def test_antibodies_and_genes_of_the_test_images_are_not_in_training(mini):
    train, test = (
        pd.read_parquet(mini[0] / f"sources/hpa_mini_{part}/raw/index.parquet")
        for part in ("train", "test")
    )
    assert 300 < len(train) <= 400
    assert 60 < len(test) <= 160
    assert not set(train["antibody"]) & set(test["antibody"])
    assert not set(train["gene"]) & set(test["gene"])
    assert {tuple(labels) for labels in train["labels"]} == {
        (label,) for label in (0, 2, 4, 6, 7, 21, 23, 25)
    }


def test_every_stage_has_its_results(mini):
    run = mini[0] / "hpa_mini"
    for name in (
        "figures/pr_curve.png",
        "figures/dataset_samples.png",
        "tables/summary.csv",
        "tables/best_thresholds.csv",
        "audit/leakage.csv",
        "evaluation/hpa_mini/hpa_mini_test/subsets.csv",
    ):
        assert (run / name).stat().st_size > 20
    settings = json.loads((mini[0] / "sources/hpa_mini_test/raw/settings.json").read_text())
    assert settings["root"] == "results/downloads/hpa/images"


def test_the_network_learnt_something_of_the_simulated_cells(mini):
    evaluation = mini[0] / "hpa_mini/evaluation/hpa_mini/hpa_mini_test"
    metrics = pd.read_csv(evaluation / "metrics.csv", dtype=str)
    constant = pd.read_csv(evaluation / "baselines.csv").query("metric == 'macro_f1'")["value"]
    chosen = metrics.query("fold == 'mean' and strategy == 'global' and metric == 'macro_f1'")
    assert float(chosen["value"].iloc[0]) > 1.5 * constant.max()


def test_a_fetched_image_that_is_not_as_it_was_fetched_is_named(mini):
    def verified() -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, "workflow/scripts/verify.py", "--run", "hpa_mini"],
            check=False, cwd=mini[0].parent, capture_output=True, text=True,
        )  # fmt: skip

    index = pd.read_parquet(mini[0] / "sources/hpa_mini_test/raw/index.parquet")
    path = mini[0] / "downloads/hpa/images" / index["path_green"].iloc[0]
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 255]))
    named = verified()
    path.write_bytes(data)
    assert named.returncode == 1
    assert (
        f"{path.relative_to(mini[0].parent)}: not as it was fetched. Delete it and"
        " results/sources/hpa_mini_test" in named.stdout
    )
    assert verified().returncode == 0
