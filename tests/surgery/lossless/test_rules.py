"""What each rule removes from a graph, and what it leaves alone; simplify itself proves that outputs stay."""

import re
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parents[1]))
from cut_graphs import ints, run
from text_graphs import model_of, proto_of

from onnxcompress import importer
from onnxcompress.core.simplification import Simplification
from onnxcompress.encodings.codebook import AdaptiveCodebook
from onnxcompress.surgery import join_duplicates, simplify

IMAGE = ("float[N, 4, 6, 6] x", "float[N, C, H, W] y")
ROWS = ("float[N, 6] x", "float[N, M] y")
BATCH = {"x": (2, 4, 6, 6)}
FEW = {"x": (3, 6)}


def norm(channels, seed=1):
    rng = np.random.default_rng(seed)
    spread = rng.normal(size=(3, channels)).astype(np.float32)
    return {
        "s": spread[0],
        "h": spread[1],
        "m": spread[2],
        "v": rng.uniform(0.2, 3, channels).astype(np.float32),
    }


def spelled(body):
    """Write out the normalisations of a body."""
    return re.sub(r"NORM \((\w)\)", r"BatchNormalization (\1, s, h, m, v)", body)


def done(model, shapes, *, rounding=True, freeze=False):
    """Return the simplified model and which rules found what."""
    found = simplify(model, Simplification(rounding, freeze), shapes, method="lossless", seed=0)
    joined = join_duplicates(found.model, shapes, method="lossless", seed=0)
    facts = [f for f in (found.facts, joined.facts) if f is not None]
    return joined.model, {c.rule: c.count for f in facts for c in f.changes}, found


def operators(model):
    return [node.op_type for node in model.ir.graph]


