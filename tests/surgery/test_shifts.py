"""Folding shifts into biases: outputs stay, the constant goes; nothing is folded where it is not exact."""

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from onnxcompress import exporter, importer
from onnxcompress.encodings.codebook import AdaptiveCodebook
from onnxcompress.encodings.dense import Dense
from onnxcompress.engine import runtime
from onnxcompress.surgery import fold_shifts


def model_of(nodes, constants, inputs=96, outputs=("y",), as_inputs=()):
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", inputs])
    infos = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, constants[name].shape) for name in as_inputs
    ]
    ys = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    tensors = [numpy_helper.from_array(a, n) for n, a in constants.items()]
    graph = helper.make_graph(nodes, "g", [x, *infos], ys, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def constants(rng, inputs=96, rows=1):
    shape = (rows, inputs) if rows else (inputs,)
    return {
        "c": rng.normal(size=shape).astype(np.float32),
        "w": rng.normal(size=(7, inputs)).astype(np.float32),
        "b": rng.normal(size=7).astype(np.float32),
    }


def shift_and_gemm(op="Sub", order=("x", "c"), **attributes):
    attributes = {"transB": 1, **attributes}
    return [
        helper.make_node(op, list(order), ["s"]),
        helper.make_node("Gemm", ["s", "w", "b"], ["y"], **attributes),
    ]


def outputs_of(model, feed):
    return runtime.open_session(exporter.dense_bytes(model)).run({"x": feed})


@settings(max_examples=25, deadline=None)
@given(
    op=st.sampled_from(["Sub", "Add"]),
    rows=st.sampled_from([0, 1]),
    trans=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_outputs_stay_and_the_constant_goes(op, rows, trans, seed):
    rng = np.random.default_rng(seed)
    values = constants(rng, rows=rows)
    if not trans:
        values["w"] = np.ascontiguousarray(values["w"].T)
    before = importer.load(model_of(shift_and_gemm(op, transB=int(trans)), values))
    after, folds = fold_shifts(before)
    assert [(f.constant, f.elements, f.bias) for f in folds] == [("c", 96, "b")]
    assert "c" not in after.ir.graph.initializers
    assert [n.op_type for n in after.ir.graph] == ["Gemm"]
    assert [n.op_type for n in before.ir.graph] == [op, "Gemm"], "the given model must not change"
    feed = rng.normal(size=(5, 96)).astype(np.float32)
    expected, found = outputs_of(before, feed)["y"], outputs_of(after, feed)["y"]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_values_that_training_changed_are_folded_as_they_are_now():
    rng = np.random.default_rng(3)
    values = constants(rng)
    trained = {name: Dense(values[name] + np.float32(0.5)) for name in ("b", "c")}
    before = importer.load(model_of(shift_and_gemm(), values)).with_encodings(trained, "training")
    after, folds = fold_shifts(before)
    assert len(folds) == 1
    assert not {"b", "c"} & set(after.encodings)
    feed = rng.normal(size=(5, 96)).astype(np.float32)
    expected, found = outputs_of(before, feed)["y"], outputs_of(after, feed)["y"]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_a_weight_is_folded_as_it_is_stored():
    rng = np.random.default_rng(4)
    before = importer.load(model_of(shift_and_gemm(), constants(rng)))
    (coded,) = AdaptiveCodebook(entries=2).project([before.array("w")])
    before = before.with_encodings({"w": coded}, "lc-quant")
    after, folds = fold_shifts(before)
    assert len(folds) == 1
    assert after.encodings["w"] is coded
    feed = rng.normal(size=(5, 96)).astype(np.float32)
    expected, found = outputs_of(before, feed)["y"], outputs_of(after, feed)["y"]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_an_added_constant_may_come_first():
    values = constants(np.random.default_rng(0))
    assert fold_shifts(importer.load(model_of(shift_and_gemm("Add", ("c", "x")), values)))[1]


@pytest.mark.parametrize(
    "case",
    [
        "reversed",
        "alpha",
        "beta",
        "short",
        "shared constant",
        "shared bias",
        "output",
        "second use",
        "overridable",
    ],
)
def test_nothing_is_folded_where_it_would_not_be_exact(case):
    rng = np.random.default_rng(0)
    values, nodes, more = constants(rng), shift_and_gemm(), {}
    if case == "reversed":
        nodes = shift_and_gemm(order=("c", "x"))
    elif case in ("alpha", "beta"):
        nodes = shift_and_gemm(**{case: 2.0})
    elif case == "short":
        values, more = constants(rng, inputs=8), {"inputs": 8}
    elif case == "shared constant":
        nodes, more = [*nodes, helper.make_node("Mul", ["x", "c"], ["z"])], {"outputs": ("y", "z")}
    elif case == "shared bias":
        nodes, more = [*nodes, helper.make_node("Relu", ["b"], ["z"])], {"outputs": ("y", "z")}
    elif case == "output":
        more = {"outputs": ("y", "s")}
    elif case == "second use":
        nodes, more = [*nodes, helper.make_node("Relu", ["s"], ["z"])], {"outputs": ("y", "z")}
    elif case == "overridable":
        more = {"as_inputs": ("c",)}
    model = importer.load(model_of(nodes, values, **more))
    same, folds = fold_shifts(model)
    assert folds == ()
    assert same is model


def test_a_wrong_fold_would_be_seen():
    """Negative control: the tolerance above tells a bias that moved the wrong way."""
    rng = np.random.default_rng(0)
    before = importer.load(model_of(shift_and_gemm(), constants(rng)))
    after, _ = fold_shifts(before)
    bias = after.ir.graph.initializers["b"]
    bias.const_value = ir.Tensor(2 * before.array("b") - np.asarray(bias.const_value.numpy()), name="b")
    feed = rng.normal(size=(5, 96)).astype(np.float32)
    expected, found = outputs_of(before, feed)["y"], outputs_of(after, feed)["y"]
    assert np.abs(found - expected).max() > 1e-2 * np.abs(expected).max()
