"""Batches: the same bytes from any number of workers, drawn as the recipe says."""

import multiprocessing
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import torch

from hpaloc import augment, feed
from hpaloc.batch_buffers import SLOTS, filled
from hpaloc.feed import (
    RARE_CAP,
    draw_weights,
    epoch_order,
    n_draws,
    n_views,
    training_batches,
    view_batches,
)
from hpaloc.geometry import resized
from hpaloc.log import InputError
from hpaloc.ranks import Ranks
from hpaloc.transforms import Tables, Warp, apply_steps

N, SIDE, SIZE = 23, 32, 24
SCRIPTS = Path(__file__).parents[2] / "workflow" / "scripts"
GEOMETRY = {
    "name": "warp",
    "channels": "all",
    "one_of": [{"rotate": {"degrees": [-10, 10]}}, {"piecewise_affine": {"scale": [0, 0.05]}}],
}
VALUES = {
    "name": "brightness",
    "channels": ["red", "blue"],
    "apply": {"multiply": {"factor": [0.5, 1.5], "per_channel": True}},
}


def recipe(**changes):
    return {
        "seed": 1,
        "image_size": SIZE,
        "batch_size": 5,
        "sampling": "uniform",
        "augmentation": {"negative": 0.3, "groups": [GEOMETRY, VALUES]},
        **changes,
    }


@pytest.fixture(scope="module")
def arrays():
    """23 images in two shards, in an order of the index that is not that of the shards."""
    rng = np.random.default_rng(5)
    images = rng.integers(1, 256, (N, SIDE, SIDE, 4), dtype=np.uint8)
    images = np.stack([cv2.GaussianBlur(image, (0, 0), 1) for image in images])
    place = rng.permutation(N)
    frame = pd.DataFrame(
        {
            "image_id": [f"image {number}" for number in range(N)],
            "shard": (place >= 10).astype(np.int32),
            "row": np.where(place >= 10, place - 10, place).astype(np.int32),
        }
    )
    shards = [np.empty((count, SIDE, SIDE, 4), np.uint8) for count in (10, N - 10)]
    for image, shard, row in zip(images, frame["shard"], frame["row"], strict=True):
        shards[shard][row] = image
    return frame, shards


ROWS = np.array([0, 3, 4, 7, 8, 9, 11, 12, 15, 20, 22])
LABELS = np.random.default_rng(2).random((len(ROWS), 28)) < 0.3


def epoch_of(
    arrays, number=1, workers=0, rows=ROWS, labels=LABELS, fold=1, first_step=0, **changes
):
    return list(
        training_batches(arrays, rows, labels, recipe(**changes), number, workers, fold, first_step)
    )


def views_of(arrays, views, view, purpose="validation", workers=0, **kwargs):
    batches = list(view_batches(arrays, ROWS, recipe(), views, purpose, workers, 4, **kwargs))
    # All draws of a batch come before the next batch.
    chosen = batches[view :: n_draws(views)]
    assert torch.cat([batch.rows for batch in chosen]).tolist() == ROWS.tolist()
    return torch.cat([batch.images for batch in chosen]).numpy()


def by_row(batches):
    return {
        int(row): image.numpy()
        for batch in batches
        for row, image in zip(batch.rows, batch.images, strict=True)
    }


def test_batches_have_the_shapes_and_types_that_they_promise(arrays):
    batches = epoch_of(arrays)
    assert [len(batch.images) for batch in batches] == [5, 5, 1]  # the last one is kept
    for batch in batches:
        count = len(batch.images)
        assert batch.images.shape == (count, SIZE, SIZE, 4)
        assert batch.images.dtype == torch.uint8 and batch.images.is_contiguous()
        assert batch.targets.shape == (count, 28) and batch.targets.dtype == torch.float32
        assert batch.rows.shape == (count,) and batch.rows.dtype == torch.int64
    assert sorted(torch.cat([batch.rows for batch in batches]).tolist()) == ROWS.tolist()


@pytest.mark.parametrize("sampling", ["uniform", "rare"])
def test_any_number_of_workers_makes_the_same_batches(arrays, sampling):
    cv2.setNumThreads(2)
    alone = epoch_of(arrays, sampling=sampling)
    for workers in (1, 2):
        shared_out = epoch_of(arrays, workers=workers, sampling=sampling)
        assert len(shared_out) == len(alone)
        for one, other in zip(alone, shared_out, strict=True):
            for first, second in zip(one, other, strict=True):
                assert torch.equal(first, second)