EXACT = {
    "identity in between": ("a = Identity (x) y = Relu (a)", {}, ["Relu"]),
    "identity before the output": ("a = Relu (x) y = Identity (a)", {}, ["Relu"]),
    "identity of an input stays": ("y = Identity (x)", {}, ["Identity"]),
    "dropout": ("a = Dropout (x) y = Relu (a)", {}, ["Relu"]),
    "dropout whose mask is read stays": (
        "a, k = Dropout (x) b = Cast <to: int = 1> (k) y = Add (a, b)",
        {},
        ["Dropout", "Cast", "Add"],
    ),
    "cast to the same type": ("a = Cast <to: int = 1> (x) y = Relu (a)", {}, ["Relu"]),
    "cast to double and back": (
        "a = Cast <to: int = 11> (x) b = Cast <to: int = 1> (a) y = Relu (b)",
        {},
        ["Relu"],
    ),
    "cast to half and back stays": (
        "a = Cast <to: int = 10> (x) b = Cast <to: int = 1> (a) y = Relu (b)",
        {},
        ["Cast", "Cast", "Relu"],
    ),
    "transposes that undo each other": (
        "a = Transpose <perm = [0, 2, 3, 1]> (x) b = Transpose <perm = [0, 3, 1, 2]> (a) y = Relu (b)",
        {},
        ["Relu"],
    ),
    "transposes that become one": (
        "a = Transpose <perm = [0, 2, 3, 1]> (x) b = Transpose <perm = [0, 2, 3, 1]> (a) y = Relu (b)",
        {},
        ["Transpose", "Relu"],
    ),
    "a transpose others read stays": (
        "a = Transpose <perm = [0, 2, 3, 1]> (x) b = Transpose <perm = [0, 2, 3, 1]> (a) "
        "c = Exp (a) d = ReduceSum <keepdims = 0> (b) y = Add (c, d)",
        {},
        ["Transpose", "Transpose", "Exp", "ReduceSum", "Add"],
    ),
    "reshape to the same shape": ("a = Reshape (x, k) y = Relu (a)", {"k": ints(-1, 4, 6, 6)}, ["Relu"]),
    "reshape there and back": (
        "a = Reshape (x, k) b = Reshape (a, l) y = Relu (b)",
        {"k": ints(-1, 24, 6), "l": ints(-1, 4, 6, 6)},
        ["Relu"],
    ),
    "reshape after reshape": (
        "a = Reshape (x, k) b = Reshape (a, l) y = Relu (b)",
        {"k": ints(-1, 24, 6), "l": ints(-1, 6, 4, 6)},
        ["Reshape", "Relu"],
    ),
    "reshape that copies a length stays": (
        "a = Reshape (x, k) b = Reshape (a, l) y = Relu (b)",
        {"k": ints(-1, 24, 6), "l": ints(0, 6, 2, -1)},
        ["Reshape", "Reshape", "Relu"],
    ),
    "squeeze of unsqueeze": (
        "a = Unsqueeze (x, k) b = Squeeze (a, k) y = Relu (b)",
        {"k": ints(1, 3)},
        ["Relu"],
    ),
    "flatten is no reshape to itself": (
        "a = Flatten (x) b = Reshape (a, k) y = Relu (b)",
        {"k": ints(-1, 4, 6, 6)},
        ["Relu"],
    ),
    "slice of everything": (
        "a = Slice (x, k, l, k) y = Relu (a)",
        {"k": ints(0), "l": ints(2**31 - 1)},
        ["Relu"],
    ),
    "slice of a part stays": (
        "a = Slice (x, k, l, m) y = Relu (a)",
        {"k": ints(0), "l": ints(5), "m": ints(2)},
        ["Slice", "Relu"],
    ),
    "concat of one": ("a = Concat <axis = 1> (x) y = Relu (a)", {}, ["Relu"]),
    "pad by nothing": ("a = Pad (x, k) y = Relu (a)", {"k": ints(*[0] * 8)}, ["Relu"]),
    "times one": ("a = Mul (x, k) y = Relu (a)", {"k": np.ones((1, 4, 1, 1), np.float32)}, None),
    "divided by one": ("a = Div (x, k) y = Relu (a)", {"k": np.ones((), np.float32)}, ["Relu"]),
    "one divided by it stays": (
        "a = Div (k, x) y = Relu (a)",
        {"k": np.ones((), np.float32)},
        ["Div", "Relu"],
    ),
    "one that makes it larger stays": (
        "a = Mul (x, k) y = Relu (a)",
        {"k": np.ones((1, 1, 1, 1, 1), np.float32)},
        ["Mul", "Relu"],
    ),
    "less zero": ("a = Sub (x, k) y = Relu (a)", {"k": np.zeros(1, np.float32)}, ["Relu"]),
    "equal nodes": ("a = Relu (x) b = Relu (x) y = Add (a, b)", {}, ["Relu", "Add"]),
    "nodes equal but for an attribute stay": (
        "a = LeakyRelu <alpha = 0.1> (x) b = LeakyRelu <alpha = 0.2> (x) y = Add (a, b)",
        {},
        ["LeakyRelu", "LeakyRelu", "Add"],
    ),
    "unread nodes": ("a = Exp (x) b = Neg (a) y = Relu (x)", {"w": (30,)}, ["Relu"]),
    "constants of constants": (
        "a = Add (k, l) b = Mul (a, k) c = Mul (x, b) y = Relu (c)",
        {"k": (4, 1, 1), "l": (4, 1, 1)},
        ["Mul", "Relu"],
    ),
    "a transposed weight": (
        "a = Transpose <perm = [1, 0, 2, 3]> (w) y = Conv (x, a)",
        {"w": (4, 3, 1, 1)},
        ["Conv"],
    ),
    "an expanded constant stays": (
        "a = Expand (k, l) y = Mul (x, a)",
        {"k": np.full((1,), 2, np.float32), "l": ints(4, 60, 60)},
        None,
    ),
    "a long way to a small constant": (
        "a = ConstantOfShape (k) b = ReduceSum <keepdims = 0> (a) y = Add (x, b)",
        {"k": ints(50, 50)},
        ["Add"],
    ),
}
"""Body, weights, operators that are left (None: only that outputs stay)."""


