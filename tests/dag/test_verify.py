"""What `make verify` names, and that what it prints repairs that and nothing else."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
import yaml
from workspace import Workspace

from hpaloc.provenance import SUFFIX
from hpaloc.run_description import commit_of


def delete(path: Path) -> None:
    path.unlink()


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def edit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DAMAGES: dict[str, Callable[[Path], None]] = {
    "deleted": delete,
    "truncated": truncate,
    "edited": edit,
}


def verified(workspace: Workspace, *arguments: str) -> tuple[int, dict[str, str], list[str]]:
    """Status, what is said of each file, and the commands of the repair."""
    program = [sys.executable, "workflow/scripts/verify.py", *arguments]
    done = subprocess.run(
        program, check=False, cwd=workspace.path, capture_output=True, text=True, timeout=300
    )
    assert "Traceback" not in done.stderr, done.stderr
    said, _, repair = done.stdout.partition("\nTo repair:\n")
    found = dict(line.split(": ", 1) for line in said.splitlines() if ": " in line)
    return done.returncode, found, repair.splitlines()


def records(workspace: Workspace) -> dict[str, dict]:
    results = workspace.path / "results"
    return {
        path.relative_to(workspace.path).as_posix(): json.loads(path.read_text())
        for path in sorted(results.rglob(f"*{SUFFIX}"))
    }


def repair(workspace: Workspace, commands: Iterable[str]) -> list[str]:
    """Runs what was printed; the rules of the jobs that it started."""
    started = []
    for command in commands:
        done = subprocess.run(
            shlex.split(command),
            check=False,
            cwd=workspace.path,
            env=workspace.environment(),
            capture_output=True,
            text=True,
            timeout=600,
        )
        said = done.stdout + done.stderr
        assert done.returncode == 0, f"{command}\n{said[-4000:]}"
        started += re.findall(r"^(?:local)?rule (\w+):", said, re.MULTILINE)
    return started


def outputs(workspace: Workspace) -> dict[str, bytes]:
    made = {path for about in records(workspace).values() for path in about["outputs"]}
    return {path: (workspace.path / path).read_bytes() for path in sorted(made)}


def training_logs(workspace: Workspace) -> dict[Path, str]:
    logs = (workspace.path / "results/tiny/logs/train_fold").rglob("*.log")
    return {path.relative_to(workspace.path): path.read_text() for path in logs}


def is_shard(path: str) -> bool:
    return path.endswith(".npy")


def test_every_file_has_a_record_and_it_says_where_it_comes_from(finished_run):
    status, found, repair = verified(finished_run)
    assert (status, found, repair) == (0, {}, [])
    by_program = {about["program"]: about for about in records(finished_run).values()}
    rules = {path.stem for path in (finished_run.path / "workflow/scripts").glob("*.py")}
    by_hand = {"label_images", "list_states", "score_answers", "status", "verify"}
    network = {name for name in rules if name.startswith(("fetch_", "select_", "collect_hpa"))}
    other_sources = {"index_hpa", "index_kaggle", "index_local", "write_submission"}
    assert rules - by_program.keys() == by_hand | network | other_sources
    for name, about in by_program.items():
        assert about["run"] == "tiny"
        assert about["versions"]["python"]
        assert about["device"]["cpu"]
        assert about["inputs"] or name in {"simulate_source", "plot_architecture"}
        assert about["commit"] == commit_of(finished_run.path)
    assert by_program["train_fold"]["seed"] == 1
    assert "torch" in by_program["train_fold"]["versions"]
    assert "torch" not in by_program["find_thresholds"]["versions"]
    arrays = "results/sources/tiny_train/arrays_64/index"
    assert f"{arrays}.sha256" in by_program["train_fold"]["inputs"]  # it stands for the pixels
    assert f"{arrays}.sha256" not in by_program["make_folds"]["inputs"]


def test_the_configuration_that_is_kept_is_the_run(finished_run):
    (kept,) = (finished_run.path / "results/config").iterdir()
    config = yaml.safe_load(kept.read_text())
    assert config["run"] == "tiny"
    assert config["recipes"]["tiny"]["batch_size"] == 16
    assert config["thresholds"]["smoothing"] == 0.3  # a default
    path = str(kept.relative_to(finished_run.path))
    assert finished_run.planned(overlay=[path]) == {}
    stored = [path.name for path in (finished_run.path / ".snakemake/hpaloc").iterdir()]
    assert kept.name in stored
    assert finished_run.planned("--cores", "1", overlay=[path]) == {}
    assert [path.name for path in (finished_run.path / ".snakemake/hpaloc").iterdir()] == stored


@pytest.mark.parametrize("damage", DAMAGES)
def test_every_file_that_is_damaged_is_named_and_no_other(finished, damage):
    images = sorted((finished.path / "results/sources").glob("*/raw/*/**/*.*g"))
    assert len(images) == 4 * (72 + 16)
    one_image = images[7].relative_to(finished.path).as_posix()
    for path in [*outputs(finished), one_image]:
        # Without the index of the raw images nobody knows of them.
        if not path.endswith("/raw/index.parquet"):
            DAMAGES[damage](finished.path / path)
    status, found, _ = verified(finished)
    assert status == 1
    expected = {*outputs_named(finished), one_image}
    free = {path for path in expected if is_shard(path) or path == one_image}
    if damage == "deleted":
        named = {path.split(" of ")[-1] for path in found}
        assert one_image in named
        expected -= free
        assert all(any(Path(path).parent.as_posix() in name for name in named) for path in free)
    assert expected <= found.keys()
    assert all(found[path].startswith(damage) for path in expected)
    others = {path: said for path, said in found.items() if path not in expected}
    assert all("free" in said for said in others.values())


def outputs_named(workspace: Workspace) -> list[str]:
    made = {path for about in records(workspace).values() for path in about["outputs"]}
    return sorted(path for path in made if not path.endswith("/raw/index.parquet"))


def test_the_printed_commands_repair_every_kind_of_file_to_the_same_bytes(finished):
    before, logs_before = outputs(finished), training_logs(finished)
    kinds = list(DAMAGES)
    damaged = {}
    one_of_each = {about["program"]: about for about in records(finished).values()}
    for number, about in enumerate(sorted(one_of_each.values(), key=lambda a: min(a["outputs"]))):
        made = sorted(about["outputs"])
        damaged[made[number % len(made)]] = kinds[number % 3]
    for path, damage in damaged.items():
        DAMAGES[damage](finished.path / path)
    status, found, commands = verified(finished)
    assert status == 1
    free = {path for path, damage in damaged.items() if is_shard(path) and damage == "deleted"}
    assert found.keys() >= damaged.keys() - free
    assert all(found[path].startswith(what) for path, what in damaged.items() if path not in free)
    repair(finished, commands)
    status, found, commands = verified(finished)
    assert status == 0, found
    after = outputs(finished)
    changed = {path for path in before if path not in free and before[path] != after[path]}
    measured = {
        *(f"tables/{name}.csv" for name in ("speed", "summary", "provenance", "training_step")),
        *(f"figures/training_step.{kind}" for kind in ("png", "pdf")),
    }
    assert changed <= {f"results/tiny/{name}" for name in measured}
    logs = training_logs(finished)
    assert logs != logs_before
    assert all("restored" in logs[path] for path in logs if logs[path] != logs_before[path])
    assert finished.planned() == {}


def test_the_repair_is_the_smallest(finished):
    weights = "results/tiny/models/tiny/fold2/weights.safetensors"
    figure = "results/tiny/figures/pr_curve.pdf"
    before = records(finished)
    edit(finished.path / weights)
    delete(finished.path / figure)
    status, found, commands = verified(finished, "--run", "tiny")
    assert status == 1
    assert found.keys() == {weights, figure}
    assert sorted(repair(finished, commands)) == ["plot_pr_curve", "train_fold"]
    assert records(finished) == before
    assert verified(finished)[0] == 0
    assert finished.planned() == {}


def test_deleted_arrays_and_images_are_named_and_free(finished):
    before = outputs(finished)
    shard = "results/sources/tiny_train/arrays_64/shard_001.npy"
    delete(finished.path / shard)
    shutil.rmtree(finished.path / "results/sources/tiny_test/raw/images")
    status, found, commands = verified(finished)
    assert status == 0
    assert commands == []
    said = found[shard]
    assert said.startswith("deleted, which is free")
    assert repair(finished, [said.partition("To have it again: ")[2]]) == ["convert_shard"]
    assert outputs(finished) == before


def test_what_was_made_of_a_damaged_file_is_told_from_what_was_made_before(finished):
    table = finished.path / "results/tiny/tables/human_vs_machine.csv"
    table.write_text(table.read_text().replace("0.", "1.", 1))
    _, found, _ = verified(finished)
    assert set(found) == {table.relative_to(finished.path).as_posix()}
    summary = "results/tiny/tables/summary.csv"
    done = finished.run("--cores", "2", "--force", summary)
    assert done.returncode == 0, done.stderr
    _, found, commands = verified(finished)
    assert found[summary] == (
        "made of results/tiny/tables/human_vs_machine.csv, which was made again since, otherwise"
    )
    started = repair(finished, commands)
    assert started[:2] == ["tabulate_human_vs_machine", "tabulate_summary"]
    assert set(started[2:]) <= {"tabulate_provenance"}  # where the summary came out otherwise
    assert verified(finished)[0] == 0


def test_damaged_records_and_configurations_are_named_and_repaired(finished):
    thresholds = "results/tiny/thresholds/tiny"
    record = finished.path / f"{thresholds}{SUFFIX}"
    record.write_text(record.read_text().replace("find_thresholds", "found_thresholds"))
    truncate(finished.path / f"results/tiny/figures/pr_curve{SUFFIX}")
    (config,) = (finished.path / "results/config").iterdir()
    edit(config)
    status, found, commands = verified(finished)
    assert status == 1
    assert found[f"{thresholds}{SUFFIX}"] == "edited"
    assert found[f"results/tiny/figures/pr_curve{SUFFIX}"] == "edited"
    assert found[config.relative_to(finished.path).as_posix()] == "edited"
    assert sorted(repair(finished, commands)) == ["find_thresholds", "plot_pr_curve"]
    assert verified(finished)[0] == 0


def test_a_folder_that_is_deleted_with_its_records_is_named_and_made_again(finished):
    before = outputs(finished)
    fold = "results/tiny/models/tiny/fold2"
    shutil.rmtree(finished.path / fold)
    edit(finished.path / "results/tiny/thresholds/tiny.csv")
    for arguments in ([], ["--run", "tiny"]):
        status, found, commands = verified(finished, *arguments)
        assert status == 1
        assert f"{fold}/weights.safetensors" in found
        assert found[f"{fold}/validation.parquet"] == "deleted, with the record of its making"
    started = repair(finished, commands)
    assert started.count("train_fold") == 1
    assert set(started) == {"train_fold", "find_thresholds"}
    assert outputs(finished) == before
    assert all(
        "restored" in log for path, log in training_logs(finished).items() if "2" in path.stem
    )
    assert verified(finished)[0] == 0
    assert finished.planned() == {}


def test_a_repair_trains_nothing_again_with_an_older_configuration(finished):
    finished.configure({"recipes": {"tiny": {"seed": 2}}})
    done = finished.run("--cores", "2", "train")
    assert done.returncode == 0, done.stderr[-4000:]
    weights = {
        path: path.read_bytes() for path in (finished.path / "results").rglob("weights.safetensors")
    }
    assert len(weights) == 3
    delete(finished.path / "results/tiny/figures/pr_curve.pdf")  # by the older one too
    status, found, commands = verified(finished, "--run", "tiny")
    assert status == 1
    assert any(said.endswith("made again since, otherwise") for said in found.values())
    for _ in range(9):  # what is below comes out otherwise in its turn
        assert "train_fold" not in repair(finished, commands)
        status, found, commands = verified(finished, "--run", "tiny")
        if status == 0:
            break
    assert status == 0, found
    assert weights == {path: path.read_bytes() for path in weights}
    assert "train_fold" not in finished.planned()


def test_what_cannot_be_read_is_named(finished):
    (config,) = (finished.path / "results/config").iterdir()
    config.unlink()
    config.symlink_to("/proc/self/mem")  # also root gets an error where it reads that
    record = finished.path / f"results/tiny/thresholds/tiny{SUFFIX}"
    record.unlink()
    record.symlink_to("nowhere")
    status, found, _ = verified(finished)
    assert status == 1
    assert found[config.relative_to(finished.path).as_posix()].startswith("unreadable (")
    assert found[record.relative_to(finished.path).as_posix()].startswith("unreadable (No such")


@pytest.mark.parametrize("damage", [truncate, edit])
def test_a_damaged_record_of_a_source_is_a_fault_of_each_of_its_runs(finished, damage):
    record = f"results/sources/tiny_train/raw/index{SUFFIX}"
    damage(finished.path / record)
    assert verified(finished)[1][record] == "edited"
    status, found, _ = verified(finished, "--run", "tiny")
    assert status == 1
    assert found == {record: "edited"}


def test_results_without_a_record_are_listed_and_no_fault(finished):
    (finished.path / f"results/tiny/folds/folds{SUFFIX}").unlink()
    (finished.path / "results/tiny/tables/mine.csv").write_text("a\n1\n")
    program = [sys.executable, "workflow/scripts/verify.py"]
    done = subprocess.run(program, check=False, cwd=finished.path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    listed = done.stdout.partition("Without a record")[2]
    assert "results/tiny/folds/folds.parquet\n" in listed
    assert "results/tiny/tables/mine.csv\n" in listed
    assert len(listed.splitlines()) == 5


def test_where_nothing_was_made_it_says_so(fresh):
    program = [sys.executable, "workflow/scripts/verify.py"]
    done = subprocess.run(program, check=False, cwd=fresh.path, capture_output=True, text=True)
    assert done.returncode == 1
    assert "there is no folder results" in done.stderr
