"""What Snakemake plans for a configuration, and which configurations are refused."""

import json
import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from workspace import Workspace, copy_project


def test_the_paper_trains_ten_folds_and_its_generations_once(fresh):
    jobs = fresh.planned("train", overlay=None)
    # Ten folds of the paper's recipe, fold 1 of two earlier generations.
    assert jobs["train_fold"] == 12
    assert jobs["convert_shard"] == 32
    assert jobs["fetch_weights"] == 1


def test_one_target_fetches_all_that_the_paper_needs_and_nothing_else(fresh):
    jobs = fresh.planned("fetch", overlay=None)
    jobs.pop("fetch")
    assert jobs == {
        "fetch_kaggle": 1,
        "fetch_hpa_genes": 1,
        "fetch_hpa_entries": 1,
        "index_hpa": 1,
        "select_hpa": 1,
        "fetch_hpa_images": 12,
        "collect_hpa_images": 1,
        "fetch_weights": 1,
    }
    assert fresh.planned("fetch").keys() <= {"fetch"}  # simulated cells need no network


def test_no_job_but_those_that_fetch_is_given_the_network(fresh):
    rules = re.split(
        r"^rule ", (fresh.path / "workflow/rules/fetch.smk").read_text(), flags=re.MULTILINE
    )
    for rule in rules[1:]:
        uses_network = rule.startswith("fetch_")
        assert ("localrule: True" in rule) >= uses_network, rule
        assert ("downloads=1," in rule) == uses_network, rule
    others = set((fresh.path / "workflow/rules").glob("*.smk"))
    others -= {fresh.path / "workflow/rules/fetch.smk", fresh.path / "workflow/rules/common.smk"}
    assert not [path for path in others if "HPALOC_NETWORK" in path.read_text()]


def test_the_unlabelled_test_set_is_for_a_submission_only(fresh):
    done = fresh.run("-n", overlay=None)
    assert "kaggle_test" not in done.stdout + done.stderr
    jobs = fresh.planned("submission", overlay=None)
    assert jobs["fetch_kaggle"] == 2
    assert jobs["write_submission"] == 1
    assert "evaluate" not in jobs
    assert "fetch_hpa_images" not in jobs


def test_own_entries_and_lists_need_no_table_of_genes(fresh):
    (fresh.path / "entries").mkdir()
    (fresh.path / "entries" / "ENSG00000000003.xml").write_text("<proteinAtlas/>")
    source = {"kind": "hpa", "images": 10, "index": "entries"}
    fresh.configure({"test_source": "atlas", "sources": {"atlas": source}})
    jobs = fresh.planned("fetch")
    assert jobs["index_hpa"] == 1
    assert not {"fetch_hpa_genes", "fetch_hpa_entries"} & jobs.keys()
    fresh.configure({"sources": {"atlas": {"index": "nowhere.csv"}}})
    done = fresh.run("-n", "fetch")
    assert "sources.atlas.index: there is no nowhere.csv" in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("source", "own", "made", "rule"),
    [
        ({"index": "list.csv", "select": {"ids": "ids.txt"}}, "ids.txt", "images.parquet", "select_hpa"),
        ({"genes_table": "table.tsv"}, "table.tsv", "genes.csv", "fetch_hpa_genes"),
    ],
)  # fmt: skip
def test_an_edited_file_that_settings_name_is_read_again(fresh, source, own, made, rule):
    path, result = fresh.path / own, f"results/sources/atlas/atlas/{made}"
    texts = {
        "ids.txt": ("1_1_A1_1\n", "2_1_B1_1\n"),
        "table.tsv": tuple(
            f"Gene\tReliability\tApproved\nENSG0000000000{number}\tApproved\tCytosol\n"
            for number in (1, 2)
        ),
    }[own]
    (fresh.path / "list.csv").write_text("Id,Target\n1_1_A1_1,0\n2_1_B1_1,25\n")
    fresh.configure(
        {"test_source": "atlas", "sources": {"atlas": {"kind": "hpa", "images": 10} | source}}
    )

    def assert_missing() -> None:
        done = fresh.run("-n", result)
        assert done.returncode != 0
        assert f"sources.atlas: there is no file {own}" in done.stdout + done.stderr

    assert_missing()
    path.write_text(texts[0])
    done = fresh.run("--cores", "2", result)
    assert done.returncode == 0, done.stdout + done.stderr
    assert fresh.planned(result) == {}
    record = fresh.path / f"{Path(result).with_suffix('')}.provenance.json"
    assert own in json.loads(record.read_text())["inputs"]

    path.write_text(texts[1])
    assert fresh.planned(result) == {rule: 1}
    program = [sys.executable, "workflow/scripts/verify.py"]
    named = subprocess.run(program, check=False, cwd=fresh.path, capture_output=True, text=True)
    assert f"{result}: made of {own}, which was edited since" in named.stdout
    path.unlink()  # what was made of it stays
    assert fresh.planned(result) == {}
    record.write_text("{")  # damaged: nothing is known of the file
    assert_missing()


