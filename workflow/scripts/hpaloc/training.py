"""Training of one fold, from the first step to the last, resumable after every step."""

import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.parallel import DistributedDataParallel

from hpaloc import losses, schedule
from hpaloc.batch_norm import share_batch_norm
from hpaloc.checkpoint import Checkpoint
from hpaloc.classes import CHANNELS, N_CLASSES
from hpaloc.compiled import GRAPHS, compiled, wanted
from hpaloc.compute import Compute
from hpaloc.device_batches import on_device
from hpaloc.feed import Batch
from hpaloc.fold_data import FoldData
from hpaloc.gpu_memory import is_shortage, make_room
from hpaloc.gradient import Forward, backward_that_fits
from hpaloc.history import PHASES, STEP_NUMBERS
from hpaloc.inference import in_batches_that_fit
from hpaloc.keeper import Keeper
from hpaloc.log import InputError, duration
from hpaloc.network import build_network, count_parameters, load_pretrained
from hpaloc.optimizer import build_optimizer, learning_rate
from hpaloc.predict import mean_probabilities
from hpaloc.preemption import Preempted
from hpaloc.ranks import ALONE, Ranks
from hpaloc.step_clock import OPTIMIZER, SCORES, WAIT, part
from hpaloc.step_records import StepRecords
from hpaloc.validation import epoch_row

log = logging.getLogger("hpaloc")

_LOG_EVERY_S = 10.0
_SOFT_F1 = STEP_NUMBERS.index("soft_f1_loss")

ADVICE = (
    "The epochs before it are kept in the state folder. Try a smaller optimizer.learning_rate, a"
    " smaller loss.scale_up, or precision: float32."
)


@dataclass
class Setup:
    """What makes the steps of a fold; ``forward`` is how images go through ``network``."""

    recipe: dict[str, Any]
    fold: int
    data: FoldData
    compute: Compute
    ranks: Ranks
    network: torch.nn.Module
    forward: Forward
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    class_weights: torch.Tensor
    records: StepRecords


def train(
    recipe: dict[str, Any],
    fold: int,
    data: FoldData,
    state: Checkpoint,
    folder: Path,
    keeper: Keeper | None,
    compute: Compute,
    pretrained: Path | None = None,
    ranks: Ranks = ALONE,
) -> Checkpoint:
    """Trains until the recipe's end or until validation stops moving; returns the last checkpoint.

    Goes on from ``state``, the checkpoint in its ``folder`` or a fresh one. The exported epoch is the
    one with the best validation macro F1 at its own best global threshold; of equal ones the
    earliest. Of several processes (``ranks``) each calls this, and the first one alone has a
    keeper, which writes. Raises InputError when the loss is no finite number, and Preempted when
    the keeper is asked to stop.
    """
    setup = set_up(recipe, fold, data, compute, pretrained, ranks, state)
    if state.step:
        log.info("going on after epoch %d (step %d), from %s", state.epoch, state.step, folder)
        for words in state.warnings:
            log.warning("%s", words)
    else:
        state.plateau = schedule.new_plateau(recipe["optimizer"]["learning_rate"])
        log.info(
            "training %s (%d parameters) on %d images, validating on %d",
            recipe["network"], count_parameters(setup.network),
            len(data.rows), len(data.validation_rows),
        )  # fmt: skip
    network = setup.network

    def with_tensors() -> Checkpoint:
        _complete(setup, state)
        return replace(
            state,
            network=network.state_dict(),
            optimizer=setup.optimizer.state_dict(),
            scaler=setup.scaler.state_dict(),
        )

    def pause(may_stop: bool) -> None:
        """Stores the state where it is time or a stop was asked for, and ends then. Several
        processes agree on that where all of them come by: ``may_stop``."""
        asked = keeper is not None and keeper.asked_to_stop()
        stops = asked
        if ranks.count > 1:
            stops = may_stop and ranks.any(asked)
        if keeper:
            keeper.pause(state, with_tensors, asked, stops)
        if stops:
            ranks.wait()  # where one ends so do the others: not before the state is stored
            raise Preempted

    _warn_of_unreached_switch(recipe, len(data.rows))
    while not state.finished:
        epoch, started = state.epoch + 1, time.monotonic()
        train_epoch(setup, state, pause)
        ranks.take_buffers_of_first(network)
        validation = _validated(setup, epoch, pause)
        if not np.isfinite(validation).all():
            raise InputError(
                f"training stopped after step {state.step} (epoch {epoch}): the network answers"
                f" the validation images with values that are no numbers. {ADVICE}"
            )
        row = epoch_row(
            epoch, _steps_of(state, epoch), _macro_f1(state.counts), validation,
            data.validation_labels, recipe,
        )  # fmt: skip
        score, best_before = row["validation_macro_f1"], state.best_epoch
        best = score > state.best_score
        state = replace(
            state,
            epoch=epoch,
            best_epoch=epoch if best else state.best_epoch,
            best_score=score if best else state.best_score,
            epochs=[*state.epochs, row],
            counts=None,
        )
        state.finished = _is_last(state, recipe)
        if keeper:
            keeper.save_epoch(with_tensors(), validation, best_before, recipe["save_epochs"])
        _log_epoch(row, state, recipe, time.monotonic() - started)
    if keeper:
        keeper.wait()
    return state


