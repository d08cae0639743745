# Names and helpers that more than one stage uses. Nothing here makes a file.

import functools
import json
import logging
import math
import os
import shlex
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.logging import logger

# Where this file lies: as a module of another workflow, `workflow.basedir` is that one's.
PROJECT = Path(workflow.current_basedir.get_path_or_uri(secret_free=False)).parents[1]
SCRIPTS = os.path.relpath(PROJECT / "workflow/scripts")
RESOURCES = os.path.relpath(PROJECT / "resources")
# Ours first: `hpaloc` must be the workflow's even where another package has the name.
sys.path.insert(0, os.path.abspath(SCRIPTS))

from hpaloc.config import check_source, resolve, trained_folds
from hpaloc.digest import code_digest
from hpaloc.files import canonical_json, sha256_of_file
from hpaloc.hpa.own_files import genes_files, is_list, selection_files
from hpaloc.log import InputError
from hpaloc.provenance import SUFFIX, VARIABLE
from hpaloc.run_description import describe_run
from hpaloc.simulate.version import STAMP as SIMULATOR_STAMP
from hpaloc.simulate.version import VERSION as SIMULATOR_VERSION
from hpaloc.triggers import (
    NOTHING_KNOWN,
    status_of_competition,
    status_of_folder,
    status_of_list,
)

# Snakemake takes {b} in the path of an environment for a wildcard, and the way from the working
# folder to the workflow is in every command as it is.
for path, named, letters, advice in (
    (str(PROJECT), "The folder of the workflow", "{}", ""),
    (
        SCRIPTS,
        "The way to the workflow's programs",
        " \t\n'\"\\$&;|<>()*?`",
        ", or run it from there",
    ),
):
    if wrong := sorted(set(path) & set(letters)):
        raise WorkflowError(
            f"{named}, {path}, holds {' and '.join(map(repr, wrong))}, which Snakemake or the shell"
            f" takes for something else. Move or clone the workflow to a folder without{advice}."
        )

# `python` in a shell command is the one that runs Snakemake, from whatever PATH it was
# started; an activated conda environment puts its own before it. `$HPALOC` is the folder of the
# programs: a variable, so that the command of a rule is the same wherever the workflow lies.
os.environ.update(
    PATH=os.path.dirname(sys.executable) + os.pathsep + os.environ.get("PATH", ""),
    HPALOC=SCRIPTS,
)


def in_words(function, *arguments):
    """Calls a function; what the user can mend is told without a traceback."""
    try:
        return function(*arguments)
    except InputError as error:
        raise WorkflowError(str(error)) from None


config.update(in_words(resolve, config))

# Variables and no parameters of the rules: another pace, mirror or checkpoint reruns nothing.
os.environ.update(
    HPALOC_NETWORK=canonical_json(config["fetch"]),
    HPALOC_CHECKPOINT_MINUTES=str(config["training"]["checkpoint_minutes"]),
)


def is_labelled(source):
    settings = config["sources"][source]
    return settings.get("labels", "made") is not None and settings.get("part") != "test"


RESULTS = f"results/{config['run']}".rstrip("/")
SOURCES = "results/sources"
STATES = "results/state"
# What was fetched, whole and checked, and what the user may keep for other runs: no outputs.
DOWNLOADS = "results/downloads"
RUN = config["run"] or "config"
# What every program notes beside its results. The configuration appears in results/config with
# the first of them; Snakemake's own folder has it before that, also in a dry run.
os.environ[VARIABLE] = describe_run(config, RUN, PROJECT)
RECIPES = config["recipes"]
TRAIN_SOURCE, TEST_SOURCE = config["train_source"], config["test_source"]
FINAL = config["evaluate"][0]
FOLDS = sorted(config["folds"]["train"])
SIMULATED = any(
    config["sources"][name]["kind"] == "simulated" for name in (TRAIN_SOURCE, TEST_SOURCE)
)
# The strategy that calls the labels is scored too.
STRATEGIES = list(
    dict.fromkeys([config["thresholds"]["strategy"], *config["evaluation"]["strategies"]])
)
TEST_IS_LABELLED = is_labelled(TEST_SOURCE)
# Images that one job fetches. Fixed: another number would fetch, index and train anew.
IMAGES_PER_FETCH = 1000
# A source of more shards is too large for all of them to be inputs of every job that reads them.
SHARDS_LISTED = 100
# The competition's own numbers of images.
KAGGLE_IMAGES = {"train": 31_072, "test": 11_702}

