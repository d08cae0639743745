"""Jobs run in the image that the configuration names. The engine is a stand-in: none runs here."""

import re

import pytest

# Notes how it was called, and runs the command outside of any container.
ENGINE = """#!/bin/bash
if [ "$1" = --version ]; then echo "apptainer version 1.3.4"; exit; fi
echo "$@" >> {log}
while [ "$1" != sh ] && [ "$1" != bash ]; do shift; done
exec "$@"
"""
INDEX = "results/sources/tiny_train/raw/index.parquet"


@pytest.fixture
def engine(fresh, tmp_path):
    """The folder of a stand-in for apptainer, and what it was asked for."""
    program, log = tmp_path / "bin" / "apptainer", tmp_path / "asked.txt"
    program.parent.mkdir()
    program.write_text(ENGINE.format(log=log))
    program.chmod(0o755)
    (fresh.path / "hpaloc.sif").touch()
    fresh.configure({"sources": {"tiny_train": {"images": 4}}})
    return program.parent, log


def test_a_job_runs_in_the_image_and_nothing_reruns_without_it(fresh, engine):
    folder, log = engine
    fresh.configure({"container": "hpaloc.sif"})
    done = fresh.run("--sdm", "apptainer", "--cores", "2", INDEX, path=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    (asked,) = log.read_text().splitlines()
    assert re.search(
        rf"exec --home \S*{re.escape(str(fresh.path))}.* \S*hpaloc\.sif (ba)?sh -c .*"
        r"python \$HPALOC/simulate_source\.py",
        asked,
    )
    # On the host, with another image: what is made is made.
    assert fresh.planned(INDEX) == {}
    fresh.configure({"container": None})
    assert fresh.planned(INDEX) == {}
    assert fresh.planned("--sdm", "apptainer", "--cores", "2", INDEX, path=folder) == {}
    assert len(log.read_text().splitlines()) == 1


def test_without_the_option_the_image_is_not_used(fresh, engine):
    folder, log = engine
    fresh.configure({"container": "no_such.sif"})
    done = fresh.run("--cores", "2", INDEX, path=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not log.exists()
    assert (fresh.path / INDEX).is_file()
