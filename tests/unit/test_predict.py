import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from training_case import make_case, recipe

import collect_predictions
import predict_part
from hpaloc.classes import CHANNELS, PROBABILITY_COLUMNS
from hpaloc.compute import choose_compute
from hpaloc.feed import n_views, view_batches
from hpaloc.geometry import dihedral
from hpaloc.inference import folded
from hpaloc.log import InputError
from hpaloc.network import build_network, save_weights
from hpaloc.parts import collect, part_rows
from hpaloc.predict import exact_views, mean_probabilities, probabilities
from hpaloc.shards import open_arrays
from hpaloc.speed import read_file, seconds_per_image, write_files


@pytest.fixture(scope="module")
def case(tmp_path_factory) -> Path:
    """Two networks, of folds 1 and 3, and the images to predict."""
    folder = make_case(tmp_path_factory.mktemp("prediction") / "case")
    for fold in (1, 3):
        torch.manual_seed(fold)
        network = build_network(recipe())
        with torch.no_grad():  # probabilities that differ from image to image
            network.head.weight.mul_(30)
        save_weights(network, folder / f"weights{fold}.safetensors")
        model = {"fold": fold, "image_size": 64, "recipe": recipe()}
        (folder / f"model{fold}.json").write_text(json.dumps(model))
    return folder


def predict(case: Path, part: int, parts: int, folds: tuple[int, ...] = (1, 3)) -> Path:
    out = case / f"part{part}of{parts}.parquet"
    predict_part.main(
        [
            "--arrays", f"{case}/arrays/index.parquet",
            "--part", str(part), "--parts", str(parts),
            "--folds", *map(str, folds),
            "--weights", f"{case}/weights1.safetensors", f"{case}/weights3.safetensors",
            "--models", f"{case}/model1.json", f"{case}/model3.json",
            "--recipe", '{"tta": {"prediction": {"kind": "dihedral8"}}}',
            "--gpus", "0", "--workers", "0",
            "--predictions", str(out), "--digest", f"{out}.sha256",
        ]
    )  # fmt: skip
    return out


@pytest.fixture(scope="module")
def parts(case) -> list[Path]:
    return [predict(case, part, 2) for part in range(2)]


def test_parts_hold_their_images_for_every_fold(parts) -> None:
    table = pd.read_parquet(parts[0])
    assert table.columns.tolist() == ["image_id", "fold", *PROBABILITY_COLUMNS]
    assert table["fold"].tolist() == [1] * 7 + [3] * 7 and table["fold"].dtype == np.int8
    assert table["image_id"].tolist() == [f"image{k:03d}" for k in range(7)] * 2
    assert (table.dtypes[list(PROBABILITY_COLUMNS)] == np.float32).all()


@pytest.mark.parametrize(("images", "parts"), [(10, 3), (2, 5), (0, 2)])
def test_every_row_is_in_one_part(images: int, parts: int) -> None:
    rows = np.concatenate([part_rows(images, part, parts) for part in range(parts)])
    assert rows.tolist() == list(range(images))


def test_probabilities_are_the_mean_of_the_sigmoids_over_the_views(case, parts) -> None:
    arrays = open_arrays(case / "arrays" / "index.parquet")
    torch.manual_seed(3)
    network = build_network(recipe()).eval()
    with torch.no_grad():
        network.head.weight.mul_(30)
    views = {"kind": "dihedral8"}
    expected = np.zeros((15, 28))
    (batch,) = view_batches(arrays, np.arange(15), recipe(), views, "prediction", 0, 15)
    for view in range(8):
        images = np.stack([dihedral(image, view) for image in batch.images.numpy()])
        expected += torch.sigmoid(network(torch.from_numpy(images))).detach().numpy() / 8
    table = pd.concat([pd.read_parquet(part) for part in parts])
    found = table.loc[table["fold"] == 3, list(PROBABILITY_COLUMNS)].to_numpy()
    assert np.allclose(found, expected, atol=1e-5)
    assert found.std(axis=0).max() > 1e-3


