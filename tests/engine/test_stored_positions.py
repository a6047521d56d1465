"""Positions of Gathers in fewer bytes: the same numbers in onnxruntime, recognised again, smaller."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxcompress.core.model import Model, Source
from onnxcompress.engine.proto import from_proto, to_proto
from onnxcompress.engine.runtime import open_session, optimized_ops
from onnxcompress.engine.storage import stored

WIDTH = 3000


def choosing(places: np.ndarray, opset: int = 17, ir_version: int = 8) -> onnx.ModelProto:
    """y = x[:, places]."""
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Gather", ["x", "places"], ["y"], "g", axis=1)],
        "choosing",
        [onnx.helper.make_tensor_value_info("x", 1, ["N", WIDTH])],
        [onnx.helper.make_tensor_value_info("y", 1, ["N", len(places)])],
        [onnx.numpy_helper.from_array(places, "places")],
    )
    opsets = [onnx.helper.make_opsetid("", opset)]
    return onnx.helper.make_model(graph, opset_imports=opsets, ir_version=ir_version)


def lowered(proto: onnx.ModelProto) -> ir.Model:
    return stored.lower_all(Model(from_proto(proto), Source(None, "", 0))).graph


def made_of(graph: ir.Model) -> list[str]:
    return [node.op_type for node in graph.graph]


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(0, WIDTH - 1), min_size=1, max_size=200),
    st.booleans(),
    st.sampled_from([np.int32, np.int64]),
    st.sampled_from([9, 11, 17]),
)
def test_every_choice_comes_back_and_is_not_larger(places, ascending, dtype, opset):
    array = np.array(sorted(places) if ascending else places, dtype)
    before = choosing(array, opset)
    after = lowered(before)
    written = to_proto(after)
    assert written.ByteSize() <= before.ByteSize()
    lifted, encodings = stored.lift(after)
    assert not encodings
    assert to_proto(lifted).SerializeToString() == to_proto(from_proto(before)).SerializeToString()
    x = np.random.default_rng(0).normal(size=(2, WIDTH)).astype(np.float32)
    (y,) = open_session(written.SerializeToString()).run({"x": x}).values()
    np.testing.assert_array_equal(y, x[:, array])


def test_near_positions_take_a_byte_and_far_ones_two(tmp_path):
    near = np.arange(0, WIDTH, 20, dtype=np.int32)
    far = np.arange(0, WIDTH, 20, dtype=np.int32)[::-1].copy()
    assert made_of(lowered(choosing(near))) == ["Cast", "CumSum", "Gather"]
    assert made_of(lowered(choosing(far))) == ["Cast", "Gather"]
    for places, each in ((near, 1), (far, 2)):
        written = to_proto(lowered(choosing(places)))
        saved = choosing(places).ByteSize() - written.ByteSize()
        assert saved == pytest.approx((4 - each) * len(places), abs=90)
        path = tmp_path / "m.onnx"
        onnx.save(written, path)
        assert dict(optimized_ops(path)) == {("", "Gather"): 1}


@pytest.mark.parametrize("places", [np.array([-1, 5] * 50), np.array([3, 70]), np.array([], np.int64)])
def test_others_stay_as_they_are(places):
    assert made_of(lowered(choosing(places))) == ["Gather"]


def test_what_is_read_elsewhere_too_stays():
    proto = choosing(np.arange(0, WIDTH, 20, dtype=np.int64))
    proto.graph.node.append(onnx.helper.make_node("Cast", ["places"], ["z"], to=1))
    proto.graph.output.append(onnx.helper.make_tensor_value_info("z", 1, [150]))
    assert made_of(lowered(proto)) == ["Gather", "Cast"]


def test_old_files_keep_their_inputs():
    assert made_of(lowered(choosing(np.arange(0, WIDTH, 20), 9, 3))) == ["Gather"]


def test_a_graph_that_only_looks_like_it_is_left_alone():
    """A Cast of wider bytes than ours would be: it is the model's own."""
    proto = choosing(np.arange(150))
    del proto.graph.initializer[:]
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.arange(150, dtype=np.uint16), "q_0"))
    proto.graph.node.insert(0, onnx.helper.make_node("Cast", ["q_0"], ["places"], to=7))
    graph = from_proto(proto)
    lifted, _ = stored.lift(graph)
    assert lifted is graph