@pytest.mark.parametrize("name", EXACT)
def test_exact_rules(name):
    body, weights, left = EXACT[name]
    outputs = "float[A, B, C, D, E] y" if "larger" in name else IMAGE[1]
    shapes = {"x": (2, 4, 60, 60)} if "expanded" in name else BATCH
    inputs = "float[N, 4, 60, 60] x" if "expanded" in name else IMAGE[0]
    model = model_of(body, inputs, outputs, weights)
    after, _, found = done(model, shapes, rounding=False)
    if left is not None:
        assert operators(after) == left
    if name.endswith(("stay", "stays")):
        assert found.facts is None or operators(after) == operators(model)
    x = np.random.default_rng(5).normal(size=shapes["x"])
    assert run(after, x=x)["y"].tobytes() == run(model, x=x)["y"].tobytes()


def test_the_expanded_constant_is_not_stored():
    model = model_of(*EXACT["an expanded constant stays"][:1], "float[N, 4, 60, 60] x", IMAGE[1],
                     EXACT["an expanded constant stays"][1])  # fmt: skip
    after, rules, _ = done(model, {"x": (1, 4, 60, 60)}, rounding=False)
    assert operators(after) == ["Expand", "Mul"]
    assert "constants" not in rules


FOLDED = {
    "conv and normalisation": (
        "a = Conv (x, w, b) y = NORM (a)",
        {"w": (5, 4, 3, 3), "b": (5,), **norm(5)},
        ["Conv"],
    ),
    "conv without bias": ("a = Conv (x, w) y = NORM (a)", {"w": (5, 4, 3, 3), **norm(5)}, ["Conv"]),
    "depthwise": ("a = Conv <group = 4> (x, w) y = NORM (a)", {"w": (8, 1, 3, 3), **norm(8)}, ["Conv"]),
    "transposed, grouped": (
        "a = ConvTranspose <group = 2> (x, w) y = NORM (a)",
        {"w": (4, 3, 2, 2), **norm(6)},
        ["ConvTranspose"],
    ),
    "in front of a conv": ("a = NORM (x) y = Conv (a, w)", {"w": (5, 4, 3, 3), **norm(4)}, ["Conv"]),
    "in front of a grouped conv": (
        "a = NORM (x) y = Conv <group = 2> (a, w, b)",
        {"w": (6, 2, 1, 1), "b": (6,), **norm(4)},
        ["Conv"],
    ),
    "in front of a padded conv it stays": (
        "a = NORM (x) y = Conv <pads = [1, 1, 1, 1]> (a, w)",
        {"w": (5, 4, 3, 3), **norm(4)},
        ["BatchNormalization", "Conv"],
    ),
    "a scale in front of a padded conv": (
        'a = Mul (x, k) y = Conv <auto_pad = "SAME_UPPER"> (a, w)',
        {"w": (5, 4, 3, 3), "k": (4, 1, 1)},
        ["Conv"],
    ),
    "scale and shift behind a conv": (
        "a = Conv (x, w) b = Mul (a, k) c = Add (b, l) y = Relu (c)",
        {"w": (5, 4, 3, 3), "k": (1, 5, 1, 1), "l": (5, 1, 1)},
        ["Conv", "Relu"],
    ),
    "subtracted from a constant": (
        "a = Conv (x, w, b) y = Sub (k, a)",
        {"w": (5, 4, 3, 3), "b": (5,), "k": (5, 1, 1)},
        ["Conv"],
    ),
    "along another axis it stays": (
        "a = Conv (x, w, b) y = Mul (a, k)",
        {"w": (4, 4, 3, 3), "b": (4,), "k": (4,)},
        ["Conv", "Mul"],
    ),
    "a shared weight stays": (
        "a = Conv (x, w) b = NORM (a) c = Conv (x, w) y = Add (b, c)",
        {"w": (5, 4, 3, 3), **norm(5)},
        None,
    ),
    "two readers: it stays": (
        "a = Conv (x, w) b = NORM (a) y = Add (a, b)",
        {"w": (5, 4, 3, 3), **norm(5)},
        ["Conv", "BatchNormalization", "Add"],
    ),
}