def test_a_selection_may_be_kept_apart_from_the_training_source(fresh):
    source = {"kind": "hpa", "images": 10, "select": {"antibody_disjoint_from": "tiny_train"}}
    fresh.configure({"test_source": "atlas", "sources": {"atlas": source}})
    assert fresh.planned("fetch")["simulate_source"] == 1


def test_the_number_of_jobs_grows_with_shards_not_with_images(fresh):
    jobs = fresh.planned(overlay=None)
    assert sum(jobs.values()) < 120


def test_single_folds_and_figures_can_be_asked_for(fresh):
    fold = fresh.planned("results/models/paper/fold3/weights.safetensors", overlay=None)
    assert fold["train_fold"] == 1
    figure = fresh.planned("results/figures/pr_curve.png", overlay=None)
    assert figure["train_fold"] == 10
    assert figure["plot_pr_curve"] == 1
    assert "plot_generations" not in figure


def test_training_is_planned_without_the_test_source(fresh):
    for target in ("folds", "train", "results/tiny/thresholds/tiny.csv"):
        done = fresh.run("-n", target)
        assert done.returncode == 0, done.stderr
        assert "tiny_train" in done.stdout + done.stderr
        assert "tiny_test" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    "target", ["arrays", "audit", "folds", "train", "predict", "tables", "figures"]
)
def test_named_targets(fresh, target):
    assert fresh.planned(target)


def test_the_shards_of_a_large_source_are_no_inputs_of_every_fold(fresh):
    def inputs_of_a_fold() -> str:
        done = fresh.run("-n", "results/tiny/models/tiny/fold1/weights.safetensors")
        said = done.stdout + done.stderr
        return re.search(r"^rule train_fold:\s+input: (.*)$", said, re.MULTILINE)[1]

    assert "arrays_64/shard_001.npy" in inputs_of_a_fold()
    fresh.configure({"arrays": {"images_per_shard": 1}, "sources": {"tiny_train": {"images": 101}}})
    inputs = inputs_of_a_fold()
    assert "shard_" not in inputs
    assert "arrays_64/index.sha256" in inputs
    assert fresh.planned("train")["convert_shard"] == 101


def test_a_prediction_job_takes_many_images(fresh):
    fresh.configure({"prediction": {"images_per_job": 20}})
    assert fresh.planned("predict")["predict_part"] == 2


