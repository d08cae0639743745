"""Labels of a folder of 8-bit images, straight from the files: no source, no arrays, no run.

The labels are those of a run on the same folder without tiles. Every image goes through the same
steps: first to the size of the run's arrays, then to the network's, with the views that the recipe
averages in predictions. With the run's backend, device, batch size and number of threads
(torch_threads), probabilities are the same to the byte; otherwise they differ by rounding.
"""

import argparse
import logging
import os
from typing import Any

import numpy as np
import pandas as pd

from hpaloc.arguments import Parser, not_negative, positive
from hpaloc.backends import BACKENDS, ready
from hpaloc.calling import labels_table, read_thresholds, strategy_thresholds, submission_table
from hpaloc.classes import CHANNELS, PROBABILITY_COLUMNS
from hpaloc.compute import choose_compute
from hpaloc.files import write_csv, write_parquet
from hpaloc.gpu_memory import prediction_in_words
from hpaloc.image_header import Notes, check_slices
from hpaloc.listing import IGNORED, check_channels
from hpaloc.local import complete, find_images
from hpaloc.log import InputError, Progress, run_program
from hpaloc.network import load_network
from hpaloc.raw_stream import raw_batches, stream_probabilities

log = logging.getLogger("hpaloc")


def main(argv: list[str] | None = None) -> None:
    parser = Parser(description=__doc__)
    parser.add_input_folder("--images", help="folder of PNG, JPG, TIFF, NPY")
    parser.add_argument(
        "--pattern",
        default="{id}_{channel}",
        help="a file's path in the folder without its ending: {id}, {channel}, {any}; without"
        " {channel} a file holds all four planes (default: %(default)s)",
    )
    parser.add_json(
        "--channels",
        required=False,
        default={},
        help='what file names call the channels, such as {"red": "Tubulin", "blue": "DAPI"}',
    )
    parser.add_argument(
        "--ignore",
        nargs="*",
        default=list(IGNORED),
        metavar="PATTERN",
        help="files and folders that are no images of their own, as glob patterns; replaces the"
        " default, none leaves nothing out (default: %(default)s)",
    )
    parser.add_argument("--stack-order", nargs=4, choices=CHANNELS, default=list(CHANNELS))
    parser.add_json(
        "--slices",
        required=False,
        default={},
        help='what is taken of files of several planes: {"z": "max"} or {"z": 1} (the first), also'
        ' for "t", and for "pages" that no axis is named of; without it such files are refused',
    )
    parser.add_input("--weights", nargs="+", help="of the folds, in order")
    parser.add_input("--models", nargs="+", help="model.json, in order")
    parser.add_input("--thresholds", help="table of thresholds (CSV)")
    parser.add_argument(
        "--strategy",
        default="global",
        help="global, per_class_raw, per_class_smoothed, frequency_matched or a number"
        " (default: %(default)s)",
    )
    parser.add_argument(
        "--views",
        choices=("none", "dihedral8"),
        help="none: each image as it is; dihedral8: mean of its eight flips and quarter turns"
        " (default: the views of the run's predictions, tta.prediction of the networks' recipe)",
    )
    parser.add_argument(
        "--arrays-size",
        type=positive,
        help="pixels per side of the run's arrays (arrays.size); needed only for networks of an"
        " older version, whose model.json does not say it",
    )
    parser.add_argument(
        "--damaged", choices=("stop", "leave_out"), default="stop", help="what such images do"
    )
    parser.add_argument("--backend", choices=BACKENDS, default="torch", help="on the CPU")
    parser.add_argument("--gpus", type=not_negative, default=1, help="0: run on the CPU")
    parser.add_argument(
        "--threads",
        type=positive,
        default=len(os.sched_getaffinity(0)),
        help="that read and compute",
    )
    parser.add_argument(
        "--batch-size",
        type=positive,
        help="images at a time (default: that of the networks' recipe)",
    )
    parser.add_output("--labels", help="output: Id, Predicted, Names (CSV)")
    parser.add_output(
        "--probabilities", required=False, help="output: mean of the networks (Parquet)"
    )
    parser.add_output(
        "--quarantine", required=False, help="output: images that could not be used (CSV)"
    )
    args = parser.parse_args(argv)

    if len(args.weights) != len(args.models):
        raise InputError("--weights and --models must name the same number of networks.")
    thresholds = strategy_thresholds(read_thresholds(args.thresholds), args.strategy)
    check_channels(args.channels, "--channels")
    settings = {
        "pattern": args.pattern,
        "channels": {channel: channel for channel in CHANNELS} | args.channels,
        "incomplete": "stop" if args.damaged == "stop" else "quarantine",
    }
    check_slices(args.slices, "--slices")
    files = find_images(args.images, settings["pattern"], settings["channels"], args.ignore)
    complete(files, args.images, settings, "give --damaged leave_out to label the others")

    loaded = [load_network(*pair) for pair in zip(args.weights, args.models, strict=True)]
    models = [model for _, model in loaded]
    recipe = models[0]["recipe"]
    if args.batch_size is not None:
        recipe = recipe | {"batch_size": args.batch_size}
    views = recipe["tta"]["prediction"] if args.views is None else {"kind": args.views}
    arrays_size = arrays_size_of(models, args)
    notes = Notes()
    progress = Progress("labelled", len(files), "images")
    with prediction_in_words(len(loaded), recipe):
        compute = choose_compute(recipe["precision"], args.threads, args.gpus)
        networks = ready([network for network, _ in loaded], recipe, args.backend, compute)
        batches = raw_batches(
            args.images, dict(sorted(files.items())), args.stack_order, arrays_size, recipe, views,
            args.threads, args.slices, notes,
        )  # fmt: skip
        image_ids, probabilities, problems = stream_probabilities(
            networks, batches, views, compute, progress.add, args.damaged == "stop"
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


def arrays_size_of(models: list[dict[str, Any]], args: argparse.Namespace) -> int:
    """The size of the arrays of all ``models``, which are for images of one size."""
    first = models[0]
    for model, path in zip(models, args.models, strict=True):
        if model["image_size"] != first["image_size"]:
            raise InputError(
                f"{path}: a network for {model['image_size']} px, where the first one is for"
                f" {first['image_size']} px. Networks of one recipe are expected."
            )
        if args.arrays_size is not None:
            continue
        if "arrays_size" not in model:
            raise InputError(
                f"{path}: does not say the size of the arrays that the network was trained on; an"
                " older version wrote it. Give arrays.size of its configuration as --arrays-size."
            )
        if model["arrays_size"] != first["arrays_size"]:
            raise InputError(
                f"{path}: trained on arrays of {model['arrays_size']} px, where the first network"
                f" was on {first['arrays_size']} px. Networks of one run are expected, or give"
                " --arrays-size."
            )
    return first["arrays_size"] if args.arrays_size is None else args.arrays_size


if __name__ == "__main__":
    run_program(main)
