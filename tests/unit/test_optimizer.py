"""Adadelta for a GPU against torch's own, on the CPU."""

import copy
import io

import pytest
import torch
from training_case import recipe

from hpaloc.network import build_network
from hpaloc.optimizer import FlatAdadelta, build_optimizer

SETTINGS = {"lr": 0.5, "rho": 0.9, "weight_decay": 1e-2}
STEPS = 6


def networks(count: int) -> list[torch.nn.Module]:
    torch.manual_seed(0)
    network = build_network(recipe())  # channels last, as in training
    return [copy.deepcopy(network) for _ in range(count)]


def set_gradients(network: torch.nn.Module, step: int, planted: float | None = None) -> None:
    generator = torch.Generator().manual_seed(step)
    for parameter in network.parameters():
        gradient = torch.empty_like(parameter)
        parameter.grad = gradient.copy_(torch.randn(parameter.shape, generator=generator))
    if planted is not None:
        parameter.grad[0] = planted


def bits(network: torch.nn.Module, optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    states = [optimizer.state[parameter] for parameter in network.parameters()]
    of_states = [state[name] for state in states for name in ("square_avg", "acc_delta", "step")]
    return [tensor.clone() for tensor in (*network.parameters(), *of_states)]


def equal(some: list[torch.Tensor], others: list[torch.Tensor]) -> bool:
    # Whole numbers: -0.0 is another than 0.0, and a NaN is itself.
    return all(
        torch.equal(a.view(torch.int32), b.view(torch.int32))
        for a, b in zip(some, others, strict=True)
    )


def test_it_has_the_bits_of_torchs_adadelta() -> None:
    one, other = networks(2)
    torchs = torch.optim.Adadelta(one.parameters(), **SETTINGS)
    flat = FlatAdadelta(other.parameters(), **SETTINGS)
    for step in range(STEPS):
        for network, optimizer in ((one, torchs), (other, flat)):
            set_gradients(network, step)
            optimizer.step()
        assert equal(bits(one, torchs), bits(other, flat))


@pytest.mark.parametrize("planted", [float("inf"), float("-inf"), float("nan")])
def test_infinite_gradients_change_nothing_as_with_a_grad_scaler(planted, monkeypatch) -> None:
    one, other = networks(2)
    pairs = [
        (one, torch.optim.Adadelta(one.parameters(), **SETTINGS)),
        (other, FlatAdadelta(other.parameters(), **SETTINGS)),
    ]
    scalers = [torch.amp.GradScaler("cpu", init_scale=1024.0) for _ in pairs]
    for step in range(STEPS):
        for (network, optimizer), scaler in zip(pairs, scalers, strict=True):
            before = bits(network, optimizer) if step else []
            scaler.scale(torch.zeros(()))  # where the scale comes to be
            set_gradients(network, step, planted if step in (2, 4) else None)
            scaler.unscale_(optimizer)
            with monkeypatch.context() as patched:
                if optimizer is pairs[1][1]:  # nobody asks for what is found
                    patched.setattr(torch.Tensor, "item", None)
                scaler.step(optimizer)
            scaler.update()
            if step in (2, 4):
                assert equal(bits(network, optimizer), before)
        assert equal(bits(*pairs[0]), bits(*pairs[1]))
    assert scalers[0].get_scale() == scalers[1].get_scale() == 256.0


def test_a_state_goes_on_in_the_other_of_the_two() -> None:
    """As between a GPU and the CPU, through a file."""
    one, other = networks(2)
    kinds = [torch.optim.Adadelta, FlatAdadelta]
    optimizer = kinds[0](one.parameters(), **SETTINGS)
    for step in range(STEPS):
        set_gradients(one, step)
        optimizer.step()
    resumed = kinds[0](other.parameters(), **SETTINGS)
    for step in range(STEPS):
        file = io.BytesIO()
        torch.save(resumed.state_dict(), file)
        file.seek(0)
        resumed = kinds[step % 2](other.parameters(), **SETTINGS)
        if step:
            resumed.load_state_dict(torch.load(file, weights_only=True))
        set_gradients(other, step)
        resumed.step()
    assert equal(bits(one, optimizer), bits(other, resumed))


def test_on_the_cpu_it_is_torchs_own() -> None:
    (network,) = networks(1)
    optimizer = build_optimizer(network, recipe()["optimizer"])
    assert type(optimizer) is torch.optim.Adadelta
