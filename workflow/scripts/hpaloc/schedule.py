"""When the loss changes, what the learning rate is, and when training stops.

Plain numbers in and out: epochs and steps are counted from 1 over the whole run.
"""

import math
from typing import Any

# The losses of training, in their order.
BCE, SOFT_F1, SOFT_F1_SCALED = "bce", "soft_f1", "soft_f1_scaled"

# Every so many steps what was recorded of them is read from the device.
LOOK_EVERY = 16

# An improvement of the smoothed loss by less than this share counts as none (PyTorch's default).
_LEAST_IMPROVEMENT = 1e-4


def phase_of(loss: dict[str, Any], epoch: int, step: int) -> str:
    """Which loss is trained at a step: BCE through epoch ``bce_epochs``, then soft-F1 +
    weighted BCE, with the weighted BCE scaled up from the configured epoch or step on."""
    if loss["soft_f1"] is None or epoch <= loss["bce_epochs"]:
        return BCE
    scale_up_at = loss["scale_up_at"] or {}
    if epoch >= scale_up_at.get("epoch", math.inf) or step >= scale_up_at.get("step", math.inf):
        return SOFT_F1_SCALED
    return SOFT_F1


def last_phase(loss: dict[str, Any]) -> str:
    """The phase after the last switch that the recipe knows."""
    if loss["soft_f1"] is None:
        return BCE
    return SOFT_F1_SCALED if loss["scale_up_at"] else SOFT_F1


def weighted_bce_factor(loss: dict[str, Any], phase: str) -> float:
    """What the weighted BCE is multiplied by in the total loss."""
    return loss["weighted_bce"] * (loss["scale_up"] if phase == SOFT_F1_SCALED else 1.0)


def should_stop(
    phases: list[str], scores: list[float], loss: dict[str, Any], stop_after: int
) -> bool:
    """Whether validation has not moved for ``stop_after`` epochs after the last switch.

    ``phases`` and ``scores`` (validation macro F1) of all epochs so far, the phase being that of
    an epoch's last step. Epochs are counted from the first of the last phase on; a score moves
    when it exceeds all earlier ones of that phase. Before the last switch nothing stops.
    """
    last = last_phase(loss)
    after = [score for phase, score in zip(phases, scores, strict=True) if phase == last]
    if not after:
        return False
    return len(after) - 1 - after.index(max(after)) >= stop_after


def new_plateau(learning_rate: float) -> dict[str, float]:
    """The state of a plateau schedule before the first step."""
    return {
        "learning_rate": learning_rate,
        "average": 0.0,
        "weight": 0.0,
        "best": math.inf,
        "bad_steps": 0,
    }


def plateau_step(
    state: dict[str, float], training_loss: float, schedule: dict[str, Any]
) -> dict[str, float]:
    """The state after one more step: the rate falls by ``factor`` on a plateau of the loss.

    The loss of single batches is smoothed by an exponential average whose weight is 4 /
    patience_steps, so that it looks back a quarter of the patience; else one lucky batch would
    stand as the best for ever. Divided by the sum of its weights, the average is unbiased from
    the first step. It is a plateau when the average has not fallen below its least value for
    ``patience_steps`` steps; the rate does not go below ``min_learning_rate``.
    """
    gain = min(1.0, 4 / schedule["patience_steps"])
    average = (1 - gain) * state["average"] + gain * training_loss
    weight = (1 - gain) * state["weight"] + gain
    learning_rate, best, bad_steps = state["learning_rate"], state["best"], state["bad_steps"] + 1
    if average / weight < best * (1 - _LEAST_IMPROVEMENT):
        best, bad_steps = average / weight, 0
    if bad_steps >= schedule["patience_steps"]:
        least = min(schedule["min_learning_rate"], learning_rate)
        learning_rate, bad_steps = max(learning_rate * schedule["factor"], least), 0
    return {
        "learning_rate": learning_rate,
        "average": average,
        "weight": weight,
        "best": best,
        "bad_steps": bad_steps,
    }


def looked_at(step: int) -> slice:
    """The steps, as places in the list of all, whose losses the plateau looks at after ``step``.

    It looks every LOOK_EVERY steps, at losses that are as many steps old: those have come from the
    GPU by then, and nothing waits for newer ones. So the rate is a function of the losses alone,
    and not of when they came.
    """
    if step % LOOK_EVERY:
        return slice(0, 0)
    return slice(max(0, step - 2 * LOOK_EVERY), max(0, step - LOOK_EVERY))


def cosine_rate(base: float, step: int, steps_per_epoch: int, epochs: int, warmup: float) -> float:
    """Learning rate of a step: linear over ``warmup`` epochs, then half a cosine down to 0 at
    the last step of the last epoch (Loshchilov and Hutter 2017, without restarts)."""
    warmup_steps = warmup * steps_per_epoch
    if step <= warmup_steps:
        return base * step / warmup_steps
    progress = (step - warmup_steps) / max(epochs * steps_per_epoch - warmup_steps, 1)
    return base * (1 + math.cos(math.pi * min(progress, 1.0))) / 2
