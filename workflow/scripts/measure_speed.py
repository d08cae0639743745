"""Measures Table III on this machine: seconds per image from files to probabilities."""

import logging
import tempfile
from pathlib import Path

import cv2
import pandas as pd

from hpaloc.arguments import Parser, not_negative, positive
from hpaloc.backends import BACKENDS, ready
from hpaloc.compute import choose_compute, describe
from hpaloc.files import read_json, write_csv
from hpaloc.gpu_memory import prediction_in_words
from hpaloc.index import read_index, root_of
from hpaloc.log import run_program
from hpaloc.network import load_network
from hpaloc.provenance import record
from hpaloc.shards import open_arrays, read_rows, size_of
from hpaloc.speed import (
    seconds_per_image,
    source_files,
    stream_images_per_second,
    write_files,
)
from hpaloc.tables import read_table

log = logging.getLogger("hpaloc")

# Images at a time in a stream, where nobody waits for a single one.
STREAM_BATCH = 16


def main(argv: list[str] | None = None) -> None:
    parser = Parser(description=__doc__)
    parser.add_input("--arrays", help="index of arrays to make the files from")
    parser.add_input("--raw-index", help="index of the source's raw images")
    parser.add_input("--settings", help="settings.json of the source")
    parser.add_input("--weights", help="of one fold (safetensors)")
    parser.add_input("--model", help="its model.json")
    parser.add_json("--recipe", help="recipe (JSON)")
    parser.add_input("--published", help="the paper's table (CSV)")
    parser.add_argument("--backend", choices=BACKENDS, default="torch", help="on the CPU")
    parser.add_argument("--gpus", type=not_negative, default=1, help="0: run on the CPU")
    parser.add_argument("--threads", type=positive, default=1, help="threads that read and compute")
    parser.add_argument(
        "--repeats", type=positive, default=5, help="batches timed; their median counts"
    )
    parser.add_output("--table", help="output (CSV)")
    args = parser.parse_args(argv)

    network, model = load_network(args.weights, args.model)
    recipe = args.recipe | {"image_size": model["image_size"]}
    settings = read_json(args.settings, "root")
    raw, root = read_index(args.raw_index), root_of(settings, args.raw_index)
    published = read_table(
        args.published,
        ("image_size", "batch_size", "format", "gpu", "cpu", "seconds_per_image"),
        numbers=("image_size", "batch_size", "seconds_per_image"),
    )
    cv2.setNumThreads(1)
    index, shards = open_arrays(args.arrays)
    rows = []
    with prediction_in_words(1, model["recipe"]):
        compute = choose_compute(args.recipe["precision"], args.threads, args.gpus)
        device = describe(compute.device)
        if compute.device.type == "cpu" and args.backend != "torch":
            device = f"{device}, {args.backend}"
        runs = {  # a backend is prepared for a size of batches
            batch_size: ready(
                [network], recipe | {"batch_size": batch_size}, args.backend, compute
            )[0]
            for batch_size in sorted({*published["batch_size"], STREAM_BATCH})
        }
        for setting in published.itertuples():
            with tempfile.TemporaryDirectory() as folder:
                # Sources with fewer images than a batch give some of them twice.
                positions = [number % len(index) for number in range(setting.batch_size)]
                files = [
                    write_files(image, setting.image_size, setting.format, Path(folder), number)
                    for number, image in enumerate(read_rows(index, shards, positions))
                ]
                made = "arrays"
                if setting.format == "jpg" and (own := source_files(raw, root, setting.image_size)):
                    files, made = [own] * setting.batch_size, "the source"
                seconds = seconds_per_image(
                    runs[setting.batch_size], files, model["image_size"], setting.batch_size,
                    args.repeats, args.threads, compute,
                )  # fmt: skip
                rate = stream_images_per_second(
                    runs[STREAM_BATCH], files, size_of(shards), recipe | {"batch_size": STREAM_BATCH},
                    args.repeats + 1, args.threads, compute,
                )  # fmt: skip
            log.info(
                "4 × %d² px %s of %s, batch %d: %.4g s per image; stream: %.4g images/s",
                setting.image_size, setting.format, made, setting.batch_size, seconds, rate,
            )  # fmt: skip
            rows.append(
                {
                    "image_size": setting.image_size,
                    "format": setting.format,
                    "batch_size": setting.batch_size,
                    "seconds_per_image": seconds,
                    "images_per_second": 1 / seconds,
                    "stream_images_per_second": rate,
                    "files_of": made,
                    "device": device,
                    "network": model["network"],
                    "network_input": model["image_size"],
                    "published_seconds_per_image": setting.seconds_per_image,
                    "published_device": f"{setting.gpu}, {setting.cpu}",
                }
            )
    write_csv(pd.DataFrame(rows), args.table)
    record(args, [args.table], pixels_of=args.arrays, repeatable=False)


if __name__ == "__main__":
    run_program(main)
