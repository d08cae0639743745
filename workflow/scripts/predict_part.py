"""Probabilities of one part of a source's images, by the networks of all trained folds."""

import logging

from hpaloc.arguments import Parser, not_negative, positive
from hpaloc.backends import BACKENDS, ready
from hpaloc.compute import choose_compute
from hpaloc.feed import n_views, view_batches
from hpaloc.files import write_digest, write_parquet
from hpaloc.gpu_memory import prediction_in_words
from hpaloc.log import InputError, Progress, run_program
from hpaloc.network import load_network
from hpaloc.parts import part_rows, part_table
from hpaloc.predict import mean_probabilities
from hpaloc.provenance import record
from hpaloc.shards import open_arrays

log = logging.getLogger("hpaloc")


def main(argv: list[str] | None = None) -> None:
    parser = Parser(description=__doc__)
    parser.add_input("--arrays", help="index of the arrays (Parquet)")
    parser.add_argument(
        "--part", required=True, type=not_negative, help="number of the part, from 0"
    )
    parser.add_argument("--parts", required=True, type=positive, help="number of parts")
    parser.add_argument("--folds", required=True, type=int, nargs="+")
    parser.add_input("--weights", nargs="+", help="of the folds, in order")
    parser.add_input("--models", nargs="+", help="model.json, in order")
    parser.add_json(
        "--recipe",
        help="tta, and what else differs from the recipe in model.json (JSON)",
    )
    parser.add_argument("--backend", choices=BACKENDS, default="torch", help="on the CPU")
    parser.add_argument("--gpus", type=not_negative, default=1, help="0: run on the CPU")
    parser.add_argument(
        "--workers", type=not_negative, default=1, help="processes that make batches"
    )
    parser.add_output("--predictions", help="output (Parquet)")
    parser.add_output("--digest", help="output: its sha256")
    args = parser.parse_args(argv)

    if not len(args.folds) == len(args.weights) == len(args.models):
        raise InputError("--folds, --weights and --models must name the same number of networks.")
    loaded = [load_network(*files) for files in zip(args.weights, args.models, strict=True)]
    recipe = loaded[0][1]["recipe"] | args.recipe
    for (_, model), fold, path in zip(loaded, args.folds, args.models, strict=True):
        if model["fold"] != fold or model["image_size"] != recipe["image_size"]:
            raise InputError(
                f"{path}: of fold {model['fold']} at {model['image_size']} px, where fold {fold} at"
                f" {recipe['image_size']} px is wanted. Give --models in the order of --folds."
            )
    arrays = open_arrays(args.arrays)
    rows = part_rows(len(arrays[0]), args.part, args.parts)
    views = recipe["tta"]["prediction"]
    with prediction_in_words(len(loaded), recipe):
        compute = choose_compute(recipe["precision"], recipe["torch_threads"], args.gpus)
        forwards = ready([network for network, _ in loaded], recipe, args.backend, compute)
        progress = Progress("predicted", n_views(views) * len(rows), "views of images")
        batches = view_batches(
            arrays, rows, recipe, views, "prediction", args.workers, recipe["batch_size"]
        )
        probabilities = mean_probabilities(
            forwards, batches, len(rows), views, compute, progress.add
        )
    image_ids = arrays[0]["image_id"].to_numpy()[rows]
    write_parquet(part_table(image_ids, args.folds, probabilities), args.predictions)
    write_digest(args.predictions, args.digest)
    log.info("%d images by %d networks", len(rows), len(forwards))
    record(args, [args.predictions, args.digest], pixels_of=args.arrays)


if __name__ == "__main__":
    run_program(main)
