"""Training of one fold, from the first step to the last, resumable after every step."""

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hpaloc import losses, schedule
from hpaloc.checkpoint import (
    Checkpoint,
    forget_old,
    load_checkpoint,
    save_validation,
    weights_file,
)
from hpaloc.classes import N_CLASSES
from hpaloc.compute import Compute
from hpaloc.feed import Batch, n_views
from hpaloc.fold_data import FoldData
from hpaloc.gradient import backward_that_fits
from hpaloc.history import PHASES, STEP_NUMBERS
from hpaloc.keeper import Keeper
from hpaloc.log import InputError, duration
from hpaloc.network import build_network, count_parameters, load_pretrained, save_weights
from hpaloc.optimizer import build_optimizer, learning_rate
from hpaloc.predict import mean_probabilities, to_device
from hpaloc.validation import epoch_row

log = logging.getLogger("hpaloc")

_LOG_EVERY_S = 10.0

ADVICE = (
    "The epochs before it are kept in the state folder. Try a smaller optimizer.learning_rate, a"
    " smaller loss.scale_up, or precision: float32."
)


def train(
    recipe: dict[str, Any],
    fold: int,
    data: FoldData,
    keeper: Keeper,
    compute: Compute,
    pretrained: Path | None = None,
) -> Checkpoint:
    """Trains until the recipe's end or until validation stops moving; returns the last checkpoint.

    Goes on from the checkpoint in the keeper's folder if there is one. The exported epoch is the
    one with the best validation macro F1 at its own best global threshold; of equal ones the
    earliest. Raises InputError when the loss is no finite number, and Preempted when the keeper
    is asked to stop.
    """
    folder = keeper.folder
    torch.manual_seed(_seed(recipe, fold, 0))
    network = build_network(recipe)
    if pretrained is not None:
        load_pretrained(network, pretrained)
    network.to(compute.device)
    optimizer = build_optimizer(network, recipe["optimizer"])
    scaler = torch.amp.GradScaler(compute.device.type, enabled=compute.dtype is torch.float16)

    state = load_checkpoint(folder)
    if state.network:
        network.load_state_dict(state.network)
        optimizer.load_state_dict(state.optimizer)
        if state.scaler:  # none from a device that needs no scaling
            scaler.load_state_dict(state.scaler)
        state.network, state.optimizer, state.scaler = {}, {}, {}
        log.info("going on after epoch %d (step %d), from %s", state.epoch, state.step, folder)
        for words in state.warnings:
            log.warning("%s", words)
    else:
        state.plateau = schedule.new_plateau(recipe["optimizer"]["learning_rate"])
        log.info(
            "training %s (%d parameters) on %d images, validating on %d",
            recipe["network"], count_parameters(network),
            len(data.rows), len(data.validation_rows),
        )  # fmt: skip

    def with_tensors() -> Checkpoint:
        return replace(
            state,
            network=network.state_dict(),
            optimizer=optimizer.state_dict(),
            scaler=scaler.state_dict(),
        )

    def pause() -> None:
        keeper.pause(with_tensors)

    _warn_of_unreached_switch(recipe, len(data.rows))
    while not state.finished:
        epoch, started = state.epoch + 1, time.monotonic()
        train_epoch(network, optimizer, scaler, recipe, fold, data, state, compute, pause)
        network.eval()
        (validation,) = mean_probabilities(
            [network],
            lambda view, epoch=epoch: _with_pauses(
                data.validation_batches(recipe, epoch, view), pause
            ),
            len(data.validation_rows),
            n_views(recipe["tta"]["validation"]),
            compute,
        )
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
        with keeper.writing():
            if best:
                save_weights(network, weights_file(folder, epoch))
            save_validation(folder, epoch, validation)
        # A finished fold needs no more than its history, its weights and its probabilities.
        keeper.save(state if state.finished else with_tensors())
        forget_old(folder, (best_before, state.best_epoch), recipe["save_epochs"])
        _log_epoch(row, state, recipe, time.monotonic() - started)
    return state