@pytest.mark.parametrize("kind", ["none", "dihedral8"])
def test_exact_views_are_those_of_the_arrays_in_their_order(kind) -> None:
    images = np.random.default_rng(1).integers(0, 256, (2, 6, 6, 4), dtype=np.uint8)
    found = [view.numpy() for view in exact_views(torch.from_numpy(images), {"kind": kind})]
    assert len(found) == n_views({"kind": kind})
    for view, turned in enumerate(found):
        assert np.array_equal(turned, np.stack([dihedral(image, view) for image in images]))


def test_batches_that_lack_images_are_a_defect(case) -> None:
    arrays = open_arrays(case / "arrays" / "index.parquet")
    compute = choose_compute("float32", 1, gpus=0)
    network = build_network(recipe()).eval()
    views = {"kind": "augmentation", "views": 2}
    batches = view_batches(arrays, np.arange(3), recipe(), views, "prediction", 0, 2)
    with pytest.raises(ValueError, match="3 images where 4 are wanted"):
        mean_probabilities([network], batches, 4, views, compute)


def test_folded_batch_norm_is_the_same_function() -> None:
    torch.manual_seed(1)
    network = build_network(recipe())
    images = torch.randint(0, 256, (4, 64, 64, 4), dtype=torch.uint8)
    for _ in range(3):  # running averages that are no longer 0 and 1
        network.train()(images)
    network.eval()
    fused = folded(network)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in fused.modules())
    assert any(isinstance(module, torch.nn.BatchNorm2d) for module in network.modules())
    with torch.no_grad():
        torch.testing.assert_close(fused(images), network(images), rtol=1e-4, atol=1e-4)


def test_collected_predictions_are_complete_and_their_mean_is_over_the_folds(case, parts) -> None:
    outputs = [str(case / "fold1.parquet"), str(case / "fold3.parquet"), str(case / "mean.parquet")]
    collect_predictions.main(
        [
            "--arrays", f"{case}/arrays/index.parquet", "--parts", *map(str, parts),
            "--folds", "1", "3", "--fold-out", *outputs[:2],
            "--mean", outputs[2], "--digest", str(case / "mean.sha256"),
        ]
    )  # fmt: skip
    one, three, mean = (pd.read_parquet(path).set_index("image_id") for path in outputs)
    assert len(mean) == 15 and mean.index.equals(one.index)
    assert np.allclose(mean, (one + three) / 2, atol=1e-7)
    assert not np.allclose(one, three)


def test_missing_doubled_and_unknown_images_are_named(case, parts) -> None:
    ids = [f"image{k:03d}" for k in range(15)]
    with pytest.raises(InputError, match="8 images have no prediction, the first is 'image007'"):
        collect(parts[:1], [1, 3], ids)
    with pytest.raises(InputError, match="7 images stand in two parts"):
        collect([*parts, parts[0]], [1, 3], ids)
    with pytest.raises(InputError, match="not in the index of the arrays, the first is 'image014'"):
        collect(parts, [1, 3], ids[:-1])
    with pytest.raises(InputError, match="fold 3"):
        collect(parts, [1], ids)


def test_networks_in_another_order_than_the_folds_are_refused(case) -> None:
    with pytest.raises(InputError, match="of fold 1"):
        predict(case, 0, 1, folds=(3, 1))


@pytest.mark.parametrize(("kind", "files", "tolerance"), [("jpg", 4, 8), ("npy", 1, 2)])
def test_files_to_be_timed_hold_the_planes(tmp_path, kind, files, tolerance) -> None:
    ramp = np.linspace(0, 120, 64)
    image = np.stack([ramp + np.zeros((64, 1)), ramp[:, None] + np.zeros(64)] * 2, axis=2)
    image = (image + np.array((20, 60, 100, 130))).astype(np.uint8)
    paths = write_files(image, 128, kind, tmp_path, 0)
    assert len(paths) == files
    found = np.zeros_like(image)
    for number, path in enumerate(paths):
        read_file(path, number, found)
    assert np.abs(found.astype(int) - image).mean(axis=(0, 1)).max() < tolerance
    compute = choose_compute("float32", 1, gpus=0)
    network = build_network(recipe()).eval()
    assert seconds_per_image(network, [paths] * 3, 64, 3, 2, 2, compute) > 0
    assert probabilities(
        network, torch.zeros(1, 64, 64, len(CHANNELS), dtype=torch.uint8), compute
    ).shape == (1, 28)
