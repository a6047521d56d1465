"""Work in bodies that no cut reaches counts before and after alike."""

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxcompress
from onnxcompress import importer
from onnxcompress.engine.channels import analyse
from onnxcompress.engine.measures.costs import count_macs
from onnxcompress.engine.widths import OutOfReachError

SHAPES = {"x": (1, 20)}
REPEATS = 3


def looped():
    """Return 20 → 40 → 32, three times 32 → 32 in a Loop, → 36 → 4."""
    rng = np.random.default_rng(0)

    def weight(name, *shape):
        return numpy_helper.from_array((rng.standard_normal(shape) * 0.3).astype(np.float32), name)

    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["h", "wl"], ["m"]),
            helper.make_node("Tanh", ["m"], ["t"]),
            helper.make_node("Identity", ["c"], ["again"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("c", TensorProto.BOOL, []),
            helper.make_tensor_value_info("h", TensorProto.FLOAT, ["N", 32]),
        ],
        [
            helper.make_tensor_value_info("again", TensorProto.BOOL, []),
            helper.make_tensor_value_info("t", TensorProto.FLOAT, ["N", 32]),
        ],
    )
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("MatMul", ["b", "w2"], ["d"]),
        helper.make_node("Loop", ["times", "yes", "d"], ["L"], body=body),
        helper.make_node("MatMul", ["L", "w3"], ["e"]),
        helper.make_node("Relu", ["e"], ["f"]),
        helper.make_node("MatMul", ["f", "w4"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 20])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 4])],
        [
            weight("w1", 20, 40), weight("w2", 40, 32), weight("wl", 32, 32), weight("w3", 32, 36),
            weight("w4", 36, 4), numpy_helper.from_array(np.array(REPEATS), "times"),
            numpy_helper.from_array(np.array(True), "yes"),
        ],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_channels_count_the_work_that_the_file_has():
    model = importer.load(looped())
    channels = analyse(model, SHAPES)
    main = 20 * 40 + 40 * 32 + 32 * 36 + 36 * 4
    assert channels.nested_macs == REPEATS * 32 * 32
    assert channels.macs({}) == count_macs(model, SHAPES).total == main + REPEATS * 32 * 32
    half = {g.name: np.arange(g.size) % 2 == 0 for g in channels.free}
    assert channels.macs({}) - channels.macs(half) == sum(channels.macs_by_node({}).values()) - sum(
        channels.macs_by_node(half).values()
    )


@pytest.mark.parametrize("method", ["magnitude", "lc-channels"])
def test_a_target_is_met_in_the_file(method):
    run = onnxcompress.compress(
        looped(), method=method, target="macs=0.75", round_to=1, input_shapes=SHAPES
    ).run
    before, after = run.models
    assert 0.7 < after.macs / before.macs <= 0.75
    assert run.cuts[0].macs_after / run.cuts[0].macs_before == pytest.approx(after.macs / before.macs)


def test_a_target_below_what_bodies_do_is_out_of_reach():
    with pytest.raises(OutOfReachError, match=r"0\.531 of the whole stay"):
        onnxcompress.compress(looped(), method="magnitude", target="macs=0.4", input_shapes=SHAPES)
