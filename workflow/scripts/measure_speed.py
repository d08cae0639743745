"""Measures Table III on this machine: seconds per image from files to probabilities."""

import argparse
import json
import logging
import tempfile
from pathlib import Path

import cv2
import pandas as pd

from hpaloc.backends import BACKENDS, ready
from hpaloc.compute import choose_compute, describe
from hpaloc.files import write_csv
from hpaloc.index import read_index, root_of
from hpaloc.log import run_program
from hpaloc.network import load_network
from hpaloc.provenance import record
from hpaloc.shards import open_arrays, read_rows
from hpaloc.speed import (
    seconds_per_image,
    source_files,
    stream_images_per_second,
    write_files,
)

log = logging.getLogger("hpaloc")

# Images at a time in a stream, where nobody waits for a single one.
STREAM_BATCH = 16


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--arrays", required=True, help="index of arrays to make the files from")
    parser.add_argument("--raw-index", required=True, help="index of the source's raw images")
    parser.add_argument("--settings", required=True, help="settings.json of the source")
    parser.add_argument("--weights", required=True, help="of one fold (safetensors)")
    parser.add_argument("--model", required=True, help="its model.json")
    parser.add_argument("--recipe", required=True, type=json.loads, help="recipe (JSON)")
    parser.add_argument("--published", required=True, help="the paper's table (CSV)")
    parser.add_argument("--backend", choices=BACKENDS, default="torch", help="on the CPU")
    parser.add_argument("--gpus", type=int, default=1, help="0: run on the CPU")
    parser.add_argument("--threads", type=int, default=1, help="threads that read and compute")
    parser.add_argument("--repeats", type=int, default=5, help="batches timed; their median counts")
    parser.add_argument("--table", required=True, help="output (CSV)")
    args = parser.parse_args(argv)

    network, model = load_network(args.weights, args.model)
    model_input = {"image_size": model["image_size"]}
    compute = choose_compute(args.recipe["precision"], args.threads, args.gpus)
    device = describe(compute.device)
    if compute.device.type == "cpu" and args.backend != "torch":
        device = f"{device}, {args.backend}"
    settings = json.loads(Path(args.settings).read_text(encoding="utf-8"))
    raw, root = read_index(args.raw_index), root_of(settings, args.raw_index)
    published = pd.read_csv(args.published)
    runs = {  # a backend is prepared for a size of batches
        batch_size: ready(
            [network], args.recipe | model_input | {"batch_size": batch_size}, args.backend, compute
        )[0]
        for batch_size in sorted({*published["batch_size"], STREAM_BATCH})
    }
    cv2.setNumThreads(1)
    index, shards = open_arrays(args.arrays)
    rows = []
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
                runs[STREAM_BATCH], files, model["image_size"], STREAM_BATCH, args.repeats + 1,
                args.threads, compute,
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
