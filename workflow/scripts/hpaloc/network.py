"""SE-ResNeXt networks with four input channels, their weights, and how they read an image.

A network takes uint8 images N × S × S × 4 and gives logits N × 28 (the sigmoid is outside).
Normalisation belongs to it, so that the weights and model.json are all that a prediction needs.
"""

import fnmatch
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors.torch
import timm
import torch
from timm.models.resnet import Bottleneck, ResNet
from torch import nn

from hpaloc.classes import CHANNELS, N_CLASSES
from hpaloc.files import read_json, written_whole
from hpaloc.log import InputError

SMALL = "seresnext_small"


class Normalise(nn.Module):
    """uint8 N × S × S × 4 to float32 N × 4 × S × S, channels last in memory.

    ``fixed``: grey value / 255 − the channel's mean. ``per_image``: every channel of every image
    to mean 0 and standard deviation 1 (at least one grey value, so that a blank channel is 0).
    """

    def __init__(self, kind: str, means: list[float]):
        super().__init__()
        self.kind = kind
        self.register_buffer("means", torch.tensor(means, dtype=torch.float32))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        values = images.permute(0, 3, 1, 2).float() / 255
        if self.kind == "fixed":
            return values - self.means[:, None, None]
        deviation, mean = torch.std_mean(values, dim=(2, 3), keepdim=True, correction=0)
        return (values - mean) / deviation.clamp_min(1 / 255)


class AveragePool(nn.Module):
    """Means of pool × pool bins, the same bins as nn.AdaptiveAvgPool2d.

    Written with slices: on a GPU the gradients of the built-in one are added in no fixed order.
    """

    def __init__(self, pool: int):
        super().__init__()
        self.pool = pool

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        rows, columns = (_bins(length, self.pool) for length in maps.shape[2:])
        means = [maps[:, :, row, column].mean(dim=(2, 3)) for row in rows for column in columns]
        return torch.stack(means, dim=2)


class Network(nn.Module):
    """Normalisation, the convolutional body, pool × pool averages, dropout, one linear layer."""

    def __init__(self, body: nn.Module, normalise: Normalise, pool: int, dropout: float):
        super().__init__()
        self.normalise = normalise
        self.body = body
        self.pool = AveragePool(pool)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(body.num_features * pool**2, N_CLASSES)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = self.body(self.normalise(images))
        return self.head(self.dropout(self.pool(maps).flatten(1)))


def build_network(recipe: dict[str, Any]) -> Network:
    """The recipe's network with random weights from torch's generator, channels last.

    Reads ``network``, ``image_size``, ``pool``, ``dropout``, ``normalise`` and ``channel_means``.
    Raises InputError for a network that is no SE-ResNeXt of timm, or too small an image.
    """
    name = recipe["network"]
    if recipe["image_size"] < 32 * recipe["pool"]:
        raise InputError(
            f"image_size {recipe['image_size']} is too small for pool {recipe['pool']}: the network"
            f" halves the image five times; use at least {32 * recipe['pool']} px."
        )
    if name == SMALL:
        body = _small_body()
    elif name in network_names():
        body = timm.create_model(
            name, pretrained=False, in_chans=len(CHANNELS), num_classes=0, global_pool=""
        )
    else:
        raise InputError(f"network {name!r} is none of {', '.join((SMALL, *network_names()))}.")
    normalise = Normalise(recipe["normalise"], recipe["channel_means"])
    network = Network(body, normalise, recipe["pool"], recipe["dropout"])
    return network.to(memory_format=torch.channels_last)


def network_names() -> list[str]:
    """The SE-ResNeXt models of the installed timm."""
    return fnmatch.filter(timm.list_models(), "*seresnext*")


def count_parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def load_pretrained(network: Network, path: str | Path) -> None:
    """Sets the body's weights from a file of timm's tensors (.safetensors, or .pth of tensors).

    A three-channel stem is widened by ``four_channel_stem``; the file's classifier is left out.
    A weights.safetensors made by this workflow serves as well: its body is taken as it is.
    Raises InputError that names file and tensor where something is missing, unknown or of
    another shape.
    """
    tensors = _read_tensors(path)
    if "head.weight" in tensors and any(name.startswith("body.") for name in tensors):
        tensors = {
            name.removeprefix("body."): tensor
            for name, tensor in tensors.items()
            if name.startswith("body.")
        }
    wanted = network.body.state_dict()
    classifiers = ("fc.", "last_linear.", "head.")
    tensors = {name: tensors[name] for name in tensors if not name.startswith(classifiers)}
    stem = next(name for name, tensor in wanted.items() if tensor.ndim == 4)
    if stem in tensors and tensors[stem].ndim == 4 and tensors[stem].shape[1] == 3:
        tensors[stem] = four_channel_stem(tensors[stem])
    for name, tensor in wanted.items():
        # Files from before PyTorch 0.4.1 lack the counter, which nothing here reads.
        if name.endswith("num_batches_tracked") and name not in tensors:
            tensors[name] = tensor
    _check_tensors(tensors, wanted, path)
    network.body.load_state_dict(tensors)


