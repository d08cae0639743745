"""Optimizers, and the learning rate of a step."""

from collections.abc import Iterable
from typing import Any

import torch

from hpaloc import schedule
from hpaloc.log import InputError


def build_optimizer(network: torch.nn.Module, settings: dict[str, Any]) -> torch.optim.Optimizer:
    """Adadelta (rho 0.9), AdamW, or SGD with Nesterov momentum 0.9, over all parameters.

    On a GPU in one kernel for all parameters where PyTorch has one, for Adadelta in a few over one
    tensor of all of them (FlatAdadelta). None of these waits for the GPU in float16.
    """
    common = {"lr": settings["learning_rate"], "weight_decay": settings["weight_decay"]}
    parameters = list(network.parameters())
    fused = parameters[0].is_cuda or None
    match settings["name"]:
        case "adadelta":
            adadelta = FlatAdadelta if parameters[0].is_cuda else torch.optim.Adadelta
            return adadelta(parameters, rho=0.9, **common)
        case "adamw":
            return torch.optim.AdamW(parameters, fused=fused, **common)
        case "sgd":
            return torch.optim.SGD(parameters, momentum=0.9, nesterov=True, fused=fused, **common)
        case name:
            raise InputError(f"optimizer.name {name!r} is none of adadelta, adamw, sgd.")


class FlatAdadelta(torch.optim.Adadelta):
    """torch's Adadelta for a GPU: the same numbers, in a few kernels, and without a wait in float16.

    The averages of all parameters lie in one tensor each, and the state of a parameter holds its
    views of them, so that the host works for a few large tensors instead of lists of hundreds. All
    parameters are of one group, type and device, and all have a gradient when ``step`` is called.

    torch's own makes GradScaler ask the device whether it found infinities, in every step. This one
    is handed the answer on the device (``found_inf``), as torch's fused optimizers are, and leaves
    parameters, averages and the number of steps as they are where there were some.
    ``GradScaler.unscale_`` has to be called before.
    """

    _step_supports_amp_scaling = True  # what GradScaler looks for

    def __init__(self, parameters: Iterable[torch.nn.Parameter], **settings: Any):
        super().__init__(parameters, **settings)
        self._flatten()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._flatten()

    def state_dict(self) -> dict[str, Any]:
        """As torch's Adadelta has it, which counts the steps of every parameter for itself."""
        saved = super().state_dict()
        counts = self._made.repeat(len(saved["state"])).unbind()
        states = zip(saved["state"].items(), counts, strict=True)
        return saved | {"state": {key: state | {"step": n} for (key, state), n in states}}

    def _flatten(self) -> None:
        """Moves the state, which may come from torch's Adadelta, into the flat tensors."""
        (group,) = self.param_groups
        parameters = group["params"]
        former = [self.state[parameter] for parameter in parameters]
        size = sum(parameter.numel() for parameter in parameters)
        self._made = parameters[0].new_zeros(())
        if former[0]:
            self._made.copy_(former[0]["step"])
        averages = []
        for name in ("square_avg", "acc_delta"):
            flat = parameters[0].new_zeros(size)
            averages.append(flat)
            for state, view in zip(former, _views(flat, parameters), strict=True):
                if name in state:
                    view.copy_(state[name])
                state[name] = view
                state["step"] = self._made
        self._square_avg, self._acc_delta = averages

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        (group,) = self.param_groups
        parameters, rho, eps = group["params"], group["rho"], group["eps"]
        square_avg, acc_delta = self._square_avg, self._acc_delta
        # All memory before the first change: where it is short, nothing has been done.
        gradient, ratio, below = (torch.empty_like(square_avg) for _ in range(3))
        views = _views(gradient, parameters)
        torch._foreach_copy_(views, [parameter.grad for parameter in parameters])
        if group["weight_decay"]:
            torch._foreach_add_(views, parameters, alpha=group["weight_decay"])
        keep: float | torch.Tensor = rho
        found_inf = getattr(self, "found_inf", None)
        if found_inf is None:
            self._made += 1
        else:
            # Averages times 1, plus 0, and parameters plus 0: exactly what they were.
            skips = found_inf > 0
            gradient.masked_fill_(skips, 0)
            keep = torch.where(skips, 1.0, rho).to(gradient.dtype)
            self._made += ~skips
        square_avg.mul_(keep).addcmul_(gradient, gradient, value=1 - rho)
        torch.add(square_avg, eps, out=below).sqrt_()
        torch.add(acc_delta, eps, out=ratio).sqrt_().div_(below)
        delta = gradient.mul_(ratio)  # `views` are of this
        acc_delta.mul_(keep).addcmul_(delta, delta, value=1 - rho)
        torch._foreach_add_(parameters, views, alpha=-group["lr"])


def _views(flat: torch.Tensor, like: list[torch.nn.Parameter]) -> list[torch.Tensor]:
    """``flat`` in parts that are laid out in memory as ``like``; channels last stays so."""
    parts = flat.split([tensor.numel() for tensor in like])
    return [
        part.as_strided(tensor.size(), tensor.stride())
        for part, tensor in zip(parts, like, strict=True)
    ]


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