# Only the process that plans reads changed files, which may take a while: jobs on nodes parse this
# file too.
IS_PLANNER = workflow.is_main_process
logging.getLogger("hpaloc").addHandler(logging.StreamHandler())
logging.getLogger("hpaloc").setLevel(logging.INFO if IS_PLANNER else logging.WARNING)


wildcard_constraints:
    source="[A-Za-z0-9_-]+",
    recipe="[A-Za-z0-9_-]+",
    size=r"\d+",
    shard=r"\d+",
    part=r"\d+",
    fold=r"\d+",


def sources_of_kind(kind):
    """A wildcard constraint: the names of the sources of a kind."""
    names = [name for name, source in config["sources"].items() if source["kind"] == kind]
    return "|".join(names) or "(?!)"


def source_settings(source):
    """What a source is made of, as it stores it."""
    settings = dict(config["sources"][source])
    if settings["kind"] == "simulated":
        settings["version"] = SIMULATOR_VERSION
    else:
        del settings["images"]  # cuts the work into jobs and changes no image
    return settings


def simulator_stamp(wildcards):
    """What makes the arrays of a simulated source wait for this version's images."""
    if config["sources"][wildcards.source]["kind"] != "simulated":
        return {}
    return {"simulator": f"{SOURCES}/{wildcards.source}/raw/{SIMULATOR_STAMP}"}


def arrays_folder(source):
    return f"{SOURCES}/{source}/arrays_{config['arrays']['size']}"


def numbered(pattern, count):
    return [pattern.format(f"{number:03d}") for number in range(count)]


def shard_count(source):
    """Jobs that convert a source; from the configuration, or for a folder from what lies in it."""
    return max(1, math.ceil(image_count(source) / config["arrays"]["images_per_shard"]))


def image_count(source):
    """About how many images a source has."""
    settings = config["sources"][source]
    if settings["images"]:
        return settings["images"]
    if settings["kind"] == "kaggle":
        return KAGGLE_IMAGES[settings["part"]]
    return status(source).files / files_per_image(settings)


def shard_files(source, size=config["arrays"]["size"]):
    """The shards of a source, for a job that reads them: one that was deleted is made again.

    None of a large source: for each of 320 folds 1,000 files are a minute of planning. The index,
    which is made after all of them, stands for them, and the job says if one is missing.
    """
    count = shard_count(source)
    if count > SHARDS_LISTED:
        return []
    return numbered(f"{SOURCES}/{source}/arrays_{size}/shard_{{}}.npy", count)


def part_count(source):
    """Jobs that predict a source."""
    images = shard_count(source) * config["arrays"]["images_per_shard"]
    return max(1, math.ceil(images / config["prediction"]["images_per_job"]))


def generation_folds(recipe):
    return FOLDS if recipe in config["train"] else FOLDS[:1]


def models(recipe, folds, file):
    return [f"{RESULTS}/models/{recipe}/fold{fold}/{file}" for fold in folds]


def attempt_scaled(amount, at_most=4):
    """Memory (MB) or time (minutes) that grows with each attempt, as the last one may have run
    out of it. ``amount`` is a number, or a function of the wildcards."""
    return lambda wildcards, attempt: min(attempt, at_most) * (
        amount(wildcards) if callable(amount) else amount
    )


def thresholds_mb(wildcards):
    """MB for all folds and epochs together (benchmarks/scale.md): of an image 160 bytes an epoch,
    twice while they are pooled, and 2,400 for the search."""
    image_bytes = 2_400 + 320 * RECIPES[wildcards.recipe]["save_epochs"]
    return 4_000 + int(image_count(TRAIN_SOURCE) * image_bytes / 1e6)


def prediction_json(wildcards):
    """The part of a recipe that prediction reads; the rest of it is in the weights."""
    recipe = RECIPES[wildcards.recipe]
    keys = (
        "seed", "image_size", "batch_size", "precision", "compile", "torch_threads", "augmentation",
        "tta",
    )  # fmt: skip
    return canonical_json({key: recipe[key] for key in keys})


