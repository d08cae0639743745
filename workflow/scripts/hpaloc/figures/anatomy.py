"""What the parts of an SE-ResNeXt are, found by looking into the network itself."""

from typing import Any

import pandas as pd
import torch
from torch import nn

from hpaloc.classes import CHANNELS
from hpaloc.log import InputError
from hpaloc.network import AveragePool, Network, Normalise, count_parameters


def inspect(network: Network, image_size: int) -> pd.DataFrame:
    """The parts of ``network`` in the order of a forward pass over uint8 S × S × 4, a row each.

    Columns: ``part`` (Input, Stem, Stage 1 …, Pool, Dropout, Linear), ``detail``, ``blocks``,
    the output's ``channels``, ``height`` and ``width``, and ``parameters``. Of a stage also its
    ``stride`` and, of its last block, the channels in ``block_in``, in the grouped convolution
    ``block_width`` and out ``block_out``, ``groups``, ``group_width`` (channels of a group),
    ``kernel``, ``block_stride`` and ``se_width`` (the narrow layer of squeeze and excitation).
    Raises InputError for a network without SE-ResNeXt blocks, and where the parts do not account
    for every parameter.
    """
    blocks = residual_blocks(network)
    if not blocks:
        raise InputError("the network has no SE-ResNeXt blocks, so its architecture is not drawn.")
    modules = dict(network.named_modules())
    stages = list(dict.fromkeys(name.rpartition(".")[0] for name in blocks))
    shapes = _output_shapes(network, image_size, stages)
    order = list(shapes)
    before = [modules[name] for name in order[: order.index(stages[0])]]
    stem = [module for module in before if not isinstance(module, Normalise)]
    normalise = next(module for module in before if isinstance(module, Normalise))

    rows = [
        _row("Input", _scaling(normalise), (len(CHANNELS), image_size, image_size), []),
        _row("Stem", _stem_detail(stem), shapes[order[order.index(stages[0]) - 1]], stem),
    ]
    for number, name in enumerate(stages, 1):
        members = [block for key, block in blocks.items() if key.rpartition(".")[0] == name]
        row = _row(f"Stage {number}", "", shapes[name], [modules[name]])
        rows.append({**row, **_block_measures(members)})
    for name in order[order.index(stages[-1]) + 1 :]:
        part = _head_part(modules[name], shapes[name])
        if part is not None:
            rows.append(_row(*part, [modules[name]]))
    table = pd.DataFrame(rows)
    accounted, total = int(table["parameters"].sum()), count_parameters(network)
    if accounted != total:
        raise InputError(
            f"the parts have {accounted} parameters, the network {total}: its layers are not the"
            " stem, stages and head of an SE-ResNeXt."
        )
    return table


def residual_blocks(network: nn.Module) -> dict[str, nn.Module]:
    """The SE-ResNeXt blocks by name: two 1 × 1 convolutions, a grouped one, squeeze-excitation."""
    blocks = {}
    for name, module in network.named_modules():
        convolutions = [one for one in module.children() if isinstance(one, nn.Conv2d)]
        pointwise = [one for one in convolutions if one.kernel_size == (1, 1)]
        grouped = [one for one in convolutions if one.groups > 1]
        if len(pointwise) == 2 and len(grouped) == 1 and _squeeze_width(module) is not None:
            blocks[name] = module
    return blocks


def _squeeze_width(block: nn.Module) -> int | None:
    """Channels between the two convolutions of a block's squeeze-and-excitation; None without."""
    for child in block.children():
        pair = [one for one in child.children() if isinstance(one, nn.Conv2d)]
        if len(pair) == 2 and pair[0].out_channels < pair[0].in_channels == pair[1].out_channels:
            return pair[0].out_channels
    return None


def _output_shapes(
    network: nn.Module, image_size: int, stages: list[str]
) -> dict[str, tuple[int, ...]]:
    """Output shapes (without the batch) of the stages and of the leaves outside, as they ran."""
    shapes: dict[str, tuple[int, ...]] = {}

    def record(name: str):
        def hook(_module: nn.Module, _inputs: Any, output: torch.Tensor) -> None:
            shapes[name] = tuple(output.shape[1:])

        return hook

    hooks = []
    for name, module in network.named_modules():
        in_stage = any(name.startswith(f"{stage}.") for stage in stages)
        if name in stages or (not in_stage and not list(module.children())):
            hooks.append(module.register_forward_hook(record(name)))
    was_training = network.training
    network.eval()
    with torch.inference_mode():
        network(torch.zeros(1, image_size, image_size, len(CHANNELS), dtype=torch.uint8))
    network.train(was_training)
    for hook in hooks:
        hook.remove()
    return shapes


def _row(
    part: str, detail: str, shape: tuple[int, ...], modules: list[nn.Module]
) -> dict[str, Any]:
    channels, height, width = (*shape, 1, 1)[:3]
    return {
        "part": part,
        "detail": detail,
        "blocks": 0,
        "channels": channels,
        "height": height,
        "width": width,
        "parameters": sum(count_parameters(module) for module in modules),
    }


def _scaling(normalise: Normalise) -> str:
    return "÷ 255; − mean" if normalise.kind == "fixed" else "each image; mean 0; sd 1"


def _stem_detail(modules: list[nn.Module]) -> str:
    words = []
    for module in modules:
        if isinstance(module, nn.Conv2d):
            size, stride = module.kernel_size[0], module.stride[0]
            words.append(f"conv {size}×{size}" + (f" /{stride}" if stride > 1 else ""))
        elif isinstance(module, nn.MaxPool2d):
            words.append(f"max pool /{module.stride}")
    return "; ".join(words)


def _block_measures(members: list[nn.Module]) -> dict[str, int]:
    convolutions = [one for one in members[-1].children() if isinstance(one, nn.Conv2d)]
    grouped = next(one for one in convolutions if one.groups > 1)
    everywhere = [one for one in members[0].modules() if isinstance(one, nn.Conv2d)]
    return {
        "blocks": len(members),
        "stride": max(one.stride[0] for one in everywhere),
        "block_in": convolutions[0].in_channels,
        "block_width": grouped.out_channels,
        "block_out": convolutions[-1].out_channels,
        "groups": grouped.groups,
        "group_width": grouped.out_channels // grouped.groups,
        "kernel": grouped.kernel_size[0],
        "block_stride": grouped.stride[0],
        "se_width": _squeeze_width(members[-1]),
    }


def _head_part(
    module: nn.Module, shape: tuple[int, ...]
) -> tuple[str, str, tuple[int, ...]] | None:
    """Name, detail and output shape of a layer behind the stages; None for one without effect."""
    if isinstance(module, AveragePool):
        side = module.pool
        return "Pool", f"average; to {side}×{side}", (shape[0], side, side)
    if isinstance(module, nn.Dropout):
        return "Dropout", f"p = {module.p:g}", shape
    if isinstance(module, nn.Linear):
        return "Linear", f"{module.in_features} → {module.out_features}", shape
    return None
