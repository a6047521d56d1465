"""int8 through the whole pipeline: what is written, what stays float, and what is refused."""

import logging
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from fragile_layer import fragile
from onnx import helper, numpy_helper

sys.path.insert(0, str(Path(__file__).parents[1] / "engine"))
from pruning_models import model_of

import onnxcompress
from onnxcompress import exporter
from onnxcompress.core.errors import (
    DataError,
    NothingChangedError,
    UnsupportedError,
    UsageError,
    VerificationError,
)
from onnxcompress.core.run import LatencyRatio
from onnxcompress.engine.int8 import telling
from onnxcompress.engine.proto import to_proto
from onnxcompress.methods.magnitude import Magnitude

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"
DIGITS = {"model": FIXTURES / "digits_cnn.onnx", "data": FIXTURES / "digits.npz"}


def kinds(model: onnx.ModelProto) -> set[str]:
    return {node.op_type for node in model.graph.node}


def rows(count: int = 120):
    return {"x": np.random.default_rng(4).standard_normal((count, 16)).astype(np.float32)}


@pytest.fixture(scope="module")
def digits():
    return onnxcompress.compress(**DIGITS, method="int8")


def test_a_trained_network_keeps_its_accuracy_and_shrinks(digits):
    run = digits.run
    assert run.accuracy.after >= run.accuracy.before - 0.01
    assert run.models[1].size_bytes < 0.6 * run.models[0].size_bytes
    assert "QuantizeLinear" in kinds(digits.model)
    cost, believed = run.comparisons
    assert believed.reference == "torch"
    assert believed.passed
    assert believed.tolerance == pytest.approx(0.5 * cost.outputs[0].relative_l2, rel=0.1)
    onnx.checker.check_model(digits.model, full_check=True)
    before, after = run.models
    # Scales, and the bias that a product got, are all that is added.
    assert before.parameters <= after.parameters <= 1.05 * before.parameters
    assert 8 <= after.bits_per_weight < 12


def test_the_run_tells_every_layer_and_how_ranges_were_found(digits):
    (facts,) = digits.run.quantizations
    assert facts.calibration in ("minmax", "mse")
    assert facts.examples == 100
    assert not facts.random_data
    assert [way.chosen for way in facts.ways].count(True) == 1
    assert all(layer.way in ("static", "dynamic") for layer in facts.layers)
    weights = {w.name: w for w in digits.run.weights}
    assert {layer.weight for layer in facts.layers} == set(weights)
    for weight in weights.values():
        assert weight.relative_error < 0.02
        assert weight.bits_after < 0.6 * weight.bits_before


@pytest.mark.parametrize("way", ["static", "dynamic"])
def test_weights_take_7_bits_where_kernels_overflow_and_that_is_told(monkeypatch, way):
    monkeypatch.setattr("onnxcompress.engine.int8.search.sums_overflow", lambda: True)
    found = onnxcompress.compress(**DIGITS, method="int8", way=way)
    weights = [numpy_helper.to_array(t) for t in found.model.graph.initializer if len(t.dims) > 1]
    greatest = [int(np.abs(w.astype(np.int64)).max()) for w in weights if w.dtype == np.int8]
    assert greatest
    assert set(greatest) == {64}
    assert any("rounded to 7 bits" in warning for warning in found.run.warnings)
    assert found.run.comparisons[1].passed


@pytest.mark.parametrize("second", ["static", "dynamic"])
@pytest.mark.parametrize("first", ["static", "dynamic"])
def test_layers_left_float_are_quantised_in_a_second_run(first, second):
    """The names that the quantiser would give are those of the first run, and taken."""
    data = DIGITS["data"]
    mlp = FIXTURES / "digits_mlp.onnx"
    part = onnxcompress.compress(mlp, data=data, method="int8", way=first, exclude=("fc1.*",))
    whole = onnxcompress.compress(part.model, data=data, method="int8", way=second)
    assert [w.name for w in whole.run.weights] == ["fc1.weight"]
    assert whole.run.accuracy.after >= whole.run.accuracy.before - 0.01
    assert not whole.model.metadata_props


def test_the_run_survives_json(digits):
    assert type(digits.run).from_json(digits.run.to_json()).quantizations == digits.run.quantizations