PRODUCTS = {
    "gemm": ("a = Gemm (x, w, b) y = NORM (a)", {"w": (6, 5), "b": (5,), **norm(5)}, ["Gemm"]),
    "gemm, transposed, without bias": (
        "a = Gemm <transB = 1, alpha = 0.5> (x, w) y = NORM (a)",
        {"w": (5, 6), **norm(5)},
        ["Gemm"],
    ),
    "gemm with beta": (
        "a = Gemm <beta = 0.5> (x, w, b) y = NORM (a)",
        {"w": (6, 5), "b": (1, 5), **norm(5)},
        ["Gemm"],
    ),
    "in front of a gemm": (
        "a = NORM (x) y = Gemm <transB = 1, alpha = 2.0> (a, w, b)",
        {"w": (5, 6), "b": (5,), **norm(6)},
        ["Gemm"],
    ),
    "matmul and bias": (
        "a = MatMul (x, w) b = Add (a, c) y = NORM (b)",
        {"w": (6, 5), "c": (5,), **norm(5)},
        ["MatMul", "Add"],
    ),
    "matmul alone": ("a = MatMul (x, w) y = NORM (a)", {"w": (6, 5), **norm(5)}, ["MatMul", "Add"]),
    "in front of a matmul with bias": (
        "a = NORM (x) b = MatMul (a, w) y = Add (b, c)",
        {"w": (6, 5), "c": (5,), **norm(6)},
        ["MatMul", "Add"],
    ),
    "in front of a matmul without it stays": (
        "a = NORM (x) y = MatMul (a, w)",
        {"w": (6, 5), **norm(6)},
        ["BatchNormalization", "MatMul"],
    ),
    "one number for all": (
        "a = Div (x, k) b = MatMul (a, w) y = Mul (b, k)",
        {"w": (6, 5), "k": np.array(3, np.float32)},
        ["MatMul"],
    ),
    "a bias of one number stays": (
        "a = Gemm (x, w, b) y = NORM (a)",
        {"w": (6, 5), "b": (1,), **norm(5)},
        ["Gemm", "BatchNormalization"],
    ),
}


@pytest.mark.parametrize("name", [*FOLDED, *PRODUCTS])
def test_what_is_beside_a_layer_goes_into_its_weights(name):
    body, weights, left = (FOLDED | PRODUCTS)[name]
    (inputs, outputs), shapes = (IMAGE, BATCH) if name in FOLDED else (ROWS, FEW)
    model = model_of(spelled(body), inputs, outputs, weights)
    after, rules, found = done(model, shapes)
    if left is not None:
        assert operators(after) == left
    if name.endswith("stays"):
        assert not rules.keys() & {"normalisation", "scales and shifts"}
    else:
        assert (
            found.facts is None
            or found.facts.proof.float64_error is None
            or found.facts.proof.float64_error < 1e-12
        )
    x = np.random.default_rng(5).normal(size=shapes["x"])
    np.testing.assert_allclose(run(after, x=x)["y"], run(model, x=x)["y"], rtol=1e-4, atol=1e-4)
    _, rules, _ = done(model, shapes, rounding=False)
    assert not rules.keys() & {"normalisation", "scales and shifts"}, "folding rounds"


def test_normalisations_left_alone_are_told_with_the_reason():
    body, weights, _ = FOLDED["two readers: it stays"]
    _, _, found = done(model_of(spelled(body), *IMAGE, weights), BATCH)
    assert found.facts is None
    assert [r.why for r in found.refusals] == [
        "is not folded: others read what the layer in front of it gives"
    ]


def test_compressed_weights_keep_their_encoding():
    body, weights, _ = FOLDED["conv and normalisation"]
    model = model_of(spelled(body), *IMAGE, weights)
    encoding = AdaptiveCodebook(4).project([model.array("w")])[0]
    after, rules, found = done(model.with_encodings({"w": encoding}, "test"), BATCH)
    assert after.encodings["w"] is encoding
    assert "normalisation" not in rules
    assert "compressed" in found.refusals[0].why


