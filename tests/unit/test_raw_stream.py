import json
import threading
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import tifffile
import torch
from test_local import settings_of
from training_case import make_case, recipe
from workspace import PROJECT

import label_images
import measure_speed
from hpaloc import raw_stream
from hpaloc.calling import threshold_table
from hpaloc.classes import CHANNELS, PROBABILITY_COLUMNS
from hpaloc.compute import choose_compute
from hpaloc.convert import convert_shard, index_arrays, list_quarantine
from hpaloc.feed import Arrays, Batch, n_draws, view_batches
from hpaloc.files import write_csv
from hpaloc.image_header import Notes
from hpaloc.index import read_index, write_index
from hpaloc.local import find_images, index_folder
from hpaloc.log import InputError
from hpaloc.network import SMALL, build_network, load_network, save_weights
from hpaloc.predict import mean_probabilities
from hpaloc.raw_stream import raw_batches
from hpaloc.shards import open_arrays
from hpaloc.speed import source_files

ARRAYS_SIZE, SIZE = 80, 64
SCHEME = {
    "negative": 0.5,
    "groups": [
        {"name": "turn", "channels": "all", "apply": {"rotate": {"degrees": [-40, 40]}}},
        {
            "name": "light",
            "channels": "all",
            "apply": {"multiply": {"factor": [0.5, 1.5], "per_channel": True}},
        },
    ],
}
VIEWS = [{"kind": "none"}, {"kind": "dihedral8"}, {"kind": "augmentation", "views": 3}]
NAMES = {channel: channel for channel in CHANNELS}


def write_image(folder: Path, image_id: str, kind: str, seed: int) -> None:
    """Four files of blurred noise: colour-coded JPG of 144 px, or greyscale PNG or TIFF of 90 px."""
    rng = np.random.default_rng(seed)
    side = 144 if kind == "jpg" else 90
    for number, channel in enumerate(CHANNELS):
        plane = cv2.resize(rng.integers(0, 256, (9, 9), np.uint8), (side, side))
        if kind == "jpg":
            colour = np.zeros((side, side, 3), np.uint8)
            for place in {0: (2,), 1: (1,), 2: (0,), 3: (1, 2)}[number]:
                colour[..., place] = plane
            plane = colour
        cv2.imwrite(str(folder / f"{image_id}_{channel}.{kind}"), plane)


@pytest.fixture
def folder(tmp_path) -> Path:
    """Seven images of three kinds; the ids are not in the order in which they were written."""
    (tmp_path / "images").mkdir()
    for number, kind in enumerate(["jpg", "png", "tif", "jpg", "png", "jpg", "jpg"]):
        write_image(tmp_path / "images", f"cell{(number * 3) % 7}", kind, number)
    return tmp_path / "images"


def files_of(folder: Path) -> dict[str, list[str]]:
    return dict(sorted(find_images(folder, "{id}_{channel}", NAMES).items()))


def arrays_of(folder: Path, **settings) -> Arrays:
    """What a run makes of a folder: the index of its arrays and the shards."""
    out = folder.parent / "arrays"
    out.mkdir(exist_ok=True)
    write_index(index_folder("mine", settings_of(folder, **settings), 2), out / "raw.parquet")
    raw, rows, array = read_index(out / "raw.parquet"), out / "rows.parquet", out / "shard_000.npy"
    convert_shard(raw, folder, CHANNELS, 0, 1, ARRAYS_SIZE, array, rows, 2, **settings)
    quarantine = out / "quarantine.csv"
    list_quarantine([rows], quarantine)
    index = out / "index.parquet"
    index_arrays(raw, [rows], quarantine, "leave_out", index, out / "index.sha256")
    return open_arrays(index)


def batches_of_run(arrays: Arrays, views: dict, **changes) -> Iterator[Batch]:
    rows, of_recipe = np.arange(len(arrays[0])), recipe(augmentation=SCHEME) | changes
    return view_batches(arrays, rows, of_recipe, views, "prediction", 0, of_recipe["batch_size"])


