"""Labels of a folder of 8-bit images, straight from the files: no source, no arrays, no run.

Images are shrunk to the network's size at once, where the workflow goes by arrays of
``arrays.size``: probabilities differ a little from its, not the thresholds' meaning.
"""

import argparse
import json
import logging
import os
from pathlib import Path

import numpy as np
import pandas as pd

from hpaloc.backends import BACKENDS, ready
from hpaloc.calling import labels_table, read_thresholds, strategy_thresholds, submission_table
from hpaloc.classes import CHANNELS, PROBABILITY_COLUMNS
from hpaloc.compute import choose_compute
from hpaloc.files import write_csv, write_parquet
from hpaloc.image_header import Notes, check_slices
from hpaloc.local import complete, find_images
from hpaloc.log import InputError, Progress, run_program
from hpaloc.network import load_network
from hpaloc.raw_stream import raw_batches, stream_probabilities

log = logging.getLogger("hpaloc")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", required=True, type=Path, help="folder of PNG, JPG, TIFF, NPY")
    parser.add_argument(
        "--pattern",
        default="{id}_{channel}",
        help="a file's path in the folder without its ending: {id}, {channel}, {any}; without"
        " {channel} a file holds all four planes (default: %(default)s)",
    )
    parser.add_argument(
        "--channels",
        type=json.loads,
        default={},
        help='what file names call the channels, such as {"red": "Tubulin", "blue": "DAPI"}',
    )
    parser.add_argument("--stack-order", nargs=4, choices=CHANNELS, default=list(CHANNELS))
    parser.add_argument(
        "--slices",
        type=json.loads,
        default={},
        help='what is taken of files of several planes: {"z": "max"} or {"z": 1} (the first), also'
        ' for "t", and for "pages" that no axis is named of; without it such files are refused',
    )
    parser.add_argument("--weights", required=True, nargs="+", help="of the folds, in order")
    parser.add_argument("--models", required=True, nargs="+", help="model.json, in order")
    parser.add_argument("--thresholds", required=True, help="table of thresholds (CSV)")
    parser.add_argument(
        "--strategy",
        default="global",
        help="global, per_class_raw, per_class_smoothed, frequency_matched or a number"
        " (default: %(default)s)",
    )
    parser.add_argument(
        "--views", choices=("none", "dihedral8"), default="none", help="dihedral8: mean of eight"
    )
    parser.add_argument(
        "--damaged", choices=("stop", "leave_out"), default="stop", help="what such images do"
    )
    parser.add_argument("--backend", choices=BACKENDS, default="torch", help="on the CPU")
    parser.add_argument("--gpus", type=int, default=1, help="0: run on the CPU")
    parser.add_argument(
        "--threads", type=int, default=len(os.sched_getaffinity(0)), help="that read and compute"
    )
    parser.add_argument("--batch-size", type=int, default=16, help="images (default: %(default)s)")
    parser.add_argument("--labels", required=True, help="output: Id, Predicted, Names (CSV)")
    parser.add_argument("--probabilities", help="output: mean of the networks (Parquet)")
    parser.add_argument("--quarantine", help="output: images that could not be used (CSV)")
    args = parser.parse_args(argv)

    if len(args.weights) != len(args.models):
        raise InputError("--weights and --models must name the same number of networks.")
    thresholds = strategy_thresholds(read_thresholds(args.thresholds), args.strategy)
    settings = {
        "pattern": args.pattern,
        "channels": {channel: channel for channel in CHANNELS} | args.channels,
        "incomplete": "stop" if args.damaged == "stop" else "quarantine",
    }
    check_slices(args.slices, "--slices")
    files = find_images(args.images, settings["pattern"], settings["channels"])
    complete(files, args.images, settings)

    loaded = [load_network(*pair) for pair in zip(args.weights, args.models, strict=True)]
    recipe = loaded[0][1]["recipe"] | {"batch_size": args.batch_size}
    for (_, model), path in zip(loaded, args.models, strict=True):
        if model["image_size"] != recipe["image_size"]:
            raise InputError(
                f"{path}: a network for {model['image_size']} px, where the first one is for"
                f" {recipe['image_size']} px. Networks of one recipe are wanted."
            )
    compute = choose_compute(recipe["precision"], args.threads, args.gpus)
    networks = ready([network for network, _ in loaded], recipe, args.backend, compute)
    notes = Notes()
    batches = raw_batches(
        args.images, dict(sorted(files.items())), args.stack_order, recipe["image_size"],
        args.batch_size, args.threads, args.slices, notes,
    )  # fmt: skip
    progress = Progress("labelled", len(files), "images")
    image_ids, probabilities, problems = stream_probabilities(
        networks, batches, {"kind": args.views}, compute, progress.add, args.damaged == "stop"
    )
    table = pd.DataFrame(
        [(image_id, *problem) for image_id, problem in problems.items()],
        columns=["image_id", "file", "channel", "reason"],
    )
    for line in notes.lines():
        log.warning("%s", line)
    if args.quarantine:
        write_csv(table, args.quarantine)
    for row in table.itertuples():
        log.warning("%s: %s (%s): %s", row.image_id, row.file, row.channel, row.reason)
    if problems and (args.damaged == "stop" or not image_ids):
        raise InputError(
            f"{args.images}: {len(problems)} of {len(files)} images cannot be used (named above)."
            " Mend or remove their files, or let --damaged be leave_out to label the others."
        )
    mean = probabilities.mean(axis=0, dtype=np.float64).astype(np.float32)
    predictions = pd.DataFrame(mean, columns=list(PROBABILITY_COLUMNS))
    predictions.insert(0, "image_id", image_ids)
    labels = labels_table(predictions, thresholds)
    if args.probabilities:
        write_parquet(predictions, args.probabilities)
    write_csv(submission_table(labels).assign(Names=labels["names"]), args.labels)
    log.info("%d images labelled by %d networks", len(image_ids), len(networks))


if __name__ == "__main__":
    run_program(main)
