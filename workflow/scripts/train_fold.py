"""Trains one recipe on all folds but one and validates it on that fold, resumable."""

import logging
import math
import sys
import time
from contextlib import nullcontext

from hpaloc.arguments import Parser, not_negative
from hpaloc.augment import build
from hpaloc.checkpoint import load_checkpoint
from hpaloc.compute import choose_compute
from hpaloc.export import Outputs, export
from hpaloc.files import read_digest, sha256_of_file
from hpaloc.fold_data import fold_data
from hpaloc.gpu_memory import shortage_in_words
from hpaloc.keeper import Keeper
from hpaloc.lease import LEASE_S, leased
from hpaloc.log import InputError, run_program
from hpaloc.preemption import TRY_AGAIN, Preempted, sigterm_waits
from hpaloc.progress import ProgressFile, note_attempt
from hpaloc.provenance import maker, record
from hpaloc.ranks import join, leave, relaunched
from hpaloc.state import state_folder, write_meta
from hpaloc.training import train

log = logging.getLogger("hpaloc")

# What to do where the GPU's memory is short: of one GPU, and of several.
NOT_ONE_IMAGE = (
    "Batches are split where memory is short, but not one image fits beside the network and its"
    " optimizer: use a smaller image_size or network, compile: auto in place of graphs, a GPU with more"
    " memory, or end what else runs on this one."
)
NOT_ITS_SHARE = (
    "Several GPUs that train a fold together do not split their shares of a batch, because one of"
    " them cannot begin anew while the others wait for it: use a smaller batch_size, more GPUs"
    " (gpus_per_fold), or a single one, which splits batches where memory is short."
)


def main(argv: list[str] | None = None) -> None:
    parser = Parser(description=__doc__)
    parser.add_input("--arrays", help="index of the arrays (Parquet)")
    parser.add_input("--arrays-digest", help="its sha256")
    parser.add_input("--folds", help="image_id, group, fold (Parquet)")
    parser.add_input("--folds-digest", help="its sha256")
    parser.add_argument("--fold", required=True, type=int, help="validation fold, from 1")
    parser.add_json("--recipe", help="whole recipe (JSON)")
    parser.add_argument("--name", required=True, help="name of the recipe")
    parser.add_argument("--run", required=True, help="name of the run")
    parser.add_argument("--code", required=True, help="digest of the training code")
    parser.add_output_folder("--state", help="folder of all states")
    parser.add_input("--pretrained", required=False, help="weights to begin with")
    parser.add_argument(
        "--gpus", type=not_negative, default=1, help="that train the fold; 0: the CPU"
    )
    parser.add_argument(
        "--workers", type=not_negative, default=1, help="processes that make batches"
    )
    parser.add_argument(
        "--checkpoint-minutes", type=float, default=10.0, help="work that a kill loses at most"
    )
    parser.add_argument(
        "--lease-seconds", type=float, default=LEASE_S, help="a silent process loses its state then"
    )
    parser.add_output("--weights", help="output (safetensors)")
    parser.add_output("--weights-digest", help="output: its sha256")
    parser.add_output("--model", help="output: what it is (JSON)")
    parser.add_output("--steps", help="output (Parquet)")
    parser.add_output("--epochs", help="output (Parquet)")
    parser.add_output("--validation", help="output (Parquet)")
    args = parser.parse_args(argv)

    started = time.monotonic()
    if args.recipe["pretrained"] is not None and args.pretrained is None:
        raise InputError(
            "the recipe starts from pretrained weights: give their file, --pretrained."
        )
    relaunched(__file__, argv or sys.argv[1:], args.gpus)
    ranks = join(args.gpus)
    if not ranks.is_first:
        log.setLevel(logging.WARNING)  # all of them say the same
    key = {
        "recipe": args.recipe,
        "fold": args.fold,
        "arrays": read_digest(args.arrays_digest),
        "folds": read_digest(args.folds_digest),
        "pretrained": sha256_of_file(args.pretrained) if args.pretrained else None,
        "code": args.code,
    }
    folder = state_folder(args.state, "train_fold", f"{args.name}_fold{args.fold}", key)
    workers = -(-args.workers // ranks.count)
    with (
        leased(folder, args.lease_seconds) if ranks.is_first else nullcontext() as lease,
        sigterm_waits() as asked_to_stop,
        shortage_in_words(
            f"{args.recipe['network']} at {args.recipe['image_size']} px",
            NOT_ITS_SHARE if ranks.count > 1 else NOT_ONE_IMAGE,
        ),
    ):
        if ranks.is_first:
            write_meta(folder, {"program": "train_fold", "run": args.run, "name": args.name, **key})
        ranks.wait()  # for the lease
        data = fold_data(args.arrays, args.folds, args.fold, workers)
        state = load_checkpoint(folder)
        was_finished = state.finished
        if ranks.is_first:
            note_attempt(folder, state.epoch, state.step)
        if not was_finished:
            if ranks.any(asked_to_stop()):  # it might wait for a GPU
                log.warning("told to stop (SIGTERM) before training went on")
                sys.exit(TRY_AGAIN)
            compute = choose_compute(
                args.recipe["precision"], args.recipe["torch_threads"], args.gpus
            )
            # Imports the library of transforms if the scheme has any, so that every attempt has
            # the same versions, whenever it ends.
            build(args.recipe["augmentation"])
            here = maker(ranks.count if compute.device.type == "cuda" else 0)
            state.makers = [*(other for other in state.makers if other != here), here]
            keeper = None
            if ranks.is_first:
                size = args.recipe["batch_size"]
                steps = math.ceil(len(data.rows) / size)
                progress = ProgressFile(folder, args.recipe["epochs"], steps, size)
                keeper = Keeper(
                    folder, lease, 60 * args.checkpoint_minutes, asked_to_stop, progress
                )
            try:
                state = train(
                    args.recipe, args.fold, data, state, folder, keeper, compute,
                    args.pretrained, ranks,
                )  # fmt: skip
            except Preempted:
                log.warning(
                    "told to stop (SIGTERM): the state is stored in %s, the next attempt goes on"
                    " from there", folder,
                )  # fmt: skip
                sys.exit(TRY_AGAIN)
            finally:
                if keeper:
                    keeper.close()  # before the lease is given back
        leave(ranks)
        if not ranks.is_first:
            return
        outputs = Outputs(
            args.weights, args.weights_digest, args.model, args.steps, args.epochs, args.validation
        )
        lease.ensure()
        export(state, folder, args.recipe, args.fold, data, outputs)
        record(args, outputs, pixels_of=args.arrays, makers=state.makers)
    if was_finished:
        log.info(
            "restored in %.1f s from a finished state, nothing was trained; to train again change"
            " a key of the recipe or delete %s",
            time.monotonic() - started, folder,
        )  # fmt: skip
    log.info(
        "exported epoch %d of %d: validation macro F1 %.4f",
        state.best_epoch, state.epoch, state.best_score,
    )  # fmt: skip


if __name__ == "__main__":
    run_program(main)