def labelled_test(*files):
    """What needs labels of the test source; nothing where it has none (then it is only predicted)."""
    return list(files) if TEST_IS_LABELLED else []


def answer_sheets():
    sheets = config["evaluation"]["human_answers"]
    return [sheet[key] for sheet in sheets for key in ("answers", "truth") if sheet[key]]


def answers_digest():
    """Triggers also where another sheet was copied in with an older time, which Snakemake skips."""
    return [file_digest(path) for path in answer_sheets()]


def table(name, shows):
    """An output in tables/, with its place in the report."""
    return report(
        f"{RESULTS}/tables/{name}.csv",
        caption=f"../report/{name}.rst",
        category="Tables",
        labels={"shows": shows},
    )


def audit_table(name, shows):
    """An output in audit/, with its place in the report."""
    return report(
        f"{RESULTS}/audit/{name}.csv",
        caption=f"../report/{name}.rst",
        category="Leakage",
        labels={"shows": shows},
    )


def duplicate_groups(wildcards):
    """Groups of equal images of the training source, where folds are grouped by them."""
    if "duplicates" not in config["folds"]["group_by"]:
        return {}
    stem = f"{arrays_folder(TRAIN_SOURCE)}/duplicates"
    return {"duplicates": ancient(f"{stem}.parquet"), "duplicates_digest": f"{stem}.sha256"}


def figure(name, category, shows):
    """The PNG of a figure, with its place in the report; the PDF lies beside it."""
    return report(
        f"{RESULTS}/figures/{name}.png",
        caption=f"../report/{name}.rst",
        category=category,
        labels={"shows": shows},
    )


def recipe_json(wildcards):
    return canonical_json(RECIPES[wildcards.recipe])


def training_threads(wildcards):
    """Each of a fold's GPUs is fed by as many cores."""
    return RECIPES[wildcards.recipe]["torch_threads"] * max(1, config["gpus_per_fold"])


def pretrained_files(wildcards):
    """Input files of a recipe that starts from trained weights; the digest is the trigger."""
    recipe = RECIPES[wildcards.recipe]
    if recipe["pretrained"] is None:
        return {}
    if recipe["pretrained"] == "imagenet":
        stem = f"results/weights/{recipe['network']}"
        return {"weights": ancient(f"{stem}.safetensors"), "weights_digest": f"{stem}.sha256"}
    weights = Path(recipe["pretrained"])
    if weights.parts[:1] == ("results",):  # made by the workflow, which writes the digest too
        return {
            "weights": ancient(str(weights)),
            "weights_digest": str(weights.with_suffix(".sha256")),
        }
    return {"weights": ancient(str(weights))}


@functools.cache
def file_digest(path):
    """The sha256 of a file of the user's, None where it is not there; told by Snakemake then."""
    return sha256_of_file(path) if Path(path).is_file() else None


def pretrained_digest(wildcards):
    """What triggers when a user's own file of weights is replaced."""
    path = RECIPES[wildcards.recipe]["pretrained"]
    is_own = path not in (None, "imagenet") and Path(path).parts[:1] != ("results",)
    return file_digest(path) if is_own else None


@functools.cache
def status(source):
    """What is known of the files of a source, and what of them has changed since it was indexed.

    Where the images are gone but were indexed, what was recorded then; where they are not there
    yet, no token (the job that indexes them says so).
    """
    settings = config["sources"][source]
    folder = Path(SOURCES, source)
    if settings["kind"] == "kaggle":
        return in_words(status_of_competition, folder, IS_PLANNER)
    if settings["kind"] == "hpa" and settings["index"] != "atlas":
        return in_words(status_of_list, Path(settings["index"]), folder, IS_PLANNER)
    if settings["kind"] != "local":
        return NOTHING_KNOWN
    found = in_words(status_of_folder, settings, folder, IS_PLANNER)
    if found.token is None and settings["images"] is None:
        raise WorkflowError(
            f"sources.{source}.folder: there is no folder {settings['folder']}. Put the images"
            " there, or name their folder. (make demo runs on simulated cells and needs no images.)"
        )
    return found


