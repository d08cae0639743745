"""Every figure's program on small made-up tables of the real shapes."""

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

import plot_architecture
import plot_dataset_samples
import plot_generations
import plot_human_vs_machine
import plot_pr_curve
import plot_split_distribution
import plot_training_losses
import plot_training_step
import plot_validation_f1_focal
import plot_validation_f1_per_class
from hpaloc.classes import CLASS_NAMES, N_CLASSES, multi_hot
from hpaloc.comparison import (
    CONSTANT,
    NETWORK,
    PERSON,
    Answerer,
    class_comparison_table,
    comparison_table,
)
from hpaloc.evaluation import constant_answers, curves_table, metrics_table
from hpaloc.figures import anatomy, architecture, people, pr_curve, samples, style, training_losses
from hpaloc.folds import fold_counts
from hpaloc.index import write_index
from hpaloc.log import InputError
from hpaloc.network import build_network
from hpaloc.step_clock import PARTS

# Labels of the Kaggle training set, class 0 to 27.
LABELS = (
    12885, 1254, 3621, 1561, 1858, 2513, 1008, 2822, 53, 45, 28, 1093, 688, 537, 1066, 21, 530,
    210, 902, 1482, 172, 3777, 802, 2965, 322, 8228, 328, 11,
)  # fmt: skip
PUBLISHED = Path(__file__).parents[2] / "resources" / "paper" / "table2.csv"


def made_truth(images: int, seed: int = 0) -> np.ndarray:
    """Labels bool images × 28 at about the real frequencies, at least one each."""
    rng = np.random.default_rng(seed)
    truth = rng.random((images, N_CLASSES)) < np.array(LABELS) / 31072
    truth[~truth.any(axis=1), 0] = True
    return truth


def made_probability(truth: np.ndarray, seed: int = 1) -> np.ndarray:
    """Probabilities that know the frequent classes well and the rare ones badly."""
    rng = np.random.default_rng(seed)
    skill = 1.2 + 2.2 * np.log10(np.array(LABELS)) / 4
    logit = rng.normal(-2.5, 1.2, truth.shape) + truth * skill * rng.uniform(0.6, 1.6, N_CLASSES)
    return (1 / (1 + np.exp(-logit))).astype(np.float32)


