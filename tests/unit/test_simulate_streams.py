"""Random streams: no two of them are the same generator."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpaloc.simulate import labels as labels_module
from hpaloc.simulate import render as render_module
from hpaloc.simulate.cells import CELL_LINES
from hpaloc.simulate.labels import antibody_labels
from hpaloc.simulate.render import record, render
from hpaloc.simulate.streams import ANTIBODY, DELIVERIES, stream

NUMBER = st.one_of(st.integers(0, 3), st.integers(2**32 - 3, 2**32 + 3), st.integers(0, 2**70))
ARGUMENTS = st.tuples(
    NUMBER, st.sampled_from(DELIVERIES), st.integers(0, 4), st.lists(NUMBER, max_size=3)
)

LABELS_OF_VERSION_1 = [
    [1],
    [21],
    [6],
    [26],
    [16],
    [0, 3, 5],
    [23],
    [10],
    [0, 4],
    [3, 19],
    [5],
    [4, 25],
]


def state(arguments):
    seed, delivery, purpose, items = arguments
    return stream(seed, delivery, purpose, *items).bit_generator.state["state"]["state"]


@given(ARGUMENTS, ARGUMENTS)
def test_different_arguments_give_different_streams(one, other):
    assert (state(one) == state(other)) == (one == other)


def test_lists_that_numpy_takes_for_the_same_are_apart():
    # A list that ends in zeros; a number of two words; both together.
    assert state((3, "kaggle", ANTIBODY, [])) != state((3, "kaggle", ANTIBODY, [0]))
    assert state((2**32 + 3, "kaggle", 0, [])) != state((3, "hpa_v18", 0, [0]))
    assert state((2**32 + 5, "kaggle", 0, [7])) != state((5, "hpa_v18", 0, [0, 7]))
    with pytest.raises(ValueError, match="below 0"):
        stream(-1, "kaggle", ANTIBODY)


def test_all_streams_of_two_sources_are_distinct(monkeypatch):
    """Every stream that is really opened for the first images, whatever its purpose."""
    opened = []

    def watched(*arguments):
        opened.append(arguments)
        return stream(*arguments)

    for module in (labels_module, render_module):
        monkeypatch.setattr(module, "stream", watched)
    for delivery, seed in itertools.product(DELIVERIES, (0, 1, 2)):
        settings = {
            "seed": seed, "delivery": delivery, "imbalance": 1.0, "images_per_antibody": 1,
            "cells": [4, 8], "field_um": 70.0, "cell_lines": list(CELL_LINES), "size": 32,
        }  # fmt: skip
        for number in range(6):
            render(settings, number)
        # Labels and cell lines of more antibodies, as these need no picture.
        for number in range(6, 200):
            record(settings, number)
    distinct = set(opened)
    assert {arguments[2] for arguments in distinct} == set(range(5))
    states = {state((*arguments[:3], arguments[3:])) for arguments in distinct}
    assert len(states) == len(distinct)


def test_the_labels_of_an_antibody_stay_as_they_were():
    # Of version 1 of the simulator. Antibody 0 is left out: its stream was that of the whole source.
    drawn = [antibody_labels(1, "kaggle", number, 0.45) for number in range(1, 13)]
    assert drawn == LABELS_OF_VERSION_1
