"""Pools of small weights: decoded together, bit by bit, recognised, and cheaper than one by one."""

import itertools
from dataclasses import dataclass

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper

from onnxcompress.core.model import Model, Source
from onnxcompress.encodings.codebook import AdaptiveCodebook
from onnxcompress.encodings.trellis import Trellis, TrellisCodebook
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


def joint(model: Model, bits: int = 2, window: int | None = None) -> Model:
    names = list(model.weights)
    arrays = [model.array(n) * np.float32(k + 1) for k, n in enumerate(names)]
    found = TrellisCodebook(bits, window).project([a.astype(model.array("w0").dtype) for a in arrays])
    return model.with_encodings(dict(zip(names, found, strict=True)), "test")


@pytest.mark.parametrize("opset", [10, 12, 13, 18, 26])
def test_one_stream_of_codes_for_every_operator_set(opset: int) -> None:
    model = joint(
        many_weights(np.dtype(np.float32), opset, {10: 5, 12: 7}.get(opset, IR_OF_OPSET.get(opset, 8)))
    )
    proto = check(model)
    onnx.checker.check_model(proto, full_check=True)
    operators = [n.op_type for n in proto.graph.node]
    assert (operators.count("ConvTranspose"), operators.count("Split")) == (1, 1)


@pytest.mark.parametrize("dtype", [np.float16, np.float64, ml_dtypes.bfloat16])
def test_one_stream_of_every_storage_type(dtype: type) -> None:
    check(joint(many_weights(np.dtype(dtype), 13, 8)))


@pytest.mark.parametrize(("bits", "window"), [(1, 2), (1, 7), (2, 5), (3, 7), (3, 8), (4, 8)])
def test_a_stream_is_read_again(bits: int, window: int) -> None:
    model = joint(many_weights(np.dtype(np.float32), 13, 7), bits, window)
    proto = check(model)
    graph, encodings = stored.lift(from_proto(_copy(proto)))
    assert encodings.keys() == model.encodings.keys()
    for name, encoding in encodings.items():
        assert isinstance(encoding, Trellis)
        expected = model.encodings[name]
        assert isinstance(expected, Trellis)
        assert encoding.windows.tobytes() == expected.windows.tobytes()
        assert (encoding.scale, encoding.bits) == (expected.scale, bits)
    again = Model(graph, Source(None, "", 0), encodings)
    assert to_proto(stored.lower(again)[0]) == proto


@pytest.mark.parametrize("seed", range(4))
def test_one_stream_whatever_the_weights_are_called_and_sizes_alike_or_not(seed: int) -> None:
    """In the file weights of one size are in the order of their names, which that of the codes is not."""
    model, generator = many_weights(np.dtype(np.float32), 13, 7), np.random.default_rng(seed)
    names = [str(n) for n in generator.permutation(list(model.weights))]
    found = TrellisCodebook(4, 8).project([model.array(n) for n in names])
    proto = check(model.with_encodings(dict(zip(names, found, strict=True)), "test"))
    assert [n.op_type for n in proto.graph.node].count("ConvTranspose") == 1


@pytest.mark.parametrize("seed", range(20))
def test_as_few_streams_as_there_can_be(seed: int) -> None:
    """Brute force: a stream ends where no weight goes on, in the best of all orders."""
    generator = np.random.default_rng(seed)
    ends = generator.integers(0, 4, (6, 2))
    members = [(None, Ends(int(a), int(b))) for a, b in ends]
    streams = stored_pool._joined(members)  # type: ignore[arg-type]
    assert sorted(map(id, itertools.chain(*streams))) == sorted(map(id, members))
    for stream in streams:
        assert all(one.after == other.before for (_, one), (_, other) in itertools.pairwise(stream))
    best = min(
        1 + sum(one.after != other.before for (_, one), (_, other) in itertools.pairwise(order))
        for order in itertools.permutations(members)
    )
    assert len(streams) == best


@dataclass
class Ends:
    before: int
    after: int


def test_a_stream_is_smaller_than_trellises_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    model = joint(many_weights(np.dtype(np.float32), 13, 7))
    together = check(model).ByteSize()
    monkeypatch.setattr(stored_pool, "_LARGEST", 0)
    assert check(model).ByteSize() > together + 250 * (len(SHAPES) - 1)


def test_a_weight_that_is_gone_leaves_two_streams() -> None:
    """What went on from it begins one of its own."""
    model = joint(many_weights(np.dtype(np.float32), 13, 7), 2, 8)
    third = sorted(model.encodings, key=lambda n: (-model.weights[n].size, n))[2]
    dense = {third: TrellisCodebook(2, 8).project([model.array(third)])[0]}
    assert not np.array_equal(dense[third].codebook(), model.encodings[third].codebook())
    proto = check(model.with_encodings(dense, "test"))
    assert not isinstance(dense[third], Trellis)
    assert sum(n.op_type == "ConvTranspose" for n in proto.graph.node) == 2


def _copy(proto: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    return copy
