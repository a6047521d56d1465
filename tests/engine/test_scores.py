"""What decisions are made of: found behind whatever rearranges them, shown and hidden without a trace."""

import numpy as np
import onnx_ir as ir
import pytest
from text_graphs import model_of

from onnxcompress.engine.dense_proto import serialised
from onnxcompress.engine.runtime import open_session
from onnxcompress.engine.scores import concealed, decided, deciding, made_alike, revealed, ways

INT = np.int64


@pytest.mark.parametrize(
    ("body", "output", "weights", "found"),
    [
        ("h = MatMul (x, w) y = ArgMax <axis = 1> (h)", "int64[N, 1] y", {}, ("h",)),
        (
            "h = MatMul (x, w) a = ArgMax <axis = 1, keepdims = 0> (h) b = Cast <to = 6> (a) "
            "c = Unsqueeze (b, ax) y = Identity (c)",
            "int32[N, 1] y",
            {"ax": np.array([1], INT)},
            ("h",),
        ),
        (
            "h = MatMul (x, w) s = Sigmoid (h) y = Greater (s, half)",
            "bool[N, 3] y",
            {"half": np.array(0.5, np.float32)},
            ("s",),
        ),
        (
            "h = MatMul (x, w) a = ArgMax <axis = 1, keepdims = 0> (h) y = Gather (names, a)",
            "int64[N] y",
            {"names": np.array([7, 8, 9], INT)},
            ("h",),
        ),
        (
            "h = MatMul (x, w) v, y = TopK <axis = 1> (h, k)",
            "int64[N, 2] y",
            {"k": np.array([2], INT)},
            ("h",),
        ),
        (
            "h = MatMul (x, w) g = Neg (h) a = ArgMax <axis = 1> (h) b = ArgMin <axis = 1> (g) "
            "y = Concat <axis = 1> (a, b)",
            "int64[N, 2] y",
            {},
            ("h", "g"),
        ),
        (
            "h = MatMul (x, w) c = Clip (h, lo, hi) r = Round (c) y = Cast <to = 2> (r)",
            "uint8[N, 3] y",
            {"lo": np.array(0, np.float32), "hi": np.array(255, np.float32)},
            ("c",),
        ),
        # what is an output already, or computed of the decision, is not told
        ("y = MatMul (x, w)", "float[N, 3] y", {}, ()),
        ("y = ArgMax <axis = 1> (x)", "int64[N, 1] y", {}, ()),
        ("h = MatMul (x, w) s = Shape (h) y = Identity (s)", "int64[2] y", {}, ()),
    ],
)
def test_what_decides_is_found(body, output, weights, found):
    model = model_of(body, "float[N, 4] x", output, {"w": (4, 3), **weights})
    assert deciding(model, ["y"]) == found


def test_revealed_and_concealed_again_it_is_the_model_that_it_was():
    body = "h = MatMul (x, w) a = ArgMax <axis = 1> (h) y = Identity (a)"
    model = model_of(body, "float[N, 4] x", "int64[N, 1] y", {"w": (4, 3)})
    x = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    shown = revealed(model, ["h"])
    outputs = open_session(serialised(shown)).run({"x": x})
    assert list(outputs) == ["y", "h"]
    np.testing.assert_allclose(outputs["h"], x @ model.array("w"), rtol=1e-5)
    hidden = concealed(shown, ["h"])
    assert not any(v.is_graph_output() for n in hidden.ir.graph for v in n.outputs if v.name == "h")
    assert serialised(hidden) == serialised(model)
    assert [v.name for v in model.ir.graph.outputs] == ["y"], "the argument is not changed"
    assert concealed(model, []) is model


def test_only_the_outputs_in_question_are_followed():
    body = "h = MatMul (x, w) k = MatMul (x, v) y = ArgMax <axis = 1> (h) z = ArgMax <axis = 1> (k)"
    model = model_of(body, "float[N, 4] x", "int64[N, 1] y, int64[N, 1] z", {"w": (4, 3), "v": (4, 5)})
    assert deciding(model, ["z"]) == ("k",)
    assert set(deciding(model, ["y", "z"])) == {"h", "k"}
    assert deciding(model, []) == ()


HEADS = "h = MatMul (x, w) r = Relu (h) s = MatMul (r, v) "
TOPK = HEADS + "t, i = TopK <axis = 1> (s, k) "
NMS = (
    "h = MatMul (x, w) q = Reshape (h, boxes) g = Sigmoid (q) f = MatMul (x, v) l = Unsqueeze (f, one) "
    "n = NonMaxSuppression (g, l, many, half) "
)
VALUES = {
    "w": (4, 12), "v": (12, 3), "k": np.array([2], INT), "one": np.array([1], INT), "two": np.array([2], INT),
    "three": np.array(3, INT), "half": np.array([0.5], np.float32), "boxes": np.array([-1, 3, 4], INT),
    "many": np.array([3], INT), "wide": np.array([1, 1, 4], INT), "places": np.array([2, 0], INT),
    "zero": np.array([0], INT), "table": (9, 5),
}  # fmt: skip


