import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as reference

import call_labels
import evaluate
import find_thresholds
import tabulate_best_thresholds
import tabulate_human_vs_machine
import tabulate_summary
from hpaloc.calling import read_thresholds, strategy_thresholds
from hpaloc.classes import PROBABILITY_COLUMNS, multi_hot
from hpaloc.evaluation import curves_table
from hpaloc.index import write_index
from hpaloc.log import InputError
from hpaloc.metrics import macro_f1
from hpaloc.summary import PER_CLASS, of_evaluation
from hpaloc.thresholds import best_global_threshold, best_threshold, smoothed_threshold

PUBLISHED = Path(__file__).parents[2] / "resources" / "paper"
FREQUENCY = np.linspace(0.4, 0.02, 28)


def probability_table(ids, values):
    return pd.DataFrame({"image_id": ids}).join(
        pd.DataFrame(values.astype(np.float32), columns=list(PROBABILITY_COLUMNS))
    )


def write_source(folder, name, n, seed, absent=()):
    """Index of n images and the truth behind it."""
    rng = np.random.default_rng(seed)
    truth = rng.random((n, 28)) < FREQUENCY
    truth[:, list(absent)] = False
    ids = [f"{name}_{number:04d}" for number in range(n)]
    frame = pd.DataFrame(
        {
            "image_id": ids,
            "parent": ids,
            "source": name,
            "cell_line": np.where(truth[:, 0], "U-2 OS", "A-431"),
            "labels": [np.flatnonzero(row).tolist() for row in truth],
        }
    ).assign(x=0, y=0, width=64, height=64, shard=0, row=range(n))
    path = folder / f"{name}.parquet"
    write_index(frame, path)
    return path, ids, truth