def set_up(
    recipe: dict[str, Any],
    fold: int,
    data: FoldData,
    compute: Compute,
    pretrained: Path | None,
    ranks: Ranks,
    state: Checkpoint,
) -> Setup:
    """The network and its optimizer on the device, compiled where the recipe asks for it and the
    machine can: new, or as ``state`` has them, which keeps no tensors then."""
    torch.manual_seed(_seed(recipe, fold, 0))
    network = build_network(recipe)
    if pretrained is not None:
        load_pretrained(network, pretrained)
    network.to(compute.device).train()
    weights = losses.class_weights(data.labels, recipe["loss"]["class_weight"])
    forward: Forward = network
    if ranks.count > 1:
        share_batch_norm(network, ranks)
        forward = DistributedDataParallel(network, gradient_as_bucket_view=True)
        # Nor at every step: batch norm's running averages are the same everywhere. (The parameter
        # of that name is deprecated, and the one that follows it is not in torch 2.9.)
        forward.broadcast_buffers = False
    setup = Setup(
        recipe, fold, data, compute, ranks, network, forward,
        build_optimizer(network, recipe["optimizer"]),
        torch.amp.GradScaler(compute.device.type, enabled=compute.dtype is torch.float16),
        torch.from_numpy(weights).to(compute.device),
        StepRecords(compute),
    )  # fmt: skip
    if state.network:
        network.load_state_dict(state.network)
        # Whether one kernel does it all is a matter of the device, not of the state.
        for saved, group in zip(
            state.optimizer["param_groups"], setup.optimizer.param_groups, strict=True
        ):
            saved["fused"] = group.get("fused")
        setup.optimizer.load_state_dict(state.optimizer)
        if state.scaler:  # none from a device that needs no scaling
            setup.scaler.load_state_dict(state.scaler)
        state.network, state.optimizer, state.scaler = {}, {}, {}
    compile_forward(setup, state.part_size or recipe["batch_size"])
    return setup


def compile_forward(setup: Setup, batch_size: int) -> None:
    """Compiles the network for batches of that size, where it is asked for and memory suffices.

    Not where several processes synchronise batch norm: each of its layers would break the graph.
    """
    if setup.ranks.count > 1 or not wanted(setup.recipe["compile"], setup.compute):
        return
    size = setup.recipe["image_size"]
    images = torch.zeros(
        (batch_size, size, size, len(CHANNELS)), dtype=torch.uint8, device=setup.compute.device
    )
    setup.forward = setup.network
    if setup.recipe["compile"] == GRAPHS:
        torch.compiler.reset()  # gives back the memory of graphs that were recorded
    in_parts = batch_size < setup.recipe["batch_size"]
    # Not in parts: a graph writes its gradients where those of the part before it still are.
    graphs = setup.recipe["compile"] == GRAPHS and not in_parts
    mode = "reduce-overhead" if graphs else None
    try:
        setup.forward = compiled(setup.network, images, setup.compute, mode, in_parts)
        return
    except RuntimeError as error:
        if not is_shortage(error):
            raise
    log.info("the GPU's memory does not hold %d images: not compiled for them", batch_size)
    make_room(setup.compute.device)