def test_a_wrong_scale_is_caught_before_anything_is_written(monkeypatch, tmp_path):
    write = exporter._write

    def broken(graph, path):
        written = write(graph, path)
        proto = onnx.load(written)
        # In both the file and its dense twin, so that only the comparison with torch can notice.
        scale = next(t for t in proto.graph.initializer if t.name.endswith("_scale") and len(t.dims) == 1)
        scale.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(scale) * np.float32(1.5), scale.name))
        onnx.save(proto, written)
        return written

    monkeypatch.setattr(exporter, "_write", broken)
    with pytest.raises(VerificationError, match="what the method decided"):
        onnxcompress.compress(**DIGITS, method="int8", output=tmp_path / "out.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("way", ["static", "dynamic"])
def test_a_fragile_layer_stays_float_so_that_the_limit_holds(way):
    free = onnxcompress.compress(fragile(), data=rows(), method="int8", way=way)
    (facts,) = free.run.quantizations
    error = facts.ways[0].relative_l2
    kept = onnxcompress.compress(fragile(), data=rows(), method="int8", way=way, max_error=error / 4)
    (facts,) = kept.run.quantizations
    floats = [layer for layer in facts.layers if layer.way == "float"]
    assert [layer.node for layer in floats] == ["frail"]
    assert "--max-error" in floats[0].why
    assert floats[0].damage == max(layer.damage for layer in facts.layers)
    assert facts.ways[0].relative_l2 <= error / 4
    assert any(r.where == "frail.w" and "--max-error" in r.why for r in kept.run.refusals)


def test_a_model_for_which_a_limit_cannot_hold_stays_float(tmp_path):
    why = "no choice of layers was found with which --max-error 1e-07 holds"
    options = {"data": rows(), "method": "int8", "way": "static", "max_error": 1e-7}
    with pytest.raises(NothingChangedError, match=why):
        onnxcompress.compress(fragile(), output=tmp_path / "out.onnx", **options)
    assert list(tmp_path.iterdir()) == []


def test_behind_a_method_that_changes_something_it_stays_float_with_a_warning():
    run = onnxcompress.compress(
        fragile(), data=rows(), method=["half", "int8"], way="static", max_error=1e-7, include=("*",)
    ).run
    assert any("the model stays float: no choice of layers was found" in w for w in run.warnings)
    (facts,) = run.quantizations
    assert {layer.way for layer in facts.layers} == {"float"}
    assert all("no choice of layers" in layer.why for layer in facts.layers)
    assert not any(way.chosen for way in facts.ways if way.name != "float")


def test_globs_choose_layers():
    result = onnxcompress.compress(
        fragile(), data=rows(), method="int8", way="static", exclude=("frail", "firm0.w")
    )
    ways = {layer.node: layer.way for layer in result.run.quantizations[0].layers}
    assert ways == {"firm1": "static", "firm3": "static"}
    assert {r.where: r.why for r in result.run.refusals}["frail.w"] == "excluded by --exclude"


def test_after_another_method_as_the_last_step():
    result = onnxcompress.compress(
        **DIGITS, method=["lc-quant", "int8"], bits=4, mode="dc", way="static", include=("*",)
    )
    assert [m.name for m in result.run.methods] == ["lc-quant", "int8"]
    assert "QuantizeLinear" in kinds(result.model)


def test_nothing_comes_after_it():
    with pytest.raises(UsageError, match="'int8' must be the last one"):
        onnxcompress.compress(**DIGITS, method=["int8", "lc-quant"], bits=4)


def test_it_needs_data():
    with pytest.raises(UsageError, match="needs data"):
        onnxcompress.compress(DIGITS["model"], method="int8")
    with pytest.raises((UsageError, DataError)):
        onnxcompress.compress(**DIGITS, method="int8", calib_samples=0)
    with pytest.raises(UsageError, match="--max-error must be positive"):
        onnxcompress.compress(**DIGITS, method="int8", max_error=0.0)


def test_random_data_is_told():
    run = onnxcompress.compress(DIGITS["model"], method="int8", random_data=True, way="static").run
    assert run.quantizations[0].random_data
    assert any("found on random numbers" in w for w in run.warnings)


def ratio(name, value, spread=0.01):
    return LatencyRatio(name, value, value - spread, value + spread, "")


@pytest.mark.parametrize(
    ("eight", "plain", "words"),
    [(1.4, 1.0, "slower than float"), (0.6, 0.4, "does not pay"), (0.4, 0.9, None)],
)
def test_slower_means_do_not_ship(eight, plain, words):
    best = telling.Found("static", telling.Quantization(("a",)), b"", 0.01, True, {})
    ratios = {"static": ratio("static", eight), telling.FLOAT: ratio(telling.FLOAT, plain)}
    said = telling.advice(best, ratios, False, random_data=False)
    if words is None:
        assert said == ()
    else:
        assert words in said[0]
        assert "do not ship" in said[0]


def test_the_fastest_way_is_taken():
    found = [
        telling.Found(w, telling.Quantization(("a",)), b"", 0.0, True, {}) for w in ("static", "dynamic")
    ]
    assert telling.fastest(found, {"static": ratio("s", 0.5), "dynamic": ratio("d", 0.6)}).way == "static"
    assert telling.fastest(found, {"static": ratio("s", 0.9), "dynamic": ratio("d", 0.6)}).way == "dynamic"
    assert telling.fastest(found, {}).way == "dynamic"


@pytest.mark.parametrize(
    ("eight", "plain", "verdict", "pays"),
    [(0.5, 0.9, "faster", True), (0.5, 0.4, "faster", False), (0.98, 1.0, "no measurable difference", False)],
)
def test_eight_bits_pay_where_they_are_measurably_faster_than_float(eight, plain, verdict, pays):
    best = telling.Found("static", telling.Quantization(("a",)), b"", 0.0, True, {})
    measured = {"static": LatencyRatio("s", eight, eight, eight, verdict), telling.FLOAT: ratio("f", plain)}
    assert telling.pays(best, measured) is pays


def stopwatch(**latencies):
    """Return a stopwatch that pretends to have measured these latencies, relative to the model before."""

    def time(models):
        found = {name: latencies[name] for name in list(models)[1:]}
        return tuple(LatencyRatio(n, r, r, r, "faster" if r < 1 else "slower") for n, r in found.items())

    return lambda *_: time


def test_the_fastest_way_leaves_the_model_float_where_eight_bits_do_not_pay(monkeypatch):
    def compress(*methods):
        result = onnxcompress.compress(**DIGITS, method=methods, way="fastest", keep=0.5, benchmark=True)
        (facts,) = result.run.quantizations
        return result, [way.name for way in facts.ways if way.chosen], {layer.way for layer in facts.layers}

    monkeypatch.setattr("onnxcompress.pipeline.compression.originals.latency", lambda *_, **__: None)
    slow = stopwatch(float=0.99, static=1.4, mixed=1.3, dynamic=1.2)
    monkeypatch.setattr("onnxcompress.pipeline.compression.stopwatch", slow)
    with pytest.raises(NothingChangedError, match="not measurably faster"):
        onnxcompress.compress(**DIGITS, method="int8", way="fastest", benchmark=True)
    result, chosen, ways = compress("magnitude", "int8")
    assert (chosen, ways) == (["float"], {"float"})
    assert "QuantizeLinear" not in kinds(result.model)
    assert any("stays float" in warning for warning in result.run.warnings)

    fast = stopwatch(float=0.99, static=0.5, mixed=0.6, dynamic=0.7)
    monkeypatch.setattr("onnxcompress.pipeline.compression.stopwatch", fast)
    result, chosen, ways = compress("magnitude", "int8")
    assert (chosen, ways) == (["static"], {"static"})
    assert "QuantizeLinear" in kinds(result.model)


@pytest.mark.parametrize(("eight", "stays"), [(1.4, True), (0.5, False)])
def test_an_operator_set_is_told_as_raised_only_where_the_written_file_has_it(monkeypatch, eight, stays):
    rng = np.random.default_rng(0)
    tensors = {"w1": rng.normal(size=(64, 16)), "w2": rng.normal(size=(5, 64))}
    nodes = [
        helper.make_node("Gemm", ["x", "w1"], ["h"], "fc1", transB=1),
        helper.make_node("Relu", ["h"], ["r"], "relu"),
        helper.make_node("Gemm", ["r", "w2"], ["y"], "fc2", transB=1),
    ]
    old = to_proto(model_of(nodes, tensors, (16,), 5, opset=11).ir)
    monkeypatch.setattr("onnxcompress.pipeline.compression.originals.latency", lambda *_, **__: None)
    ratios = {"float": 0.99, "static": eight, "mixed": eight, "dynamic": eight}
    monkeypatch.setattr("onnxcompress.pipeline.compression.stopwatch", stopwatch(**ratios))
    result = onnxcompress.compress(
        old,
        data={"x": rng.normal(size=(64, 16)).astype(np.float32)},
        method=("magnitude", "int8"),
        way="fastest",
        keep=0.5,
        benchmark=True,
    )
    (version,) = [entry.version for entry in result.model.opset_import if entry.domain == ""]
    assert version == (11 if stays else 13)
    assert any("stays float" in warning for warning in result.run.warnings) == stays
    assert any("was raised to 13" in warning for warning in result.run.warnings) == (not stays)


def test_the_fastest_way_has_to_be_measured(monkeypatch):
    with pytest.raises(UsageError, match="has to measure latency"):
        onnxcompress.compress(**DIGITS, method="int8", way="fastest", benchmark=False)
    # Before the methods in front of it have worked.
    monkeypatch.setattr(Magnitude, "plan", lambda *_: pytest.fail("too late"))
    chain = {"method": ["magnitude", "int8"], "keep": 0.5, "way": "fastest"}
    with pytest.raises(UsageError, match="--no-bench"):
        onnxcompress.compress(**DIGITS, **chain, benchmark=False)


def test_without_an_output_of_real_numbers_there_is_nothing_to_measure_by():
    model = onnx.load(DIGITS["model"])
    scores = model.graph.output[0].name
    model.graph.node.append(helper.make_node("IsNaN", [scores], ["broken"]))
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info("broken", onnx.TensorProto.BOOL, ["N", 10]))
    first = model.graph.input[0]
    shape = [d.dim_value or 64 for d in first.type.tensor_type.shape.dim]
    data = {first.name: np.random.default_rng(0).random(shape).astype(np.float32)}
    with pytest.raises(UnsupportedError, match="no output of the model holds real numbers"):
        onnxcompress.compress(model, method="int8", data=data, way="static", benchmark=False)


