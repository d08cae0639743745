"""The gradient of a batch, from its parts where the GPU's memory does not hold the whole."""

from collections.abc import Callable

import torch

from hpaloc.compute import Compute

# The losses of a batch by its logits (float32 N × 28); loss_total is minimised.
Losses = Callable[[torch.Tensor], dict[str, torch.Tensor]]


def backward(
    network: torch.nn.Module,
    images: torch.Tensor,
    losses: Losses,
    seed: Callable[[int], int],
    scaler: torch.amp.GradScaler,
    compute: Compute,
    part_size: int,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Adds the gradient of ``loss_total`` to the parameters; gives logits (float32) and losses.

    ``part_size`` images at most go through the network at a time. Losses are functions of all
    logits of a batch, and the soft-F1 over classes is no mean over its images. So the parts go
    through twice: without a graph, which gives all logits and the loss's gradient by them; then
    with one, which carries each part's share of that gradient back. What differs from the whole
    batch is what batch norm normalises by: the statistics of a part. They enter its running
    averages in the second pass only. ``seed(part)`` seeds torch before a part, the same in both
    passes, so that dropout draws the same.
    """
    parts = images.tensor_split(-(-len(images) // part_size))
    if len(parts) == 1:
        logits = _logits(network, images, seed(0), compute)
        scores = losses(logits)
        scaler.scale(scores["loss_total"]).backward()
        return logits.detach(), scores

    before = _copied_buffers(network)
    with torch.no_grad():
        logits = torch.cat(
            [_logits(network, part, seed(number), compute) for number, part in enumerate(parts)]
        )
    _restore_buffers(network, before)
    logits.requires_grad_()
    scores = losses(logits)
    scaler.scale(scores["loss_total"]).backward()
    gradients = logits.grad.tensor_split(len(parts))
    for number, (part, gradient) in enumerate(zip(parts, gradients, strict=True)):
        _logits(network, part, seed(number), compute).backward(gradient)
    return logits.detach(), scores


def backward_that_fits(
    network: torch.nn.Module,
    images: torch.Tensor,
    losses: Losses,
    seed: Callable[[int], int],
    scaler: torch.amp.GradScaler,
    compute: Compute,
    part_size: int,
) -> tuple[torch.Tensor, dict[str, torch.Tensor], int]:
    """As ``backward`` into no gradient, with half the ``part_size`` whenever memory is short.

    Gives the size that fitted too. Raises torch.OutOfMemoryError where one image does not fit.
    """
    before = _copied_buffers(network)
    while True:
        network.zero_grad(set_to_none=True)
        try:
            return *backward(network, images, losses, seed, scaler, compute, part_size), part_size
        except torch.OutOfMemoryError:
            if part_size == 1:
                raise
        # Not in the handler: the exception's frames hold what has to be freed.
        part_size = -(-min(part_size, len(images)) // 2)
        _restore_buffers(network, before)
        if compute.device.type == "cuda":
            torch.cuda.empty_cache()


def _copied_buffers(network: torch.nn.Module) -> list[torch.Tensor]:
    """What a forward pass changes: the running averages of batch norm."""
    return [buffer.clone() for buffer in network.buffers()]


def _restore_buffers(network: torch.nn.Module, copies: list[torch.Tensor]) -> None:
    for buffer, copy in zip(network.buffers(), copies, strict=True):
        buffer.copy_(copy)


def _logits(
    network: torch.nn.Module, images: torch.Tensor, seed: int, compute: Compute
) -> torch.Tensor:
    torch.manual_seed(seed)
    with compute.autocast():
        return network(images).float()