def train_epoch(setup: Setup, state: Checkpoint, pause: Callable[[bool], None]) -> None:
    """What is left of a pass over the training batches, with ``pause`` after every step.

    ``state`` follows the steps: the plateau, the counts of all 28 classes over the epoch's draws,
    called from 0.5 on, and rows of STEP_NUMBERS, which come in the background (see _complete).

    Where the GPU's memory does not hold a batch, it is trained in micro-batches of half its size,
    or a quarter …, and so are those after it: the gradient is that of the batch, but batch norm
    takes its statistics from the micro-batches, and every one of them enters the running averages.
    The network is compiled again for that size. An epoch's last, smaller batch runs as it is, not
    compiled, which takes more memory than a full one that is; where that is short, it alone is
    trained in such micro-batches. So results depend on memory only where it is short, and
    ``state.warnings`` say so.
    """
    recipe, compute = setup.recipe, setup.compute
    epoch = state.epoch + 1
    if state.counts is None:
        state.counts = torch.zeros(3, N_CLASSES, device=compute.device)
    state.counts = state.counts.to(compute.device)  # from a state
    steps_per_epoch = _steps_per_epoch(recipe, len(setup.data.rows))
    done = len(_steps_of(state, epoch))
    images_done, started = 0, time.monotonic()
    last_log = started
    setup.network.train()
    batches = iter(())
    if done < steps_per_epoch:
        batches = setup.data.training_batches(recipe, epoch, done, setup.ranks)
    for batch in _waited_for(on_device(batches, compute)):
        step = state.step + 1
        phase = schedule.phase_of(recipe["loss"], epoch, step)
        rate = learning_rate(recipe, step, steps_per_epoch, state.plateau)
        is_full = len(batch.targets) == recipe["batch_size"]
        part_size = state.part_size or recipe["batch_size"]
        if not is_full:
            part_size = min(part_size, state.last_part_size or part_size)
        scores, step_counts, fitting = train_step(setup, batch, step, phase, rate, part_size)
        if fitting < part_size:
            _note_split(state, fitting, len(batch.targets), step, is_full)
            if is_full:  # the other size occurs once in an epoch: compiling takes longer
                compile_forward(setup, fitting)
        state.counts += step_counts
        numbers = {
            "step": step, "epoch": epoch, "learning_rate": rate, "phase": PHASES.index(phase)
        }  # fmt: skip
        setup.records.add(numbers, scores)
        state.step, done = step, done + 1
        images_done += len(batch.targets)
        is_look = step % schedule.LOOK_EVERY == 0
        if is_look:
            _keep(state, setup.records.received())  # sent LOOK_EVERY steps ago
            setup.records.send()
        if recipe["schedule"]["name"] == "plateau":
            for row in state.steps[schedule.looked_at(step)]:
                state.plateau = schedule.plateau_step(
                    state.plateau, row[_SOFT_F1], recipe["schedule"]
                )
        if time.monotonic() - last_log >= _LOG_EVERY_S:
            _complete(setup, state)
            last_log = time.monotonic()
            row = dict(zip(STEP_NUMBERS, state.steps[-1], strict=True))
            _log_step(row, done, steps_per_epoch, images_done / (last_log - started), recipe)
        pause(is_look)
    _complete(setup, state)


def _complete(setup: Setup, state: Checkpoint) -> None:
    """Waits for the rows of all steps that were made."""
    _keep(state, setup.records.all())


def _keep(state: Checkpoint, rows: list[list[float]]) -> None:
    for row in rows:
        _check_finite(dict(zip(STEP_NUMBERS, row, strict=True)))
    state.steps.extend(rows)