def train_epoch(
    network: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    recipe: dict[str, Any],
    fold: int,
    data: FoldData,
    state: Checkpoint,
    compute: Compute,
    pause: Callable[[], None],
) -> None:
    """What is left of a pass over the training batches, with ``pause`` after every step.

    ``state`` follows every step: its rows of STEP_NUMBERS, the plateau, and the counts of all 28
    classes over the epoch's draws, called from 0.5 on.
    """
    epoch = state.epoch + 1
    weights = losses.class_weights(data.labels, recipe["loss"]["class_weight"])
    weights = torch.from_numpy(weights).to(compute.device)
    counts = torch.zeros(3, N_CLASSES) if state.counts is None else state.counts
    state.counts = counts.to(compute.device)
    steps_per_epoch = _steps_per_epoch(recipe, len(data.rows))
    done = len(_steps_of(state, epoch))
    if done == steps_per_epoch:
        return
    images_done, started = 0, time.monotonic()
    last_log = started
    network.train()
    for batch in data.training_batches(recipe, epoch, first_step=done):
        step = state.step + 1
        images = to_device(batch.images, compute)
        targets = to_device(batch.targets, compute)
        phase = schedule.phase_of(recipe["loss"], epoch, step)
        rate = learning_rate(recipe, step, steps_per_epoch, state.plateau)
        for group in optimizer.param_groups:
            group["lr"] = rate

        part_size = state.part_size or recipe["batch_size"]
        logits, scores, fitting = backward_that_fits(
            network,
            images,
            partial(
                step_losses,
                targets=targets,
                class_weights=weights,
                loss=recipe["loss"],
                phase=phase,
            ),
            # Dropout, the one draw made by torch, begins anew in every step: so a resumed run
            # draws what an uninterrupted one draws.
            partial(_seed, recipe, fold, step),
            scaler,
            compute,
            part_size,
        )
        if fitting < part_size:
            _note_split(state, fitting, len(images), step)
        scaler.unscale_(optimizer)
        gradients = [p.grad for p in network.parameters() if p.grad is not None]
        scores["gradient_norm"] = torch.nn.utils.get_total_norm(gradients)
        called = (logits >= 0).float()
        state.counts += torch.stack([(called * targets).sum(0), called.sum(0), targets.sum(0)])
        scores |= dict(
            zip(
                ("macro_f1", "micro_precision", "micro_recall", "iou"),
                losses.batch_scores(called, targets),
                strict=True,
            )
        )
        # The only wait for the device in a step.
        values = torch.stack([score.detach() for score in scores.values()]).tolist()
        row = dict(zip(scores, values, strict=True))
        _check_finite(row, step, epoch, rate)
        scaler.step(optimizer)
        scaler.update()

        if recipe["schedule"]["name"] == "plateau":
            state.plateau = schedule.plateau_step(
                state.plateau, row["soft_f1_loss"], recipe["schedule"]
            )
        row |= {"step": step, "epoch": epoch, "learning_rate": rate, "phase": PHASES.index(phase)}
        state.steps.append([row[name] for name in STEP_NUMBERS])
        state.step, done = step, done + 1
        images_done += len(images)
        if time.monotonic() - last_log >= _LOG_EVERY_S:
            last_log = time.monotonic()
            _log_step(row, done, steps_per_epoch, images_done / (last_log - started), recipe)
        pause()


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


def _with_pauses(batches: Iterable[Batch], pause: Callable[[], None]) -> Iterator[Batch]:
    for batch in batches:
        pause()
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


def _note_split(state: Checkpoint, part_size: int, batch_size: int, step: int) -> None:
    """Says once, here and with the results, that batches are split from now on."""
    state.part_size = part_size
    state.warnings.append(
        f"the GPU's memory did not hold the {batch_size} images of step {step} at a time: from"
        f" there on batches are trained in parts of at most {part_size}. The gradient is that of the"
        " whole batch, but batch norm takes its statistics from the parts, so that results differ"
        " from those of a larger GPU."
    )
    log.warning("%s", state.warnings[-1])


def _check_finite(row: dict[str, float], step: int, epoch: int, rate: float) -> None:
    if math.isfinite(row["loss_total"]):
        return
    raise InputError(
        f"training stopped at step {step} (epoch {epoch}): the loss is {row['loss_total']}"
        f" (BCE {row['bce']:.4g}, weighted BCE {row['weighted_bce']:.4g}, soft-F1 loss"
        f" {row['soft_f1_loss']:.4g}; gradient norm {row['gradient_norm']:.4g}; learning rate"
        f" {rate:.3g}). {ADVICE}"
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