def raw(folder: Path, batch_size: int = 2, threads: int = 2, views: dict = VIEWS[0], **understood):
    of_recipe = recipe(augmentation=SCHEME, batch_size=batch_size)
    return raw_batches(
        folder, files_of(folder), CHANNELS, ARRAYS_SIZE, of_recipe, views, threads, **understood
    )


@pytest.mark.parametrize("views", VIEWS, ids=lambda views: views["kind"])
@pytest.mark.parametrize(("batch_size", "threads"), [(3, 2), (1, 1), (16, 3)])
def test_pixels_and_order_are_those_of_a_run(folder, batch_size, threads, views) -> None:
    arrays = arrays_of(folder)
    batches = list(raw(folder, batch_size, threads, views))
    assert [name for batch in batches for name in batch.image_ids] == arrays[0]["image_id"].tolist()
    assert [batch.images.shape[1] for batch in batches[:-1]] == [batch_size] * (len(batches) - 1)
    found = [images for batch in batches for images in batch.images]
    expected = [batch.images for batch in batches_of_run(arrays, views, batch_size=batch_size)]
    assert len(found) == len(expected) == len(batches) * n_draws(views)
    assert all(map(torch.equal, found, expected))
    assert found[0].numpy().std() > 20
    assert n_draws(views) == 1 or not torch.equal(found[0], found[1])


def test_a_file_of_all_planes_is_read_in_the_order_that_is_said(tmp_path) -> None:
    planes = np.random.default_rng(1).integers(0, 256, (SIZE, SIZE, 4), np.uint8)
    np.save(tmp_path / "one.npy", planes)
    files = find_images(tmp_path, "{id}", NAMES)
    order = ["blue", "green", "red", "yellow"]
    (batch,) = raw_batches(tmp_path, files, order, SIZE, recipe(), VIEWS[0], 1)
    assert np.array_equal(batch.images[0, 0].numpy(), planes[..., [2, 1, 0, 3]])


@pytest.mark.parametrize("slices", [{"z": "max"}, {"z": 1}])
def test_files_are_understood_as_the_conversion_understands_them(folder, slices) -> None:
    rng = np.random.default_rng(1)
    for number, channel in enumerate(CHANNELS):  # stacks, white that is 0, another colour
        stack = rng.integers(0, 256, (3, 90, 90), np.uint8)
        path = folder / f"stack_{channel}.tif"
        tifffile.imwrite(path, stack, imagej=True, metadata={"axes": "ZYX"})
        tifffile.imwrite(folder / f"white_{channel}.tif", stack[0], photometric="miniswhite")
        rgb = np.zeros((90, 90, 3), np.uint8)
        rgb[..., [(0, 1), (0, 2), (1, 2), (2,)][number]] = stack[1, :, :, None]
        cv2.imwrite(str(folder / f"tinted_{channel}.png"), rgb)
    arrays = arrays_of(folder, slices=slices)
    image_ids = arrays[0]["image_id"].tolist()
    assert {"stack", "white", "tinted"} <= set(image_ids)
    notes = Notes()
    batches = list(raw(folder, slices=slices, notes=notes))
    assert [name for batch in batches for name in batch.image_ids] == image_ids
    expected = [batch.images for batch in batches_of_run(arrays, VIEWS[0], batch_size=2)]
    assert all(map(torch.equal, [batch.images[0] for batch in batches], expected))
    assert len(notes.items()) == 5 and "(4 files, the first is white_blue.tif)" in notes.lines()[-1]
    (problem,) = {
        key: problem for batch in raw(folder) for key, problem in batch.problems.items()
    }.items()
    assert problem[0] == "stack" and "a Z axis of 3 slices" in problem[1].reason


