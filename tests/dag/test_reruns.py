"""What runs again after what: tested on a finished tiny run of the whole workflow."""

import json
import os
import shutil
import time
from pathlib import Path


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text, f"{old!r} is not in {path}"
    path.write_text(text.replace(old, new, 1))


def test_everything_was_made(finished):
    results = finished.path / "results" / "tiny"
    made = {path.relative_to(results).as_posix() for path in results.rglob("*") if path.is_file()}
    for name in (
        "dataset_samples", "split_distribution", "augmentation", "architecture", "training_losses",
        "validation_f1_focal", "validation_f1_per_class", "pr_curve", "human_vs_machine",
        "generations", "training_step",
    ):  # fmt: skip
        assert {f"figures/{name}.png", f"figures/{name}.pdf"} <= made
    for name in (
        "best_thresholds", "human_vs_machine", "speed", "summary", "training_step", "provenance",
    ):  # fmt: skip
        assert f"tables/{name}.csv" in made
    assert not [name for name in made if ".part" in name]
    assert finished.planned() == {}


def test_touched_files_make_nothing_run_again(finished):
    later = time.time() + 60
    for path in finished.path.rglob("*"):
        if path.is_file() and ".snakemake" not in path.parts:
            os.utime(path, (later, later))
    assert finished.planned() == {}


def test_big_inputs_that_were_touched_or_rewritten_make_nothing_run_again(finished):
    # Over 1 MB Snakemake compares times: the arrays, weights and tables stand for such files.
    big = [
        path
        for pattern in ("**/*.npy", "**/*.safetensors", "**/*.parquet")
        for path in (finished.path / "results").glob(pattern)
    ]
    assert any(path.stat().st_size > 1_000_000 for path in big)
    for path in big:
        path.write_bytes(path.read_bytes())
    assert finished.planned() == {}


def test_comments_and_docstrings_make_nothing_run_again(finished):
    for path in (finished.path / "workflow" / "scripts").rglob("*.py"):
        path.write_text(
            path.read_text().replace('"""', '"""Said otherwise. ', 1) + "\n# a comment\n"
        )
    assert finished.planned() == {}


CONDA = """#!/bin/sh
case "$1" in
    --version) echo conda 24.7.1 ;;
    info) echo '{"conda_prefix": "/nowhere", "platform": "linux-64"}' ;;
    config) echo '{"get": {"channel_priority": "strict"}}' ;;
esac
"""


def test_switching_conda_on_makes_nothing_run_again(finished):
    # A dry run asks conda who it is and no more, so a script that says so will do.
    conda = finished.path / "bin" / "conda"
    conda.parent.mkdir()
    conda.write_text(CONDA)
    conda.chmod(0o755)
    assert finished.planned("--use-conda", path=conda.parent) == {}
    # The same run would notice if the profile did not leave environments out of the triggers.
    triggers = ["--rerun-triggers", "mtime", "params", "input", "code", "software-env"]
    assert finished.planned("--use-conda", *triggers, path=conda.parent)


def test_the_look_of_figures_redraws_figures_only(finished):
    finished.configure({"figures": {"font_size": 8}})
    jobs = finished.planned()
    jobs.pop("all", None)
    assert jobs
    assert all(name.startswith("plot_") for name in jobs)


def test_an_edit_of_one_figure_redraws_that_figure_only(finished):
    script = finished.path / "workflow" / "scripts" / "plot_pr_curve.py"
    script.write_text(script.read_text() + "\nEDITED = True\n")
    assert finished.planned().keys() <= {"plot_pr_curve", "figures", "all"}
    assert "plot_pr_curve" in finished.planned()


def test_the_pace_and_the_mirrors_of_fetching_make_nothing_run_again(finished):
    addresses = {"images": ["http://mirror/{antibody}/{plate}_{well}_{n}_{colour}.jpg"]}
    finished.configure({"fetch": {"connections": 3, "addresses": addresses}})
    assert finished.planned() == {}


def test_another_test_source_never_refolds(finished):
    finished.configure({"folds": {"group_by": ["duplicates"]}})
    jobs = finished.planned("folds")
    assert jobs.keys() - {"folds"} == {"make_folds"}  # of equal images it is known already
    done = finished.run("--cores", "2", "folds")
    assert done.returncode == 0, done.stdout + done.stderr
    other = {
        "kind": "simulated", "delivery": "hpa_v18", "images": 12, "size": 128, "seed": 5,
        "imbalance": 0.2,
    }  # fmt: skip
    finished.configure({"test_source": "other", "sources": {"other": other}})
    jobs = finished.planned("folds", "audit")
    assert jobs["audit_leakage"] == 1
    assert not {"duplicates_train", "make_folds"} & jobs.keys()


