"""How many passes are made: as asked for, and no more than there is time for."""

from __future__ import annotations

import itertools
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[1]))
from pruning_models import conv_net, mlp, task_for

from onnxcompress.core.resources import Resources
from onnxcompress.engine.bottleneck import lengths
from onnxcompress.engine.bottleneck.job import Wishes
from onnxcompress.engine.bottleneck.lengths import LEAST_GATED, LEAST_STEPS, affordable, shortened, wished
from onnxcompress.engine.bottleneck.recovery import Recovery
from onnxcompress.methods.vib import Vib

SHAPES = {"x": (1, 3, 8, 8)}


@pytest.mark.parametrize(
    ("cheap", "steps_per_epoch", "usual"),
    [(4000, 19, 211), (30, 19, 53), (4000, 1000, 10), (10_000, 900, 12)],
)
def test_of_few_examples_more_passes_are_made_the_more_the_cheaper_they_are(cheap, steps_per_epoch, usual):
    asked = Wishes(gamma=1e-3, epochs=None, after=None, lr=1e-3)
    assert wished(asked, cheap, steps_per_epoch) == (usual, usual)
    assert wished(replace(asked, after=2.0), cheap, steps_per_epoch) == (usual, 2.0)
    assert wished(replace(asked, epochs=3.0), cheap, steps_per_epoch) == (3.0, 3.0)


def test_what_is_affordable_takes_no_more_time_than_there_is():
    rng = np.random.default_rng(0)
    for _ in range(200):
        gated, after = rng.uniform(1, 100), rng.uniform(0, 100)
        pass_s, left_s, steps = rng.uniform(0.01, 10), rng.uniform(1, 1000), int(rng.integers(1, 1000))
        share = affordable(gated, after, pass_s, left_s, steps)
        compared = 4 * min(1, 150 / steps)
        assert 0 < share <= 1
        assert share == 1 or share * (gated + after) * pass_s <= left_s
        if share == 1:
            assert (gated + after) * pass_s <= left_s
        else:  # and no more is left out than has to be
            assert (gated + after + compared) * pass_s > 0.8 * left_s
    assert affordable(10, 10, 1.0, float("inf"), 5) == 1


@pytest.mark.parametrize(
    ("after", "left_s", "share"),
    [
        (5.0, 17.5, 1.0),  # 14 passes: 10, and 4 of one pass each for two rates of two ways
        (5.0, 10.0, 0.4),  # 8, of which 4 are compared by
        (5.0, 5.0, 0.16),  # 4, of which trials leave 2 in 5
        (5.0, 0.0, 0.01),  # one step of 10 that make a pass
        (0.0, 5.0, 0.8),  # nothing is compared: 4 of 5
    ],
)
def test_how_the_time_is_dealt(after, left_s, share):
    assert affordable(5.0, after, 1.0, left_s, 10) == pytest.approx(share)


@settings(deadline=None)
@given(
    gated=st.floats(0.1, 100), after=st.floats(0, 100), share=st.floats(1e-4, 1), steps=st.integers(1, 1000)
)
def test_the_fewer_steps_the_more_of_them_are_made_after_the_decision(gated, after, share, steps):
    first, second = shortened(gated, after, share, steps)
    total = (gated + after) * share
    assert first + second == pytest.approx(total)
    assert first > 0
    assert second >= 0
    asked, left = gated / (gated + after), first / total
    if after == 0:
        assert second == pytest.approx(0, abs=1e-9)
    elif total * steps >= 2 * LEAST_STEPS:
        assert left == pytest.approx(asked)
    else:
        assert LEAST_GATED * asked <= left * (1 + 1e-9)
        assert left < asked
        fewer = shortened(gated, after, share / 2, steps)
        assert fewer[0] / sum(fewer) < left


