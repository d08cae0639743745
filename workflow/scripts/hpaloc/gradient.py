"""The gradient of a batch: whole, in parts where the GPU's memory does not hold it, or shared
out among several processes."""

from collections.abc import Callable
from contextlib import nullcontext
from weakref import WeakKeyDictionary

import torch

from hpaloc.compute import Compute
from hpaloc.gpu_memory import is_shortage, make_room
from hpaloc.ranks import ALONE, Ranks
from hpaloc.step_clock import BACKWARD, FORWARD, LOSSES, part

# From images to logits: a network, compiled or not, or one that adds up gradients of processes.
Forward = Callable[[torch.Tensor], torch.Tensor]
# The losses of a batch by its logits (float32 N × 28); loss_total is minimised.
Losses = Callable[[torch.Tensor], dict[str, torch.Tensor]]


def backward(
    network: torch.nn.Module,
    forward: Forward,
    images: torch.Tensor,
    losses: Losses,
    seed: Callable[[int], int],
    scaler: torch.amp.GradScaler,
    compute: Compute,
    part_size: int,
    ranks: Ranks = ALONE,
    total: int | None = None,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Adds the gradient of ``loss_total`` to the parameters; gives logits (float32) and losses.

    ``images`` are this process's share of the batch's ``total``, logits and losses those of the
    whole. ``forward`` is how images go through ``network``; of several processes, it adds up their
    gradients and divides by their number (DistributedDataParallel).

    ``part_size`` images at most go through the network at a time. Losses are functions of all
    logits of a batch, and the soft-F1 over classes is no mean over its images. So the parts go
    through twice: without a graph, which gives all logits and the loss's gradient by them; then
    with one, which carries each part's share of that gradient back. What differs from the whole
    batch is what batch norm normalises by: the statistics of a part. They enter its running
    averages in the second pass only. ``seed(part)`` seeds torch before a part, the same in both
    passes, so that dropout draws the same. How images become parts: see ``micro_batches``.
    """
    total = len(images) if total is None else total
    if ranks.count > 1:  # the same number of parts for all of them, none empty
        parts = images.tensor_split(max(1, -(-ranks.most(total) // max(2, part_size))))
    else:
        parts = micro_batches(images, part_size)
    seeds = [seed(number * ranks.count + ranks.number) for number in range(len(parts))]

    def logits_of(number: int) -> torch.Tensor:
        with part(FORWARD):
            return _logits(forward, parts[number], seeds[number], compute)

    if len(parts) == 1:
        graphs = [logits_of(0)]
        found = graphs[0].detach()
    else:
        graphs = []
        before = _copied_buffers(network)
        with torch.no_grad():
            found = torch.cat([logits_of(number) for number in range(len(parts))])
        _restore_buffers(network, before)

    with part(LOSSES):
        logits = ranks.together(found, total).requires_grad_()
        scores = losses(logits)
        scaler.scale(scores["loss_total"]).backward()
        mine = logits.grad[ranks.share(total)]
        if ranks.splits(total):
            mine = mine * ranks.count  # the mean over the processes becomes the sum
    for number, gradient in enumerate(mine.split([len(images) for images in parts])):
        is_last = number == len(parts) - 1
        with nullcontext() if is_last or ranks.count == 1 else forward.no_sync():
            graph = graphs[number] if graphs else logits_of(number)
            with part(BACKWARD):
                graph.backward(gradient)
    return logits.detach(), {name: score.detach() for name, score in scores.items()}


def backward_that_fits(
    network: torch.nn.Module,
    forward: Forward,
    images: torch.Tensor,
    losses: Losses,
    seed: Callable[[int], int],
    scaler: torch.amp.GradScaler,
    compute: Compute,
    part_size: int,
    ranks: Ranks = ALONE,
    total: int | None = None,
) -> tuple[torch.Tensor, dict[str, torch.Tensor], int]:
    """As ``backward`` into no gradient, with half the ``part_size`` whenever memory is short.

    Gives the size that fitted too: ``part_size``, its half, the half of that (see ``halved``), which
    are the same sizes whatever number of images there is. Nothing remains of an attempt that
    failed. Raises the error (see hpaloc.gpu_memory.is_shortage) where one image does not fit, and
    where several processes train: one alone must not begin anew.
    """
    before = _copied_buffers(network)
    while True:
        for parameter in _tensors(network)[0]:
            parameter.grad = None
        try:
            logits, scores = backward(
                network, forward, images, losses, seed, scaler, compute, part_size, ranks, total
            )
            return logits, scores, part_size
        except RuntimeError as error:
            if part_size == 1 or ranks.count > 1 or not is_shortage(error):
                raise
        # Not in the handler: the exception's frames hold what has to be freed.
        network.zero_grad(set_to_none=True)
        make_room(compute.device)
        _restore_buffers(network, before)
        part_size = halved(part_size)
        while part_size > 1 and part_size >= len(images):  # would be the same attempt again
            part_size = halved(part_size)


def halved(size: int) -> int:
    """The next smaller number of images at a time: 64, 32, 16 …; 21, 11, 6, 3, 2, 1."""
    return -(-size // 2)


def micro_batches(images: torch.Tensor, size: int) -> tuple[torch.Tensor, ...]:
    """``images`` in parts of ``size``, for which a network is compiled, and what is left over.

    If that is less than half a part, it and the part before it share their images evenly: batch
    norm takes its statistics from a part, and those of a few images are noise that would enter the
    running averages with the weight of any other part.
    """
    sizes = [len(part) for part in images.split(size)]
    if len(sizes) > 1 and 2 * sizes[-1] < size:
        both = size + sizes.pop()
        sizes[-1:] = [halved(both), both // 2]
    return images.split(sizes)


def _copied_buffers(network: torch.nn.Module) -> list[list[torch.Tensor]]:
    """What a forward pass changes: the running averages of batch norm."""
    # Copies, all of a type at once: one by one, 300 small ones in a step keep a GPU waiting.
    return [torch._foreach_add(buffers, 0) for buffers in _tensors(network)[1]]


def _restore_buffers(network: torch.nn.Module, copies: list[list[torch.Tensor]]) -> None:
    for buffers, former in zip(_tensors(network)[1], copies, strict=True):
        torch._foreach_copy_(buffers, former)


def _tensors(network: torch.nn.Module) -> tuple[list[torch.Tensor], list[list[torch.Tensor]]]:
    """The parameters of a network that stays on its device, and its buffers, those of a type in one
    list. A walk through a thousand modules takes milliseconds: it is made once."""
    if network not in _found:
        types: dict[torch.dtype, list[torch.Tensor]] = {}
        for buffer in network.buffers():
            types.setdefault(buffer.dtype, []).append(buffer)
        _found[network] = list(network.parameters()), list(types.values())
    return _found[network]


_found: WeakKeyDictionary[torch.nn.Module, tuple] = WeakKeyDictionary()


def _logits(forward: Forward, images: torch.Tensor, seed: int, compute: Compute) -> torch.Tensor:
    torch.manual_seed(seed)
    with compute.autocast():
        return forward(images).float()