def train_step(
    setup: Setup, batch: Batch, step: int, phase: str, rate: float, part_size: int
) -> tuple[dict[str, torch.Tensor], torch.Tensor, int]:
    """One step on a batch on the device: STEP_SCORES, the counts of hits, calls and positives of
    the 28 classes (3 × 28), and how many images at a time the GPU's memory held."""
    targets, optimizer = batch.targets, setup.optimizer
    for group in optimizer.param_groups:
        group["lr"] = rate
    logits, scores, fitting = backward_that_fits(
        setup.network,
        setup.forward,
        batch.images,
        partial(
            step_losses,
            targets=targets,
            class_weights=setup.class_weights,
            loss=setup.recipe["loss"],
            phase=phase,
        ),
        # Dropout, the one draw made by torch, begins anew in every step: so a resumed run
        # draws what an uninterrupted one draws.
        partial(_seed, setup.recipe, setup.fold, step),
        setup.scaler,
        setup.compute,
        part_size,
        setup.ranks,
        len(targets),
    )
    with part(OPTIMIZER):
        setup.scaler.unscale_(optimizer)
        # The optimizer's list: a walk through a thousand modules takes milliseconds in every step.
        (group,) = optimizer.param_groups
        gradients = [p.grad for p in group["params"] if p.grad is not None]
        scores["gradient_norm"] = torch.nn.utils.get_total_norm(gradients)
        setup.scaler.step(optimizer)
        setup.scaler.update()
    with part(SCORES):
        called = (logits >= 0).float()
        counts = torch.stack([(called * targets).sum(0), called.sum(0), targets.sum(0)])
        names = ("macro_f1", "micro_precision", "micro_recall", "iou")
        scores |= dict(zip(names, losses.batch_scores(called, targets), strict=True))
    return scores, counts, fitting


def step_losses(
    logits: torch.Tensor,
    targets: torch.Tensor,
    class_weights: torch.Tensor,
    loss: dict[str, Any],
    phase: str,
) -> dict[str, torch.Tensor]:
    """All losses of a batch (float32 N × 28), and as ``loss_total`` the one that is trained.

    First BCE, then soft-F1 loss + factor × weighted BCE (see schedule.weighted_bce_factor). A
    recipe that stays with BCE records the soft-F1 loss over samples.
    """
    bce = losses.bce(logits, targets)
    weighted = losses.weighted_bce(logits, targets, class_weights)
    soft_f1 = losses.soft_f1_loss(logits.sigmoid(), targets, loss["soft_f1"] or "samples")
    focal = losses.focal_loss(logits, targets, loss["focal_alpha"], loss["focal_gamma"])
    total = bce
    if phase != schedule.BCE:
        total = soft_f1 + schedule.weighted_bce_factor(loss, phase) * weighted
    return {
        "loss_total": total,
        "bce": bce,
        "weighted_bce": weighted,
        "soft_f1_loss": soft_f1,
        "focal_loss": focal,
    }


def _validated(setup: Setup, epoch: int, pause: Callable[[bool], None]) -> np.ndarray:
    """Validation probabilities, float32 n × 28, of the images of all processes."""
    ranks, recipe, rows = setup.ranks, setup.recipe, setup.data.validation_rows
    setup.network.eval()
    share = ranks.share(len(rows))
    # Of several processes none may stop alone, and these have different numbers of batches.
    alone = ranks.count == 1
    forward = setup.forward if alone else setup.network
    size = recipe["batch_size"]
    (mine,) = mean_probabilities(
        [
            in_batches_that_fit(
                lambda count: forward if count == size else setup.network,
                size,
                setup.compute,
                partial(log.info, "validating %d images at a time"),
            )
        ],
        setup.data.validation_batches(recipe, epoch, ranks),
        share.stop - share.start,
        recipe["tta"]["validation"],
        setup.compute,
        lambda _: pause(alone),
    )
    return ranks.together(torch.from_numpy(mine), len(rows)).numpy()


def _waited_for(batches: Iterator[Batch]) -> Iterator[Batch]:
    """``batches``, with the wait for each of them marked."""
    while True:
        with part(WAIT):
            batch = next(batches, None)
        if batch is None:
            return
        yield batch


def _steps_of(state: Checkpoint, epoch: int) -> list[list[float]]:
    return [row for row in state.steps if row[STEP_NUMBERS.index("epoch")] == epoch]


def _macro_f1(counts: torch.Tensor) -> float:
    hits, calls, positives = counts.double().cpu().numpy()
    return float((2 * hits / np.maximum(calls + positives, 1)).mean())


def _is_last(state: Checkpoint, recipe: dict[str, Any]) -> bool:
    phases = [row["phase"] for row in state.epochs]
    scores = [row["validation_macro_f1"] for row in state.epochs]
    return state.epoch >= recipe["epochs"] or schedule.should_stop(
        phases, scores, recipe["loss"], recipe["stop_after"]
    )


