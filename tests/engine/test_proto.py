"""ModelProto to onnx_ir and back: what onnx_ir alone would lose."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from sameness import differences

from onnxcompress.core.model import Model, Source
from onnxcompress.engine import runtime
from onnxcompress.engine.proto import from_proto, plain_bytes, to_proto
from onnxcompress.engine.sparse_tensors import dense

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64
info = helper.make_tensor_value_info


def model(nodes, inputs, outputs, initializers=(), *, opset=17, ir_version=8, **fields):
    options = {k: fields.pop(k) for k in ("functions", "opset_imports") if k in fields}
    graph = helper.make_graph(nodes, "g", inputs, outputs, list(initializers), **fields)
    options.setdefault("opset_imports", [helper.make_opsetid("", opset)])
    return helper.make_model(graph, ir_version=ir_version, **options)


def sparse_tensor(name="w", values=(3.0, -1.0), places=(1, 5), shape=(2, 4)):
    return helper.make_sparse_tensor(
        numpy_helper.from_array(np.array(values, np.float32), name),
        numpy_helper.from_array(np.array(places, np.int64), name + "_places"),
        shape,
    )


def rich():
    """One model with everything a file may hold beside nodes and weights."""
    weight = numpy_helper.from_array(np.ones((4, 2), np.float32), "w")
    weight.doc_string = "a weight"
    node = helper.make_node("MatMul", ["x", "w"], ["h"], name="m", doc_string="multiply")
    node.metadata_props.add(key="namespace", value="a/b")
    call = helper.make_node("Twice", ["h"], ["y"], domain="own", factor=3.0)
    call.overload = "loud"
    body = [
        helper.make_node("Constant", [], ["c"]),
        helper.make_node("Mul", ["a", "c"], ["b"]),
    ]
    body[0].attribute.add(name="value_float", ref_attr_name="factor", type=onnx.AttributeProto.FLOAT)
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]
    function = helper.make_function("own", "Twice", ["a"], ["b"], body, opsets[:1], ["factor"])
    function.overload, function.doc_string = "loud", "doubles"
    function.value_info.append(info("c", FLOAT, []))
    proto = model(
        [node, call],
        [info("x", FLOAT, ["N", 4])],
        [info("y", FLOAT, ["N", 2])],
        [weight],
        ir_version=10,
        functions=[function],
        opset_imports=opsets,
        value_info=[info("h", FLOAT, ["N", 2]), info("gone", FLOAT, [1])],
        doc_string="a graph",
    )
    proto.producer_name, proto.producer_version, proto.domain = "test", "1", "org"
    proto.model_version, proto.doc_string = 7, "a model"
    proto.metadata_props.add(key="author", value="nobody")
    proto.graph.metadata_props.add(key="k", value="v")
    proto.graph.input[0].doc_string = "an input"
    proto.graph.input[0].type.denotation = "IMAGE"
    proto.graph.input[0].type.tensor_type.shape.dim[0].denotation = "DATA_BATCH"
    annotation = proto.graph.quantization_annotation.add(tensor_name="h")
    annotation.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="w")
    training = proto.training_info.add()
    training.algorithm.CopyFrom(helper.make_graph([helper.make_node("Neg", ["w"], ["dw"])], "step", [], []))
    training.update_binding.add(key="w", value="dw")
    return proto


def sparse_initializer():
    nodes = [helper.make_node("Add", ["x", "w"], ["y"])]
    return model(
        nodes, [info("x", FLOAT, [2, 4])], [info("y", FLOAT, [2, 4])], sparse_initializer=[sparse_tensor()]
    )


def sparse_constant():
    constant = helper.make_node("Constant", [], ["w"], sparse_value=sparse_tensor())
    nodes = [constant, helper.make_node("Add", ["x", "w"], ["y"])]
    return model(nodes, [info("x", FLOAT, [2, 4])], [info("y", FLOAT, [2, 4])])


def maps():
    nodes = [
        helper.make_node("ZipMap", ["x"], ["y"], domain="ai.onnx.ml", classlabels_int64s=[0, 1]),
    ]
    kind = helper.make_sequence_type_proto(
        helper.make_map_type_proto(INT64, helper.make_tensor_type_proto(FLOAT, []))
    )
    output = onnx.ValueInfoProto(name="y")
    output.type.CopyFrom(kind)
    opsets = [helper.make_opsetid("", 15), helper.make_opsetid("ai.onnx.ml", 1)]
    return model(nodes, [info("x", FLOAT, [1, 2])], [output], opset_imports=opsets)


def unsorted():
    nodes = [helper.make_node("Neg", ["h"], ["y"]), helper.make_node("Relu", ["x"], ["h"])]
    inner = [helper.make_node("Identity", ["k"], ["t"]), helper.make_node("Neg", ["y"], ["k"])]
    branch = helper.make_graph(inner, "b", [], [info("t", FLOAT, [2])])
    nodes.insert(0, helper.make_node("If", ["c"], ["z"], then_branch=branch, else_branch=branch))
    inputs = [info("x", FLOAT, [2]), info("c", TensorProto.BOOL, [])]
    return model(nodes, inputs, [info("z", FLOAT, [2])])


def bytes_attribute():
    nodes = [helper.make_node("Relu", ["x"], ["y"], note=[b"\xff\xfe", b"a"])]
    return model(nodes, [info("x", FLOAT, [2])], [info("y", FLOAT, [2])])


CASES = [rich, sparse_initializer, sparse_constant, maps, unsorted, bytes_attribute]


def taken(proto):
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    return from_proto(copy)


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.__name__)
@pytest.mark.parametrize("cloned", [False, True])
def test_there_and_back_is_the_identity(case, cloned):
    proto = case()
    graph = taken(proto)
    back = to_proto(graph.clone() if cloned else graph)
    assert not list(differences(proto, back))


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.__name__)
def test_onnx_ir_alone_does_not_do(case):
    """Negative control: without what this module adds, each of the cases loses something, or fails."""
    proto = case()
    try:
        graph = ir.from_proto(proto)
        back = ir.to_proto(graph.clone())
    except (ir.serde.SerdeError, RuntimeError):
        return
    assert list(differences(proto, back))


def test_the_oracle_sees_a_changed_bit():
    proto = rich()
    changed = rich()
    changed.graph.initializer[0].raw_data = b"\1" + changed.graph.initializer[0].raw_data[1:]
    assert list(differences(proto, changed))
    changed = rich()
    changed.graph.node[0].output[0] = "other"
    assert list(differences(proto, changed))


def added(proto):
    """Return what the weight of a sparse case is, bit by bit: zeros are added to it with their sign."""
    return runtime.open_session(proto.SerializeToString()).run({"x": np.full((2, 4), -0.0, np.float32)})["y"]


@pytest.mark.parametrize("case", [sparse_initializer, sparse_constant], ids=lambda c: c.__name__)
@pytest.mark.parametrize(
    ("changed", "sparse"),
    [
        ([[0, 6, 0, 0], [0, -2, 0, 0]], True),
        ([[0, 6, 0, -0.0], [0, 0, 0, 0]], True),
        ([[0, 6, 0], [0, -2, 0]], False),
        ([[1, 6, 0, 0], [0, -2, 0, 0]], False),
    ],
)
def test_sparse_weights_are_dense_in_the_graph_and_sparse_again_where_that_is_smaller(case, changed, sparse):
    graph = taken(case())
    want = np.array([[0, 3, 0, 0], [0, -1, 0, 0]], np.float32)
    assert np.array_equal(added(to_proto(graph)), want)
    node, array = graph.graph[0], np.array(changed, np.float32)
    tensor = ir.Tensor(array, name="w")
    if node.op_type == "Constant":
        node.attributes["value"] = ir.AttrTensor("value", tensor)
    else:
        graph.graph.initializers["w"].const_value = tensor
    back = to_proto(graph)
    attributes = [a for n in back.graph.node for a in n.attribute if a.HasField("sparse_tensor")]
    assert len(back.graph.sparse_initializer) + len(attributes) == sparse
    if array.shape == want.shape:
        assert added(back).tobytes() == array.tobytes(), "zeros keep their sign"
    weight = Model(graph, Source(None, "", 0)).weights["w"]
    assert plain_bytes(weight) == (2 * (4 + 8) if sparse else array.nbytes)


def test_per_axis_indices():
    sparse = sparse_tensor(places=[[0, 1], [1, 3]])
    want = np.zeros((2, 4), np.float32)
    want[0, 1], want[1, 3] = 3, -1
    assert np.array_equal(dense(sparse), want)


@pytest.mark.parametrize("places", [(1, 8), (-1, 2), (1,), [[0, 4], [0, 0]]])
def test_indices_outside_the_shape_are_refused(places):
    with pytest.raises(ValueError, match="sparse"):
        dense(sparse_tensor(places=places))


def test_added_initializers_do_not_bring_value_info():
    proto = model([helper.make_node("Relu", ["x"], ["y"])], [info("x", FLOAT, [2])], [info("y", FLOAT, [2])])
    graph = taken(proto)
    value = ir.Value(name="w", const_value=ir.Tensor(np.ones(2, np.float32), name="w"))
    value.type, value.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape([2])
    graph.graph.initializers["w"] = value
    assert not to_proto(graph).graph.value_info


def test_old_attributes_without_a_type_get_one():
    node = helper.make_node("LeakyRelu", ["x"], ["y"], alpha=0.5)
    node.attribute[0].ClearField("type")
    back = to_proto(taken(model([node], [info("x", FLOAT, [2])], [info("y", FLOAT, [2])])))
    assert back.graph.node[0].attribute[0].type == onnx.AttributeProto.FLOAT
    assert back.graph.node[0].attribute[0].f == 0.5


# --- random graphs ----------------------------------------------------------------------------------------


@st.composite
def graphs(draw, depth=0, visible=("x",), prefix=""):
    """A graph of element-wise nodes, weights of every kind and Ifs, its nodes in any order."""
    names, nodes, initializers, declared = list(visible), [], [], []
    inputs = [info(n, FLOAT, ["N"]) for n in visible] if depth == 0 else []
    for index in range(draw(st.integers(1, 5))):
        name = f"{prefix}v{index}"
        kind = draw(st.sampled_from(["Add", "Clip", "Constant", "weight", "Dropout"] + ["If"] * (depth < 2)))
        label = draw(st.sampled_from(["", name]))
        if kind == "weight":
            initializers.append(numpy_helper.from_array(np.float32([index]), name))
            if draw(st.booleans()) and depth == 0:
                inputs.append(info(name, FLOAT, [1]))
        elif kind == "Constant":
            value = numpy_helper.from_array(np.float32([index]), draw(st.sampled_from(["", "t"])))
            nodes.append(helper.make_node(kind, [], [name], label, value=value))
        elif kind == "If":
            branches = {
                b: draw(graphs(depth + 1, tuple(names), f"{name}.{b}."))
                for b in ("then_branch", "else_branch")
            }
            nodes.append(helper.make_node(kind, ["flag"], [name], label, **branches))
        else:
            picked = [draw(st.sampled_from(names)) for _ in range(2)]
            if kind == "Clip":
                picked = [picked[0], "", picked[1]]
            outputs = [name, draw(st.sampled_from(["", f"{name}_mask"]))] if kind == "Dropout" else [name]
            nodes.append(helper.make_node(kind, picked[: 1 if kind == "Dropout" else 3], outputs, label))
        names.append(name)
        if draw(st.booleans()):
            declared.append(info(name, FLOAT, draw(st.sampled_from([None, ["N"], [1]]))))
    if not nodes or nodes[-1].output[0] != names[-1]:
        nodes.append(helper.make_node("Neg", [names[-1]], [f"{prefix}last"]))
    result = info(nodes[-1].output[0], FLOAT, None)
    nodes = draw(st.permutations(nodes))
    if depth == 0:
        inputs.append(info("flag", TensorProto.BOOL, []))
    return helper.make_graph(nodes, f"g{depth}", inputs, [result], initializers, value_info=declared)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(graphs())
def test_random_graphs_come_out_as_they_went_in(graph):
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    assert not list(differences(proto, to_proto(taken(proto))))
    assert not list(differences(proto, to_proto(taken(proto).clone())))
    done = set()
    for node in taken(proto).graph:  # in memory every node comes after what it reads
        producers = {v.producer() for v in node.inputs if v is not None} - {None}
        assert producers <= done
        done.add(node)
