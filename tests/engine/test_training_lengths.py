"""How many passes are made where nobody asked for a number, beside counting and the definition."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pruning_models import conv_net, mlp, task_for

from onnxcompress.engine.data.feeding import Feeding
from onnxcompress.engine.training.lengths import (
    LEAST_ROUNDS,
    MOST_STEPS,
    ROUND_STEPS,
    WORK,
    cheap_steps,
    passes,
    passes_of_a_round,
)

IMAGES = task_for((3, 8, 8), 5, count=8)


@pytest.mark.parametrize("batch_size", [1, 64])
@pytest.mark.parametrize("hidden", [6, 600_000])
def test_steps_are_cheap_while_all_of_them_cost_no_more_than_the_work(hidden, batch_size):
    model = mlp(np.zeros((hidden, 4)), np.zeros((5, hidden)))
    found = cheap_steps(model, task_for((4,), 5, count=8), {"x": (1, 4)}, batch_size)
    step = batch_size * hidden * (4 + 5)
    assert found * step <= WORK
    assert found == MOST_STEPS or (found + 1) * step > WORK
    assert (found == MOST_STEPS) == (hidden == 6 or batch_size == 1)


def test_a_convolution_costs_by_its_places():
    """8 · 8 places of 16 · 27 products, 6 · 6 of 32 · 144, and 5 · 32."""
    step = 64 * (27 * 16) + 36 * (144 * 32) + 5 * 32
    assert cheap_steps(conv_net(), IMAGES, {"x": (1, 3, 8, 8)}, 1000) == int(WORK / (1000 * step))


@pytest.mark.parametrize(("whole", "share"), [(False, 1), (True, 16)])
def test_a_step_costs_the_same_whatever_number_of_examples_is_counted_at(whole, share):
    """Of a fixed batch, or one that the user counts at; a feed of several that belong together is one."""
    task = replace(IMAGES, samples=SimpleNamespace(feeding=Feeding(whole, None)))
    one = cheap_steps(conv_net(), IMAGES, {"x": (1, 3, 8, 8)}, 1000)
    assert cheap_steps(conv_net(), task, {"x": (16, 3, 8, 8)}, 1000) == one // share


@given(st.floats(0.1, 5000), st.integers(1, 5000))
def test_a_round_has_enough_steps_unless_rounds_get_few(whole, per_epoch):
    found = passes_of_a_round(whole, per_epoch)
    assert found == 1 or whole / found >= LEAST_ROUNDS
    assert found * per_epoch >= ROUND_STEPS or whole / (found + 1) < LEAST_ROUNDS
    assert found == 1 or (found - 1) * per_epoch < ROUND_STEPS, "no more than it takes"


@given(st.floats(0.1, 100), st.integers(0, 5000), st.integers(1, 5000))
def test_passes_are_the_usual_ones_or_the_fewest_whole_ones_that_are_enough(usual, least, per_epoch):
    found = passes(usual, least, per_epoch)
    assert found >= usual
    assert found * per_epoch >= least
    if found > usual:
        assert found == round(found)
        assert (found - 1) * per_epoch < least