def noisy(truth, rng, noise=0.35):
    return np.clip(0.5 + 0.5 * (truth - 0.5) + rng.normal(0, noise, truth.shape), 0, 1)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Two trained folds of six and four epochs, and their predictions of a test source."""
    folder = tmp_path_factory.mktemp("run")
    train, ids, truth = write_source(folder, "train", 120, 1, absent=[27])
    test, test_ids, test_truth = write_source(folder, "test", 80, 2, absent=[26])
    rng = np.random.default_rng(3)
    files = {"train": train, "test": test, "validation": [], "epochs": [], "predictions": []}
    files["steps"], tables = [], []
    for fold, n_epochs, rows in ((1, 6, slice(0, 60)), (2, 4, slice(60, 120))):
        tables = [
            probability_table(ids[rows], noisy(truth[rows], rng)).assign(epoch=np.int32(epoch))
            for epoch in range(1, n_epochs + 1)
        ]
        validation = folder / f"validation{fold}.parquet"
        pd.concat(tables).to_parquet(validation, index=False)
        epochs = pd.DataFrame(
            {
                "epoch": range(1, n_epochs + 3),
                "exported": [epoch == n_epochs for epoch in range(1, n_epochs + 3)],
                "validation_macro_f1": np.linspace(0.1, 0.4, n_epochs + 2),
            }
        )
        epochs.to_parquet(folder / f"epochs{fold}.parquet", index=False)
        steps = pd.DataFrame({"step": range(1, 13), "epoch": np.repeat([1, 2, 3], 4)})
        steps["phase"] = ["bce"] * 4 + ["soft_f1"] * 5 + ["soft_f1_scaled"] * 3
        for number, column in enumerate(("macro_f1", "micro_precision", "micro_recall")):
            # As training writes them: float32, of which more than six digits are noise.
            steps[column] = np.float32(fold * 0.1 + number * 0.01 + 1e-7)
        steps.to_parquet(folder / f"steps{fold}.parquet", index=False)
        predictions = probability_table(test_ids, noisy(test_truth, rng))
        predictions.sample(frac=1, random_state=fold).to_parquet(folder / f"fold{fold}.parquet")
        files["validation"].append(validation)
        files["epochs"].append(folder / f"epochs{fold}.parquet")
        files["steps"].append(folder / f"steps{fold}.parquet")
        files["predictions"].append(folder / f"fold{fold}.parquet")
    both = [
        pd.read_parquet(path).set_index("image_id").loc[test_ids].to_numpy()
        for path in files["predictions"]
    ]
    files["mean"] = folder / "mean.parquet"
    probability_table(test_ids, np.mean(both, axis=0)).to_parquet(files["mean"])
    files["thresholds"] = folder / "thresholds.csv"
    search(files, files["thresholds"])
    return files | {"truth": truth, "ids": ids, "test_truth": test_truth, "test_ids": test_ids}


def search(files, out):
    find_thresholds.main(
        ["--validation", *map(str, files["validation"]), "--epochs", *map(str, files["epochs"]),
         "--folds", "1", "2", "--arrays", str(files["train"]), "--smoothing", "0.3",
         "--thresholds", str(out)]
    )  # fmt: skip


def pool(run, back):
    """Truth and probabilities of both folds, ``back`` epochs before the exported ones."""
    parts = []
    for path, exported in zip(run["validation"], (6, 4), strict=True):
        table = pd.read_parquet(path)
        parts.append(table[table["epoch"] == exported - back])
    table = pd.concat(parts).set_index("image_id").loc[run["ids"]]
    return run["truth"], table[list(PROBABILITY_COLUMNS)].to_numpy()


def test_thresholds_are_of_the_exported_epochs_of_all_folds(run):
    table = read_thresholds(run["thresholds"])
    truth, probability = pool(run, 0)
    threshold, f1 = best_global_threshold(truth, probability)
    assert table["raw"].iloc[0] == threshold
    assert table["f1_raw"].iloc[0] == f1
    assert table["positives"].iloc[1:].tolist() == truth.sum(axis=0).tolist()
    for number in (0, 13, 26):
        raw, f1 = best_threshold(truth[:, number], probability[:, number])
        assert table["raw"].iloc[number + 1] == raw
        assert table["f1_raw"].iloc[number + 1] == f1


def test_thresholds_of_the_first_fold_stand_beside_those_of_all(run):
    table = read_thresholds(run["thresholds"])
    own = pd.read_parquet(run["validation"][0])
    truth, best = run["truth"][:60], []
    for epoch in range(1, 7):
        rows = own[own["epoch"] == epoch].set_index("image_id").loc[run["ids"][:60]]
        best.append(best_global_threshold(truth, rows[list(PROBABILITY_COLUMNS)].to_numpy())[0])
    assert table["raw_fold_1"].iloc[0] == best[-1]
    assert table["smoothed_fold_1"].iloc[0] == pytest.approx(smoothed_threshold(best, 0.3))
    assert np.isnan(table["raw_fold_1"].iloc[28]) and np.isnan(table["smoothed_fold_1"].iloc[28])


def test_smoothed_thresholds_go_back_as_far_as_every_fold_does(run):
    table = read_thresholds(run["thresholds"])
    expected = None
    for back in (3, 2, 1, 0):
        truth, probability = pool(run, back)
        best = best_threshold(truth[:, 5], probability[:, 5])[0]
        expected = best if expected is None else 0.3 * best + 0.7 * expected
    assert table["smoothed"].iloc[6] == pytest.approx(expected, rel=1e-12)


def test_class_without_positives_falls_back_to_the_global_threshold(run):
    table = read_thresholds(run["thresholds"])
    last = table.iloc[28]
    assert last["fallback"] == "global" and np.isnan(last["raw"]) and np.isnan(last["smoothed"])
    assert set(table["fallback"].fillna("")[:28]) == {""}
    overall = table["raw"].iloc[0]
    for strategy in ("per_class_raw", "per_class_smoothed", "frequency_matched"):
        cuts = strategy_thresholds(table, strategy)
        assert cuts[27] == overall
        assert cuts[0] == table[strategy.removeprefix("per_class_")].iloc[1]
    assert (strategy_thresholds(table, "global") == overall).all()
    assert (strategy_thresholds(table, 0.268) == 0.268).all()


def test_frequency_matched_calls_as_many_as_are_positive(run):
    truth, probability = pool(run, 0)
    cuts = strategy_thresholds(read_thresholds(run["thresholds"]), "frequency_matched")
    called = (probability >= cuts).sum(axis=0)
    # Probabilities cut off at 0 and 1 tie: the nearest number that can be reached.
    free = [n for n in range(27) if 0 < np.sort(probability[:, n])[-truth[:, n].sum()] < 1]
    assert free and called[free].tolist() == truth.sum(axis=0)[free].tolist()


@pytest.mark.parametrize("strategy", ["best", "1.5", "nan", "-0.1"])
def test_unknown_strategy_is_refused_with_the_known_ones(run, strategy):
    with pytest.raises(InputError, match="frequency_matched or a number from 0 to 1"):
        strategy_thresholds(read_thresholds(run["thresholds"]), strategy)


def test_tables_of_another_training_are_refused(run, tmp_path):
    mixed = run | {"epochs": list(reversed(run["epochs"]))}
    with pytest.raises(InputError, match="not of the same training"):
        search(mixed, tmp_path / "t.csv")


def test_epochs_hold_their_images_in_any_order(run, tmp_path):
    mixed = tmp_path / "mixed.parquet"
    pd.read_parquet(run["validation"][0]).sample(frac=1, random_state=4).to_parquet(mixed)
    search(run | {"validation": [mixed, run["validation"][1]]}, tmp_path / "t.csv")
    assert (tmp_path / "t.csv").read_bytes() == run["thresholds"].read_bytes()


@pytest.mark.parametrize("change", ["another", "fewer"])
def test_epochs_of_other_images_are_refused(run, tmp_path, change):
    table = pd.read_parquet(run["validation"][0])
    row = table.index[table["epoch"] == 2][7]
    if change == "another":
        table.loc[row, "image_id"] = "unknown"
    else:
        table = table.drop(index=row)
    table.to_parquet(tmp_path / "changed.parquet")
    changed = {"validation": [tmp_path / "changed.parquet", run["validation"][1]]}
    with pytest.raises(InputError, match="epoch 2 has other images than epoch 6"):
        search(run | changed, tmp_path / "t.csv")


def test_overlapping_validation_sets_are_refused(run, tmp_path):
    twice = {name: [run[name][0]] * 2 for name in ("validation", "epochs")}
    with pytest.raises(InputError, match="in the validation set of two folds"):
        search(run | twice, tmp_path / "t.csv")


@pytest.mark.parametrize(("value", "word"), [(np.nan, "0 to 1"), (1.5, "0 to 1")])
def test_probabilities_that_are_none_are_refused_by_image(run, tmp_path, value, word):
    table = pd.read_parquet(run["mean"])
    table.loc[3, "p05"] = value
    table.to_parquet(tmp_path / "mean.parquet")
    with pytest.raises(InputError, match=f"test_0003.*{word}"):
        call(run, tmp_path, mean=tmp_path / "mean.parquet")


def call(run, folder, strategy="per_class_smoothed", mean=None):
    call_labels.main(
        ["--predictions", str(mean or run["mean"]), "--thresholds", str(run["thresholds"]),
         "--strategy", strategy, "--labels", str(folder / "labels.parquet"),
         "--submission", str(folder / "submission.csv")]
    )  # fmt: skip
    return pd.read_parquet(folder / "labels.parquet"), pd.read_csv(
        folder / "submission.csv", keep_default_na=False
    )


def test_called_labels_names_and_submission_agree(run, tmp_path):
    labels, submission = call(run, tmp_path)
    cuts = strategy_thresholds(read_thresholds(run["thresholds"]), "per_class_smoothed")
    expected = labels[list(PROBABILITY_COLUMNS)].to_numpy().astype(float) >= cuts
    assert (multi_hot(labels["labels"]) == expected).all()
    assert submission.columns.tolist() == ["Id", "Predicted"]
    assert submission["Id"].tolist() == labels["image_id"].tolist()
    given = multi_hot([[int(word) for word in cell.split()] for cell in submission["Predicted"]])
    assert (given == expected).all()
    row = int(np.flatnonzero(expected[:, 0] & (expected.sum(axis=1) > 1))[0])
    assert labels["names"].iloc[row].startswith("Nucleoplasm; ")
    nothing, empty = call(run, tmp_path, strategy="1")
    unsure = nothing["labels"].map(len) == 0
    assert unsure.any() and (empty.loc[unsure, "Predicted"] == "").all()


def score(run, folder, **changed):
    files = run | changed
    outputs = ("metrics.csv", "per_class.csv", "baselines.csv", "curves.parquet")
    evaluate.main(
        ["--arrays", str(files["test"]),
         "--fold-predictions", *map(str, files["predictions"]), "--folds", "1", "2",
         "--mean", str(files["mean"]), "--thresholds", str(files["thresholds"]),
         "--strategies", '["global", "frequency_matched", 0.268]',
         *(w for name in outputs
           for w in (f"--{name.split('.')[0].replace('_', '-')}", str(folder / name))),
         *(["--audit", str(files["audit"]), "--subsets", str(folder / "subsets.csv")]
           if "audit" in files else [])]
    )  # fmt: skip
    return {name.split(".")[0]: folder / name for name in outputs}


def test_scores_of_folds_and_mean_join_by_image(run, tmp_path):
    out = score(run, tmp_path)
    table = pd.read_csv(out["metrics"], dtype={"fold": str, "strategy": str})
    assert table["fold"].unique().tolist() == ["1", "2", "mean"]
    assert table["strategy"].unique().tolist() == ["global", "frequency_matched", "0.268"]
    truth = run["test_truth"]
    cut = read_thresholds(run["thresholds"])["raw"].iloc[0]
    value = table.set_index(["fold", "strategy", "metric"])["value"]
    for fold, path in (("1", run["predictions"][0]), ("mean", run["mean"])):
        predictions = pd.read_parquet(path).set_index("image_id").loc[run["test_ids"]].to_numpy()
        called = predictions >= cut
        assert value[fold, "global", "macro_f1"] == pytest.approx(macro_f1(truth, called), abs=1e-6)
        present = truth.any(axis=0)
        expected = reference.average_precision_score(truth[:, present], predictions[:, present])
        ours = value[fold, "global", "mean_average_precision"]
        assert ours == pytest.approx(expected, abs=1e-6)
        micro = reference.average_precision_score(truth, predictions, average="micro")
        assert value[fold, "global", "micro_average_precision"] == pytest.approx(micro, abs=1e-6)
    names = table.drop_duplicates("metric").set_index("metric")["published_name"]
    assert names["micro_recall"] == "Precision" and names["micro_precision"] == "Recall"


def test_scores_of_classes_are_empty_where_undefined(run, tmp_path):
    out = score(run, tmp_path)
    table = pd.read_csv(out["per_class"], dtype={"fold": str})
    row = table[(table["fold"] == "mean") & (table["class"] == 26)].iloc[0]
    assert row["support"] == 0 and np.isnan(row["recall"]) and np.isnan(row["average_precision"])
    assert len(table) == 3 * 3 * 28


def test_constant_answers(run, tmp_path):
    out = score(run, tmp_path)
    table = pd.read_csv(out["baselines"]).pivot(index="metric", columns="answer", values="value")
    truth = run["test_truth"]
    assert table.loc["macro_f1", "nothing"] == 0
    assert table.loc["binary_accuracy", "nothing"] == pytest.approx(1 - truth.mean(), abs=1e-6)
    everything = macro_f1(truth, np.ones_like(truth))
    assert table.loc["macro_f1", "all 28 classes"] == pytest.approx(everything, abs=1e-6)
    assert table.loc["micro_recall", "all 28 classes"] == 1
    # The most frequent class of the images trained on, not of those tested.
    frequent = run["truth"].sum(axis=0).argmax()
    recall = truth[:, frequent].sum() / truth.sum()
    assert table.loc["micro_recall", "most frequent class"] == pytest.approx(recall, abs=1e-6)
    called = np.zeros_like(truth)
    called[:, [0, 25]] = True
    ours = table.loc["iou", "Nucleoplasm and Cytosol"]
    expected = reference.jaccard_score(truth, called, average="samples", zero_division=1)
    assert ours == pytest.approx(expected, abs=1e-6)


def test_curves_are_thin_and_hold_the_area_of_the_whole(run, tmp_path):
    rng = np.random.default_rng(5)
    truth = rng.random((4000, 28)) < FREQUENCY
    truth[:, 26] = False
    probability = noisy(truth, rng).astype(np.float32)
    table = curves_table(truth, probability)
    assert table["curve"].unique().tolist() == ["micro", "macro", *map(str, range(26)), "27"]
    assert table.groupby("curve").size().max() <= 501
    micro = table[table["curve"] == "micro"]
    expected = reference.average_precision_score(truth, probability, average="micro")
    assert micro["average_precision"].iloc[0] == pytest.approx(expected)
    assert (np.diff(micro["recall"]) > 0).all() and micro["recall"].iloc[-1] == 1
    point = micro.iloc[100]
    called = probability.ravel() >= np.float32(point["threshold"])
    assert point["precision"] == pytest.approx(truth.ravel()[called].mean())
    macro = table[table["curve"] == "macro"]
    area = macro["precision"].iloc[1:].mean()
    assert area == pytest.approx(macro["average_precision"].iloc[0], abs=0.005)


def test_unlabelled_test_images_are_left_out_and_counted(run, tmp_path, caplog):
    index = pd.read_parquet(run["test"])
    index["labels"] = index["labels"].map(list).where(np.arange(80) >= 20, None)
    write_index(index, tmp_path / "some.parquet")
    out = score(run, tmp_path, test=tmp_path / "some.parquet")
    table = pd.read_csv(out["metrics"])
    assert (table.loc[table["metric"] == "n_images", "value"] == 60).all()
    assert "20 of 80 images have no labels" in caplog.text
    index["labels"] = None
    write_index(index, tmp_path / "none.parquet")
    with pytest.raises(InputError, match="none of the 80 images has labels"):
        score(run, tmp_path, test=tmp_path / "none.parquet")


def score_subsets(run, folder, **columns):
    """subsets.csv of an audit of these columns, and metrics.csv."""
    audit = pd.DataFrame({"image_id": run["test_ids"], "twin_in_training": False}).assign(
        **{name: pd.array(values, dtype="boolean") for name, values in columns.items()}
    )
    audit.sample(frac=1, random_state=1).to_parquet(folder / "audit.parquet")
    out = score(run, folder, audit=folder / "audit.parquet")
    tables = []
    for path in (folder / "subsets.csv", out["metrics"]):
        tables.append(pd.read_csv(path, dtype={"fold": str, "strategy": str}))
    return tables


KEYS = ["fold", "strategy", "metric", "published_name", "value"]


def test_scores_without_what_training_shares(run, tmp_path, caplog):
    number = np.arange(80)
    twin, antibody, gene = number < 30, number % 2 == 0, number % 5 == 0
    unknown = np.where(number == 79, None, antibody)
    subsets, metrics = score_subsets(
        run, tmp_path, twin_in_training=twin, antibody_seen=unknown, gene_seen=gene
    )
    assert subsets.columns.tolist() == ["subset", "images", "classes", *KEYS]
    by_name = dict(list(subsets.groupby("subset", sort=False)))
    assert list(by_name) == ["all", "without_twins", "without_seen_antibodies_and_genes"]
    pd.testing.assert_frame_equal(by_name["all"][KEYS].reset_index(drop=True), metrics)
    predictions = pd.read_parquet(run["mean"]).set_index("image_id").loc[run["test_ids"]].to_numpy()
    for name, kept in (
        ("without_twins", ~twin),
        ("without_seen_antibodies_and_genes", ~antibody & ~gene & (number != 79)),
    ):
        table = by_name[name]
        truth = run["test_truth"][kept]
        assert set(table["images"]) == {kept.sum()}
        assert set(table["classes"]) == {truth.any(axis=0).sum()}
        value = table.set_index(["fold", "strategy", "metric"])["value"]
        called = predictions[kept] >= np.float32(0.268)
        assert value["mean", "0.268", "macro_f1"] == pytest.approx(
            macro_f1(truth, called), abs=1e-6
        )
        assert value["mean", "0.268", "n_images"] == kept.sum()
        assert value["mean", "0.268", "macro_f1_present"] > value["mean", "0.268", "macro_f1"]
    assert "of 1 of 80 test images it is not known" in caplog.text


def test_subsets_that_are_empty_or_unknown_have_rows_and_no_values(run, tmp_path, caplog):
    subsets, metrics = score_subsets(
        run,
        tmp_path,
        twin_in_training=[True] * 80,
        antibody_seen=[None] * 80,
        gene_seen=[True] * 80,
    )
    # A gene that is seen decides, whatever the antibody: this subset is empty, not unknown.
    by_name = dict(list(subsets.groupby("subset")))
    for name in ("without_twins", "without_seen_antibodies_and_genes"):
        assert len(by_name[name]) == len(metrics)
        assert by_name[name]["value"].isna().all()
        assert set(by_name[name]["images"]) == {0}
        assert f"no test image is left for the scores {name!r}" in caplog.text
    subsets, _ = score_subsets(
        run, tmp_path, antibody_seen=[None] * 80, gene_seen=[None] * 80
    )  # as Kaggle's training set, which names no antibodies
    unknown = subsets[subsets["subset"] == "without_seen_antibodies_and_genes"]
    assert len(unknown) == len(metrics)
    assert unknown[["images", "classes", "value"]].isna().all(axis=None)
    assert "of 80 of 80 test images it is not known" in caplog.text


def test_audits_of_other_images_are_refused(run, tmp_path):
    known = {"antibody_seen": [False] * 80, "gene_seen": [False] * 80}
    score_subsets(run, tmp_path, **known)
    audit = pd.read_parquet(tmp_path / "audit.parquet")
    audit[audit["image_id"] != "test_0003"].to_parquet(tmp_path / "fewer.parquet")
    with pytest.raises(InputError, match=r"1 of 80 images were not audited.*test_0003"):
        score(run, tmp_path, audit=tmp_path / "fewer.parquet")
    whole = audit.astype({"twin_in_training": "boolean"})
    for bad in (
        whole.drop(columns="gene_seen"),
        pd.concat([whole, whole]),
        whole.assign(twin_in_training=pd.NA).astype({"twin_in_training": "boolean"}),
        whole.assign(antibody_seen="yes"),
    ):
        bad.to_parquet(tmp_path / "bad.parquet")
        with pytest.raises(InputError, match=r"bad\.parquet: not a table of audited images"):
            score(run, tmp_path, audit=tmp_path / "bad.parquet")


def test_missing_predictions_are_refused_by_image(run, tmp_path):
    pd.read_parquet(run["mean"]).iloc[1:].to_parquet(tmp_path / "mean.parquet")
    with pytest.raises(InputError, match=r"1 of 80 images have no prediction.*test_0000"):
        score(run, tmp_path, mean=tmp_path / "mean.parquet")


def compare(run, folder, answers=()):
    tabulate_human_vs_machine.main(
        ["--arrays", str(run["test"]), "--fold", "1",
         "--fold-predictions", str(run["predictions"][0]), "--mean", str(run["mean"]),
         "--thresholds", str(run["thresholds"]), "--strategy", "global",
         "--answers", json.dumps(list(answers)), "--published", str(PUBLISHED / "table2.csv"),
         "--table", str(folder / "human_vs_machine.csv"),
         "--per-class", str(folder / "human_vs_machine_per_class.csv")]
    )  # fmt: skip
    table = pd.read_csv(folder / "human_vs_machine.csv", dtype=str, keep_default_na=False)
    return table.set_index("metric"), pd.read_csv(folder / "human_vs_machine_per_class.csv")


def write_sheet(path, column, ids, hot):
    cells = [" ".join(map(str, np.flatnonzero(row))) for row in hot]
    pd.DataFrame({"Id": ids, column: cells}).to_csv(path, index=False)
    return str(path)


def test_without_sheets_the_network_stands_beside_constants_and_the_reported_column(run, tmp_path):
    table, per_class = compare(run, tmp_path)
    assert set(table.loc["kind"]) - {""} == {"network", "constant", "paper"}
    reported = "paper: human, published (reported, unpaired)"
    assert table.loc["iou", reported] == "0.2729"
    assert table.loc["micro_recall", reported] == "0.4467"
    assert table.loc["micro_recall", "published_name"] == "Precision"
    assert set(per_class["kind"]) == {"network", "constant"}
    assert len(per_class) == (2 + 4) * 28
    listed = per_class[per_class["class"] == 26]
    assert (listed["drawn"] == "no").all() and len(listed) == 6
    enough = (per_class["support"] >= 5) & (per_class["predicted"] >= 5)
    assert (enough == (per_class["drawn"] == "yes")).all()
    # Not the same as by positives alone: "nothing" is never called.
    assert (enough != (per_class["support"] >= 5)).any()


def test_a_person_is_paired_with_the_network_on_the_same_images(run, tmp_path, inputs_of):
    rng = np.random.default_rng(8)
    rows = rng.permutation(80)[:30]
    ids = [run["test_ids"][row] for row in rows]
    given = rng.random((30, 28)) < 0.2
    sheet = write_sheet(tmp_path / "ann.csv", "Predicted", ids, given)
    table, per_class = compare(run, tmp_path, [{"name": "Ann", "answers": sheet, "truth": None}])
    assert sheet in inputs_of(tmp_path / "human_vs_machine.csv")
    truth = run["test_truth"][rows]
    assert float(table.loc["macro_f1", "Ann"]) == pytest.approx(macro_f1(truth, given), abs=1e-6)
    network = pd.read_parquet(run["mean"]).set_index("image_id").loc[ids].to_numpy()
    called = network >= read_thresholds(run["thresholds"])["raw"].iloc[0]
    paired = table["network, mean of folds, on images of Ann"]
    assert float(paired["macro_f1"]) == pytest.approx(macro_f1(truth, called), abs=1e-6)
    assert paired["n_images"] == "30" and "30 images in common" in paired["images"]
    assert {"Ann", "network, fold 1, on images of Ann"} <= set(per_class["answerer"])


def test_sheets_with_a_truth_of_their_own(run, tmp_path, caplog, inputs_of):
    rng = np.random.default_rng(9)
    own_ids, truth = [f"own_{number}" for number in range(10)], rng.random((12, 28)) < 0.2
    common = run["test_ids"][:2]
    truth[10:] = run["test_truth"][:2]
    sheets = []
    for name, ids, wanted in (
        ("Bo", own_ids, truth[:10]),
        ("Cy", own_ids + common, truth),
        ("Di", own_ids + common, np.vstack([truth[:11], ~truth[11:]])),
    ):
        answers = write_sheet(tmp_path / f"{name}.csv", "Predicted", ids, wanted)
        truth_path = write_sheet(tmp_path / f"{name}_truth.csv", "Target", ids, wanted)
        sheets.append({"name": name, "answers": answers, "truth": truth_path})
    table, _ = compare(run, tmp_path, sheets)
    assert "unpaired: no image in common" in table.loc["images", "Bo"]
    assert "labelled differently in the test source (1 of 2" in table.loc["images", "Di"]
    assert "Bo and the network are not compared" in caplog.text
    assert table.loc["n_images", "Cy"] == "12" and table.loc["n_images", "Cy, common images"] == "2"
    assert "network, mean of folds, on images of Cy" in table.columns
    assert not [name for name in table.columns if name.endswith(("of Bo", "of Di"))]
    assert float(table.loc["iou", "Bo"]) == 1
    read = {sheet[key] for sheet in sheets for key in ("answers", "truth")}
    assert read <= inputs_of(tmp_path / "human_vs_machine.csv")


def test_unknown_ids_and_equal_names_of_people_are_refused(run, tmp_path):
    sheet = write_sheet(tmp_path / "x.csv", "Predicted", ["nowhere"], np.zeros((1, 28)))
    with pytest.raises(InputError, match=r"x\.csv, line 2: image id 'nowhere'"):
        compare(run, tmp_path, [{"name": "Ann", "answers": sheet, "truth": None}])
    known = write_sheet(tmp_path / "y.csv", "Predicted", run["test_ids"][:1], np.zeros((1, 28)))
    with pytest.raises(InputError, match="two answerers are called 'Ann'"):
        compare(run, tmp_path, [{"name": "Ann", "answers": known, "truth": None}] * 2)


def test_best_thresholds_beside_the_published(run, tmp_path):
    tabulate_best_thresholds.main(
        ["--thresholds", str(run["thresholds"]), "--published", str(PUBLISHED / "table1.csv"),
         "--table", str(tmp_path / "t.csv")]
    )  # fmt: skip
    table = pd.read_csv(tmp_path / "t.csv", dtype=str, keep_default_na=False)
    assert table["class"].tolist() == ["all", *map(str, range(28))]
    assert table["published_raw"].tolist()[:2] == ["0.2332", "0.07007"]
    assert table["published_smoothed"].iloc[0] == "0.2196"
    assert table["note"].iloc[0] == "" and "indexing slip" in table["note"].iloc[28]
    assert table["raw"].iloc[28] == "" and table["fallback"].iloc[28] == "global"
    assert float(table["raw_fold_1"].iloc[0]) > 0 and float(table["smoothed_fold_1"].iloc[0]) > 0


def test_summary_sets_ours_beside_the_papers_text(run, tmp_path):
    out = score(run, tmp_path)
    sheet = write_sheet(tmp_path / "a.csv", "Predicted", run["test_ids"][:4], np.zeros((4, 28)))
    compare(run, tmp_path, [{"name": "Ann", "answers": sheet, "truth": None}])
    folds = pd.DataFrame({"image_id": run["ids"], "fold": np.tile([1, 2, 3, 4], 30)})
    folds.to_parquet(tmp_path / "folds.parquet")
    totals = run["truth"].sum(axis=0)
    counts = pd.DataFrame({"fold": 1, "split": "train", "class": range(28), "count": totals})
    counts.to_csv(tmp_path / "counts.csv", index=False)
    speed = pd.DataFrame(
        {"format": ["jpg", "npy", "npy"], "batch_size": [1, 64, 1], "image_size": [1728, 512, 512],
         "seconds_per_image": [0.5, 0.02, 0.1]}
    )  # fmt: skip
    speed.to_csv(tmp_path / "speed.csv", index=False)
    tabulate_summary.main(
        ["--folds", "1", "2", "--steps", *map(str, run["steps"]),
         "--epochs", *map(str, run["epochs"]), "--fold-table", str(tmp_path / "folds.parquet"),
         "--fold-counts", str(tmp_path / "counts.csv"), "--train-arrays", str(run["train"]),
         "--test-arrays", str(run["test"]), "--thresholds", str(run["thresholds"]),
         "--strategy", "global", "--metrics", str(out["metrics"]),
         "--per-class", str(out["per_class"]),
         "--human-vs-machine", str(tmp_path / "human_vs_machine.csv"),
         "--speed", str(tmp_path / "speed.csv"), "--published", str(PUBLISHED / "text.csv"),
         "--table", str(tmp_path / "summary.csv")]
    )  # fmt: skip
    table = pd.read_csv(tmp_path / "summary.csv", dtype=str, keep_default_na=False)
    ours = table.set_index("quantity")
    assert ours.loc["accuracy", "published"] == "0.6307"
    metrics = pd.read_csv(out["metrics"], dtype=str).set_index(["fold", "strategy", "metric"])
    iou = {fold: float(metrics.loc[(fold, "global", "iou"), "value"]) for fold in ("1", "mean")}
    assert float(ours.loc["accuracy", "fold_1"]) == pytest.approx(iou["1"], abs=1e-6)
    assert float(ours.loc["accuracy", "mean"]) == pytest.approx(iou["mean"], abs=1e-6)
    expected = {
        "training_images": ("120", "120"),
        "folds": ("4", "4"),
        "training_share": ("0.75", "0.75"),
        "classes": ("27", "27"),
        "cell_types": ("2", "2"),
        "test_images": ("80", "80"),
        "human_images": ("4", "4"),
        "final_training_f1": ("0.1", "0.15"),
        "final_training_recall": ("0.12", "0.17"),
        "best_epoch": ("6", "5"),
        "loss_switch_step": ("5", "5"),
        "loss_scale_up_step": ("10", "10"),
        "images_per_second": ("50", "50"),
        "seconds_per_image_jpg": ("0.5", "0.5"),
        "kaggle_test_images": ("", ""),
    }
    for quantity, values in expected.items():
        assert tuple(ours.loc[quantity, ["fold_1", "mean"]]) == values, quantity
    assert "paired" in ours.loc["points_over_people", "source"]
    assert ours.loc["most_confident_class", "mean"] != ""


def test_one_lucky_call_does_not_make_the_most_confident_class():
    metrics = pd.DataFrame(
        [(fold, "global", metric, 0.5) for fold in ("1", "mean")
         for metric in ("iou", "binary_accuracy", "macro_f1", "n_images")],
        columns=["fold", "strategy", "metric", "value"],
    )  # fmt: skip
    per_class = pd.DataFrame(
        # Four calls, all right; four positives, all found; enough of both; enough, and better.
        [("A", 90, 4, 1.0), ("B", 4, 6, 0.9), ("C", 5, 5, 0.4), ("D", 80, 70, 0.8),
         ("E", 9, 0, np.nan)],
        columns=["name", "support", "predicted", "precision"],
    )  # fmt: skip
    thresholds = pd.DataFrame({"raw": [0.3]})

    def best(rows):
        table = pd.concat([rows.assign(fold=fold, strategy="global") for fold in ("1", "mean")])
        # What the program looks for when it reads the table is all that is needed of it.
        values = of_evaluation(metrics, table[list(PER_CLASS)], thresholds, "global", "1")
        name, score = values["most_confident_class"], values["most_confident_class_accuracy"]
        assert "at least 5 positives and 5 predictions" in name.source
        assert (name.first, score.first) == (name.mean, score.mean)
        return name.mean, score.mean

    assert best(per_class) == ("D", 0.8)
    assert best(per_class[per_class["name"] != "D"]) == ("C", 0.4)
    assert best(per_class[per_class["name"].isin(["A", "B", "E"])]) == (None, None)


def test_tables_are_the_same_bytes_twice(run, tmp_path):
    once, again = tmp_path / "once", tmp_path / "again"
    for folder in (once, again):
        score(run, folder)
        compare(run, folder)
        search(run, folder / "thresholds.csv")
    names = sorted(path.name for path in once.iterdir())
    assert len(names) == 7
    for name in names:
        assert (once / name).read_bytes() == (again / name).read_bytes(), name