def test_duplicates_are_joined_last_and_compressed_ones_never():
    rng = np.random.default_rng(3)
    same = rng.normal(size=(4, 4, 1, 1)).astype(np.float32)
    zeros = np.zeros(4, np.float32)
    body = "a = Conv (x, w, b) c = Conv (a, u, d) y = Conv (c, z, b)"
    model = model_of(body, *IMAGE, {"w": same, "u": same, "z": same, "b": zeros, "d": zeros})
    found = simplify(model, Simplification(), BATCH, method="lossless", seed=0)
    assert found.facts is None, "welding is left to the end"
    after, rules, _ = done(model, BATCH)
    assert rules == {"duplicates": 3}
    assert set(after.ir.graph.initializers) == {"w", "b"}
    encoding = AdaptiveCodebook(4).project([same])[0]
    after, rules, _ = done(model.with_encodings({"u": encoding}, "test"), BATCH)
    assert set(after.ir.graph.initializers) == {"w", "u", "b"}
    assert after.encodings == {"u": encoding}


def with_inputs(body, shape, weights, **more):
    """Return a model whose weights are inputs of the graph as well."""
    proto = proto_of(body, shape[0], shape[1], weights, **more)
    for tensor in list(proto.graph.initializer):
        proto.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    return importer.load(proto)


@pytest.mark.parametrize("ir_version", [3, 8])
def test_weights_that_are_inputs_stay_unless_they_are_frozen(ir_version):
    body, weights, _ = FOLDED["conv without bias"]
    model = with_inputs(
        f"{spelled(body)} u = Identity (b0)", IMAGE, {**weights, "b0": (3,)}, opset=9, ir_version=ir_version
    )
    names = [v.name for v in model.ir.graph.inputs]
    after, rules, found = done(model, BATCH)
    assert [v.name for v in after.ir.graph.inputs] == names
    assert rules == {"unused": 1}
    assert "--freeze-inputs" in found.refusals[0].why
    assert after.ir.ir_version == ir_version
    frozen, rules, _ = done(model, BATCH, freeze=True)
    assert [v.name for v in frozen.ir.graph.inputs] == ["x"]
    assert operators(frozen) == ["Conv"]
    assert rules["frozen inputs"] == 6
    assert frozen.ir.ir_version == max(4, ir_version)


def test_the_proof_in_float64_leaves_the_types_of_weights_alone():
    """What was an input has a type that clones share; onnxruntime refuses a file where it is another."""
    body, weights, _ = FOLDED["conv and normalisation"]
    model = with_inputs(spelled(body), IMAGE, weights, opset=9, ir_version=3)
    frozen, rules, _ = done(model, BATCH, freeze=True)
    assert "normalisation" in rules
    for one in (model, frozen):
        constants = one.ir.graph.initializers.values()
        assert [v.dtype for v in constants] == [v.const_value.dtype for v in constants]


def test_custom_operators_functions_and_metadata_stay():
    body = (
        "a = Identity (x) b = my.Twice (a) c = my.Twice (a) k = com.microsoft.BiasGelu (b, z) y = Add (b, c)"
    )
    proto = proto_of(body, *IMAGE, {"z": np.zeros(6, np.float32)})
    proto.opset_import.append(helper.make_opsetid("my", 1))
    proto.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    function = onnx.parser.parse_function(
        '<domain: "my", opset_import: ["": 17]> Twice (p) => (r) { q = Identity (p) r = Add (q, q) }'
    )
    proto.functions.append(function)
    proto.metadata_props.add(key="who", value="me")
    model = importer.load(proto)
    after, rules, _ = done(model, BATCH)
    assert operators(after) == ["Twice", "Twice", "BiasGelu", "Add"]
    assert rules == {"passing on": 1}
    assert dict(after.ir.metadata_props) == {"who": "me"}
    assert len(list(next(iter(after.ir.functions.values())))) == 2


