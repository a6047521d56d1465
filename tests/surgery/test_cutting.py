"""Cutting small graphs: tensors, sizes and attributes fit, the rest is untouched, outputs are as wanted."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from cut_graphs import PERCEPTRON, channels_of, dropping, ints, run
from onnx import helper
from text_graphs import model_of, proto_of

from onnxcompress import exporter, importer
from onnxcompress.core.errors import UnsupportedError
from onnxcompress.encodings.codebook import AdaptiveCodebook
from onnxcompress.encodings.dense import Dense
from onnxcompress.engine.channels import silenced
from onnxcompress.engine.measures.costs import count_macs
from onnxcompress.surgery import cut

RNG = np.random.default_rng(1)


def agrees(channels, keep, **feeds):
    """Cut, and compare with silencing in onnxruntime; returns what was done."""
    result = cut(channels, keep)
    expected, found = run(silenced(channels, keep), **feeds), run(result.model, **feeds)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=0, atol=2e-6 * max(1, np.abs(value).max()))
    onnx.checker.check_model(onnx.load_model_from_string(exporter.dense_bytes(result.model)), full_check=True)
    return result


def test_every_tensor_of_a_group_loses_the_same_channels():
    model = model_of(*PERCEPTRON)
    channels = channels_of(model, x=(2, 6))
    result = agrees(channels, dropping(channels, "a", 1, 4), x=RNG.normal(size=(5, 6)))
    left = [0, 2, 3, 5, 6, 7]
    assert result.shapes == {"a": (6, 6), "ab": (6,), "b": (6, 3)}
    np.testing.assert_array_equal(result.model.array("a"), model.array("a")[:, left])
    np.testing.assert_array_equal(result.model.array("ab"), model.array("ab")[left])
    np.testing.assert_array_equal(result.model.array("b"), model.array("b")[left])
    assert model.array("a").shape == (6, 8), "the given model must not change"


def test_names_interfaces_and_metadata_stay():
    proto = proto_of(*PERCEPTRON)
    proto.metadata_props.add(key="author", value="somebody")
    proto.graph.value_info.append(helper.make_tensor_value_info("r", onnx.TensorProto.FLOAT, ["N", 8]))
    for number, node in enumerate(proto.graph.node):
        node.name = f"node {number}"
    channels = channels_of(importer.load(proto), x=(2, 6))
    result = cut(channels, dropping(channels, "a", 0))
    after = onnx.load_model_from_string(exporter.dense_bytes(result.model))
    for one, other in zip(after.graph.node, proto.graph.node, strict=True):
        assert (one.name, one.op_type, one.input, one.output) == (
            other.name,
            other.op_type,
            other.input,
            other.output,
        )
    for field in ("input", "output"):
        assert list(getattr(after.graph, field)) == list(getattr(proto.graph, field))
    assert (after.ir_version, list(after.opset_import)) == (proto.ir_version, list(proto.opset_import))
    assert list(after.metadata_props) == list(proto.metadata_props)
    assert [d.dim_value or d.dim_param for d in after.graph.value_info[0].type.tensor_type.shape.dim] == [
        "N",
        7,
    ]


def test_a_tied_weight_is_cut_once():
    model = model_of(
        "h = MatMul (x, a) r = Relu (h) k = MatMul (r, t) q = Tanh (k) l = MatMul (q, t) y = MatMul (l, b)",
        "float[2, 4] x", "float[2, 3] y", {"a": (4, 6), "t": (6, 6), "b": (6, 3)},
    )  # fmt: skip
    channels = channels_of(model, x=(2, 4))
    result = agrees(channels, dropping(channels, "a", 2), x=RNG.normal(size=(2, 4)))
    assert result.model.weights["t"].shape == (5, 5)


def test_an_encoded_weight_stays_encoded():
    model = model_of(*PERCEPTRON)
    (codebook,) = AdaptiveCodebook(4).project([model.array("a")])
    encoded = model.with_encodings({"a": codebook, "ab": Dense(model.array("ab") + 1)}, "quantised")
    channels = channels_of(encoded, x=(2, 6))
    result = agrees(channels, dropping(channels, "a", 3), x=RNG.normal(size=(4, 6)))
    kept = result.model.encodings["a"]
    assert (kept.kind, kept.shape) == ("codebook", (6, 7))
    np.testing.assert_array_equal(kept.decode(), np.delete(codebook.decode(), 3, axis=1))
    np.testing.assert_array_equal(result.model.encodings["ab"].decode(), np.delete(model.array("ab") + 1, 3))
    assert result.model.steps == ("quantised",)


def test_integer_weights_with_scales_and_zero_points():
    weights = {
        "q": RNG.integers(0, 255, (8, 6)).astype(np.uint8),
        "s": RNG.uniform(0.01, 0.02, 8).astype(np.float32),
        "z": RNG.integers(100, 150, 8).astype(np.uint8),
        "b": (8, 3),
    }
    model = model_of(
        "w = DequantizeLinear <axis: int = 0> (q, s, z) h = Gemm <transB: int = 1> (x, w) r = Relu (h) "
        "y = MatMul (r, b)", "float[N, 6] x", "float[N, 3] y", weights,
    )  # fmt: skip
    channels = channels_of(model, x=(2, 6))
    keep = dropping(channels, "s", 0, 5)
    result = agrees(channels, keep, x=RNG.normal(size=(4, 6)))
    graph = result.model.ir.graph.initializers
    assert [tuple(graph[n].shape) for n in ("q", "s", "z")] == [(6, 6), (6,), (6,)]
    assert graph["q"].const_value.dtype == ir.DataType.UINT8


@pytest.mark.parametrize("ir_version", [3, 8])
def test_weights_that_are_inputs_too(ir_version):
    proto = proto_of(*PERCEPTRON, opset=8, ir_version=ir_version)
    for tensor in proto.graph.initializer:
        proto.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    channels = channels_of(importer.load(proto), x=(2, 6))
    result = agrees(channels, dropping(channels, "a", 3), x=RNG.normal(size=(4, 6)))
    names = [v.name for v in result.model.ir.graph.inputs]
    if ir_version == 3:
        assert (names, result.model.ir.ir_version, result.warnings) == (["x"], 4, ())
    else:  # bb did not change: it still may be replaced
        assert (names, result.model.ir.ir_version) == (["x", "bb"], 8)
        assert "optional inputs" in result.warnings[0]


def test_an_old_file_keeps_no_constant_that_nothing_reads():
    proto = proto_of(
        "h = Conv (x, w) f = Reshape (h, s) y = MatMul (f, b)",
        "float[1, 2, 3, 3] x", "float[1, 5] y", {"w": (4, 2, 2, 2), "s": ints(1, 16), "b": (16, 5)},
        opset=8, ir_version=3,
    )  # fmt: skip
    for tensor in proto.graph.initializer:
        proto.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    channels = channels_of(importer.load(proto), x=(1, 2, 3, 3))
    graph = agrees(channels, dropping(channels, "w", 1), x=RNG.normal(size=(1, 2, 3, 3))).model.ir.graph
    assert all(value.uses() for value in graph.initializers.values())
    assert sorted(tuple(v.shape) for v in graph.initializers.values()) == [(2,), (3, 2, 2, 2), (12, 5)]


def test_an_untouched_old_file_stays_as_old():
    proto = proto_of(*PERCEPTRON, opset=8, ir_version=3)
    for tensor in proto.graph.initializer:
        proto.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    channels = channels_of(importer.load(proto), x=(2, 6))
    result = cut(channels, {})
    assert result.model.ir.ir_version == 3
    assert len(result.model.ir.graph.inputs) == 5


def test_positions_of_the_input_are_left_out_by_one_gather():
    model = model_of(
        "f = Flatten (x) h = Gemm (f, a) g = Gemm (f, b) y = Add (h, g)",
        "float[N, 2, 3] x", "float[N, 4] y", {"a": (6, 4), "b": (6, 4)},
    )  # fmt: skip
    channels = channels_of(model, x=(2, 2, 3))
    x = RNG.normal(size=(3, 2, 3))
    groups = [g for g in channels.groups if g.sliceable]
    assert len(groups) == 2
    mask = np.array([1, 0, 1, 1, 0, 1], bool)
    keep = {g.name: mask for g in groups}
    result = agrees(channels, keep, x=x)
    assert result.gathers == 1
    one = agrees(channels, {groups[0].name: mask}, x=x)
    assert one.gathers == 1
    for done, masks in ((result, keep), (one, {groups[0].name: mask})):
        assert channels.macs(masks) == count_macs(done.model, {"x": (2, 2, 3)}).total < channels.macs({})
    assert result.shapes == {"a": (4, 4), "b": (4, 4)}
    other = np.array([1, 1, 1, 0, 0, 1], bool)
    assert agrees(channels, dict(zip([g.name for g in groups], (mask, other), strict=True)), x=x).gathers == 2


def test_a_second_cut_chooses_from_the_input_itself():
    model = model_of(
        "f = Flatten (x) y = Gemm (f, a)", "float[N, 2, 3] x", "float[N, 4] y", {"a": (6, 4)}
    )  # fmt: skip
    first = channels_of(model, x=(2, 2, 3))
    name = next(g.name for g in first.groups if g.sliceable)
    once = cut(first, {name: np.array([1, 0, 1, 1, 0, 1], bool)}).model
    again = channels_of(once, x=(2, 2, 3))
    result = agrees(again, {next(g.name for g in again.groups if g.sliceable): np.array([0, 1, 1, 0], bool)},
                    x=RNG.normal(size=(3, 2, 3)))  # fmt: skip
    nodes = [n for n in result.model.ir.graph if n.op_type == "Gather"]
    assert len(nodes) == 1
    assert nodes[0].inputs[1].const_value.numpy().tolist() == [2, 3]
    assert nodes[0].inputs[1].const_value.dtype.name == "INT32"
    assert nodes[0].name.count("_part") == 1, "names do not grow with every cut"


def test_numbers_computed_from_shapes_stay():
    """The scale of an attention: the square root of a width that gets smaller."""
    body = (
        "h = Gemm (x, a) s = Shape (h) w = Gather (s, one) f = Cast <to: int = 1> (w) q = Sqrt (f) "
        "r = Div (h, q) n = Size (h) nf = Cast <to: int = 1> (n) u = Div (r, nf) y = MatMul (u, b)"
    )
    model = model_of(body, "float[N, 6] x", "float[N, 3] y", {"a": (6, 8), "b": (8, 3), "one": ints(1)})
    channels = channels_of(model, x=(2, 6))
    for batch in (2, 5):
        agrees(channels, dropping(channels, "a", 0, 1, 2), x=RNG.normal(size=(batch, 6)))


def test_an_output_that_is_a_shape_stays():
    body = "h = Gemm (x, a) s = Shape (h) n = Size (h) y = MatMul (h, b)"
    outputs = "float[N, 3] y, int64[2] s, int64 n"
    model = model_of(body, "float[N, 6] x", outputs, {"a": (6, 8), "b": (8, 3)})
    channels = channels_of(model, x=(2, 6))
    result = agrees(channels, dropping(channels, "a", 0), x=RNG.normal(size=(5, 6)))
    assert run(result.model, x=np.zeros((5, 6)))["s"].tolist() == [5, 8]
    assert [v.name for v in result.model.ir.graph.outputs] == ["y", "s", "n"]


HEADS = (
    "h = MatMul (x, a) s = Shape (x) n = Gather (s, zero) t = Gather (s, one) "
    "c = Concat <axis: int = 0> (n, t, tail) p = Reshape (h, c) "
    "q = Transpose <perm: ints = [0, 2, 1, 3]> (p) k = Transpose <perm: ints = [0, 2, 3, 1]> (p) "
    "m = MatMul (q, k) w = Softmax <axis: int = -1> (m) o = MatMul (w, q) "
    "v = Transpose <perm: ints = [0, 2, 1, 3]> (o) d = Concat <axis: int = 0> (n, t, width) "
    "z = Reshape (v, d) y = MatMul (z, b)"
)  # fmt: skip


@pytest.mark.parametrize("opset", [8, 17])
def test_computed_shapes_with_several_varying_lengths(opset):
    heads = HEADS if opset > 8 else HEADS.replace("Softmax <axis: int = -1>", "Relu").replace(" (m)", "(m)")
    weights = {
        "a": (6, 16), "b": (16, 3), "zero": ints(0), "one": ints(1), "tail": ints(4, 4), "width": ints(16),
    }  # fmt: skip
    model = model_of(heads, "float[N, T, 6] x", "float[N, T, 3] y", weights, opset=opset)
    channels = channels_of(model, x=(2, 3, 6))
    (group,) = channels.free
    keep = {group.name: np.arange(group.size) != 1}
    for shape in ((2, 3, 6), (4, 5, 6)):
        result = agrees(channels, keep, x=RNG.normal(size=shape))
    assert result.model.weights["a"].shape == (6, 16 - 16 // group.size)


def test_what_nobody_reads_goes():
    body = "d = Relu (x) e = MatMul (d, a) h = MatMul (x, a) y = MatMul (h, b)"
    weights = {"a": (6, 8), "b": (8, 3), "unused": (7,)}
    model = model_of(body, "float[N, 6] x", "float[N, 3] y", weights)
    channels = channels_of(model, x=(2, 6))
    result = agrees(channels, dropping(channels, "a", 1), x=RNG.normal(size=(5, 6)))
    assert [n.op_type for n in result.model.ir.graph] == ["MatMul", "MatMul"]
    assert result.gone == ("unused",)


def test_shared_biases_are_shared_again():
    zero = np.zeros(8, np.float32)
    body = (
        "h = Gemm (x, a, z) r = Relu (h) k = Gemm (r, b, z) s = Relu (k) l = Gemm (s, c, z) y = MatMul (l, d)"
    )
    weights = {"a": (6, 8), "b": (8, 8), "c": (8, 8), "d": (8, 3), "z": zero}
    channels = channels_of(model_of(body, "float[N, 6] x", "float[N, 3] y", weights), x=(2, 6))
    one = dropping(channels, "a", 0, 1)
    result = agrees(channels, one, x=RNG.normal(size=(5, 6)))
    sizes = sorted(w.size for w in result.model.weights.values() if len(w.shape) == 1)
    assert sizes == [6, 8], "one zero bias for the layer that was cut, one for both others"
    every = {**one, **dropping(channels, "b", 3, 4), **dropping(channels, "c", 5, 6)}
    result = agrees(channels, every, x=RNG.normal(size=(5, 6)))
    assert [w.size for w in result.model.weights.values() if len(w.shape) == 1] == [6]


def test_what_cannot_be_cut_is_told():
    channels = channels_of(model_of(*PERCEPTRON), x=(2, 6))
    (group,) = channels.free
    frozen = next(g for g in channels.groups if not g.free and not g.sliceable)
    for keep, words in [
        ({"nobody": np.ones(3, bool)}, "no such channel group"),
        ({group.name: np.zeros(8, bool)}, "would be emptied"),
        ({group.name: np.ones(7, bool)}, "does not fit"),
        ({frozen.name: np.arange(frozen.size) > 0}, "frozen"),
    ]:
        with pytest.raises(UnsupportedError, match=words):
            cut(channels, keep)


@pytest.mark.parametrize(("gone", "told"), [((0,), True), ((0, 1, 2, 3), False)])
def test_a_width_that_convolutions_dislike_is_told(gone, told):
    body = "h = Conv (x, a) r = Relu (h) y = Conv (r, b)"
    weights = {"a": (8, 3, 1, 1), "b": (5, 8, 1, 1)}
    model = model_of(body, "float[1, 3, 4, 4] x", "float[1, 5, 4, 4] y", weights)
    channels = channels_of(model, x=(1, 3, 4, 4))
    result = agrees(channels, dropping(channels, "a", *gone), x=RNG.normal(size=(1, 3, 4, 4)))
    assert bool(result.warnings) == told
    assert not told or "multiple of 4" in result.warnings[0]


def test_a_cut_model_is_cut_again():
    model = model_of(*PERCEPTRON)
    channels = channels_of(model, x=(2, 6))
    once = cut(channels, dropping(channels, "a", 0, 1)).model
    channels = channels_of(once, x=(2, 6))
    twice = agrees(channels, dropping(channels, "a", 0), x=RNG.normal(size=(4, 6)))
    np.testing.assert_array_equal(twice.model.array("ab"), model.array("ab")[3:])
