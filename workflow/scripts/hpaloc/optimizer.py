"""Optimizers, and the learning rate of a step."""

from typing import Any

import torch

from hpaloc import schedule
from hpaloc.log import InputError


def build_optimizer(network: torch.nn.Module, settings: dict[str, Any]) -> torch.optim.Optimizer:
    """Adadelta (rho 0.9), AdamW, or SGD with Nesterov momentum 0.9, over all parameters.

    On a GPU in one kernel for all parameters where PyTorch has one (not for Adadelta).
    """
    common = {"lr": settings["learning_rate"], "weight_decay": settings["weight_decay"]}
    parameters = list(network.parameters())
    fused = parameters[0].is_cuda or None
    match settings["name"]:
        case "adadelta":
            return torch.optim.Adadelta(parameters, rho=0.9, **common)
        case "adamw":
            return torch.optim.AdamW(parameters, fused=fused, **common)
        case "sgd":
            return torch.optim.SGD(parameters, momentum=0.9, nesterov=True, fused=fused, **common)
        case name:
            raise InputError(f"optimizer.name {name!r} is none of adadelta, adamw, sgd.")


def learning_rate(
    recipe: dict[str, Any], step: int, steps_per_epoch: int, plateau: dict[str, float]
) -> float:
    """The learning rate of a step by the recipe's schedule."""
    settings, base = recipe["schedule"], recipe["optimizer"]["learning_rate"]
    match settings["name"]:
        case "plateau":
            return plateau["learning_rate"]
        case "cosine":
            return schedule.cosine_rate(
                base, step, steps_per_epoch, recipe["epochs"], settings["warmup_epochs"]
            )
        case "constant":
            return base
        case name:
            raise InputError(f"schedule.name {name!r} is none of plateau, cosine, constant.")