def four_channel_stem(weight: torch.Tensor) -> torch.Tensor:
    """Stem weights out × 3 × k × k of RGB as out × 4 × k × k of red, green, blue, yellow.

    Yellow is coded as R+G by the atlas: it begins with the mean of the red and the green
    weights. All are multiplied by 3/4, since four planes now add up where three did: an image
    of four equal planes answers about as strongly as an RGB image of three.
    """
    yellow = weight[:, :2].mean(dim=1, keepdim=True)
    return torch.cat([weight, yellow], dim=1) * 0.75


def save_weights(network: Network, path: str | Path) -> None:
    """The network's tensors as safetensors: equal weights are equal files."""
    save_tensors(network.state_dict(), path)


def save_tensors(
    tensors: dict[str, torch.Tensor], path: str | Path, ready: Callable[[], None] = lambda: None
) -> None:
    """As ``save_weights``, from a state dict; ``ready`` is called when the file is written and only
    to be renamed, and what it raises prevents that."""
    tensors = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    with written_whole(path) as aside:
        # save_file() would make a file that only its owner may read.
        aside.write_bytes(safetensors.torch.save(tensors))
        ready()


def load_network(weights: str | Path, model_json: str | Path) -> tuple[Network, dict[str, Any]]:
    """A trained network in evaluation mode on the CPU, and its model.json.

    Raises InputError where the two files do not belong together.
    """
    model = read_json(model_json, "recipe", "image_size")
    network = build_network(model["recipe"])
    tensors = _read_tensors(weights)
    _check_tensors(tensors, network.state_dict(), weights)
    network.load_state_dict(tensors)
    return network.eval(), model


def _small_body() -> ResNet:
    # One block per stage, half of ResNeXt's widths, 8 groups of 4 to 32 channels: of the shapes
    # tried it trained fastest for its size on a CPU (narrow groups are slow there).
    return ResNet(
        Bottleneck,
        layers=(1, 1, 1, 1),
        channels=(32, 64, 128, 256),
        cardinality=8,
        base_width=8,
        in_chans=len(CHANNELS),
        num_classes=0,
        global_pool="",
        block_args={"attn_layer": "se"},
    )


def _bins(length: int, count: int) -> list[slice]:
    return [slice(k * length // count, -(-(k + 1) * length // count)) for k in range(count)]


def _read_tensors(path: str | Path) -> dict[str, torch.Tensor]:
    try:
        if Path(path).suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file of weights.") from None
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path}: not opened, for it is no archive of tensors alone ({error});"
            " save the state dict, best as .safetensors."
        ) from None
    except Exception as error:  # noqa: BLE001 - an unpickler fails at arbitrary bytes in many ways
        raise InputError(f"{path}: not a readable file of weights ({error}).") from None
    if isinstance(tensors, dict) and isinstance(tensors.get("state_dict"), dict):
        tensors = tensors["state_dict"]
    if not isinstance(tensors, dict) or not all(map(torch.is_tensor, tensors.values())):
        raise InputError(f"{path}: not a table of named tensors.")
    return tensors


def _check_tensors(
    tensors: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor], path: str | Path
) -> None:
    for name, tensor in wanted.items():
        if name not in tensors:
            raise InputError(f"{path}: tensor {name} is missing; it is of another network.")
        if tensors[name].shape != tensor.shape:
            raise InputError(
                f"{path}: tensor {name} has shape {tuple(tensors[name].shape)} where the network"
                f" has {tuple(tensor.shape)}; it is of another network."
            )
        if not tensors[name].isfinite().all():
            raise InputError(f"{path}: tensor {name} holds values that are no finite numbers.")
    if unknown := sorted(set(tensors) - set(wanted)):
        raise InputError(
            f"{path}: tensor {unknown[0]} is not part of the network"
            f" ({len(unknown)} such tensors); it is of another network."
        )