def report_changes(source):
    """Say before any job what of a source's files has changed, and what that costs."""
    changes = status(source).changes
    if not IS_PLANNER or changes is None:
        return
    if changes:
        logger.warning(f"sources.{source}: {changes} since it was indexed. {consequences(source)}")
    elif changes.touched:
        logger.info(
            f"sources.{source}: {len(changes.touched)} files have new time stamps and the same"
            " contents: nothing is made again for them."
        )


def consequences(source):
    """What is made again of a source, in words."""
    if source != TRAIN_SOURCE:
        return "It is indexed and converted again, and predicted."
    recipes = dict.fromkeys([*config["train"], *config["generations"]])
    trained = [
        f"{count} of recipe {recipe}"
        for recipe in recipes
        if (count := sum(Path(path).is_file() for path in models(recipe, FOLDS, "model.json")))
    ]
    if not trained:
        return "It is indexed and converted again."
    return (
        "It is the training source: it is indexed, converted and divided into folds again, and every"
        f" trained fold is trained again unless the arrays come out the same ({', '.join(trained)})."
        " To keep the folds, stop now and put the files back as they were, or give the new files a"
        " source of their own."
    )


def labels_digest(source):
    """Digest of a local source's table of labels; what was recorded of it where it is gone."""
    labels = config["sources"][source]["labels"]
    if not labels or Path(labels).is_file():
        return labels and file_digest(labels)
    record = Path(f"{SOURCES}/{source}/raw/settings.json")
    if record.is_file():
        return json.loads(record.read_text(encoding="utf-8"))["listing"].get("labels")
    if status(source).token is not None:
        raise WorkflowError(
            f"sources.{source}.labels: there is no table {labels}. Name the CSV of the labels, or"
            " null where nothing is known."
        )
    return None


def sources_used():
    """The sources that this run is made of, and those that a selection is kept apart from."""
    names = [TRAIN_SOURCE, TEST_SOURCE]
    for name in names:
        other = config["sources"][name].get("select", {}).get("antibody_disjoint_from")
        if other and other not in names:
            names.append(other)
    return names


def fetched_files():
    """What the rules that use the network make for this run."""
    made = {"kaggle": "files.json", "hpa": "index.sha256"}
    kinds = {name: config["sources"][name]["kind"] for name in sources_used()}
    files = [f"{SOURCES}/{name}/raw/{made[kind]}" for name, kind in kinds.items() if kind in made]
    recipes = dict.fromkeys([*config["train"], *config["generations"]])
    networks = {
        RECIPES[name]["network"] for name in recipes if RECIPES[name]["pretrained"] == "imagenet"
    }
    return files + [f"results/weights/{network}.sha256" for network in sorted(networks)]


def kaggle_test_source():
    """The source of the competition's unlabelled images, for a submission."""
    names = [name for name, source in config["sources"].items() if source.get("part") == "test"]
    if not names:
        raise WorkflowError(
            "A submission needs the competition's test images: add a source with kind: kaggle and"
            " part: test, as config.yaml has it."
        )
    return names[0]


def listed_index(source):
    """Names the contents of the user's own list or folder of gene entries; None where the atlas is asked.

    What was recorded of it where it is gone.
    """
    path = config["sources"][source]["index"]
    token = status(source).token
    if path != "atlas" and token is None:
        raise WorkflowError(
            f"sources.{source}.index: there is no {path}. Name a folder of gene entries, a CSV list,"
            " or atlas to fetch the entries."
        )
    return token


def selection_digest(source):
    """Digest of the user's own files that the selection of an hpa source reads."""
    made = f"{SOURCES}/{source}/atlas/images.parquet"
    return own_files_digest(source, selection_files(source_settings(source)), made)


def genes_digest(source):
    """Digest of the user's own table of the genes whose entries are fetched."""
    made = f"{SOURCES}/{source}/atlas/genes.csv"
    return own_files_digest(source, genes_files(source_settings(source)), made)