def test_graphs_within_graphs():
    rng = np.random.default_rng(0)
    k = numpy_helper.from_array(rng.normal(size=(4, 1, 1)).astype(np.float32), "k")

    def branch(name, last):
        nodes = [
            helper.make_node("Constant", [], [f"{name}k"], value=k),
            helper.make_node("Identity", ["x"], [f"{name}a"]),
            helper.make_node("Mul", [f"{name}a", f"{name}k"], [f"{name}b"]),
            helper.make_node("Exp", [f"{name}b"], [f"{name}unread"]),
            helper.make_node(last, [f"{name}b"], [f"{name}y"]),
        ]
        return helper.make_graph(
            nodes, name, [], [helper.make_tensor_value_info(f"{name}y", TensorProto.FLOAT, None)]
        )

    nodes = [
        helper.make_node("ReduceSum", ["x"], ["t"], keepdims=0),
        helper.make_node("Greater", ["t", "zero"], ["c"]),
        helper.make_node("If", ["c"], ["y"], then_branch=branch("p", "Relu"), else_branch=branch("q", "Neg")),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4, 6, 6])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    zero = numpy_helper.from_array(np.zeros((), np.float32), "zero")
    outer = numpy_helper.from_array(numpy_helper.to_array(k), "outer")
    nodes.insert(0, helper.make_node("Mul", ["x", "outer"], ["z"]))
    nodes[1].input[0] = "z"
    graph = helper.make_graph(nodes, "g", [x], [y], [zero, outer])
    model = importer.load(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))
    after, rules, _ = done(model, {"x": (1, 4, 6, 6)})
    inner = [n.op_type for g in after.ir.graph.subgraphs() for n in g if g is not after.ir.graph]
    assert sorted(inner) == ["Mul", "Mul", "Neg", "Relu"]
    assert rules == {"unused": 2, "passing on": 2, "Constant nodes": 2, "duplicates": 2}
    for sign in (1, -1):
        x = sign * np.abs(np.random.default_rng(1).normal(size=(1, 4, 6, 6)))
        assert run(after, x=x)["y"].tobytes() == run(model, x=x)["y"].tobytes()


def test_random_operators_are_told():
    body = "a = RandomNormalLike (x) b = Identity (a) c = Add (x, b) y = Relu (c)"
    after, _, found = done(model_of(body, *IMAGE, {}), BATCH)
    assert operators(after) == ["RandomNormalLike", "Add", "Relu"]
    assert found.facts.proof.unrepeatable == ("y",)


TRAINING_FORMS = [
    pytest.param("y, m2, v2 = BatchNormalization<training_mode=1>(a, s, h, m, v)", 17, id="attribute"),
    pytest.param("y, m2, v2, m3, v3 = BatchNormalization(a, s, h, m, v)", 11, id="further outputs"),
]


@pytest.mark.parametrize(("line", "opset"), TRAINING_FORMS)
def test_a_normalisation_in_training_mode_is_not_folded_and_its_statistics_stay_its_own(line, opset):
    """onnxruntime writes to them; equal constants elsewhere must not be written to along with them."""
    ones = np.ones(8, np.float32)
    weights = {
        "w": (8, 4, 3, 3),
        "s": ones,
        "h": ones - 1,
        "m": ones - 1,
        "v": ones,
        "k": ones.reshape(8, 1, 1),
    }
    body = f"c = Conv(x, w) a = Add(c, k) {line}"
    model = model_of(body, *IMAGE, weights, opset=opset)
    done = simplify(model, Simplification(), BATCH, method="lossless", seed=0)
    joined = join_duplicates(done.model, BATCH, method="lossless", seed=0).model
    (node,) = (n for n in joined.ir.graph if n.op_type == "BatchNormalization")
    names = [v.name for v in node.inputs[1:5]]
    assert names[2:] == ["m", "v"]
    assert len(set(names)) == 4


def test_equal_constants_of_a_normalisation_in_inference_are_joined():
    ones = np.ones(4, np.float32)
    weights = {"s": ones, "h": ones, "m": ones, "v": ones}
    body = "r = Relu(x) y = BatchNormalization(r, s, h, m, v)"
    joined = join_duplicates(model_of(body, *IMAGE, weights), BATCH, method="lossless", seed=0).model
    (node,) = (n for n in joined.ir.graph if n.op_type == "BatchNormalization")
    assert len({v.name for v in node.inputs[1:5]}) == 1