def test_a_source_without_labels_is_predicted_and_not_evaluated(fresh):
    folder = fresh.path / "mine"
    folder.mkdir()
    for channel in ("red", "green", "blue", "yellow"):
        (folder / f"a_{channel}.png").write_bytes(b"x")
    fresh.configure(
        {"test_source": "mine", "sources": {"mine": {"kind": "local", "folder": "mine"}}}
    )
    jobs = fresh.planned()
    assert jobs["call_labels"] == 1
    assert not {"evaluate", "plot_pr_curve", "tabulate_human_vs_machine"} & jobs.keys()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"folds": {"train": [12]}}, "names a fold above 3"),
        ({"recipes": {"tiny": {"batch_sise": 3}}}, "Did you mean 'batch_size'?"),
        ({"test_source": "tiny_train"}, "test data must never be trained on"),
        (
            {"test_source": "mine", "sources": {"mine": {"kind": "local", "folder": "~/nowhere"}}},
            f"there is no folder {Path.home()}/nowhere",
        ),
        ({"sources": {"tiny_train": {"imbalance": None}}}, "sources.tiny_train.imbalance: null is"),
        (
            {"sources": {1: {"kind": "local", "folder": "x"}}},
            "sources: the key 1 is a number to YAML",
        ),
    ],
)
def test_impossible_configurations_are_refused_in_words(fresh, changes, said):
    fresh.configure(changes)
    done = fresh.run("-n")
    assert done.returncode != 0
    assert said in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_pictures_that_are_no_images_of_their_own_are_not_counted(fresh):
    folder = fresh.path / "mine"
    folder.mkdir()
    for name in ("a", "b", "c_thumb", "d_thumb"):
        for channel in ("red", "green", "blue", "yellow"):
            (folder / f"{name}_{channel}.png").write_bytes(b"x")
    mine = {"kind": "local", "folder": "mine"}
    fresh.configure(
        {"test_source": "mine", "sources": {"mine": mine}, "arrays": {"images_per_shard": 1}}
    )
    assert fresh.planned("arrays")["convert_shard"] == 72 + 2
    fresh.configure({"sources": {"mine": {"ignore": []}}})
    assert fresh.planned("arrays")["convert_shard"] == 72 + 4


def test_braces_in_the_path_of_the_workflow_are_refused_in_words(tmp_path):
    done = copy_project(tmp_path / "a{b}c").run("-n")
    assert done.returncode != 0
    assert "a{b}c, holds '{' and '}', which Snakemake" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_other_letters_in_paths_are_taken_as_they_are(tmp_path):
    odd = """it's a "folder" {b} $HOME;x"""
    workspace = copy_project(tmp_path / "my 'project' $x & y")
    folder = tmp_path / odd
    folder.mkdir()
    for k, channel in enumerate(("red", "green", "blue", "yellow")):
        plane = np.random.default_rng(k).integers(0, 255, (40, 40), np.uint8)
        cv2.imwrite(str(folder / f"a_{channel}.png"), plane)
    (folder / "labels.csv").write_text("Id;Target\na;Cytosol\n")
    mine = {"kind": "local", "folder": str(folder), "labels": str(folder / "labels.csv")}
    workspace.configure({"test_source": "mine", "sources": {"mine": mine}})
    done = workspace.run("--cores", "1", "results/sources/mine/arrays_64/index.parquet")
    assert done.returncode == 0, done.stdout + done.stderr
    # From elsewhere the commands would hold the odd path.
    snakefile = ["-s", str(workspace.path / "Snakefile"), "-n"]
    files = [str(workspace.path / f"config/{name}.yaml") for name in ("demo", "tiny")]
    done = Workspace(tmp_path).run(*snakefile, overlay=files)
    assert done.returncode != 0
    assert "or run it from there" in done.stdout + done.stderr


def test_a_source_made_with_other_settings_is_refused(fresh):
    record = fresh.path / "results/sources/tiny_train/raw/settings.json"
    record.parent.mkdir(parents=True)
    record.write_text(json.dumps({"settings": {"images": 7}}))
    done = fresh.run("-n")
    assert done.returncode != 0
    assert "images: made with 7, the configuration says 72" in done.stdout + done.stderr


def test_how_many_images_a_folder_is_said_to_have_is_no_setting_of_the_source(fresh):
    folder = fresh.path / "mine"
    folder.mkdir()
    for channel in ("red", "green", "blue", "yellow"):
        (folder / f"a_{channel}.png").write_bytes(b"x")
    mine = {"kind": "local", "folder": "mine"}
    fresh.configure({"test_source": "mine", "sources": {"mine": mine}})
    resolved = json.loads(fresh.settings_of("mine"))
    assert "images" not in resolved
    record = fresh.path / "results/sources/mine/raw/settings.json"
    record.parent.mkdir(parents=True)
    record.write_text(json.dumps({"settings": resolved}))
    fresh.configure({"sources": {"mine": {"images": 5000}}})
    assert fresh.planned("arrays")["convert_shard"] == 2 + 125
    fresh.configure({"sources": {"mine": {"tiles": {"size": 64}}}})
    done = fresh.run("-n")
    assert "tiles: made with null" in done.stdout + done.stderr