def made_index(images: int, seed: int = 0) -> pd.DataFrame:
    truth = made_truth(images, seed)
    ids = [f"{number:05d}" for number in range(images)]
    return pd.DataFrame(
        {
            "image_id": ids,
            "parent": ids,
            "source": "made",
            "cell_line": ["U-2 OS", "A-431", "HeLa"] * (images // 3) + ["HeLa"] * (images % 3),
            "labels": [np.flatnonzero(row).tolist() for row in truth],
        }
    )


def made_counts(images: int = 500, n_folds: int = 5) -> pd.DataFrame:
    index = made_index(images)
    fold = np.arange(images) % n_folds + 1
    return fold_counts(index[["image_id"]].assign(fold=fold), index, n_folds)


def made_steps(epochs: int, per_epoch: int, switches: tuple[int, int], seed: int) -> pd.DataFrame:
    """A training history that falls and rises as histories do, with jumps at the switches."""
    rng = np.random.default_rng(seed)
    step = np.arange(1, epochs * per_epoch + 1)
    epoch = (step - 1) // per_epoch + 1
    phase = np.select(
        [epoch <= switches[0], epoch <= switches[1]], ["bce", "soft_f1"], "soft_f1_scaled"
    )
    done = step / step[-1]

    def noisy(values: np.ndarray, share: float) -> np.ndarray:
        return values * rng.normal(1, share, len(step)).clip(0.2)

    bce = noisy(0.06 + 0.15 * np.exp(-9 * done), 0.15)
    weighted = noisy(0.004 * np.exp(-4 * done) + 0.0008, 0.4)
    soft = noisy(0.25 + 0.7 * np.exp(-4 * done), 0.04)
    total = np.where(phase == "bce", bce, soft + weighted * np.where(phase == "soft_f1", 1, 50))
    frame = pd.DataFrame({"step": step, "epoch": epoch, "loss_total": total, "bce": bce})
    frame = frame.assign(
        weighted_bce=weighted, soft_f1_loss=soft, focal_loss=noisy(0.004 + 0.02 * (1 - done), 0.3)
    )
    for name, top in (
        ("macro_f1", 0.55), ("micro_precision", 0.77), ("micro_recall", 0.75), ("iou", 0.63),
    ):  # fmt: skip
        frame[name] = noisy(top * (1 - np.exp(-6 * done)), 0.08).clip(0, 1)
    return frame.assign(gradient_norm=1.0, learning_rate=0.1, phase=phase)


def made_epochs(epochs: int, switches: tuple[int, int], seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    epoch = np.arange(1, epochs + 1)
    level = 1 - np.exp(-epoch / (epochs / 4))
    f1 = 0.5 * level + rng.normal(0, 0.015, epochs)
    frame = pd.DataFrame({"epoch": epoch, "validation_macro_f1": f1.clip(0)})
    frame = frame.assign(
        validation_focal_score=0.9 + 0.08 * level,
        train_macro_f1=(0.72 * level + rng.normal(0, 0.01, epochs)).clip(0),
        phase=np.select(
            [epoch <= switches[0], epoch <= switches[1]], ["bce", "soft_f1"], "soft_f1_scaled"
        ),
        exported=np.arange(epochs) == np.argmax(f1),
    )
    top = np.log10(np.array(LABELS)) / 4.3
    for number in range(N_CLASSES):
        noise = 0.5 / math.sqrt(LABELS[number])
        frame[f"f1_c{number:02d}"] = (top[number] * level + rng.normal(0, noise, epochs)).clip(0, 1)
    return frame


def made_answerers(images: int, with_person: bool) -> list[Answerer]:
    truth = made_truth(images)
    called = made_probability(truth) > 0.3
    called[:, 27] = False
    where = f"all {images} labelled test images"
    answerers = [
        Answerer(
            "network, fold 1", NETWORK, where, truth, called & (made_truth(images, 5) | truth)
        ),
        Answerer("network, mean of folds", NETWORK, where, truth, called),
    ]
    for name, answer in constant_answers(truth.sum(axis=0)).items():
        answers = np.broadcast_to(answer, truth.shape)
        answerers.append(Answerer(f"constant: {name}", CONSTANT, where, truth, answers))
    if with_person:
        own = made_truth(105, 7)
        said = multi_hot([np.flatnonzero(row)[:1] for row in made_truth(105, 8)]) | (
            own & made_truth(105, 9)
        )
        images = "105 own images; unpaired: no image in common with the test source"
        answerers.append(Answerer("annotator A", PERSON, images, own, said))
    return answerers


def write_inputs(
    folder: Path, images: int, epochs: int, per_epoch: int, folds: int
) -> dict[str, str]:
    """All tables that the figures read; returns their paths by name."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = {}
    switches = (max(1, epochs // 6), max(2, epochs * 2 // 5))
    for fold in range(1, folds + 1):
        for name, frame in (
            ("steps", made_steps(epochs, per_epoch, switches, fold)),
            ("epochs", made_epochs(epochs, switches, fold)),
        ):
            paths[f"{name}{fold}"] = str(folder / f"{name}{fold}.parquet")
            frame.to_parquet(paths[f"{name}{fold}"])
    truth = made_truth(images)
    probability = made_probability(truth)
    tables = {
        "counts.csv": made_counts(images),
        "thresholds.csv": pd.DataFrame({"class": ["all", "0"], "raw": [0.3, 0.2]}),
        "curves.parquet": curves_table(truth, probability),
        "metrics.csv": metrics_table(
            truth, {("mean", "global"): probability > 0.3}, {"mean": probability}
        ),
    }
    parts = {"part": [*PARTS, "rest"], "milliseconds": [1.0, 30.0, 0.4, 61.0, 3.0, 0.3, 0.2]}
    step = pd.DataFrame(parts).assign(
        step_milliseconds=95.9, images_per_second=667.4, steps=40, network="seresnext50_32x4d",
        image_size=512, batch_size=64, device="NVIDIA H100 (cuda)",
    )  # fmt: skip
    tables["training_step.csv"] = step.assign(share=step["milliseconds"] / 95.9)
    published = pd.read_csv(PUBLISHED, dtype=str, keep_default_na=False)
    for name, person in (("alone", False), ("person", True)):
        answerers = made_answerers(images, person)
        tables[f"scores_{name}.csv"] = comparison_table(answerers, published)
        tables[f"classes_{name}.csv"] = class_comparison_table(answerers)
    for name, frame in tables.items():
        paths[name] = str(folder / name)
        if name.endswith(".csv"):
            frame.to_csv(paths[name], index=False)
        else:
            frame.to_parquet(paths[name])
    paths["arrays"] = write_arrays(folder / "arrays")
    return paths


def write_arrays(folder: Path, images: int = 12, side: int = 48) -> str:
    """Two shards of blobs with an index."""
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(3)
    y, x = np.mgrid[:side, :side]
    pixels = np.zeros((images, side, side, 4), np.uint8)
    for image in pixels:
        for channel in range(4):
            for middle in rng.uniform(0.2 * side, 0.8 * side, (4, 2)):
                blob = np.exp(-((y - middle[0]) ** 2 + (x - middle[1]) ** 2) / (3 + 9 * channel))
                image[..., channel] = np.maximum(image[..., channel], 150 * blob)
    index = made_index(images).assign(x=0, y=0, width=side, height=side)
    half = images // 2
    index["labels"] = [[0], [25, 0], [0, 2], [5, 7, 19], *index["labels"][4:]]
    index["shard"] = np.arange(images) // half
    index["row"] = np.arange(images) % half
    for shard in range(2):
        np.save(folder / f"shard_{shard:03d}.npy", pixels[shard * half : (shard + 1) * half])
    write_index(index, folder / "index.parquet")
    return str(folder / "index.parquet")


RECIPE = {
    "network": "seresnext_small",
    "image_size": 64,
    "pool": 2,
    "dropout": 0.01,
    "channel_means": [0.07, 0.05, 0.05, 0.08],
    "normalise": "fixed",
}


def programs(paths: dict[str, str], folds: int, recipe: dict = RECIPE) -> dict[str, tuple]:
    """name: (program, its options without those of every figure, whether it writes a table)."""
    numbers = [str(fold) for fold in range(1, folds + 1)]
    steps = [paths[f"steps{fold}"] for fold in numbers]
    epochs = [paths[f"epochs{fold}"] for fold in numbers]
    of_folds = ["--folds", *numbers, "--recipe", "paper"]
    tested = ["--recipe", "paper", "--source", "hpa_v18"]
    return {
        "dataset_samples": (plot_dataset_samples, ["--arrays", paths["arrays"]], True),
        "split_distribution": (plot_split_distribution, ["--counts", paths["counts.csv"]], False),
        "architecture": (plot_architecture, ["--recipe", json.dumps(recipe)], True),
        "training_losses": (plot_training_losses, ["--steps", *steps, *of_folds], True),
        "validation_f1_focal": (plot_validation_f1_focal, ["--epochs", *epochs, *of_folds], True),
        "validation_f1_per_class": (
            plot_validation_f1_per_class,
            ["--epochs", *epochs, *of_folds, "--counts", paths["counts.csv"]],
            True,
        ),
        "pr_curve": (
            plot_pr_curve,
            ["--curves", paths["curves.parquet"], "--metrics", paths["metrics.csv"],
             "--thresholds", paths["thresholds.csv"], "--strategy", "global", *tested],
            False,
        ),
        "human_vs_machine": (
            plot_human_vs_machine,
            ["--per-class", paths["classes_alone.csv"], "--scores", paths["scores_alone.csv"],
             *tested],
            False,
        ),
        "human_vs_machine_with_person": (
            plot_human_vs_machine,
            ["--per-class", paths["classes_person.csv"], "--scores", paths["scores_person.csv"],
             *tested],
            False,
        ),
        "generations": (
            plot_generations,
            ["--epochs", *epochs, "--folds", *numbers,
             "--recipes", *(["bce"] + ["paper"] * (folds - 1))],
            True,
        ),
        "training_step": (plot_training_step, ["--times", paths["training_step.csv"]], False),
    }  # fmt: skip


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return write_inputs(tmp_path_factory.mktemp("tables"), 500, epochs=6, per_epoch=9, folds=3)


def run(name: str, inputs: dict[str, str], folder: Path, *more: str, folds: int = 3) -> Path:
    program, options, has_table = programs(inputs, folds)[name]
    output = folder / name
    argv = [*options, "--png", f"{output}.png", "--pdf", f"{output}.pdf", *more]
    program.main(argv + (["--table", f"{output}.csv"] if has_table else []))
    return output


NAMES = (
    "dataset_samples", "split_distribution", "architecture", "training_losses",
    "validation_f1_focal", "validation_f1_per_class", "pr_curve", "human_vs_machine",
    "human_vs_machine_with_person", "generations", "training_step",
)  # fmt: skip


@pytest.fixture(scope="module")
def drawn(inputs, tmp_path_factory):
    """Draws each figure once: a function from its name to its files (without suffix) and figure."""
    folder = tmp_path_factory.mktemp("figures")
    done = {}

    def draw_once(name: str) -> tuple[Path, Figure]:
        if name not in done:
            kept = []
            save = style.save
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(style, "save", lambda fig, *to: (kept.append(fig), save(fig, *to)))
                done[name] = run(name, inputs, folder, "--simulated"), kept[0]
        return done[name]

    return draw_once


@pytest.fixture(scope="module")
def table_of(drawn):
    return lambda name: pd.read_csv(drawn(name)[0].with_suffix(".csv"))


@pytest.mark.parametrize("name", NAMES)
def test_program_writes_a_readable_figure(name, drawn):
    output, fig = drawn(name)
    assert output.with_suffix(".pdf").read_bytes().startswith(b"%PDF")
    with Image.open(output.with_suffix(".png")) as picture:
        assert picture.info["dpi"] == pytest.approx((150, 150), abs=0.1)
        width_mm = picture.width / 150 * 25.4
        assert min(abs(width_mm - 89), abs(width_mm - 183)) < 0.3
        grey = np.asarray(picture.convert("L"))
    assert ((grey < 250).any(axis=1)).mean() > 0.5, "most rows of the picture are empty"
    assert any("simulated cells" in text.get_text() for text in fig.texts)
    check_text(fig)


def check_text(fig: Figure) -> None:
    """All text is at least 7 pt, and nothing leaves the page."""
    texts = [
        text
        for text in fig.findobj(lambda one: hasattr(one, "get_fontsize"))
        if text.get_text().strip() and text.get_visible()
    ]
    assert len(texts) >= 8
    for text in texts:
        assert text.get_fontsize() >= 7, text.get_text()
    # Texts that the layout does not look at are not part of the figure's tight box.
    unseen = [text for text in texts if not text.get_in_layout()]
    inches = [fig.dpi_scale_trans.inverted().transform_bbox(t.get_window_extent()) for t in unseen]
    for box in [fig.get_tightbbox(FigureCanvasAgg(fig).get_renderer()), *inches]:
        assert box.x0 > -0.02 and box.y0 > -0.02, box
        assert box.x1 < fig.get_figwidth() + 0.02 and box.y1 < fig.get_figheight() + 0.02, box


@pytest.mark.parametrize("name", ["validation_f1_focal", "generations"])
def test_equal_tables_give_equal_files(name, inputs, tmp_path):
    one = run(name, inputs, tmp_path / "one")
    two = run(name, inputs, tmp_path / "two")
    for suffix in (".png", ".pdf", ".csv"):
        assert one.with_suffix(suffix).read_bytes() == two.with_suffix(suffix).read_bytes()


def test_real_data_are_not_marked(inputs, tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(style, "save", lambda fig, png, pdf: figures.append(fig))
    run("generations", inputs, tmp_path)
    assert not any("simulated" in text.get_text() for text in figures[0].texts)


def test_style_changes_the_picture_and_refuses_what_it_does_not_know(inputs, tmp_path):
    plain = run("generations", inputs, tmp_path / "a").with_suffix(".png")
    other = run(
        "generations", inputs, tmp_path / "b",
        "--style", '{"font_size": 9, "colours": {"blue": "#333399"}}',
    ).with_suffix(".png")  # fmt: skip
    assert plain.read_bytes() != other.read_bytes()
    for bad, told in (
        ('{"fontsize": 9}', "fontsize"),
        ('{"font_size": 0}', "font_size"),
        ('{"colours": {"blue": "no colour"}}', "blue"),
        ('{"colours": {"mauve": "#123456"}}', "mauve"),
        ("[1]", "object"),
        ("{", "JSON"),
    ):
        with pytest.raises(InputError, match=told):
            run("generations", inputs, tmp_path / "c", "--style", bad)


def test_samples_have_several_labels_and_none_in_common(inputs, table_of):
    table = table_of("dataset_samples")
    assert table["labels"].unique().tolist() == ["25 0", "5 7 19"]
    assert table["names"].iloc[0] == "Cytosol; Nucleoplasm"
    assert table["channel"].tolist() == ["red", "green", "blue", "yellow"] * 2


def test_samples_are_chosen_from_a_poor_index():
    index = pd.DataFrame({"labels": [[1], None, [1], [2]]})
    assert samples.choose(index).index.tolist() == [0, 1]
    index = pd.DataFrame({"labels": [[1], [1, 2], [1, 2]]})
    assert samples.choose(index).index.tolist() == [1, 2]
    with pytest.raises(InputError, match="two samples"):
        samples.choose(index[:1])


def test_training_table_holds_every_step_of_a_short_run(inputs, table_of):
    table = table_of("training_losses")
    steps = pd.read_parquet(inputs["steps2"])
    rows = table[(table["fold"] == 2) & (table["quantity"] == "iou")]
    assert rows["step"].tolist() == steps["step"].tolist()
    assert rows["value"].to_numpy() == pytest.approx(steps["iou"].to_numpy())
    assert (rows["low"] == rows["high"]).all()


def test_a_run_of_one_step_is_seen(tmp_path):
    inputs = write_inputs(tmp_path, 40, epochs=1, per_epoch=1, folds=1)
    for name in ("training_losses", "validation_f1_per_class"):
        with Image.open(run(name, inputs, tmp_path, folds=1).with_suffix(".png")) as picture:
            red, _, blue = np.asarray(picture.convert("RGB"), dtype=int).transpose(2, 0, 1)
        assert ((blue > red + 60) | (red > blue + 60)).sum() > 20, name


def test_long_training_is_binned_without_losing_extremes_or_mixing_phases():
    steps = made_steps(epochs=60, per_epoch=50, switches=(10, 24), seed=1)
    table = training_losses.tidy(steps.assign(fold=1))
    rows = table[table["quantity"] == "bce"]
    assert len(rows) <= training_losses.MOST_POINTS + 3
    assert rows["high"].max() == steps["bce"].max()
    assert rows["low"].min() == steps["bce"].min()
    began = training_losses.switches(table)
    assert [phase for phase, _ in began] == ["soft_f1", "soft_f1_scaled"]
    for phase, step in began:
        first = steps.loc[steps["phase"] == phase, "step"].iloc[0]
        assert step == first


def test_architecture_table_is_the_network(inputs, table_of):
    table = table_of("architecture")
    parts = ["Input", "Stem", *(f"Stage {n}" for n in (1, 2, 3, 4)), "Pool", "Dropout", "Linear"]
    assert table["part"].tolist() == parts
    stage = table.set_index("part").loc["Stage 2"]
    # 8 groups of 8 channels in the second stage of the small network; SE narrows 16-fold.
    assert (stage["groups"], stage["group_width"], stage["block_out"]) == (8, 8, 256)
    assert stage["se_width"] == 16
    assert stage[["channels", "height", "width"]].tolist() == [256, 8, 8]
    linear = table.set_index("part").loc["Linear"]
    assert linear["parameters"] == 1024 * 4 * 28 + 28
    assert table["parameters"].sum() > 500_000


def test_words_of_the_architecture_fit_their_boxes():
    look = style.apply()
    for kind in ("fixed", "per_image"):
        network = build_network(RECIPE | {"normalise": kind})
        table = anatomy.inspect(network, RECIPE["image_size"])
        fig = architecture.draw(table, look, "small")
        fig.set_dpi(style.DPI)
        fig.draw_without_rendering()
        ax = fig.axes[0]
        box = (look["double_width_mm"] - 2 - architecture.GAP * (len(table) - 1)) / len(table)
        words = [
            text for text in ax.texts
            if text.get_text()  # arrows have none
            and architecture.TOP - architecture.BOX < text.get_position()[1] < architecture.TOP
        ]  # fmt: skip
        assert len(words) == 2 * len(table)
        for text in words:
            extent = text.get_window_extent().transformed(ax.transData.inverted())
            assert extent.width < box and extent.height < architecture.BOX, text.get_text()


def test_generations_are_numbered_in_the_order_given(inputs, table_of):
    table = table_of("generations")
    numbers = table.drop_duplicates("recipe").set_index("recipe")["generation"].to_dict()
    assert numbers == {"bce": 1, "paper": 2}
    epochs = pd.read_parquet(inputs["epochs1"])
    rows = table[(table["recipe"] == "bce") & (table["score"] == "train_macro_f1")]
    assert rows["value"].to_numpy() == pytest.approx(epochs["train_macro_f1"].to_numpy())


def test_classes_of_few_positives_or_predictions_are_listed_and_not_drawn(inputs):
    classes = pd.read_csv(inputs["classes_alone.csv"])
    network = classes["answerer"] == "network, mean of folds"
    # A class that enough images have: four calls, all right, and a class that is never called.
    rare, never = classes.index[network & (classes["support"] >= 5)][:2]
    classes.loc[rare, ["predicted", "accuracy", "drawn"]] = 4, 1.0, "no"
    classes.loc[never, ["predicted", "accuracy", "drawn"]] = 0, np.nan, "no"
    few = classes[network & (classes["drawn"] == "no")].drop(index=never)
    assert (few["support"] < 5).any()
    scores = people.long_scores(pd.read_csv(inputs["scores_alone.csv"]))
    fig = people.draw(classes, scores, style.apply(), "")
    left = fig.axes[0]
    ticks = [text.get_text() for text in left.get_yticklabels()]
    listed = left.get_xlabel().replace("\n   ", " ")
    for name, support, predicted in few[["name", "support", "predicted"]].itertuples(index=False):
        assert f"{name} ({support}, {predicted})" in listed
        # The constant answer is drawn of every class that enough images have.
        assert (name in ticks) == (support >= 5)
    assert f"{classes.loc[never, 'name']} (" not in listed
    assert len(ticks) == N_CLASSES - (few["support"] < 5).sum()

    def at(mark, name):
        y = ticks.index(name)
        lines = [line for line in left.lines if line.get_marker() == mark]
        return sum(int(np.sum(np.abs(line.get_ydata() - y) < 0.05)) for line in lines)

    assert at("o", classes.loc[rare, "name"]) == at("o", classes.loc[never, "name"]) == 0
    assert at("x", classes.loc[never, "name"]) == 1
    assert at("o", ticks[-1]) == 1
    # Not the lucky class: the best of those that are drawn is on top.
    assert ticks.index(classes.loc[rare, "name"]) < 3


def test_curves_of_few_positives_are_listed_and_not_drawn():
    rng = np.random.default_rng(4)
    truth = np.zeros((60, N_CLASSES), dtype=bool)
    for number in range(N_CLASSES):
        truth[rng.permutation(60)[: number // 2], number] = True  # 0, 0, 1, 1, 2 … positives
    curves = curves_table(truth, rng.random(truth.shape))
    kept = curves.drop_duplicates("curve").set_index("curve")["positives"]
    assert kept["micro"] == kept["macro"] == truth.sum()
    assert kept["27"] == 13
    fig = pr_curve.draw(curves, style.apply(), "")
    left, right = fig.axes[:2]
    ticks = [text.get_text() for text in right.get_yticklabels()]
    assert sorted(ticks) == sorted(CLASS_NAMES[10:])
    listed = " ".join(left.get_xlabel().split())
    assert f"{CLASS_NAMES[9]} (4)" in listed and f"{CLASS_NAMES[2]} (1)" in listed
    assert listed.endswith(f"No positives: {CLASS_NAMES[0]}, {CLASS_NAMES[1]}")
    assert "18 classes" in left.get_legend_handles_labels()[1]
    # The macro average stays that of all classes with positives.
    assert (
        f"{np.mean([curves.loc[curves['curve'] == str(n), 'average_precision'].iloc[0] for n in range(2, 28)]):.3f}"
        in " ".join(left.get_legend_handles_labels()[1])
    )


def test_nobodys_answers_are_drawn_without_a_sheet(inputs):
    classes = pd.read_csv(inputs["classes_alone.csv"])
    assert "person" not in set(people.shown(classes)["kind"])
    with_person = people.shown(pd.read_csv(inputs["classes_person.csv"]))
    assert with_person["answerer"].tolist() == [
        "network, mean of folds", "annotator A", "constant: all 28 classes",
    ]  # fmt: skip


def test_wrong_tables_are_named(inputs, tmp_path):
    def draw(*changes: str) -> None:
        plot_validation_f1_focal.main(
            ["--png", f"{tmp_path}/a.png", "--pdf", f"{tmp_path}/a.pdf", "--table",
             f"{tmp_path}/a.csv", "--recipe", "paper", *changes]
        )  # fmt: skip

    with pytest.raises(InputError, match="1 tables, 2 folds"):
        draw("--epochs", inputs["epochs1"], "--folds", "1", "2")
    with pytest.raises(InputError, match="the column 'epoch' is missing"):
        draw("--epochs", inputs["curves.parquet"], "--folds", "1")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 but no more")
    with pytest.raises(InputError, match=r"broken\.parquet"):
        draw("--epochs", f"{tmp_path}/broken.parquet", "--folds", "1")
    with pytest.raises(InputError, match="fold 9"):
        plot_split_distribution.main(
            ["--counts", inputs["counts.csv"], "--fold", "9", "--png", "a.png", "--pdf", "a.pdf"]
        )
    assert not list(tmp_path.glob("a.*"))


def test_class_names_stand_beside_their_panels(inputs, table_of):
    table = table_of("validation_f1_per_class")
    names = table.drop_duplicates("class").sort_values("class")["name"].tolist()
    assert tuple(names) == CLASS_NAMES
    counts = pd.read_csv(inputs["counts.csv"])
    total = counts[(counts["fold"] == 2) & (counts["class"] == 25)]["count"].sum()
    assert (table.loc[table["class"] == 25, "labels"] == total).all()


def test_curves_are_drawn_where_no_class_has_enough_positives(tmp_path):
    truth = np.zeros((12, N_CLASSES), dtype=bool)
    truth[np.arange(12), np.arange(12) // 4] = True  # three classes of four positives
    curves = curves_table(truth, np.random.default_rng(4).random(truth.shape))
    fig = pr_curve.draw(curves, style.apply(), "")
    left = fig.axes[0]
    assert len(left.get_legend_handles_labels()[1]) == 2  # micro and macro
    assert f"{CLASS_NAMES[2]} (4)" in " ".join(left.get_xlabel().split())
    fig.savefig(tmp_path / "few.png")