def test_the_next_batch_is_made_meanwhile_and_no_more(folder, monkeypatch) -> None:
    begun, enough = [], threading.Event()
    real = raw_stream._image

    def counted(read, image_id, *others):
        begun.append(image_id)
        if len(begun) == 4:
            enough.set()
        return real(read, image_id, *others)

    monkeypatch.setattr(raw_stream, "_image", counted)
    batches = raw(folder)
    next(batches)
    assert enough.wait(30)  # the second batch, while the first is in our hands
    assert set(begun) == {"cell0", "cell1", "cell2", "cell3"}
    batches.close()
    assert len(begun) == 4


def test_damaged_images_are_told_and_the_others_kept(folder) -> None:
    whole = (folder / "cell2_green.jpg").read_bytes()
    (folder / "cell2_green.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "cell6_blue.tif").write_bytes(b"no image")
    arrays = arrays_of(folder)
    batches = list(raw(folder))
    assert [name for batch in batches for name in batch.image_ids] == arrays[0]["image_id"].tolist()
    found = torch.cat([batch.images[0] for batch in batches])
    assert torch.equal(
        found, torch.cat([batch.images for batch in batches_of_run(arrays, VIEWS[0])])
    )
    problems = {key: value for batch in batches for key, value in batch.problems.items()}
    assert set(problems) == {"cell2", "cell6"}
    assert problems["cell2"].file == "cell2_green.jpg" and problems["cell2"].channel == "green"
    assert "truncated" in problems["cell2"].reason


def test_16_bits_are_refused_with_the_way_to_go(folder) -> None:
    cv2.imwrite(str(folder / "cell3_red.png"), np.full((90, 90), 3000, np.uint16))
    with pytest.raises(InputError, match=r"cell3_red\.png: holds 16-bit values.*kind local"):
        list(raw(folder))


@pytest.fixture
def trained(tmp_path) -> dict[str, list[str]]:
    """Two networks with probabilities that differ between images, and a table of thresholds."""
    of_recipe = recipe(augmentation=SCHEME, batch_size=3)
    for fold in (1, 2):
        torch.manual_seed(fold)
        network = build_network(of_recipe)
        with torch.no_grad():
            network.head.weight.mul_(30)
        save_weights(network, tmp_path / f"{fold}.safetensors")
        model = {"fold": fold, "image_size": SIZE, "recipe": of_recipe, "network": SMALL}
        model["arrays_size"] = ARRAYS_SIZE
        (tmp_path / f"{fold}.json").write_text(json.dumps(model))
    ids = [f"v{k}" for k in range(56)]
    probability = np.tile(np.linspace(0, 1, 56, dtype=np.float32)[:, None], 28)
    pool = pd.DataFrame(probability, columns=list(PROBABILITY_COLUMNS)).assign(image_id=ids)
    index = pd.DataFrame({"image_id": ids, "labels": [list(range(28))] * 28 + [[]] * 28})
    write_csv(threshold_table([pool], index, 0.3), tmp_path / "thresholds.csv")
    return {
        "--weights": [str(tmp_path / f"{fold}.safetensors") for fold in (1, 2)],
        "--models": [str(tmp_path / f"{fold}.json") for fold in (1, 2)],
        "--thresholds": [str(tmp_path / "thresholds.csv")],
    }


def label(folder: Path, trained: dict[str, list[str]], *more: str) -> Path:
    out = folder.parent
    words = [word for name, values in trained.items() for word in (name, *values)]
    label_images.main(
        [
            "--images", str(folder), *words, "--gpus", "0", "--threads", "1", "--strategy", "0.5", "--labels", str(out / "labels.csv"),
            "--probabilities", str(out / "mean.parquet"),
            "--quarantine", str(out / "bad.csv"), *more,
        ]
    )  # fmt: skip
    return out


@pytest.mark.parametrize("views", VIEWS, ids=lambda views: views["kind"])
def test_labels_are_those_of_a_run_to_the_byte(folder, trained, views) -> None:
    for path in map(Path, trained["--models"]):
        model = json.loads(path.read_text())
        model["recipe"]["tta"]["prediction"] = views
        path.write_text(json.dumps(model))
    out = label(folder, trained)
    compute = choose_compute("float32", 1, 0)
    networks = [load_network(*pair)[0] for pair in zip(*list(trained.values())[:2], strict=True)]
    arrays = arrays_of(folder)
    batches = batches_of_run(arrays, views, batch_size=3)
    folds = mean_probabilities(networks, batches, 7, views, compute)
    expected = folds.mean(axis=0, dtype=np.float64).astype(np.float32)
    found = pd.read_parquet(out / "mean.parquet")
    assert found["image_id"].tolist() == arrays[0]["image_id"].tolist()
    values = found[list(PROBABILITY_COLUMNS)].to_numpy()
    assert np.array_equal(values, expected) and values.std(axis=0).max() > 1e-3
    labels = pd.read_csv(out / "labels.csv", keep_default_na=False)
    assert labels["Id"].tolist() == found["image_id"].tolist()
    for predicted, row in zip(labels["Predicted"], values, strict=True):
        assert predicted == " ".join(map(str, np.flatnonzero(row >= 0.5)))
    assert labels["Names"].str.contains("; ").any()
    assert pd.read_csv(out / "bad.csv").empty


def test_views_of_the_command_line_are_taken_before_those_of_the_recipe(folder, trained) -> None:
    of_recipe = pd.read_parquet(label(folder, trained) / "mean.parquet")
    same = pd.read_parquet(label(folder, trained, "--views", "dihedral8") / "mean.parquet")
    other = pd.read_parquet(label(folder, trained, "--views", "none") / "mean.parquet")
    assert of_recipe.equals(same) and not of_recipe.equals(other)


def test_networks_of_an_older_version_need_the_size_of_their_arrays(folder, trained) -> None:
    whole = pd.read_parquet(label(folder, trained) / "mean.parquet")
    for path in map(Path, trained["--models"]):
        model = json.loads(path.read_text())
        del model["arrays_size"]
        path.write_text(json.dumps(model))
    with pytest.raises(InputError, match=r"1\.json: does not say .* --arrays-size"):
        label(folder, trained)
    size = ("--arrays-size", str(ARRAYS_SIZE))
    assert pd.read_parquet(label(folder, trained, *size) / "mean.parquet").equals(whole)
    other = pd.read_parquet(label(folder, trained, "--arrays-size", "70") / "mean.parquet")
    assert not other.equals(whole)


def test_networks_of_arrays_of_different_sizes_are_refused(folder, trained) -> None:
    path = Path(trained["--models"][1])
    path.write_text(path.read_text().replace('"arrays_size": 80', '"arrays_size": 128'))
    with pytest.raises(InputError, match=r"2\.json: trained on arrays of 128 px"):
        label(folder, trained)


def test_a_channel_that_is_not_one_is_named(folder, trained) -> None:
    with pytest.raises(InputError, match="'rad' is not a channel"):
        label(folder, trained, "--channels", '{"rad": "Tubulin"}')
    for value in ('{"red": 5}', '{"red": null}', "[]", "5", "null"):
        with pytest.raises(InputError, match="--channels: "):
            label(folder, trained, "--channels", value)


def test_the_slices_of_stacks_are_an_option(folder, trained, caplog) -> None:
    stack = np.random.default_rng(1).integers(0, 256, (3, 90, 90), np.uint8)
    for channel in CHANNELS:
        options = {"photometric": "miniswhite", "metadata": {"axes": "ZYX"}}
        tifffile.imwrite(folder / f"stack_{channel}.tif", stack, **options)
    with pytest.raises(InputError, match="1 of 8 images cannot be used"):
        label(folder, trained)
    assert "stack_red.tif (red): holds a Z axis of 3 slices" in caplog.text
    out = label(folder, trained, "--slices", '{"z": "max"}')
    assert "stack" in pd.read_csv(out / "labels.csv")["Id"].tolist()
    assert "white is 0 (PhotometricInterpretation)" in caplog.text
    with pytest.raises(InputError, match="--slices: 'mean' of z is neither"):
        label(folder, trained, "--slices", '{"z": "mean"}')


def test_a_damaged_image_stops_or_is_left_out(folder, trained, caplog) -> None:
    (folder / "cell1_red.jpg").rename(folder / "cell1_red.png")  # contents decide, not the name
    (folder / "cell5_red.png").write_bytes(b"\xff\xd8\xff broken")
    with pytest.raises(InputError, match="1 of 7 images cannot be used"):
        label(folder, trained)
    assert "cell5_red.png (red)" in caplog.text
    assert not (folder.parent / "labels.csv").exists()
    out = label(folder, trained, "--damaged", "leave_out")
    assert len(pd.read_csv(out / "labels.csv")) == 6
    assert pd.read_csv(out / "bad.csv")["image_id"].tolist() == ["cell5"]


def test_a_channel_without_a_file_is_named(folder, trained) -> None:
    (folder / "cell4_yellow.jpg").unlink()
    with pytest.raises(InputError, match="cell4 lacks yellow"):
        label(folder, trained)
    out = label(folder, trained, "--damaged", "leave_out")
    assert pd.read_csv(out / "bad.csv")["reason"].tolist() == ["missing"]


def test_networks_of_different_sizes_are_refused(folder, trained) -> None:
    path = Path(trained["--models"][1])
    path.write_text(path.read_text().replace('"image_size": 64', '"image_size": 96'))
    with pytest.raises(InputError, match="a network for 96 px"):
        label(folder, trained)


def test_a_real_image_of_the_atlas(shared, tmp_path, trained) -> None:
    out = label(
        shared / "data/hpa_v18/images",
        trained,
        *("--pattern", "{id}/{any}_{channel}", "--views", "dihedral8"),
        *(word for name in ("labels", "probabilities", "quarantine")
          for word in (f"--{name}", str(tmp_path / f"real_{name}"))),
    )  # fmt: skip
    assert out.is_dir()
    assert pd.read_csv(tmp_path / "real_labels")["Id"].tolist() == ["10008_57_F11_1"]


def test_table_three_times_the_files_of_the_atlas(shared, tmp_path, trained) -> None:
    folder = shared / "data/hpa_v18/images"
    settings = settings_of(folder, pattern="{id}/{any}_{channel}")
    write_index(index_folder("atlas", settings, 2), tmp_path / "index.parquet")
    (tmp_path / "settings.json").write_text(json.dumps({"root": str(folder)}))
    case = make_case(tmp_path / "case", images=3)
    measure_speed.main(
        [
            "--arrays", f"{case}/arrays/index.parquet",
            "--raw-index", str(tmp_path / "index.parquet"),
            "--settings", str(tmp_path / "settings.json"),
            "--weights", trained["--weights"][0], "--model", trained["--models"][0],
            "--recipe", json.dumps(recipe()), "--gpus", "0", "--threads", "2", "--repeats", "1",
            "--published", str(PROJECT / "resources/paper/table3.csv"),
            "--table", str(tmp_path / "speed.csv"),
        ]
    )  # fmt: skip
    table = pd.read_csv(tmp_path / "speed.csv")
    assert table["files_of"].tolist() == ["the source", "arrays", "arrays"]
    assert (table[["seconds_per_image", "stream_images_per_second"]] > 0).all(axis=None)


def test_files_of_another_size_or_kind_are_not_timed(folder) -> None:
    index = index_folder("mine", settings_of(folder), 2)
    assert [path.name for path in source_files(index, folder, 144)] == [
        f"cell0_{channel}.jpg" for channel in CHANNELS
    ]
    assert source_files(index, folder, 90) == [] == source_files(index, folder, 1728)
    for path in folder.glob("*_green.jpg"):
        path.unlink()
    assert source_files(index, folder, 144) == []