@pytest.mark.parametrize(
    ("body", "output", "found"),
    [
        (TOPK + "y = Identity (t)", "float[N, 2] y", ("s",)),
        (TOPK + "c = Cast <to = 1> (i) y = Concat <axis = 1> (t, c)", "float[N, 4] y", ("s",)),
        (
            TOPK + "q = Reshape (h, boxes) j = Mod (i, three) e = Unsqueeze (j, two) o = Expand (e, wide) "
            "z = GatherElements <axis = 1> (q, o) y = Mul (z, half)",
            "float[N, 2, 4] y",
            ("q", "s"),
        ),
        (
            NMS.replace("(x, v)", "(x, w)").replace("(f, one)", "(h, one)") + "y = GatherND (l, n)",
            "float[K] y",
            ("l", "g"),
        ),
        (
            HEADS + "b = Greater (s, half) m = NonZero (b) p = Transpose (m) y = GatherND (s, p)",
            "float[K] y",
            ("s",),
        ),
        (
            HEADS + "b = ArgMax <keepdims = 0> (s) a = Slice (b, zero, one) e = Add (a, one) "
            "y = Slice (h, a, e, one)",
            "float[N, K] y",
            ("h", "s"),
        ),
        (HEADS + "b = ArgMin <axis = 1, keepdims = 0> (s) y = Gather (table, b)", "float[N, 5] y", ("s",)),
        (HEADS + "b = Less (s, half) y = Cast <to = 1> (b)", "float[N, 3] y", ("s",)),
        # of what does not change with the weights nothing is decided
        (HEADS + "y = Gather <axis = 1> (s, places)", "float[N, 2] y", None),
        (
            HEADS + "z = Shape (h) a = Gather (z, zero) e = Sub (a, one) y = Gather (s, e)",
            "float[1, 3] y",
            None,
        ),
        ("b = ArgMax <axis = 1, keepdims = 0> (x) z = Gather (table, b) y = Relu (z)", "float[N, 5] y", None),
        (
            HEADS + "b = ArgMax <axis = 1> (x) m = Mod (b, three) y = GatherElements <axis = 1> (s, m)",
            "float[N, 1] y",
            None,
        ),
        # nor where each value keeps its place, or meets others that were not selected
        (HEADS + "b = Greater (s, half) z = Mul (s, half) y = Where (b, s, z)", "float[N, 3] y", None),
        (HEADS + "b = Greater (s, half) c = Cast <to = 1> (b) y = Mul (s, c)", "float[N, 3] y", None),
        (TOPK + "a = Slice (h, zero, two, one) y = Mul (t, a)", "float[N, 2] y", None),
        (TOPK + "u = MatMul (t, h2) y = Relu (u)", "float[N, 4] y", None),
    ],
)
def test_real_numbers_that_a_decision_selects_are_decisions(body, output, found):
    used = {
        name: value
        for name, value in {**VALUES, "h2": (2, 4)}.items()
        if f"{name})" in body or f"{name}," in body
    }
    model = model_of(body, "float[N, 4] x", output, used)
    assert decided(model) == (set() if found is None else {"y"})
    if found is not None:
        assert deciding(model, ["y"]) == found


def test_what_is_an_output_already_is_told_when_asked():
    model = model_of(TOPK + "y = Identity (t)", "float[N, 4] x", "float[N, 2] y, float[N, 3] s", VALUES)
    assert decided(model) == {"y"}
    assert deciding(model, ["y"]) == ()
    assert deciding(model, ["y"], own=True) == ("s",)
    assert ways(model) == {"y": ("s",)}
    alone = model_of(TOPK + "y = Identity (t)", "float[N, 4] x", "float[N, 2] y", VALUES)
    assert ways(alone) == {}
    shown = revealed(alone, ["s"])
    assert ways(shown) == {"y": ("s",)}


TAIL = HEADS + "b = ArgMin <axis = 1, keepdims = 0> (s) z = Gather (table, b) y = Mul (z, half)"


@pytest.mark.parametrize(
    ("was", "is_"),
    [
        pytest.param("ArgMin", "ArgMax", id="another operator"),
        pytest.param("keepdims = 0> (s)", "keepdims = 0> (other)", id="another value"),
        pytest.param("ArgMin <axis = 1,", "ArgMin <axis = 1, select_last_index = 1,", id="an attribute"),
        pytest.param("Mul (z, half)", "Mul (half, z)", id="another order"),
        pytest.param("Mul (z, half)", "Div (z, half)", id="the last operator"),
    ],
)
def test_outputs_are_made_alike_where_every_operator_on_the_way_is_the_same(was, is_):
    outputs = "float[N, 5] y, float[N, 3] s"
    model = model_of(TAIL, "float[N, 4] x", outputs, VALUES)
    same = model_of(TAIL, "float[N, 4] x", outputs, VALUES)
    assert made_alike(model.ir, same.ir, ways(model)) == {"y"}
    assert was in TAIL
    changed = TAIL.replace(was, is_).replace("(other)", "(o)")
    if "(o)" in changed:
        changed = changed.replace("b = ", "o = Neg (s) b = ")
    other = model_of(changed, "float[N, 4] x", outputs, VALUES)
    assert made_alike(model.ir, other.ir, ways(model)) == set()


def test_outputs_looked_up_in_another_table_are_not_made_alike():
    outputs = "float[N, 5] y, float[N, 3] s"
    model = model_of(TAIL, "float[N, 4] x", outputs, VALUES)
    other = model_of(TAIL, "float[N, 4] x", outputs, VALUES)
    table = other.ir.graph.initializers["table"]
    table.const_value = ir.tensor(table.const_value.numpy() * np.float32(1.001))
    assert made_alike(model.ir, other.ir, ways(model)) == set()


def test_the_same_operator_of_another_version_may_be_another():
    outputs = "float[N, 5] y, float[N, 3] s"
    model, other = (model_of(TAIL, "float[N, 4] x", outputs, VALUES) for _ in range(2))
    other.ir.opset_imports[""] = model.ir.opset_imports[""] + 1
    assert made_alike(model.ir, other.ir, ways(model)) == set()
