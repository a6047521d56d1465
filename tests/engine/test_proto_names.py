"""Names hidden behind marks: nothing is lost, and new names take none that is taken."""

import onnx
from onnx import parser

from onnxcompress.engine.proto_names import Hidden

TEXT = """
<ir_version: 8, opset_import: ["": 17]>
g (float[2] x, bool c) => (float[2] y) <float[2] x_scale = {1, 2}, float[1] odd = {3}> {
    [one] a = Mul (x, x_scale)
    [two] a_scale = Add (a, odd)
    y = If (c) <
        then_branch = t () => (float[2] t_y) { [in] t_y = Identity (a_scale) },
        else_branch = e () => (float[2] e_y) { e_y = Relu (a) }
    >
}
"""


def test_what_is_hidden_comes_back_to_the_byte():
    proto = parser.parse_model(TEXT)
    proto.graph.initializer[1].name = "{v0}"  # a name that looks like a mark
    proto.graph.node[1].input[1] = "{v0}"
    hidden = Hidden(proto)
    assert "x_scale" not in str(hidden.proto.graph)
    assert hidden.told(f"what of {hidden.value('{v0}')} and {{v99}}?") == "what of {v0} and {v99}?"
    hidden.reveal(hidden.proto)
    assert hidden.proto == proto


def test_new_names_get_strokes_where_they_are_taken():
    proto = parser.parse_model(TEXT)
    hidden = Hidden(proto)
    x, a = hidden.value("x"), hidden.value("a")
    made = [
        onnx.helper.make_node("Neg", [x], [f"{x}_scale"], hidden.node("one") + "_copy"),
        onnx.helper.make_node("Neg", [f"{x}_scale"], [f"{a}_free"], hidden.node("one") + "_copy'"),
    ]
    hidden.proto.graph.node.extend(made)
    hidden.reveal(hidden.proto)
    *old, first, second = hidden.proto.graph.node
    assert old == list(proto.graph.node)
    assert (list(first.input), list(first.output), first.name) == (["x"], ["x_scale'"], "one_copy")
    assert (list(second.input), list(second.output), second.name) == (["x_scale'"], ["a_free"], "one_copy'")
