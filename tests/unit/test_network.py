import json

import pytest
import safetensors.torch
import torch
from torch import nn
from training_case import recipe

from hpaloc.log import InputError
from hpaloc.network import (
    AveragePool,
    Normalise,
    build_network,
    count_parameters,
    four_channel_stem,
    load_network,
    load_pretrained,
    save_weights,
)


def images(n: int = 2, size: int = 64, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, size, size, 4), dtype=torch.uint8, generator=generator)


def test_fixed_normalisation_divides_by_255_and_subtracts_the_channel_means() -> None:
    batch = images()
    values = Normalise("fixed", [0.1, 0.2, 0.3, 0.4])(batch)
    assert values.shape == (2, 4, 64, 64) and values.dtype == torch.float32
    assert values[1, 2, 5, 7].item() == pytest.approx(batch[1, 5, 7, 2].item() / 255 - 0.3)
    assert values.is_contiguous(memory_format=torch.channels_last)


def test_per_image_normalisation_forgets_gain_and_offset_and_bears_a_blank_channel() -> None:
    batch = images() // 3
    brighter = batch * 2 + 40
    batch[1, ..., 1] = brighter[1, ..., 1] = 0
    normalise = Normalise("per_image", [0.0] * 4)
    values = normalise(batch)
    assert torch.allclose(values, normalise(brighter), atol=1e-5)
    assert torch.allclose(values[0].mean((1, 2)), torch.zeros(4), atol=1e-5)
    assert torch.allclose(values[0].std((1, 2)), torch.ones(4), atol=1e-3)
    assert (values[1, 1] == 0).all()


@pytest.mark.parametrize("size", [2, 3, 7, 12])
def test_average_pool_is_the_adaptive_one(size: int) -> None:
    maps = torch.rand(2, 3, size, size + 1)
    ours = AveragePool(2)(maps).reshape(2, 3, 2, 2)
    assert torch.allclose(ours, nn.AdaptiveAvgPool2d(2)(maps), atol=1e-6)


def test_the_small_network_is_an_se_resnext() -> None:
    network = build_network(recipe())
    stages = [getattr(network.body, f"layer{number}") for number in range(1, 5)]
    assert [len(stage) for stage in stages] == [1, 1, 1, 1]
    assert all(stage[0].conv2.groups > 1 and stage[0].se is not None for stage in stages)
    assert count_parameters(network) < 2_000_000
    assert network.eval()(images()).shape == (2, 28)


def test_a_network_of_timm_has_four_input_channels_and_the_papers_head() -> None:
    network = build_network(recipe(network="seresnext50_32x4d"))
    assert network.body.conv1.weight.shape == (64, 4, 7, 7)
    assert network.head.weight.shape == (28, 8192)


def test_weights_come_from_the_seed() -> None:
    for seed, same in ((5, True), (6, False)):
        torch.manual_seed(5)
        first = build_network(recipe())
        torch.manual_seed(seed)
        second = build_network(recipe())
        assert torch.equal(first.head.weight, second.head.weight) is same


@pytest.mark.parametrize("changes", [{"network": "resnet50"}, {"image_size": 48}])
def test_what_cannot_be_built_is_named(changes: dict) -> None:
    with pytest.raises(InputError, match=str(next(iter(changes.values())))):
        build_network(recipe(**changes))


def test_the_stem_keeps_rgb_makes_yellow_of_red_and_green_and_keeps_the_response() -> None:
    weight = torch.rand(8, 3, 7, 7)
    stem = four_channel_stem(weight)
    assert torch.allclose(stem[:, :3], 0.75 * weight)
    assert torch.allclose(stem[:, 3], 0.75 * (weight[:, 0] + weight[:, 1]) / 2)
    grey = weight.mean(1, keepdim=True).expand(-1, 3, -1, -1)
    assert torch.allclose(four_channel_stem(grey).sum(1), grey.sum(1), atol=1e-6)


