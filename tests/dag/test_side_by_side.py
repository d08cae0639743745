"""Folds that several Snakemakes train in one folder, as the pods of docs/kubernetes.md do."""

import shutil
import subprocess


def test_two_snakemakes_make_a_fold_each_and_a_third_finds_both(finished):
    models = finished.path / "results/tiny/models/tiny"
    kept = {fold: (models / f"fold{fold}/weights.sha256").read_text() for fold in (1, 2)}
    shutil.rmtree(models)
    running = [
        subprocess.Popen(
            finished.command(
                "--cores", "1", "--nolock", f"results/tiny/models/tiny/fold{fold}/weights.sha256"
            ),
            cwd=finished.path, env=finished.environment(), text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )
        for fold in kept
    ]  # fmt: skip
    for process in running:
        said = process.communicate(timeout=600)[0]
        assert process.returncode == 0, said
    assert {fold: (models / f"fold{fold}/weights.sha256").read_text() for fold in kept} == kept
    assert finished.planned("train") == {}
