"""Gates on runs whose numbers are chosen, so that every verdict is known."""

from __future__ import annotations

from dataclasses import replace

import pytest

from onnxcompress import gates
from onnxcompress.core.errors import GateError, UsageError
from onnxcompress.core.run import (
    Accuracy,
    Benchmark,
    Comparison,
    Environment,
    Gate,
    LatencyRatio,
    ModelFacts,
    OutputDifference,
    Run,
)


def facts(size_bytes):
    return ModelFacts("m", "", size_bytes, size_bytes, 1, 1, None, None, (), 17, 8, {})


def difference(max_abs, cosine, agreement):
    return OutputDifference(
        name="y",
        shape=(1, 2),
        max_abs=max_abs,
        relative_l2=0.0,
        cosine=cosine,
        top1_agreement=agreement,
        equal=False,
    )


def comparison(*outputs, reference="original"):
    return Comparison(reference, "", False, 1, outputs, None, None)


RUN = Run(
    schema="",
    version="",
    kind="compress",
    command=None,
    recipe={},
    seed=0,
    started="",
    duration_s=0.0,
    environment=Environment("", "", "", 1, {}),
    models=(facts(1000), facts(250)),
    comparisons=(
        comparison(difference(0.5, 0.9, 0.75), difference(0.25, 0.95, None)),
        comparison(difference(9.0, 0.0, 0.0), reference="torch"),
    ),
    accuracy=Accuracy("top1", True, 0.98, 0.97, "test", 100),
    benchmark=Benchmark((), (LatencyRatio("m", 1.25, 1.2, 1.3, "slower"),), 1, "", "", 1, 1, ""),
)
BARE = replace(RUN, models=(), comparisons=(), accuracy=None, benchmark=None)

MEASURED = {
    "max_size_ratio": 0.25,
    "max_bytes": 250.0,
    "max_latency_ratio": 1.25,
    "max_abs_err": 0.5,
    "min_cosine": 0.9,
    "min_agreement": 0.75,
    "max_drop": 0.01,
}


def test_every_gate_is_here():
    assert set(MEASURED) == set(gates.LIMITS)


@pytest.mark.parametrize(("name", "value"), MEASURED.items())
def test_the_verdict_on_either_side_of_the_limit(name, value):
    (gate,) = gates.decide(RUN, {name: value})
    assert gate.measured == pytest.approx(value, abs=1e-12)
    loose, strict = (1.001, 0.999) if gates.LIMITS[name].upper else (0.999, 1.001)
    assert [g.passed for g in gates.decide(RUN, {name: value * loose})] == [True]
    assert [g.passed for g in gates.decide(RUN, {name: value * strict})] == [False]


@pytest.mark.parametrize("name", ["max_size_ratio", "max_bytes", "max_abs_err", "min_cosine"])
def test_a_limit_that_is_met_exactly_holds(name):
    (gate,) = gates.decide(RUN, {name: MEASURED[name]})
    assert gate.passed is True


@pytest.mark.parametrize("name", MEASURED)
def test_what_was_not_measured_is_undecided_and_does_not_pass(name):
    decided = gates.decide(BARE, {name: 1.0})
    assert decided == (Gate(name, 1.0, None, None),)
    with pytest.raises(GateError, match=f"{name} was not measured"):
        gates.require(replace(BARE, gates=decided))


def test_a_rise_of_an_error_is_a_drop():
    worse = replace(RUN, accuracy=Accuracy("mse", False, 0.1, 0.3, "test", 100))
    (gate,) = gates.decide(worse, {"max_drop": 0.1})
    assert gate.measured == pytest.approx(0.2)
    assert gate.passed is False
    better = replace(RUN, accuracy=Accuracy("mse", False, 0.3, 0.1, "test", 100))
    assert gates.decide(better, {"max_drop": 0.0})[0].passed is True


def test_an_output_difference_that_is_not_a_number_fails():
    nan = replace(RUN, comparisons=(comparison(difference(float("nan"), 0.9, 1.0)),))
    assert gates.decide(nan, {"max_abs_err": 1e9})[0].passed is False
    mixed = comparison(difference(0.1, 0.9, 1.0), difference(float("nan"), float("nan"), 1.0))
    mixed_run = replace(RUN, comparisons=(mixed,))
    assert gates.decide(mixed_run, {"max_abs_err": 1e9})[0].passed is False
    assert gates.decide(mixed_run, {"min_cosine": -1.0})[0].passed is False


def test_the_worst_of_several_compared_models_counts():
    one, other = (replace(comparison(difference(d, 0.9, 1.0)), candidate=str(d)) for d in (0.9, 0.1))
    assert gates.decide(replace(RUN, comparisons=(one, other)), {"max_abs_err": 0.5})[0].passed is False
    three = replace(RUN, models=(facts(1000), facts(900), facts(100)))
    assert gates.decide(three, {"max_size_ratio": 0.5})[0].measured == 0.9
    ratios = (LatencyRatio("a", 2.0, 1.9, 2.1, "slower"), LatencyRatio("b", 0.5, 0.4, 0.6, "faster"))
    assert RUN.benchmark is not None
    slow = replace(RUN, benchmark=replace(RUN.benchmark, ratios=ratios))
    assert gates.decide(slow, {"max_latency_ratio": 1.0})[0].measured == 2.0


def test_all_that_is_broken_is_named():
    limits = {"max_bytes": 1.0, "min_cosine": 0.5, "max_size_ratio": 0.1}
    with pytest.raises(GateError) as error:
        gates.require(replace(RUN, gates=gates.decide(RUN, limits)))
    assert "max_bytes is 250, the limit is 1" in str(error.value)
    assert "max_size_ratio" in str(error.value)
    assert "min_cosine" not in str(error.value)
    gates.require(replace(RUN, gates=gates.decide(RUN, {"min_cosine": 0.5})))
    gates.require(RUN)


@pytest.mark.parametrize(
    ("limits", "says"),
    [
        ({"max_size": 1.0}, "no gate 'max_size'"),
        ({"max_bytes": float("nan")}, "--max-bytes must be a number"),
        ({"max_bytes": "1"}, "--max-bytes must be a number"),
        ({"max_bytes": True}, "--max-bytes must be a number"),
        ({"max_latency_ratio": 1.0}, "--max-latency-ratio"),
        ({"max_drop": 1.0}, "--max-drop"),
        ({"min_cosine": 1.0}, "--min-cosine"),
    ],
)
def test_limits_that_this_run_could_not_decide_are_refused_first(limits, says):
    with pytest.raises(UsageError, match=says):
        gates.check(limits, benchmark=False, outputs=False, data=False)


def test_limits_that_can_be_decided_are_accepted():
    gates.check(MEASURED, benchmark=True, outputs=True, data=True)
    gates.check({"max_bytes": 10}, benchmark=False, outputs=False, data=False)