def test_weights_that_were_inputs_do_not_keep_an_old_model_from_being_raised():
    rng = np.random.default_rng(0)
    weights = {"w": rng.normal(size=(16, 16)).astype(np.float32), "b": np.zeros(16, np.float32)}
    inputs = [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N", 16])]
    inputs += [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, a.shape) for n, a in weights.items()]
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["x", "w", "b"], ["y"])],
        "old",
        inputs,
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["N", 16])],
        [numpy_helper.from_array(a, n) for n, a in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 7)], ir_version=3)
    done = onnxcompress.compress(model, method="int8", data=rows(), way="static", benchmark=False)
    assert "QuantizeLinear" in kinds(done.model)
    assert done.model.opset_import[0].version >= 10


@pytest.mark.parametrize("way", ["static", "dynamic", "auto"])
def test_layers_behind_an_operator_that_onnx_infers_no_types_of_are_quantised(way):
    """scikit-learn's pipelines begin with a Scaler of another domain; onnxruntime's quantiser asks onnx."""
    rng = np.random.default_rng(0)
    weights = {"w": rng.normal(size=(16, 64)), "v": rng.normal(size=(64, 8))}
    scaler = helper.make_node(
        "Scaler", ["x"], ["s"], domain="ai.onnx.ml", offset=[0.5] * 16, scale=[2.0] * 16
    )
    nodes = [scaler, helper.make_node("MatMul", ["s", "w"], ["h"]), helper.make_node("Relu", ["h"], ["r"])]
    graph = helper.make_graph(
        [*nodes, helper.make_node("MatMul", ["r", "v"], ["y"])],
        "pipeline",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N", 16])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [None, 8])],
        [numpy_helper.from_array(a.astype(np.float32), n) for n, a in weights.items()],
    )
    sets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    model = helper.make_model(graph, opset_imports=sets, ir_version=8)
    handlers = list(logging.root.handlers)
    done = onnxcompress.compress(model, method="int8", way=way, data=rows())
    expected = {"static": {"QuantizeLinear"}, "dynamic": {"DynamicQuantizeLinear"}}.get(
        way, {"QuantizeLinear", "DynamicQuantizeLinear"}
    )
    assert expected & kinds(done.model)
    assert done.run.comparisons[0].outputs[0].relative_l2 < 0.05
    assert list(done.model.graph.output) == list(graph.output), "an axis without a name gets none"
    assert logging.root.handlers == handlers, "the quantiser's own handler is gone again"
