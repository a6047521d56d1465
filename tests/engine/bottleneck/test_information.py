"""The estimate of what gates let through: against what is known exactly, and along a training."""

from __future__ import annotations

import builtins
import math
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
from pruning_models import conv_net, mlp, task_for

from onnxcompress.core.errors import UsageError
from onnxcompress.core.resources import Resources
from onnxcompress.engine.bottleneck.information import information, pair
from onnxcompress.methods.vib import Vib

sklearn = pytest.importorskip("sklearn")
RNG = np.random.default_rng(0)


@dataclass(frozen=True)
class Named:
    name: str
    size: int


@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.9, 0.99])
def test_normal_numbers(correlation):
    one, noise = RNG.standard_normal((2, 4000))
    other = correlation * one + math.sqrt(1 - correlation**2) * noise
    assert pair(one, other) == pytest.approx(-0.5 * math.log(1 - correlation**2), abs=0.06)


def test_what_does_not_vary_tells_nothing():
    assert pair(np.ones(100), RNG.standard_normal(100)) == 0


def test_the_noisier_the_gate_the_less_comes_through():
    group, values = Named("g", 80), {"g": np.maximum(RNG.standard_normal((500, 80)), 0)}
    means = {"g": np.ones(80)}

    def through(deviation):
        return information([group], values, means, {"g": np.full(80, deviation)}, seed=0)["g"]

    known = [through(d) for d in (0.01, 0.1, 1.0, 100.0)]
    assert known == sorted(known, reverse=True)
    # The sign of the noise is not known, nor is more than that: what is left is whether it was zero.
    assert known[-1] < 0.35 * known[0]
    assert information([group], {}, means, means, seed=0) == {}


def test_what_some_channels_let_through_stands_for_all_of_a_wide_group():
    column = np.random.default_rng(2).standard_normal((500, 1))

    def through(size):
        ones = {"g": np.ones(size)}
        return information([Named("g", size)], {"g": np.repeat(column, size, 1)}, ones, ones, seed=0)["g"]

    assert through(480) == pytest.approx(10 * through(48), rel=0.1)


def test_the_path_tells_it():
    model, task = conv_net(), task_for((3, 8, 8), 5, count=300)
    resources = Resources(input_shapes={"x": (1, 3, 8, 8)})
    options = {"epochs": 12.0, "after": 0.0, "round_to": 1, "batch_size": 64, "gamma": 0.05}
    told = Vib(information=True, **options).plan(model, task, resources)
    points = [p for p in told.training.bottleneck.path if p.information]
    assert len(points) >= 10
    groups = {h.group for h in told.training.bottleneck.histograms}
    assert set(points[0].information) == groups
    assert sum(points[-1].information.values()) < 0.8 * sum(points[0].information.values())
    silent = Vib(**options).plan(model, task, resources)
    assert all(not p.information for p in silent.training.bottleneck.path)
    # Looking changes nothing.
    assert all(np.array_equal(told.keep[n], silent.keep[n]) for n in silent.keep)
    for name, encoding in silent.values.items():
        assert np.array_equal(encoding.decode(), told.values[name].decode())


def test_too_few_validation_examples_one_clear_sentence():
    model = mlp(RNG.normal(size=(8, 6)), RNG.normal(size=(3, 8)))
    task = task_for((6,), 3, count=50)
    few = replace(task, validation=task.validation[:3])
    with pytest.raises(UsageError, match="needs 4 validation examples or more: there are 3"):
        Vib(information=True).plan(model, few, Resources(input_shapes={"x": (1, 6)}))


def test_without_the_library_one_clear_sentence(monkeypatch):
    load = builtins.__import__

    def without(name, *args, **kwargs):
        if name.split(".")[0] == "sklearn":
            raise ImportError(name)
        return load(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    model = mlp(RNG.normal(size=(8, 6)), RNG.normal(size=(3, 8)))
    with pytest.raises(UsageError, match="scikit-learn"):
        Vib(information=True).plan(model, task_for((6,), 3, count=50), Resources(input_shapes={"x": (1, 6)}))