def test_a_training_that_is_too_long_is_made_shorter_and_comes_to_its_end(monkeypatch):
    """Broken off in the middle, gates would be half closed and nothing learnt after the cut."""
    ticks = itertools.count()  # a clock that goes on by a millisecond whenever somebody looks at it
    monkeypatch.setattr(time, "monotonic", lambda: next(ticks) / 1000)
    found = Vib(target="macs=0.5", epochs=4000.0, after=4000.0, round_to=1, augment=False).plan(
        conv_net(), task_for((3, 8, 8), 5, count=300), Resources(input_shapes=SHAPES, max_time_s=1.0)
    )
    assert any("--max-time was enough for" in warning for warning in found.warnings)
    assert not any("threshold of" in warning for warning in found.warnings)
    assert found.training.stopped.startswith("done")
    assert 2 < found.training.epochs < 400
    losses = [p.compressed_loss for p in found.training.points]
    assert losses[-1] < 0.5 * max(losses)


def test_what_is_told_are_the_passes_that_were_made():
    """Not those that were planned: the time may be over before the first step, as it is here."""
    found = Vib(target="macs=0.5", round_to=1, augment=False).plan(
        conv_net(), task_for((3, 8, 8), 5, count=60), Resources(input_shapes=SHAPES, max_time_s=1e-6)
    )
    assert found.training.stopped.startswith("time")
    assert found.training.epochs == 0
    assert any("--max-time was enough for 0 of" in warning for warning in found.warnings)


@pytest.mark.parametrize("time_for", [0.5, 1.0])
def test_where_time_is_short_trials_take_no_more_of_it_than_training(time_for, monkeypatch):
    made = []
    one = Recovery._one
    monkeypatch.setattr(
        Recovery, "_one", lambda self, part, *rest: made.append(part) or one(self, part, *rest)
    )
    monkeypatch.setattr(lengths, "affordable", lambda *passes, ways: time_for)
    monkeypatch.setattr(lengths, "LEAST_GATED", 1.0)
    Vib(target="macs=0.5", epochs=2.0, after=2.0, round_to=1, augment=False, batch_size=8).plan(
        conv_net(), task_for((3, 8, 8), 5, count=60), Resources(input_shapes=SHAPES, max_time_s=1e6)
    )
    assert len(made) >= 6
    assert (sum(made[:6]) <= 2.0 * time_for) == (time_for < 1)


@pytest.mark.parametrize("limit", [None, 1e6])
def test_with_time_enough_nothing_is_said(limit):
    task = task_for((3, 8, 8), 5, count=60)
    found = Vib(gamma=0.1, epochs=2.0, after=1.0, round_to=1, augment=False).plan(
        conv_net(), task, Resources(input_shapes=SHAPES, max_time_s=limit)
    )
    assert found.training.epochs == 3.0
    assert not any("--max-time" in warning for warning in found.warnings)


@pytest.mark.parametrize(("epochs", "looks"), [(100.0, 20), (10.0, 10)])
def test_over_few_examples_the_validation_split_is_looked_at_after_several_passes(epochs, looks):
    """A pass is one step: not after each of a hundred, but after each of ten."""
    found = Vib(gamma=0.1, epochs=epochs, after=epochs, round_to=1, augment=False).plan(
        conv_net(), task_for((3, 8, 8), 5, count=60), Resources(input_shapes=SHAPES)
    )
    # Beside those after rounds: the original, after the decision, the way on, after training on.
    assert len(found.training.points) == 2 * looks + 4


@pytest.mark.parametrize("normalise", [False, True])
def test_a_limit_that_is_never_reached_changes_nothing(normalise):
    """Measuring how long a pass takes leaves neither random numbers nor statistics behind."""
    draw = np.random.default_rng(0)
    plain = mlp(draw.normal(size=(12, 6)), draw.normal(size=(3, 12)))
    model, shape, classes = (plain, (6,), 3) if normalise else (conv_net(), (3, 8, 8), 5)
    found = []
    for limit in (None, 1e6):
        plan = Vib(target="macs=0.5", epochs=3.0, after=2.0, round_to=1, normalise=normalise).plan(
            model,
            task_for(shape, classes, labelled=True, count=100),
            Resources(input_shapes={"x": (1, *shape)}, max_time_s=limit),
        )
        found.append((plan.keep, {name: e.decode() for name, e in {**plan.weights, **plan.values}.items()}))
    one, other = found
    for mine, theirs in zip(one, other, strict=True):
        assert mine.keys() == theirs.keys()
        assert len(mine) > 0
        assert all(np.array_equal(array, theirs[name]) for name, array in mine.items())