@pytest.fixture()
def rgb_file(tmp_path):
    """What a hub delivers: the tensors of a network of three channels, with a classifier."""
    torch.manual_seed(3)
    tensors = build_network(recipe()).body.state_dict()
    tensors["conv1.weight"] = torch.rand(64, 3, 7, 7)
    tensors["fc.weight"], tensors["fc.bias"] = torch.rand(1000, 1024), torch.rand(1000)
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    path = tmp_path / "rgb.safetensors"
    safetensors.torch.save_file(tensors, path)
    return path, tensors


def test_pretrained_weights_are_carried_over(rgb_file) -> None:
    path, tensors = rgb_file
    network = build_network(recipe())
    head = network.head.weight.clone()
    load_pretrained(network, path)
    assert torch.equal(network.body.conv1.weight, four_channel_stem(tensors["conv1.weight"]))
    name = "layer3.0.conv2.weight"
    assert torch.equal(network.body.state_dict()[name], tensors[name])
    assert torch.equal(network.head.weight, head)
    assert network.body.conv1.weight.is_contiguous(memory_format=torch.channels_last)


def test_a_pth_file_of_tensors_serves_and_one_of_objects_is_not_opened(rgb_file, tmp_path) -> None:
    _, tensors = rgb_file
    torch.save({"state_dict": tensors}, tmp_path / "good.pth")
    network = build_network(recipe())
    load_pretrained(network, tmp_path / "good.pth")
    assert torch.equal(network.body.bn1.weight, tensors["bn1.weight"])
    torch.save({"code": print}, tmp_path / "bad.pth")
    with pytest.raises(InputError, match=r"no archive of tensors"):
        load_pretrained(network, tmp_path / "bad.pth")


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("layer2.0.conv1.weight", torch.rand(1, 2, 3, 3), r"layer2\.0\.conv1\.weight has shape"),
        ("layer2.0.conv1.weight", None, r"layer2\.0\.conv1\.weight is missing"),
        ("layer9.0.conv1.weight", torch.rand(1), r"layer9\.0\.conv1\.weight is not part"),
        (
            "bn1.weight",
            torch.full((64,), torch.nan),
            r"bn1\.weight holds values that are no finite",
        ),
    ],
)
def test_weights_of_another_network_are_refused(rgb_file, tmp_path, name, tensor, message) -> None:
    _, tensors = rgb_file
    tensors = dict(tensors)
    tensors.pop(name, None)
    if tensor is not None:
        tensors[name] = tensor
    path = tmp_path / "other.safetensors"
    safetensors.torch.save_file(tensors, path)
    with pytest.raises(InputError, match=message):
        load_pretrained(build_network(recipe()), path)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("absent.safetensors", None),
        ("broken.safetensors", b"<!DOCTYPE html>"),
        ("broken.pth", b"<!DOCTYPE html>"),
        ("cut.pth", b"\x80\x02\x8a"),
    ],
)
def test_a_missing_or_broken_file_is_named(tmp_path, name: str, data: bytes | None) -> None:
    if data is not None:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError, match=name):
        load_pretrained(build_network(recipe()), tmp_path / name)


def test_saved_weights_load_again_and_equal_weights_are_equal_files(tmp_path) -> None:
    settings = recipe(normalise="per_image")
    network = build_network(settings).eval()
    about = {"recipe": settings, "image_size": settings["image_size"]}
    (tmp_path / "model.json").write_text(json.dumps(about))
    for name in ("one.safetensors", "two.safetensors"):
        save_weights(network, tmp_path / name)
    assert (tmp_path / "one.safetensors").read_bytes() == (
        tmp_path / "two.safetensors"
    ).read_bytes()
    loaded, model = load_network(tmp_path / "one.safetensors", tmp_path / "model.json")
    assert model["recipe"] == settings
    assert torch.equal(loaded(images()), network(images()))


def test_a_network_of_this_workflow_serves_as_pretrained(tmp_path) -> None:
    trained, fresh = build_network(recipe()), build_network(recipe())
    save_weights(trained, tmp_path / "weights.safetensors")
    load_pretrained(fresh, tmp_path / "weights.safetensors")
    assert torch.equal(fresh.body.conv1.weight, trained.body.conv1.weight)
    assert not torch.equal(fresh.head.weight, trained.head.weight)