def _steps_per_epoch(recipe: dict[str, Any], images: int) -> int:
    return -(-images // recipe["batch_size"])


def _warn_of_unreached_switch(recipe: dict[str, Any], images: int) -> None:
    steps = recipe["epochs"] * _steps_per_epoch(recipe, images)
    last = schedule.last_phase(recipe["loss"])
    if schedule.phase_of(recipe["loss"], recipe["epochs"], steps) != last:
        log.warning(
            "%d epochs are %d steps and do not reach the last loss (%s): the weighted BCE is not"
            " scaled up or the soft-F1 not begun, and stop_after has no effect; see loss.bce_epochs"
            " and loss.scale_up_at",
            recipe["epochs"], steps, last,
        )  # fmt: skip


def _seed(recipe: dict[str, Any], fold: int, step: int, part: int = 0) -> int:
    """A seed for torch of its own for every recipe's seed, fold, step (0: the weights) and part
    of a batch."""
    sequence = np.random.SeedSequence([recipe["seed"], fold, step, part])
    return int(sequence.generate_state(1, np.uint64)[0] >> 1)


def _note_split(
    state: Checkpoint, part_size: int, batch_size: int, step: int, is_full: bool
) -> None:
    """Says once, here and with the results, that batches are split from now on."""
    if is_full:
        state.part_size = part_size
        which = "batches"
    else:
        state.last_part_size = part_size
        which = "an epoch's last batches, which are smaller and not compiled,"
    words = (
        f"{which} are trained in micro-batches of at most {part_size}. The gradient is that of the whole"
        " batch, but batch norm takes its statistics from those, so that results differ from"
        " those of a larger GPU."
    )
    if any(words in warning for warning in state.warnings):  # an earlier attempt said so
        return
    state.warnings.append(
        f"the GPU's memory did not hold the {batch_size} images of step {step} at a time: from"
        f" there on {words}"
    )
    log.warning("%s", state.warnings[-1])


def _check_finite(row: dict[str, float]) -> None:
    if math.isfinite(row["loss_total"]):
        return
    raise InputError(
        f"training stopped at step {row['step']:.0f} (epoch {row['epoch']:.0f}): the loss is"
        f" {row['loss_total']} (BCE {row['bce']:.4g}, weighted BCE {row['weighted_bce']:.4g},"
        f" soft-F1 loss {row['soft_f1_loss']:.4g}; gradient norm {row['gradient_norm']:.4g};"
        f" learning rate {row['learning_rate']:.3g}). {ADVICE}"
    )


def _log_step(
    row: dict[str, float], done: int, steps: int, rate: float, recipe: dict[str, Any]
) -> None:
    left = (steps - done) * recipe["batch_size"] / rate
    at_most = (recipe["epochs"] - row["epoch"]) * steps * recipe["batch_size"] / rate + left
    log.info(
        "epoch %d of %d, step %d of %d: %.1f images/s, loss %.4f (BCE %.4f, weighted BCE %.5f,"
        " soft-F1 %.4f, focal %.5f), %s left of the epoch, at most %s in all",
        row["epoch"], recipe["epochs"], done, steps, rate,
        row["loss_total"], row["bce"], row["weighted_bce"], row["soft_f1_loss"],
        row["focal_loss"], duration(left), duration(at_most),
    )  # fmt: skip


def _log_epoch(
    row: dict[str, Any], state: Checkpoint, recipe: dict[str, Any], seconds: float
) -> None:
    left = "finished"
    if not state.finished:
        left = f"at most {duration((recipe['epochs'] - state.epoch) * seconds)} left"
    log.info(
        "epoch %d of %d (%s) in %s: train F1 %.4f, soft-F1 loss %.4f; validation macro F1 %.4f at"
        " %.3f (best %.4f in epoch %d), BCE %.4f; learning rate %.3g; %s",
        row["epoch"], recipe["epochs"], row["phase"], duration(seconds), row["train_macro_f1"],
        row["train_soft_f1_loss"], row["validation_macro_f1"], row["best_threshold"],
        state.best_score, state.best_epoch, row["validation_bce"], row["learning_rate"], left,
    )  # fmt: skip
