"""ImageNet weights from timm's hub: the only part of training that needs the network."""

from pathlib import Path

import safetensors.torch
import timm

from hpaloc.files import written_whole
from hpaloc.log import InputError
from hpaloc.network import network_names

CHOICES = (
    "Either run this step where there is a connection (a login node): the workflow then finds the"
    " file; or bring the weights yourself and name their file in the recipe (pretrained: PATH);"
    " or train from scratch (pretrained: null)."
)


def fetch_weights(network: str, path: str | Path) -> str:
    """Writes the weights that timm publishes for a network; returns where they come from.

    Raises InputError, naming the choices, where there are none or they cannot be fetched.
    """
    published = timm.models.get_pretrained_cfg(network) if network in network_names() else None
    if published is None or not (published.hf_hub_id or published.url):
        raise InputError(
            f"network {network!r} has no ImageNet weights to fetch. Name the file of such weights"
            " in the recipe (pretrained: PATH), or train from scratch (pretrained: null)."
        )
    where = published.hf_hub_id or published.url
    try:
        model = timm.create_model(network, pretrained=True)
    except (OSError, RuntimeError, ValueError) as error:  # what the hub's clients raise
        reason = str(error).strip().split("\n")[0][:200]
        raise InputError(
            f"the weights of {network} cannot be fetched from {where}"
            f" ({type(error).__name__}: {reason}). {CHOICES}"
        ) from None
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    with written_whole(path) as aside:
        aside.write_bytes(safetensors.torch.save(tensors))
    return where