@pytest.mark.parametrize("count", [2, 3, 7])
def test_processes_that_share_a_batch_have_all_of_it_together(arrays, count):
    whole = epoch_of(arrays)  # of 5, 5 and 1 images
    shares = [
        list(training_batches(arrays, ROWS, LABELS, recipe(), 1, 0, 1, 0, Ranks(number, count)))
        for number in range(count)
    ]
    for batch, *parts in zip(whole, *shares, strict=True):
        sizes = [len(part.images) for part in parts]
        assert max(sizes) - min(sizes) <= 1
        if len(batch.images) < count:  # all of them have all
            assert all(torch.equal(part.images, batch.images) for part in parts)
        else:
            assert torch.equal(torch.cat([part.images for part in parts]), batch.images)
        assert all(torch.equal(part.targets, batch.targets) for part in parts)


def test_workers_start_after_opencv_used_threads_of_this_process(arrays):
    """OpenCV's threads do not survive a fork: a worker that relies on them waits for ever."""
    cv2.setNumThreads(4)
    big = np.zeros((2048, 2048, 4), np.uint8)
    cv2.warpAffine(cv2.resize(big, (1500, 1500)), np.eye(2, 3), (1500, 1500))
    assert len(epoch_of(arrays, workers=2)) == 3


def test_images_and_labels_stay_together(arrays):
    frame, shards = arrays
    plain = recipe(augmentation={"negative": 0, "groups": []})
    for batch in training_batches(arrays, ROWS, LABELS, plain, 1, 0):
        for image, target, row in zip(
            batch.images, batch.targets, batch.rows.tolist(), strict=True
        ):
            source = shards[frame["shard"][row]][frame["row"][row]]
            assert np.array_equal(image.numpy(), resized(source, SIZE))
            assert np.array_equal(target.numpy() > 0, LABELS[row == ROWS][0])


def test_negatives_lose_their_labels_and_only_they(arrays):
    seen = set()
    for number in range(1, 5):
        for batch in epoch_of(arrays, number):
            for image, target, row in zip(
                batch.images, batch.targets, batch.rows.tolist(), strict=True
            ):
                negative = not image[..., 1].any()
                seen.add(negative)
                labels = LABELS[row == ROWS][0]
                assert np.array_equal(target.numpy() > 0, labels & (not negative))
    assert seen == {True, False}


def test_epochs_differ_in_order_and_in_draws_and_come_again(arrays):
    first, second, again = epoch_of(arrays, 1), epoch_of(arrays, 2), epoch_of(arrays, 1)
    assert torch.equal(first[0].images, again[0].images)
    assert first[0].rows.tolist() != second[0].rows.tolist()
    for row, image in by_row(first).items():
        assert not np.array_equal(image, by_row(second)[row])
    other = by_row(epoch_of(arrays, 1, seed=2))
    assert not any(np.array_equal(image, other[row]) for row, image in by_row(first).items())


def test_no_worker_epoch_or_fold_draws_what_another_draws(arrays, monkeypatch):
    """Looks at the drawn parameters themselves, as the processes that make batches draw them."""
    record = multiprocessing.get_context("fork").SimpleQueue()

    def recorded(pipeline, shape, key):
        steps = augment.draw(pipeline, shape, key)
        (multiply,) = (step for step in steps if isinstance(step, Tables))
        (warp,) = (step for step in steps if isinstance(step, Warp))
        record.put((warp.offsets.tobytes(), b"".join(t.tobytes() for t in multiply.tables)))
        return apply_steps(steps, np.zeros(shape, np.uint8), SIZE)

    monkeypatch.setattr(
        feed, "augmented", lambda pipeline, image, size, key, *_: (
            recorded(pipeline, image.shape, key), False
        ),
    )  # fmt: skip
    warp = {"name": "warp", "channels": "all", "apply": {"piecewise_affine": {"scale": [0, 0.1]}}}
    drawn = []
    for fold in (0, 1, 2, 11):
        for epoch in (1, 2, 11):
            epoch_of(
                arrays, epoch, 2, fold=fold, augmentation={"negative": 0, "groups": [warp, VALUES]}
            )
            drawn += [record.get() for _ in ROWS]
        views = recipe(augmentation={"negative": 0, "groups": [warp, VALUES]})
        kind = {"kind": "augmentation", "views": 2}
        list(view_batches(arrays, ROWS, views, kind, "validation", 2, 4, 1, fold))
        drawn += [record.get() for _ in range(2 * len(ROWS))]
    assert len(drawn) == 4 * 5 * len(ROWS)
    for parameters in zip(*drawn, strict=True):
        assert len(set(parameters)) == len(drawn)


