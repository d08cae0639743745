"""People, the network and constant answers, on the same images where their ids allow it."""

import logging
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from hpaloc.answers import ANSWERS, TRUTH, matched, read_sheet
from hpaloc.classes import CLASS_NAMES, N_CLASSES, multi_hot
from hpaloc.evaluation import DECIMALS, PUBLISHED_NAMES, format_score
from hpaloc.log import InputError
from hpaloc.metrics import scores, scores_per_class

log = logging.getLogger("hpaloc")

# A class's precision, or the area under its curve, that rests on fewer images than this is listed
# and not drawn, and no class is chosen by it.
LEAST_SUPPORT = 5  # that have the class
LEAST_PREDICTED = 5  # that were called with it: what its precision is a share of

NETWORK, CONSTANT, PERSON, PAPER = "network", "constant", "person", "paper"
REPORTED = "reported, unpaired"


class Answerer(NamedTuple):
    """Labels that one answerer gave to some images: truth and predicted are bool n × 28."""

    name: str
    kind: str
    images: str
    truth: np.ndarray
    predicted: np.ndarray


def on_test_images(
    truth: np.ndarray, network: dict[str, np.ndarray], constants: dict[str, np.ndarray]
) -> list[Answerer]:
    """The network and the constant answers on every labelled image of the test source."""
    images = f"all {len(truth)} labelled test images"
    answerers = [
        Answerer(name, NETWORK, images, truth, predicted) for name, predicted in network.items()
    ]
    for name, answer in constants.items():
        predicted = np.broadcast_to(answer, truth.shape)
        answerers.append(Answerer(f"constant: {name}", CONSTANT, images, truth, predicted))
    return answerers


def of_person(
    sheet: dict, image_ids: Sequence[str], truth: np.ndarray, network: dict[str, np.ndarray]
) -> list[Answerer]:
    """A person on the images of their sheet, then person and network on the common images.

    ``sheet``: name, answers (path), truth (path, or None where the ids are those of the test
    source). ``image_ids``, ``truth`` and ``network`` (bool n × 28 by name) are of the test
    source. Without common images, or where the two label the same ids differently, only the
    person is returned, and ``images`` says why.
    """
    name = sheet["name"]
    answers = read_sheet(sheet["answers"], ANSWERS)
    row_of = pd.Series(np.arange(len(image_ids)), index=image_ids)
    if sheet.get("truth") is None:
        unknown = answers[~answers["image_id"].isin(row_of.index)]
        if len(unknown):
            first = unknown.iloc[0]
            raise InputError(
                f"{sheet['answers']}, line {first['line']}: image id {first['image_id']!r} is not"
                f" a labelled image of the test source ({len(unknown)} such ids). Name the truth"
                f" of {name}'s images in evaluation.human_answers, or mend the ids."
            )
        ids = answers["image_id"]
        own_truth, predicted = truth[row_of[ids]], multi_hot(answers["labels"])
    else:
        true_labels = read_sheet(sheet["truth"], TRUTH)
        ids = true_labels["image_id"]
        own_truth, predicted = matched(true_labels, answers, sheet["truth"], sheet["answers"])
    common = ids.isin(row_of.index).to_numpy()
    rows = row_of[ids[common]].to_numpy()
    differing = int((own_truth[common] != truth[rows]).any(axis=1).sum())
    if differing or not len(rows):
        reason = (
            f"labelled differently in the test source ({differing} of {len(rows)} common ids)"
            if differing
            else "no image in common with the test source"
        )
        log.warning("%s and the network are not compared on the same images: %s", name, reason)
        images = f"{len(ids)} own images; unpaired: {reason}"
        return [Answerer(name, PERSON, images, own_truth, predicted)]
    paired = f"{len(rows)} images in common of {name} and the test source"
    answerers = [
        Answerer(f"{network_name}, on images of {name}", NETWORK, paired, truth[rows], called[rows])
        for network_name, called in network.items()
    ]
    if common.all():
        return [Answerer(name, PERSON, paired, own_truth, predicted), *answerers]
    images = f"{len(ids)} own images, {len(rows)} of them in the test source"
    return [
        Answerer(name, PERSON, images, own_truth, predicted),
        Answerer(f"{name}, common images", PERSON, paired, own_truth[common], predicted[common]),
        *answerers,
    ]


def check_names(answerers: Sequence[Answerer]) -> None:
    names = [answerer.name for answerer in answerers]
    doubled = sorted({name for name in names if names.count(name) > 1})
    if doubled:
        raise InputError(
            f"two answerers are called {doubled[0]!r}. Give the sheets in"
            " evaluation.human_answers different names."
        )


def comparison_table(answerers: Sequence[Answerer], published: pd.DataFrame) -> pd.DataFrame:
    """Table II, a column per answerer, then the paper's: all text.

    Rows: kind (network, constant, person, paper), images (which ones, paired or not), then the
    scores, those of Table II first. Columns metric, published_name (the paper's name of it),
    one per answerer, and the columns of ``published`` (resources/paper/table2.csv).
    """
    values = {answerer.name: scores(answerer.truth, answerer.predicted) for answerer in answerers}
    every = list(next(iter(values.values())))
    metrics = [*PUBLISHED_NAMES, *(metric for metric in every if metric not in PUBLISHED_NAMES)]
    table = {
        "metric": ["kind", "images", *metrics],
        "published_name": ["", "", *(PUBLISHED_NAMES.get(metric, "") for metric in metrics)],
    }
    for answerer in answerers:
        own = values[answerer.name]
        table[answerer.name] = [
            answerer.kind,
            answerer.images,
            *(format_score(own[metric]) for metric in metrics),
        ]
    by_metric = published.set_index("metric")
    for who in ("human", "machine"):
        for version in ("published", "recomputed"):
            column = by_metric[f"{who}_{version}"]
            table[f"paper: {who}, {version} ({REPORTED})"] = [
                PAPER,
                REPORTED,
                *(column.get(metric, "") for metric in metrics),
            ]
    return pd.DataFrame(table)


def class_comparison_table(answerers: Sequence[Answerer]) -> pd.DataFrame:
    """Scores of each class and answerer.

    Columns class, name, answerer, kind, images, accuracy (the precision of the class, as the
    paper means it; NaN where it was never answered), f1 (NaN where neither true nor answered),
    support, predicted, drawn ("no" where fewer than five images have the class or fewer than five
    were answered with it, as a precision of so few is chance).
    """
    tables = []
    for answerer in answerers:
        own = scores_per_class(answerer.truth, answerer.predicted)
        enough = (own["support"] >= LEAST_SUPPORT) & (own["predicted"] >= LEAST_PREDICTED)
        tables.append(
            pd.DataFrame(
                {
                    "class": range(N_CLASSES),
                    "name": CLASS_NAMES,
                    "answerer": answerer.name,
                    "kind": answerer.kind,
                    "images": answerer.images,
                    "accuracy": own["precision"],
                    "f1": own["f1"],
                    "support": own["support"],
                    "predicted": own["predicted"],
                    "drawn": np.where(enough, "yes", "no"),
                }
            )
        )
    return pd.concat(tables, ignore_index=True).round(DECIMALS)