def own_files_digest(source, paths, made):
    """Digests of files that a source's settings name, in order; None where they name none.

    Of a file that is gone, what the record of ``made`` has of it: what was made of it stays.
    """
    record = Path(made).with_suffix(SUFFIX)
    digests = []
    for path in paths:
        digest = file_digest(path)
        if digest is None and record.is_file():
            digest = recorded_inputs(record).get(Path(path).as_posix(), {}).get("sha256")
        if digest is None:
            raise WorkflowError(
                f"sources.{source}: there is no file {path}, which its settings name."
            )
        digests.append(digest)
    return " ".join(digests) or None


def recorded_inputs(record):
    """The files that a job read, with their sums; none where the record is damaged."""
    try:
        return json.loads(record.read_text(encoding="utf-8"))["inputs"]
    except (ValueError, LookupError):
        return {}


def fetch_count(source):
    """Jobs that fetch the images of an hpa source."""
    return max(1, math.ceil(image_count(source) / IMAGES_PER_FETCH))


def atlas_entries(wildcards):
    """What the index of an hpa source is made from: fetched entries, or nothing to be made."""
    if config["sources"][wildcards.source]["index"] != "atlas":
        return {}
    folder = f"{SOURCES}/{wildcards.source}/atlas"
    return {"entries": ancient(f"{folder}/entries.csv"), "digest": f"{folder}/entries.sha256"}


def entries_arguments(wildcards):
    """The same as arguments of the program."""
    path = config["sources"][wildcards.source]["index"]
    if path == "atlas":
        entries = f"{SOURCES}/{wildcards.source}/atlas/entries.csv"
        return f"--entries {entries} --downloads {DOWNLOADS}/hpa"
    form = "--list" if is_list(path) else "--xml"
    return f"{form} {shlex.quote(path)} --contents {listed_index(wildcards.source)}"


def kept_apart_from(wildcards):
    """The index of the source whose antibodies and genes a selection leaves out."""
    other = config["sources"][wildcards.source]["select"]["antibody_disjoint_from"]
    if not other:
        return {}
    raw = f"{SOURCES}/{other}/raw"
    return {"other": ancient(f"{raw}/index.parquet"), "other_digest": f"{raw}/index.sha256"}


def files_per_image(settings):
    return 4 if "{channel}" in settings["pattern"] else 1


# Now, so that another source of that name, a missing folder or table end the run before any job.
for name in sources_used():
    record = Path(f"{SOURCES}/{name}/raw/settings.json")
    in_words(check_source, name, source_settings(name), record)
    report_changes(name)
    if config["sources"][name]["kind"] == "local":
        labels_digest(name)
    if config["sources"][name]["kind"] == "hpa":
        genes_digest(name)
        selection_digest(name)


def rerun_for_missing_inputs():
    """Give every rule of ours a parameter that triggers it where one of its inputs is missing.

    Snakemake forgets why a job had to run when that job fails: its outputs are deleted, and what was
    made of the old ones counts as up to date from then on (snakemake/snakemake#2966). With this the
    next run makes all of it again. Inputs that are ancient do not count: arrays may be deleted once
    they were used, and all others come with a digest.
    """

    def missing_inputs(reader):
        def missing(wildcards):
            inputs, *_ = reader.expand_input(dict(wildcards.items()))
            absent = [file for file in inputs if not file.is_ancient and not os.path.exists(file)]
            if not absent:
                # Asked again as the job starts: what is stored of it must be this, not what the
                # plan said, which Snakemake has in a cache.
                workflow.persistence._params.cache_clear()
            return absent

        return missing

    for reader in workflow.rules:
        is_ours = Path(str(reader.snakefile)).is_relative_to(PROJECT)
        if is_ours and reader.output:
            reader.set_params(missing_inputs=missing_inputs(reader))


def trained_jobs():
    """What tells the states of the configured folds from those that it no longer refers to."""
    keys = {"code": code_digest("train_fold")}
    # Data that are not made yet tell nothing of the states.
    for key, path in (
        ("arrays", Path(f"{arrays_folder(TRAIN_SOURCE)}/index.sha256")),
        ("folds", Path(f"{RESULTS}/folds/folds.sha256")),
    ):
        if path.is_file():
            keys[key] = path.read_text().strip()
    return canonical_json(
        [
            {"name": recipe, "fold": fold, "recipe": RECIPES[recipe], **keys}
            for recipe, fold in trained_folds(config)
        ]
    )