def test_folds_have_orders_and_draws_of_their_own(arrays):
    one, other = epoch_of(arrays, fold=1), epoch_of(arrays, fold=2)
    assert [batch.rows.tolist() for batch in one] != [batch.rows.tolist() for batch in other]
    other = by_row(other)
    assert not any(np.array_equal(image, other[row]) for row, image in by_row(one).items())


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_goes_on_at_any_step(arrays, workers):
    whole = epoch_of(arrays)
    for first_step in range(len(whole) + 2):
        rest = epoch_of(arrays, workers=workers, first_step=first_step)
        assert len(rest) == max(0, len(whole) - first_step)
        for one, again in zip(whole[first_step:], rest, strict=True):
            for first, second in zip(one, again, strict=True):
                assert torch.equal(first, second)


def test_equal_images_of_other_ids_are_drawn_apart(arrays):
    frame, shards = arrays
    twins = frame.assign(shard=0, row=0), shards
    images = list(
        by_row(epoch_of(twins, augmentation={"negative": 0, "groups": [GEOMETRY]})).values()
    )
    assert len({image.tobytes() for image in images}) == len(ROWS)


def test_an_image_does_not_depend_on_its_company(arrays):
    whole = by_row(epoch_of(arrays))
    part = by_row(epoch_of(arrays, rows=ROWS[3:8], labels=LABELS[3:8], batch_size=3))
    assert set(part) == set(ROWS[3:8].tolist())
    for row, image in part.items():
        assert np.array_equal(image, whole[row])


def test_an_image_that_comes_twice_in_an_epoch_is_drawn_anew(arrays):
    labels = np.zeros((len(ROWS), 28), bool)
    labels[:, 0] = True
    labels[0] = False
    labels[0, 5] = True
    labels[1:, 7] = True
    drawn = [
        (row, image.numpy().tobytes())
        for batch in epoch_of(
            arrays, labels=labels, sampling="rare",
            augmentation={"negative": 0, "groups": [GEOMETRY]},
        )
        for row, image in zip(batch.rows.tolist(), batch.images, strict=True)
    ]  # fmt: skip
    assert len(drawn) == len(ROWS)
    rare = [image for row, image in drawn if row == ROWS[0]]
    assert len(rare) >= 3 and len(set(rare)) == len(rare)


def test_the_global_generators_are_left_alone(arrays):
    torch.manual_seed(7)
    before = torch.get_rng_state()
    legacy = np.random.get_state()[1].copy()
    for workers in (0, 1):
        epoch_of(arrays, workers=workers)
        views_of(arrays, {"kind": "augmentation", "views": 2}, 0, workers=workers)
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(np.random.get_state()[1], legacy)


def test_a_faulty_scheme_is_refused_before_any_worker_starts(arrays):
    faulty = {"negative": 0, "groups": [{**VALUES, "channels": ["cyan"]}]}
    with pytest.raises(InputError, match="cyan"):
        training_batches(arrays, ROWS, LABELS, recipe(augmentation=faulty), 1, 2)


# Views


def test_exact_views_are_left_to_the_device(arrays):
    plain = views_of(arrays, {"kind": "none"}, 0)
    for workers in (0, 2):
        assert np.array_equal(views_of(arrays, {"kind": "dihedral8"}, 0, workers=workers), plain)
    assert (n_draws({"kind": "dihedral8"}), n_views({"kind": "dihedral8"})) == (1, 8)


def test_no_view_is_the_image_itself(arrays):
    frame, shards = arrays
    images = views_of(arrays, {"kind": "none", "views": 4}, 0)
    for image, row in zip(images, ROWS, strict=True):
        source = shards[frame["shard"][row]][frame["row"][row]]
        assert np.array_equal(image, resized(source, SIZE))


RESIZED_FIRST = {
    "negative": 0,
    "groups": [
        {"name": "resize", "channels": "all", "apply": {"resize": {"interpolation": "linear"}}},
        {"name": "sharpen", "channels": "all", "apply": {"sharpen": {"alpha": [0.25, 0.25]}}},
    ],
}


def test_training_validation_and_prediction_resize_where_the_scheme_says(arrays):
    """A scheme without chance, so that all three have to be the same pixels."""
    frame, shards = arrays
    fixed = recipe(augmentation=RESIZED_FIRST)
    sharpen = augment.build({"negative": 0, "groups": RESIZED_FIRST["groups"][1:]})
    expected = {
        row: augment.augment(
            sharpen,
            resized(shards[frame["shard"][row]][frame["row"][row]], SIZE, "linear"),
            augment.stream(1, "", 0, 0, ""),
        )
        for row in ROWS.tolist()
    }
    kind = {"kind": "augmentation", "views": 2}
    for batches in (
        training_batches(arrays, ROWS, LABELS, fixed, 1, 0),
        view_batches(arrays, ROWS, fixed, kind, "validation", 0, 4, epoch=3, fold=1),
        view_batches(arrays, ROWS, fixed, kind, "prediction", 2, 4),
    ):
        made = by_row(batches)
        assert made.keys() == expected.keys()
        assert all(np.array_equal(image, expected[row]) for row, image in made.items())