def test_a_source_of_another_version_of_the_simulator_is_made_again(finished):
    """Also where Snakemake's own records of it are gone: a source that was copied has none."""
    assert finished.planned() == {}
    raw = finished.path / "results/sources/tiny_test/raw"
    [stamp] = raw.glob("simulator_*")
    about = json.loads((raw / "settings.json").read_text())
    assert stamp.name == f"simulator_{about['settings']['version']}"
    stamp.rename(raw / "simulator_1")
    about["settings"]["version"] = 1
    (raw / "settings.json").write_text(json.dumps(about))
    [journal] = raw.glob("rendered_*")
    journal.rename(raw / f"rendered_{journal.stem.rsplit('_', 1)[1]}.jsonl")
    shutil.rmtree(finished.path / ".snakemake/metadata")
    jobs = finished.planned("arrays")
    assert jobs.keys() == {"simulate_source", "convert_shard", "list_quarantine", "index_arrays", "arrays"}  # fmt: skip
    assert jobs["simulate_source"] == 1
    done = finished.run("--cores", "2", "arrays")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "'tiny_test' was made by version 1 of the simulator" in done.stdout + done.stderr
    assert [path.name for path in raw.glob("simulator_*")] == [stamp.name]
    assert finished.planned("arrays") == {}


def test_the_audit_feeds_the_evaluation_only(finished):
    code = finished.path / "workflow" / "scripts" / "audit_leakage.py"
    code.write_text(code.read_text() + "\nEDITED = True\n")
    jobs = finished.planned()
    assert {"audit_leakage", "evaluate"} <= jobs.keys()
    assert not {"make_folds", "train_fold", "predict_part", "duplicates_train"} & jobs.keys()


def test_thresholds_never_retrain(finished):
    finished.configure({"thresholds": {"smoothing": 0.5, "strategy": "per_class_smoothed"}})
    jobs = finished.planned()
    assert "find_thresholds" in jobs
    assert "call_labels" in jobs
    assert not {"train_fold", "predict_part", "make_folds"} & jobs.keys()


def test_a_training_parameter_retrains_what_it_touches(finished):
    finished.configure({"recipes": {"tiny_bce": {"batch_size": 8}}})
    jobs = finished.planned()
    assert jobs["train_fold"] == 1
    assert "predict_part" not in jobs
    finished.configure({"recipes": {"tiny": {"batch_size": 8}}})
    assert finished.planned()["train_fold"] == 3


def test_another_file_of_pretrained_weights_retrains(finished):
    own = finished.path / "my weights.pth"
    own.write_bytes(b"some")
    finished.configure({"recipes": {"tiny_bce": {"pretrained": own.name}}})
    asked = finished.run("-n", "-p", "train")
    assert "--pretrained 'my weights.pth'" in asked.stdout + asked.stderr
    finished.configure({"recipes": {"tiny_bce": {"pretrained": None}}})
    assert finished.planned() == {}
    results = "results/tiny/models/tiny/fold1/weights.safetensors"
    finished.configure({"recipes": {"tiny_bce": {"pretrained": results}}})
    assert finished.planned("train")["train_fold"] == 1


def test_an_edit_of_training_code_retrains(finished):
    code = finished.path / "workflow" / "scripts" / "hpaloc" / "losses.py"
    code.write_text(code.read_text() + "\nEDITED = True\n")
    jobs = finished.planned()
    assert jobs["train_fold"] == 3
    assert "convert_shard" not in jobs
    assert "make_folds" not in jobs


def test_a_deleted_fold_reruns_one_job_and_is_restored_from_its_state(finished):
    fold = finished.path / "results" / "tiny" / "models" / "tiny" / "fold2"
    weights = (fold / "weights.safetensors").read_bytes()
    (fold / "weights.safetensors").unlink()
    target = "results/tiny/models/tiny/fold2/weights.safetensors"
    assert finished.planned(target) == {"train_fold": 1}
    done = finished.run("--cores", "2", target)
    assert done.returncode == 0, done.stderr
    assert (fold / "weights.safetensors").read_bytes() == weights
    log = (finished.path / "results/tiny/logs/train_fold/tiny/fold2.log").read_text()
    assert "restored" in log
    assert "training seresnext_small" not in log


def test_deleted_arrays_stay_free(finished):
    # Arrays may be deleted after training: nothing is converted again for what is made.
    for path in (finished.path / "results" / "sources").glob("*/arrays_*/*.npy"):
        path.unlink()
    assert finished.planned() == {}


def test_a_damaged_image_stops_the_run_or_is_left_out(finished):
    png = next((finished.path / "results/sources/tiny_train/raw/train").glob("*_green.png"))
    png.write_bytes(png.read_bytes()[:200])
    shutil.rmtree(finished.path / "results/sources/tiny_train/arrays_64")
    done = finished.run("--cores", "2", "arrays")
    assert done.returncode != 0
    assert png.name.removesuffix("_green.png") in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    quarantine = finished.path / "results/sources/tiny_train/arrays_64/quarantine.csv"
    assert png.name in quarantine.read_text()
    finished.configure({"arrays": {"quarantine": "leave_out"}})
    done = finished.run("--cores", "2", "arrays")
    assert done.returncode == 0, done.stdout + done.stderr
    listed = quarantine.read_text()
    assert png.name in listed


def test_another_backend_predicts_again_and_trains_nothing(finished):
    finished.configure({"prediction": {"backend": "openvino"}})
    jobs = finished.planned()
    assert jobs["predict_part"] == 1
    assert not {"train_fold", "find_thresholds", "convert_shard", "make_folds"} & jobs.keys()
