"""Sections on quantisation, sensitivity and operators: every format renders them, also with parts missing."""

import dataclasses

import pytest

from onnxcompress import report
from onnxcompress.core.profile import OperatorProfile, OperatorTime
from onnxcompress.core.quantization import QuantizationFacts, QuantizedLayer, QuantizedWay
from onnxcompress.core.run import SCHEMA, Benchmark, Environment, Latency, LatencyRatio, ModelFacts, Run
from onnxcompress.core.sensitivity import LayerDamage, Sensitivity

WAYS = (
    QuantizedWay("static", 2, 0.02, 1.2, 1.1, 1.3, "slower", True),
    QuantizedWay("float", 0, 0.0, 0.9, 0.85, 0.95, "faster", False),
    QuantizedWay("dynamic", 1, 0.01, None, None, None, None, False),
)
LAYERS = (
    QuantizedLayer("conv<1>", "Conv", "w1", "static"),
    QuantizedLayer("fc", "Gemm", "w2", "float", "left float, so that --max-error 0.1 holds", 0.4),
)
FACTS = QuantizationFacts("mse", 100, False, "--max-error 0.1", WAYS, LAYERS)
DAMAGE = Sensitivity(
    "lc-quant --bits 2",
    50,
    "50 training examples",
    False,
    (
        LayerDamage("frail|w", 0.5, 0.4, 0.6, "stored as codebook", True),
        LayerDamage("gone", float("inf"), 0.1, float("inf"), "", False),
        LayerDamage("firm", 0.01, 0.009, 0.012, "", False),
    ),
    None,
    0.03,
)
PROFILE = OperatorProfile(
    ("a.onnx", "b.onnx"),
    30,
    (1000.0, 600.0),
    (
        OperatorTime("conv1", ("Conv", "QLinearConv"), (800.0, 400.0)),
        OperatorTime("quantise", (None, "QuantizeLinear"), (None, 200.0)),
        OperatorTime("relu", ("Relu", None), (200.0, None)),
    ),
)


def run(**more) -> Run:
    return Run(
        schema=SCHEMA,
        version="1",
        kind="compress",
        command=None,
        recipe={},
        seed=0,
        started="2026-01-01T00:00:00+00:00",
        duration_s=1.0,
        environment=Environment("3", "", "", 1, {}),
        models=(),
        **more,
    )


@pytest.mark.parametrize("fmt", ["terminal", "markdown", "html"])
def test_every_format_tells_it(fmt):
    text = report.render(run(quantizations=(FACTS,), sensitivity=DAMAGE, operators=PROFILE), fmt)
    for words in ("slower: do not ship", "1 layer stands out", "QLinearConv", "fragile"):
        assert words in text
    assert "conv<1>" not in text or fmt != "html"


@pytest.mark.parametrize("fmt", ["terminal", "markdown", "html"])
def test_missing_parts(fmt):
    bare = dataclasses.replace(FACTS, limit=None, examples=0, ways=(), layers=())
    calm = dataclasses.replace(DAMAGE, layers=(), together=0.2)
    empty = OperatorProfile(("a",), 1, (0.0,), ())
    text = report.render(run(quantizations=(bare,), sensitivity=calm, operators=empty), fmt)
    assert "No layer stands out" in text
    assert "No limit was set" in text


def test_the_share_of_saved_work_that_became_saved_time():
    models = tuple(
        ModelFacts(name, "", 10, 10, 1, 1, None, macs, (), 17, 8, {})
        for name, macs in (("a", 1000), ("b", 500), ("c", 999), ("d", 500))
    )
    latencies = tuple(Latency(n, 1.0, 1.0, 1.0, 1.0, None, None, None, ()) for n in "abcd")
    ratios = tuple(LatencyRatio(n, r, r, r, "") for n, r in (("b", 0.8), ("c", 0.5), ("d", 1.2)))
    timed = dataclasses.replace(
        run(benchmark=Benchmark(latencies, ratios, 1, "", "", 1, 1, "")), models=models, kind="compare"
    )
    text = " ".join(report.render(timed, "terminal").split())
    assert (
        "b: 50 % of the MACs and 20 % of the time are saved; 40 % of the saved work became saved time."
        in text
    )
    assert "c: " not in text.split("Latency")[-1]
    assert "−20 % of the time are saved; nothing of the saved work" in text.replace("-20", "−20")


def test_they_survive_json():
    told = run(
        quantizations=(FACTS,),
        sensitivity=dataclasses.replace(DAMAGE, layers=DAMAGE.layers[::2]),
        operators=PROFILE,
    )
    assert Run.from_json(told.to_json()) == told