def test_augmented_views_differ_by_view_purpose_and_epoch_but_not_by_workers(arrays):
    views = {"kind": "augmentation", "views": 3}
    assert n_views(views) == 3
    made = [
        views_of(arrays, views, view, purpose, epoch=epoch)
        for view in range(3)
        for purpose in ("validation", "prediction")
        for epoch in (1, 2)
    ]
    for number, images in enumerate(made):
        assert images[..., 1].any(axis=(1, 2)).all(), "a view became a negative sample"
        for others in made[:number]:
            assert not any(np.array_equal(a, b) for a, b in zip(images, others, strict=True))
    assert np.array_equal(views_of(arrays, views, 0, epoch=1, workers=2), made[0])
    trained = by_row(epoch_of(arrays, 1))
    for image, row in zip(made[0], ROWS.tolist(), strict=True):
        assert not np.array_equal(image, trained[row])


def test_feeding_needs_no_albumentations():
    program = (
        "import sys; sys.modules['albumentations'] = None\n"
        "import numpy as np, pandas as pd\n"
        "from hpaloc.feed import view_batches\n"
        "frame = pd.DataFrame({'image_id': ['a'], 'shard': [0], 'row': [0]})\n"
        "arrays = frame, [np.ones((1, 8, 8, 4), np.uint8)]\n"
        "recipe = {'image_size': 8}\n"
        "views = {'kind': 'dihedral8'}\n"
        "(batch,) = view_batches(arrays, [0], recipe, views, 'prediction', 0, 4)\n"
        "assert batch.images.shape == (1, 8, 8, 4)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=SCRIPTS)


# Buffers


def stamp(position, image):
    image[:] = position


PARTS = [range(start, start + 10) for start in range(0, 100, 10)]


def test_a_batch_that_is_kept_is_never_overwritten():
    kept = list(filled(PARTS, (3,), stamp, 2))
    for part, images in zip(PARTS, kept, strict=True):
        assert images[:, 0].tolist() == list(part)


def test_buffers_are_few_and_used_again():
    places = {images.data_ptr() for images in filled(PARTS, (3,), stamp, 2)}
    assert 1 < len(places) <= SLOTS


def test_a_part_of_a_batch_keeps_its_buffer():
    kept = [images[3:5].numpy() for images in filled(PARTS, (3,), stamp, 2)]
    assert [image[:, 0].tolist() for image in kept] == [list(part[3:5]) for part in PARTS]


def test_an_error_of_a_worker_is_raised_where_batches_are_taken():
    def broken(position, image):
        if position == 25:
            raise InputError("shard 3 is gone")
        stamp(position, image)

    taken = []
    with pytest.raises(InputError, match="shard 3 is gone"):
        taken.extend(filled(PARTS, (3,), broken, 2))
    assert len(taken) <= 2


# Order


def test_uniform_order_is_a_permutation_drawn_from_seed_and_epoch():
    labels = np.zeros((100, 28), bool)
    first = epoch_order(labels, "uniform", 1, 1)
    assert sorted(first.tolist()) == list(range(100))
    assert np.array_equal(first, epoch_order(labels, "uniform", 1, 1))
    for seed, epoch in ((1, 2), (2, 1), (1, 11), (11, 1)):
        assert not np.array_equal(first, epoch_order(labels, "uniform", seed, epoch))


def test_rare_classes_are_drawn_by_their_inverse_frequency_up_to_the_cap():
    labels = np.zeros((1000, 28), bool)
    labels[:600, 0] = True
    labels[600:900, 1] = True
    labels[900:990, 2] = True
    labels[990:, 3] = True
    labels[995:, 0] = True
    weights = draw_weights(labels)
    median = (300 + 90) / 2
    assert weights[0] == 1.0 and weights[700] == 1.0
    assert weights[950] == pytest.approx(median / 90)
    assert weights[992] == weights[997] == RARE_CAP  # 195 / 10 is above it; the rarest class counts
    drawn = np.zeros(1000)
    for epoch in range(1, 31):
        order = epoch_order(labels, "rare", 1, epoch)
        assert len(order) == 1000
        counts = np.bincount(order, minlength=1000)
        expected = weights * 1000 / weights.sum()
        assert np.all(counts >= np.floor(expected)) and np.all(counts <= np.ceil(expected))
        drawn += counts
    np.testing.assert_allclose(
        drawn[990:].mean() / drawn[900:990].mean(), 10 / (195 / 90), rtol=0.1
    )


def test_images_without_labels_are_drawn_as_common_ones():
    assert draw_weights(np.zeros((4, 28), bool)).tolist() == [1, 1, 1, 1]
    assert len(epoch_order(np.zeros((0, 28), bool), "rare", 1, 1)) == 0
