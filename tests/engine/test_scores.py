"""What decisions are made of: found behind whatever rearranges them, shown and hidden without a trace."""

import numpy as np
import pytest
from text_graphs import model_of

from onnxcompress.engine.dense_proto import serialised
from onnxcompress.engine.runtime import open_session
from onnxcompress.engine.scores import concealed, deciding, revealed

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
            ("a", "h"),
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
