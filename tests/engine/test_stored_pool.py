"""Pools of small weights: decoded together, bit by bit, recognised, and cheaper than one by one."""

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper

from onnxcompress.core.model import Model, Source
from onnxcompress.encodings.codebook import AdaptiveCodebook
from onnxcompress.engine.proto import from_proto, to_proto
from onnxcompress.engine.runtime import open_session, optimized_ops
from onnxcompress.engine.storage import pool as stored_pool
from onnxcompress.engine.storage import stored

SHAPES = [(16, 8, 3, 3), (16, 8, 3, 3), (31, 33), (700,), (1, 901), (40, 25)]
IR_OF_OPSET = {7: 3, 8: 3, 9: 3, 11: 6, 13: 7, 18: 8, 26: 13}


def many_weights(dtype: np.dtype[np.generic], opset: int, ir_version: int) -> Model:
    rng = np.random.default_rng(0)
    kind = int(ir.DataType.from_numpy(dtype))
    weights, nodes, outputs, inputs = [], [], [], []
    for index, shape in enumerate(SHAPES):
        array = rng.normal(size=shape).astype(dtype)
        weights.append(helper.make_tensor(f"w{index}", kind, shape, array.tobytes(), raw=True))
        nodes.append(helper.make_node("Identity", [f"w{index}"], [f"y{index}"]))
        outputs.append(helper.make_tensor_value_info(f"y{index}", kind, shape))
        if ir_version < 4:
            inputs.append(helper.make_tensor_value_info(f"w{index}", kind, shape))
    graph = helper.make_graph(nodes, "g", inputs, outputs, weights)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)
    return Model(from_proto(proto), Source(None, "", 0))


def compress(model: Model, entries: int) -> Model:
    found = {n: AdaptiveCodebook(entries).project([model.array(n)])[0] for n in model.weights}
    return model.with_encodings(found, "test")


def check(model: Model) -> onnx.ModelProto:
    lowered = stored.lower_all(model)
    assert not lowered.refusals
    proto = to_proto(lowered.graph)
    found = open_session(proto.SerializeToString()).run({})
    for index in range(len(SHAPES)):
        expected = model.encodings[f"w{index}"].decode()
        assert np.asarray(found[f"y{index}"]).tobytes() == expected.tobytes()
    assert {op for _, op in optimized_ops(proto.SerializeToString())} <= {"Identity"}
    return proto


@pytest.mark.parametrize("opset", IR_OF_OPSET)
def test_every_operator_set(opset: int) -> None:
    model = compress(many_weights(np.dtype(np.float32), opset, IR_OF_OPSET[opset]), 4)
    proto = check(model)
    onnx.checker.check_model(proto, full_check=True)
    assert sum(n.op_type == "Split" for n in proto.graph.node) == 2


@pytest.mark.parametrize("entries", range(2, 17))
def test_every_number_of_entries_and_back(entries: int) -> None:
    model = compress(many_weights(np.dtype(np.float32), 13, 7), entries)
    proto = check(model)
    graph, encodings = stored.lift(from_proto(_copy(proto)))
    assert encodings.keys() == model.encodings.keys()
    for name, encoding in encodings.items():
        assert encoding.decode().tobytes() == model.encodings[name].decode().tobytes()
    again = Model(graph, Source(None, "", 0), encodings)
    assert to_proto(stored.lower(again)[0]) == proto


@pytest.mark.parametrize("dtype", [np.float16, np.float64, ml_dtypes.bfloat16])
def test_every_storage_type(dtype: type) -> None:
    check(compress(many_weights(np.dtype(dtype), 13, 8), 5))


def test_a_pool_is_smaller_than_weights_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    model = compress(many_weights(np.dtype(np.float32), 13, 7), 4)
    pooled = check(model).ByteSize()
    monkeypatch.setattr(stored_pool, "_FEWEST", 100)
    assert check(model).ByteSize() > pooled + 30 * len(SHAPES)


def test_different_numbers_of_entries_are_different_pools() -> None:
    model = many_weights(np.dtype(np.float32), 13, 7)
    found = {
        n: AdaptiveCodebook(4 if i % 2 else 3).project([model.array(n)])[0]
        for i, n in enumerate(model.weights)
    }
    proto = check(model.with_encodings(found, "test"))
    assert sum(n.op_type == "Split" for n in proto.graph.node) == 4


def _copy(proto: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    return copy
