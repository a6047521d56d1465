"""Quantising to 8 bits: ranges, which nodes pass integers on, and graphs that compute what was decided."""

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from small_models import model_of, perceptron

from onnxcompress import importer
from onnxcompress.core.errors import UnsupportedError
from onnxcompress.core.quantization import Quantization
from onnxcompress.engine import runtime
from onnxcompress.engine.dense_proto import rebuilt, serialised
from onnxcompress.engine.int8.calibration import SAMPLED, Recorder, clipped, sampled
from onnxcompress.engine.int8.choice import candidates, carriers
from onnxcompress.engine.int8.kernels import sums_overflow
from onnxcompress.engine.int8.prepare import prepare
from onnxcompress.engine.quantizer import quantized

RNG = np.random.default_rng(5)


def conv_net(opset: int = 17):
    """Conv → BatchNormalization → Relu → Conv → Relu, added to the first, MaxPool, Flatten, Gemm."""
    rng = np.random.default_rng(3)

    def normal(*shape, scale=0.3):
        return (rng.standard_normal(shape) * scale).astype(np.float32)

    arrays = {
        "w1": normal(8, 3, 3, 3), "scale": 1 + normal(8, scale=0.1), "shift": normal(8), "mean": normal(8),
        "var": 1 + normal(8) ** 2, "w2": normal(8, 8, 3, 3), "b2": normal(8), "w3": normal(128, 5),
        "b3": normal(1, 5),
    }  # fmt: skip
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["c1"], "first", pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["c1", "scale", "shift", "mean", "var"], ["n1"]),
        helper.make_node("Relu", ["n1"], ["r1"], "relu1"),
        helper.make_node("Conv", ["r1", "w2", "b2"], ["c2"], "second", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c2"], ["r2"], "relu2"),
        helper.make_node("Add", ["r1", "r2"], ["s"], "sum"),
        helper.make_node("MaxPool", ["s"], ["p"], "pool", kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Flatten", ["p"], ["f"], "flatten"),
        helper.make_node("Gemm", ["f", "w3", "b3"], ["g"], "dense"),
        helper.make_node("Softmax", ["g"], ["y"], "softmax"),
    ]
    model = model_of(nodes, {"x": ["N", 3, 8, 8]}, {"y": ["N", 5]}, arrays)
    model.ir.graph.opset_imports[""] = opset
    return model


def feeds_of(count: int):
    return [{"x": RNG.standard_normal((1, 3, 8, 8)).astype(np.float32)} for _ in range(count)]


def decided(model, ways="static", feeds=None, narrow=None):
    prepared = prepare(model)
    found, _ = candidates(prepared.proto)
    ranges = Recorder(prepared.proto).minmax(feeds or feeds_of(8))
    dynamic = tuple(c.node for c in found if c.dynamic and ways != "static")
    static = tuple(c.node for c in found if c.node not in dynamic and ways != "dynamic")
    narrow = sums_overflow() if narrow is None else narrow
    return prepared, Quantization(static, carriers(prepared.proto, static), dynamic, ranges, narrow)


def test_normalisation_goes_into_the_convolution_and_layers_keep_their_names():
    model = conv_net()
    prepared = prepare(model)
    assert [n.op_type for n in prepared.proto.graph.node].count("BatchNormalization") == 0
    assert {prepared.weights[n] for n in ("first", "second", "dense")} == {"w1", "w2", "w3"}
    assert prepared.warnings == ()


def test_an_old_operator_set_is_raised_and_that_is_told():
    prepared = prepare(conv_net(opset=11))
    assert prepared.proto.opset_import[0].version == 13
    assert "operator set 11 was raised to 13" in prepared.warnings[0]


def test_overridable_weights_become_constants_and_that_is_told():
    model = perceptron()
    proto = onnx.ModelProto.FromString(serialised(model))
    proto.graph.input.append(helper.make_tensor_value_info("W1", onnx.TensorProto.FLOAT, [6, 8]))
    prepared = prepare(importer.load(proto))
    assert [i.name for i in prepared.proto.graph.input] == ["x"]
    assert "1 weights that a caller could override" in prepared.warnings[0]


def test_what_cannot_be_quantised_is_told_with_the_reason():
    rng = np.random.default_rng(0)
    arrays = {"w": rng.standard_normal((3, 4, 2, 2)).astype(np.float32), "v": np.ones((3, 6), np.float32)}
    nodes = [
        helper.make_node("ConvTranspose", ["x", "w"], ["t"], "up"),
        helper.make_node("Reshape", ["t", "shape"], ["r"]),
        helper.make_node("Gemm", ["r", "v"], ["y"], "turned", transA=1, transB=0),
    ]
    arrays |= {"v": np.ones((16, 4), np.float32), "shape": np.array([16, 4], np.int64)}
    model = model_of(nodes, {"x": [1, 3, 3, 3]}, {"y": [4, 4]}, arrays)
    found, why = candidates(prepare(model).proto)
    assert found == ()
    assert why["up"].startswith("onnxruntime has no 8-bit kernel")
    assert why["turned"] == "its first operand is transposed"


def test_integers_are_passed_on_only_between_quantised_layers():
    proto = prepare(conv_net()).proto
    names = {n.name for n in proto.graph.node}
    between = set(carriers(proto, ["first", "second", "dense"]))
    assert between == {"relu1", "relu2", "sum", "pool", "flatten"} & names
    assert set(carriers(proto, ["first", "second"])) == {"relu1", "relu2"}
    assert carriers(proto, []) == ()


WIDTHS = [pytest.param(False, marks=pytest.mark.skipif(sums_overflow(), reason="no VNNI")), True]
"""Weights of 8 bits, where this processor computes with these what they say, and of 7."""


@pytest.mark.parametrize("narrow", WIDTHS)
def test_static_graph_computes_what_rounding_by_hand_does(narrow):
    model = perceptron(features=6, hidden=8, classes=3)
    calls = [{"x": RNG.standard_normal((1, 6)).astype(np.float32)} for _ in range(20)]
    prepared, decision = decided(model, feeds=calls, narrow=narrow)
    proto = quantized(prepared.proto, decision)
    session = runtime.open_session(proto.SerializeToString())

    def rounded(values, low, high):
        scale = (high - low) / 255
        zero = np.rint(-low / scale)
        return (np.clip(np.rint(values / scale) + zero, 0, 255) - zero) * scale

    def weight(name):
        w = model.array(name).astype(np.float64)
        scale = np.abs(w).max(axis=0) / (64 if narrow else 127)
        return np.rint(w / scale) * scale

    ranges = decision.ranges
    for feed in calls:
        x = rounded(feed["x"].astype(np.float64), *ranges["x"])
        h = rounded(x @ weight("W1") + model.array("b1"), *ranges["h"])
        t = rounded(np.tanh(h), *ranges["t"])
        y = rounded(t @ weight("W2") + model.array("b2"), *ranges["y"])
        step = (ranges["y"][1] - ranges["y"][0]) / 255
        # A value in the middle between two levels may fall on either, at each of four roundings.
        assert np.abs(session.run(feed)["y"] - y).max() <= 3.01 * step


@pytest.mark.parametrize("ways", ["static", "mixed", "dynamic"])
def test_every_way_stays_close_to_float_and_uses_integers(ways):
    model = conv_net()
    prepared, decision = decided(model, ways)
    proto = quantized(prepared.proto, decision)
    onnx.checker.check_model(proto, full_check=True)
    session = runtime.open_session(proto.SerializeToString())
    reference = runtime.open_session(serialised(model))
    for feed in feeds_of(4):
        a, b = reference.run(feed)["y"], session.run(feed)["y"]
        assert np.linalg.norm(a - b) <= (0.3 if decision.narrow else 0.15) * np.linalg.norm(a)
    optimised = runtime.optimized_ops(proto.SerializeToString())
    kinds = {op for _, op in optimised}
    assert ("QLinearConv" in kinds) == (ways != "dynamic")
    assert bool({"MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul"} & kinds) == (
        ways != "static"
    )
    integers = [
        t for t in proto.graph.initializer if t.data_type == onnx.TensorProto.INT8 and len(t.dims) > 1
    ]
    assert len(integers) == (1 if ways == "dynamic" else 3)


def test_what_the_model_said_of_itself_stays():
    model = conv_net()
    model.ir.producer_name, model.ir.doc_string = "someone", "what it is for"
    model.ir.metadata_props["classes"] = "a b"
    prepared, decision = decided(model)
    after = rebuilt(model, quantized(prepared.proto, decision), "int8")
    assert after.ir.producer_name == "someone"
    assert after.ir.doc_string == "what it is for"
    assert after.ir.metadata_props == {"classes": "a b"}
    assert [i.name for i in after.ir.graph.inputs] == ["x"]
    assert [o.name for o in after.ir.graph.outputs] == ["y"]
    assert after.steps == ("int8",)


def test_the_prepared_graph_is_not_changed():
    prepared, decision = decided(conv_net(), "mixed")
    before = prepared.proto.SerializeToString()
    quantized(prepared.proto, decision)
    assert prepared.proto.SerializeToString() == before


def test_a_model_without_8_bit_operators_is_refused_with_the_reason():
    nodes = [
        helper.make_node("ImageScaler", ["x"], ["i"], bias=[0.0, 0.0, 0.0], scale=1.0),
        helper.make_node("Conv", ["i", "w"], ["y"]),
    ]
    model = model_of(
        nodes, {"x": [1, 3, 4, 4]}, {"y": [1, 2, 4, 4]}, {"w": np.ones((2, 3, 1, 1), np.float32)}
    )
    model.ir.graph.opset_imports[""] = 7
    with pytest.raises(UnsupportedError, match="need operator set 10, the model has 7"):
        prepare(model)


def test_minmax_is_the_least_and_greatest_of_all_calls():
    model = conv_net()
    prepared = prepare(model)
    calls = feeds_of(5)
    found = Recorder(prepared.proto).minmax(calls)
    xs = np.concatenate([f["x"] for f in calls])
    assert found["x"] == (float(xs.min()), float(xs.max()))
    assert found["r1"][0] == 0
    assert set(found) >= {"x", "r1", "c2", "r2", "s", "p", "g", "y"}


def brute_force(values, full, levels=256):
    best = None
    for low in np.linspace(full[0], 0, 40):
        for high in np.linspace(full[1], 0.02 * full[1], 60):
            step = (high - low) / (levels - 1)
            if step <= 0:
                continue
            back = np.clip(np.rint((values - low) / step), 0, levels - 1) * step + low
            loss = np.mean((values - back) ** 2)
            if best is None or loss < best:
                best = loss
    return best


@pytest.mark.parametrize("levels", [16, 256])
def test_clipped_range_loses_hardly_more_than_the_best_one(levels):
    values = np.random.default_rng(2).standard_t(3, 40_000)
    full = (float(values.min()), float(values.max()))
    counts, _ = np.histogram(values, bins=2048, range=full)
    low, high = clipped(counts, full, levels)
    step = (high - low) / (levels - 1)
    back = np.clip(np.rint((values - low) / step), 0, levels - 1) * step + low
    assert np.mean((values - back) ** 2) <= 1.15 * brute_force(values, full, levels)
    assert full[0] <= low <= 0 <= high <= full[1]


@pytest.mark.parametrize("shape", [(8192, 64), (1 << 16, 10), (65537, 3), (100, 7)])
def test_every_channel_is_in_the_sample_as_often_as_in_the_whole(shape):
    channels = np.broadcast_to(np.arange(shape[1]), shape)
    found = sampled(np.ascontiguousarray(channels), np.random.default_rng(0))
    assert found.size == min(channels.size, SAMPLED)
    shares = np.bincount(found, minlength=shape[1]) / found.size
    assert np.abs(shares * shape[1] - 1).max() < 0.15


def test_a_range_is_that_of_all_channels():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1, 8192, 64)).astype(np.float32)
    x[..., ::8] *= 0.01  # what every eighth number shows
    graph = helper.make_graph(
        [helper.make_node("Neg", ["x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, x.shape)],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, x.shape)],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    recorder = Recorder(proto)
    recorder.minmax([{"x": x}])
    low, high = recorder.least_error([{"x": x}])["y"]
    assert low < -2.5
    assert high > 2.5


def test_clipping_keeps_a_value_that_matters():
    counts = np.zeros(2048)
    counts[0], counts[-1] = 1000, 1000
    assert clipped(counts, (0.0, 5.0)) == (0.0, 5.0)


@pytest.mark.parametrize("narrow", WIDTHS)
def test_gemm_for_run_time_activations_keeps_its_factors(narrow):
    w = RNG.standard_normal((4, 6)).astype(np.float32)
    b = RNG.standard_normal(4).astype(np.float32)
    node = helper.make_node("Gemm", ["x", "w", "b"], ["y"], "g", transB=1, alpha=0.5, beta=2.0)
    model = model_of([node], {"x": ["N", 6]}, {"y": ["N", 4]}, {"w": w, "b": b})
    prepared = prepare(model)
    proto = quantized(prepared.proto, Quantization((), (), ("g",), {}, narrow))
    x = RNG.standard_normal((3, 6)).astype(np.float32)
    found = runtime.open_session(proto.SerializeToString()).run({"x": x})["y"]
    expected = 0.5 * x @ w.T + 2.0 * b
    assert np.linalg.norm(found - expected) <= 0.03 * np.linalg.norm(expected)
    codes = [numpy_helper.to_array(t) for t in proto.graph.initializer if list(t.dims) == [6, 4]]
    np.testing.assert_array_equal(codes[0], np.rint(w.T / np.abs(w.T).max(axis=0) * (64 if narrow else 127)))


def test_sums_of_the_greatest_products_with_7_bits_overflow_on_no_processor():
    """255 · 64 twice fits into 16 bits; 255 · 127 twice does not, and says whether 8 bits can be had."""
    for weight, exact in ((64, True), (127, not sums_overflow())):
        node = helper.make_node("MatMulInteger", ["a", "w"], ["y"])
        a = helper.make_tensor_value_info("a", onnx.TensorProto.UINT8, [3, 30])
        y = helper.make_tensor_value_info("y", onnx.TensorProto.INT32, [3, 5])
        tensor = numpy_helper.from_array(np.full((30, 5), weight, np.int8), "w")
        proto = helper.make_model(
            helper.make_graph([node], "g", [a], [y], [tensor]),
            opset_imports=[helper.make_opsetid("", 13)],
            ir_version=8,
        )
        session = runtime.open_session(proto.SerializeToString())
        found = session.run({"a": np.full((3, 30), 255, np.uint8)})["y"]
        assert bool((found == 255 * weight * 30).all()) == exact


@pytest.mark.parametrize("ways", ["static", "dynamic"])
def test_an_input_or_a_weight_that_is_handed_out_stays_what_it_was(ways):
    proto = onnx.ModelProto.FromString(serialised(perceptron(features=6, hidden=8, classes=3)))
    proto.graph.output.append(proto.graph.input[0])
    proto.graph.output.append(helper.make_tensor_value_info("W1", onnx.TensorProto.FLOAT, [6, 8]))
    weight = next(numpy_helper.to_array(t) for t in proto.graph.initializer if t.name == "W1")
    x = RNG.standard_normal((1, 6)).astype(np.float32)
    prepared, decision = decided(importer.load(proto), ways, feeds=[{"x": x}])
    written = quantized(prepared.proto, decision)
    onnx.checker.check_model(written, full_check=True)
    found = runtime.open_session(written.SerializeToString()).run({"x": x})
    np.testing.assert_array_equal(found["x"], x)
    np.testing.assert_array_equal(found["W1"], weight)


def test_tensors_made_for_a_gemm_take_no_name_that_is_taken():
    """Names of Gluon: the weight of node fc is fc_weight."""
    model = perceptron(features=6, hidden=6, classes=6)
    proto = onnx.ModelProto.FromString(serialised(model))
    del proto.graph.node[:], proto.graph.initializer[:]
    arrays = {
        "fc_weight": RNG.standard_normal((6, 6)),
        "fc_bias": RNG.standard_normal(6),
        "fc_product": [2.0],
    }
    proto.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(a, np.float32), n) for n, a in arrays.items()
    )
    proto.graph.node.extend(
        [
            helper.make_node("Gemm", ["x", "fc_weight", "fc_bias"], ["h"], "fc", transB=1),
            helper.make_node("Mul", ["h", "fc_product"], ["y"], "fc_add"),
        ]
    )
    prepared = prepare(importer.load(proto))
    written = quantized(prepared.proto, Quantization((), (), ("fc",), {}, narrow=True))
    onnx.checker.check_model(written, full_check=True)
    x = RNG.standard_normal((4, 6)).astype(np.float32)
    expected = runtime.open_session(prepared.proto.SerializeToString()).run({"x": x})["y"]
    found = runtime.open_session(written.SerializeToString()).run({"x": x})["y"]
    assert np.linalg.norm(found - expected) <= 0.03 * np.linalg.norm(expected)
