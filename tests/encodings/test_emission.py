"""Emission at every operator set and IR version, in every home of a weight, run in onnxruntime."""

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from small import bfloat16_weight, left, one_weight, run, stored_at, stored_proto

from onnxcompress.core.model import Model, Source
from onnxcompress.encodings._base import Projection
from onnxcompress.encodings.codebook import AdaptiveCodebook, Codebook
from onnxcompress.encodings.scaled import IntGrid
from onnxcompress.engine.proto import from_proto, to_proto
from onnxcompress.engine.runtime import open_session
from onnxcompress.engine.storage import stored

RNG = np.random.default_rng(0)
WEIGHT = RNG.normal(size=(33, 70)).astype(np.float32)
KINDS: dict[str, Projection] = {
    "tensor": AdaptiveCodebook(8),
    "channel": AdaptiveCodebook(3, granularity="channel", axis=1),
    "group": AdaptiveCodebook(4, granularity="group", axis=0, group_size=32),
    "scaled": IntGrid(entries=16, granularity="channel", axis=1),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("opset", range(7, 27))
def test_every_operator_set(opset: int, kind: str) -> None:
    proto = stored_at(opset, KINDS[kind].project([WEIGHT])[0])
    assert not open_session(proto.SerializeToString()).inputs


@pytest.mark.parametrize("ir_version", range(3, 14))
def test_every_ir_version(ir_version: int) -> None:
    encoding = KINDS["tensor"].project([WEIGHT])[0]
    proto = stored_proto(one_weight(WEIGHT, opset=8, ir_version=ir_version), encoding)
    onnx.checker.check_model(proto, full_check=True)
    assert run(proto).tobytes() == encoding.decode().tobytes()
    assert not open_session(proto.SerializeToString()).inputs
    assert bool(proto.graph.input) == (ir_version < 4)


@pytest.mark.parametrize(
    "entries", [*range(2, 20), 31, 32, 33, 48, 63, 64, 65, 100, 127, 128, 129, 200, 255, 256]
)
def test_every_number_of_entries(entries: int) -> None:
    array = RNG.normal(size=(61, 97)).astype(np.float32)
    encoding = AdaptiveCodebook(entries).project([array])[0]
    for opset in (9, 17):
        proto = stored_proto(one_weight(array, opset=opset), encoding)
        assert run(proto).tobytes() == encoding.decode().tobytes()
        assert left(proto) <= {"Identity"}


@pytest.mark.parametrize(
    "shape", [(500,), (1, 777), (777, 1), (3, 5, 7, 11), (16, 16, 3, 3), (2, 2, 2, 2, 2, 2, 20)]
)
@pytest.mark.parametrize("entries", [2, 3, 8, 32])
def test_every_shape(shape: tuple[int, ...], entries: int) -> None:
    array = RNG.normal(size=shape).astype(np.float32)
    encoding = AdaptiveCodebook(entries).project([array])[0]
    assert run(stored_proto(one_weight(array), encoding)).tobytes() == encoding.decode().tobytes()


@pytest.mark.parametrize("home", ["initializer", "constant", "input"])
def test_every_home(home: str) -> None:
    encoding = KINDS["tensor"].project([WEIGHT])[0]
    proto = stored_proto(one_weight(WEIGHT, home=home), encoding)
    assert not proto.graph.input
    assert run(proto).tobytes() == encoding.decode().tobytes()
    assert left(proto) <= {"Identity"}


@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16(kind: str) -> None:
    array = WEIGHT.astype(ml_dtypes.bfloat16)
    encoding = KINDS[kind].project([array])[0]
    stored_form = stored_proto(bfloat16_weight(array), encoding)
    onnx.checker.check_model(stored_form, full_check=True)
    assert run(stored_form).tobytes() == encoding.decode().astype(np.float32).tobytes()


def test_negative_zero_survives() -> None:
    codes = (np.arange(4000) % 3).astype(np.uint8).reshape(40, 100)
    encoding = Codebook(codes, np.array([-1.0, -0.0, 2.0], np.float32))
    assert run(stored_proto(one_weight(encoding.decode()), encoding)).tobytes() == encoding.decode().tobytes()


@pytest.mark.parametrize("shape", [(1000, 96), (1000, 7), (500, 3, 50)])
@pytest.mark.parametrize("entries", [2, 5, 8, 16, 256])
@pytest.mark.parametrize("rank", [1, 2])
def test_embeddings_are_decoded_row_by_row(
    shape: tuple[int, ...], entries: int, rank: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored, "_ROWS", 1)
    table = RNG.normal(size=shape).astype(np.float32)
    ids = RNG.integers(-shape[0], shape[0], (4, 5)[:rank])
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "ids"], ["y"])],
        "g",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["n"] * rank)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(table, "table")],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    model = Model(from_proto(proto), Source(None, "", 0))
    encoding = AdaptiveCodebook(entries).project([table])[0]
    lowered = stored.lower_all(model.with_encodings({"table": encoding}, "test"))
    assert lowered.by_row == ("table",)
    packed = to_proto(lowered.graph)
    found = open_session(packed.SerializeToString()).run({"ids": ids})["y"]
    assert np.array_equal(found, encoding.decode()[ids])
    again, encodings = stored.lift(from_proto(packed))
    assert np.array_equal(encodings["table"].decode(), encoding.decode())
    assert [n.op_type for n in again.graph] == ["Gather"]
