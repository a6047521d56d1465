"""Gates on runs whose numbers are chosen, so that every verdict is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from onnxcompress import gates
from onnxcompress.core.errors import GateError, UsageError
from onnxcompress.core.run import (
    Accuracy,
    Benchmark,
    Comparison,
    Environment,
    Gate,
    Latency,
    LatencyRatio,
    ModelFacts,
    OutputDifference,
    Run,
)


def facts(size_bytes):
    return ModelFacts("m", "", size_bytes, size_bytes, 1, 1, None, 2 * size_bytes, (), 17, 8, {})


def difference(max_abs, cosine, agreement):
    return OutputDifference(
        name="y",
        shape=(1, 2),
        max_abs=max_abs,
        relative_l2=max_abs / 4,
        cosine=cosine,
        top1_agreement=agreement,
        equal=False,
    )


def comparison(*outputs, reference="original"):
    return Comparison(reference, "", False, 1, outputs, None, None)


def latency(name, median_ms, samples_ms=()):
    return Latency(name, median_ms, median_ms, median_ms, median_ms, None, None, None, tuple(samples_ms))


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
    benchmark=Benchmark(
        (latency("a", 2.0), latency("m", 3.0)),
        (LatencyRatio("m", 1.25, 1.2495, 1.2505, "slower"),),
        1,
        "",
        "",
        1,
        1,
        "",
    ),
)
BARE = replace(RUN, models=(), comparisons=(), accuracy=None, benchmark=None)

MEASURED = {
    "max_size_ratio": 0.25,
    "max_bytes": 250.0,
    "max_latency_ratio": 1.25,
    "max_latency_ms": 3.0,
    "max_macs": 500.0,
    "max_abs_err": 0.5,
    "max_rel_err": 0.125,
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
        ({"max_bytes": float("nan")}, "--max-bytes must be a finite number"),
        ({"max_bytes": float("inf")}, "--max-bytes must be a finite number"),
        ({"max_drop": -float("inf")}, "--max-drop must be a finite number"),
        ({"max_bytes": "1"}, "--max-bytes must be a finite number"),
        ({"max_bytes": True}, "--max-bytes must be a finite number"),
        ({"max_size_ratio": -1}, "--max-size-ratio must be at least 0"),
        ({"min_cosine": 1.5}, "--min-cosine must be from -1 to 1"),
        ({"min_agreement": 95}, "--min-agreement must be from 0 to 1"),
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


# noise -------------------------------------------------------------------------------------------------


def noisy(low, high):
    assert RUN.benchmark is not None
    ratios = (LatencyRatio("m", 1.0, low, high, ""),)
    return replace(RUN, benchmark=replace(RUN.benchmark, ratios=ratios))


def test_noise_larger_than_the_margin_is_unknown_and_fails_only_strictly():
    (gate,) = gates.decide(noisy(0.9, 1.1), {"max_latency_ratio": 1.05})
    assert gate.passed is None
    assert gate.unknown
    assert (gate.low, gate.high) == (0.9, 1.1)
    run = replace(RUN, gates=(gate,))
    gates.require(run)
    with pytest.raises(GateError, match="noise larger than the margin"):
        gates.require(run, strict=True)


@pytest.mark.parametrize(("limit", "passed"), [(1.2, True), (1.1, True), (0.9, False), (0.8, False)])
def test_outside_the_noise_the_verdict_is_clear(limit, passed):
    (gate,) = gates.decide(noisy(0.9, 1.1), {"max_latency_ratio": limit})
    assert gate.passed is passed
    assert not gate.unknown


def test_what_was_not_measured_is_not_unknown():
    (gate,) = gates.decide(BARE, {"max_latency_ratio": 1.0})
    assert not gate.unknown
    with pytest.raises(GateError):
        gates.require(replace(BARE, gates=(gate,)))


def test_the_noise_of_a_latency_is_that_between_parts():
    assert RUN.benchmark is not None
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(300):
        sessions = 5 + 0.2 * rng.standard_normal((4, 1))  # each session has a bias of its own
        samples = (sessions + 0.05 * rng.standard_normal((4, 40))).ravel()
        timed = latency("m", float(np.median(samples)), samples)
        run = replace(RUN, benchmark=replace(RUN.benchmark, latencies=(timed, timed)))
        (gate,) = gates.decide(run, {"max_latency_ms": 5.0})
        inside += gate.low <= 5.0 <= gate.high
    assert 0.9 <= inside / 300 <= 0.99


def test_the_noise_of_a_latency_of_four_known_parts():
    assert RUN.benchmark is not None
    timed = latency("m", 2.5, [1.0] * 3 + [2.0] * 3 + [3.0] * 3 + [4.0] * 3)
    run = replace(RUN, benchmark=replace(RUN.benchmark, latencies=(timed, timed)))
    (gate,) = gates.decide(run, {"max_latency_ms": 5.0})
    away = 3.182 * np.sqrt(5 / 3) / 2  # Student's t, deviation of 1, 2, 3, 4, root of four parts
    assert (gate.low, gate.high) == (pytest.approx(2.5 - away), pytest.approx(2.5 + away))


# budgets -----------------------------------------------------------------------------------------------


def budgets(tmp_path, text):
    path = tmp_path / "budgets.toml"
    path.write_text(text)
    return gates.read_budgets(path)


def three_models():
    assert RUN.benchmark is not None
    models = tuple(
        replace(facts(size), name=name) for name, size in (("a", 1000), ("b.onnx", 900), ("c.onnx", 100))
    )
    ratios = (LatencyRatio("b.onnx", 2.0, 1.9, 2.1, ""), LatencyRatio("c.onnx", 0.5, 0.4, 0.6, ""))
    comparisons = tuple(
        replace(comparison(difference(d, 0.9, 1.0)), candidate=n)
        for d, n in ((0.9, "b.onnx"), (0.1, "c.onnx"))
    )
    benchmark = replace(RUN.benchmark, ratios=ratios, latencies=())
    return replace(RUN, models=models, comparisons=comparisons, benchmark=benchmark)


def test_each_model_is_held_to_its_own_budget(tmp_path):
    found = budgets(
        tmp_path,
        """
        [default]
        max_abs_err = 0.5
        [models."b.onnx"]
        max_bytes = 950
        max_latency_ratio = 1.0
        [models."c*"]
        max_bytes = 50
        max_abs_err = 0.2
        """,
    ).decide(three_models())
    assert {(g.model, g.name): g.passed for g in found} == {
        ("b.onnx", "max_bytes"): True,
        ("b.onnx", "max_latency_ratio"): False,
        ("b.onnx", "max_abs_err"): False,
        ("c.onnx", "max_bytes"): False,
        ("c.onnx", "max_abs_err"): True,
    }
    with pytest.raises(GateError, match=r"max_bytes of c\.onnx is 100, the limit is 50"):
        gates.require(replace(RUN, gates=found))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[default", "not valid TOML"),
        ("[other]", "unknown entry 'other'"),
        ('[models."a"]\nmax_byts = 3', "did you mean 'max_bytes'"),
        ('[models."a"]\nmax_bytes = "3"', "must be a finite number"),
        ('[models."a"]\nmin_agreement = 95', "min_agreement must be from 0 to 1 .*budgets.toml"),
        ("models = 3", "must be a table"),
        ("[models]\na = 3", "must be a table"),
    ],
)
def test_budgets_that_cannot_be_read_are_told(tmp_path, text, says):
    with pytest.raises(UsageError, match=says):
        budgets(tmp_path, text)


@pytest.mark.parametrize(
    ("limit", "run", "says"),
    [
        (
            "max_latency_ratio = 1",
            {"benchmark": False, "data": True},
            "--max-latency-ratio needs the latency",
        ),
        ("max_drop = 1", {"benchmark": True, "data": False}, "--max-drop needs the accuracy"),
    ],
)
def test_budgets_of_compared_models_that_could_not_be_decided_are_refused_first(tmp_path, limit, run, says):
    demands = gates.Demands(budgets(tmp_path, f'[models."b.onnx"]\n{limit}'))
    first, second = tmp_path / "a.onnx", tmp_path / "b.onnx"
    with pytest.raises(UsageError, match=rf"{says} \(.*budgets.toml, b.onnx\)"):
        demands.check_each([first, second], **run)
    demands.check_each([first, second], benchmark=True, data=True)
    demands.check_each([second, first], **run)  # the first is what others are compared with
    gates.Demands().check_each([first, second], **run)


def test_budgets_that_say_nothing_of_the_model_are_told(tmp_path):
    other = budgets(tmp_path, '[models."z.onnx"]\nmax_bytes = 3')
    with pytest.raises(UsageError, match="say nothing of this model"):
        other.decide(three_models())
    with pytest.raises(UsageError, match="cannot read the budgets"):
        gates.read_budgets(tmp_path / "missing.toml")


# baseline ----------------------------------------------------------------------------------------------


def test_the_same_run_is_no_regression():
    found = gates.against(RUN, RUN)
    assert {g.name for g in found} == {
        "baseline_bytes", "baseline_macs", "baseline_latency_ratio", "baseline_rel_err",
        "baseline_metric_loss",
    }  # fmt: skip
    assert all(g.passed for g in found)


@pytest.mark.parametrize(
    ("name", "worse"),
    [
        ("baseline_bytes", replace(RUN, models=(facts(1000), facts(256)))),
        ("baseline_macs", replace(RUN, models=(facts(1000), replace(facts(250), macs=520)))),
        ("baseline_rel_err", replace(RUN, comparisons=(comparison(difference(0.6, 0.9, 1.0)),))),
        ("baseline_metric_loss", replace(RUN, accuracy=Accuracy("top1", True, 0.98, 0.94, "test", 100))),
    ],
)
def test_what_got_worse_is_a_regression(name, worse):
    verdicts = {g.name: g.passed for g in gates.against(worse, RUN)}
    assert verdicts.pop(name) is False
    assert all(g.passed for g in gates.against(RUN, worse)), "the other way round it got better"
    generous = {g.name: g.passed for g in gates.against(worse, RUN, share=0.5)}
    assert generous[name] is True


def test_an_accuracy_of_the_baseline_that_is_not_measured_now_is_no_pass():
    silent = replace(RUN, accuracy=None)
    verdicts = {g.name: g for g in gates.against(silent, RUN)}
    assert verdicts["baseline_metric_loss"].passed is None
    with pytest.raises(GateError, match="baseline_metric_loss was not measured"):
        gates.require(replace(RUN, gates=tuple(verdicts.values())))
    assert "baseline_metric_loss" not in {g.name for g in gates.against(RUN, silent)}


def test_accuracies_of_two_metrics_are_not_compared():
    other = replace(RUN, accuracy=replace(RUN.accuracy, metric="top5"))
    with pytest.raises(UsageError, match="top1 then, top5 now"):
        gates.against(other, RUN)


def test_errors_on_random_numbers_are_not_held_against_those_on_data():
    drawn = replace(RUN, comparisons=tuple(replace(c, random_inputs=True) for c in RUN.comparisons))
    assert not RUN.comparisons[0].random_inputs
    assert "baseline_rel_err" not in {g.name for g in gates.against(drawn, RUN)}
    assert "baseline_rel_err" in {g.name for g in gates.against(drawn, drawn)}


def test_latency_is_compared_as_a_ratio_and_with_its_noise():
    calm, wild = noisy(0.99, 1.01), noisy(0.8, 1.3)
    verdicts = {g.name: g for g in gates.against(wild, calm)}
    assert verdicts["baseline_latency_ratio"].unknown
    assert verdicts["baseline_latency_ratio"].limit == pytest.approx(1.1)
    assert {g.name: g.passed for g in gates.against(calm, wild)}["baseline_latency_ratio"] is True


def test_a_baseline_without_anything_in_common_is_told(tmp_path):
    with pytest.raises(UsageError, match="nothing in common"):
        gates.against(BARE, RUN)
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(UsageError, match="not a stored run"):
        gates.read_run(tmp_path / "run.json")
    with pytest.raises(UsageError, match="cannot read the baseline"):
        gates.read_run(tmp_path / "missing.json")
