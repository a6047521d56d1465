"""One weight in a model of its own: what an encoding emits, run in onnxruntime."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from onnxcompress.core.encoding import Encoding
from onnxcompress.core.model import Model, Source
from onnxcompress.engine.proto import from_proto, to_proto
from onnxcompress.engine.runtime import open_session, optimized_ops
from onnxcompress.engine.storage import stored

IR_OF_OPSET = {7: 3, 8: 3, 9: 4, 10: 5, 11: 6, 13: 7, 15: 8, 19: 9, 21: 10, 23: 11, 24: 12, 26: 13}
"""Version of the format that each version of the default operator set, and those after it, came with."""


def one_weight(
    values: np.ndarray, *, opset: int = 17, ir_version: int = 8, home: str = "initializer"
) -> Model:
    """Return a model whose output is its only weight, ``w``."""
    tensor = numpy_helper.from_array(values, "w")
    output = helper.make_tensor_value_info("y", tensor.data_type, values.shape)
    nodes = [helper.make_node("Identity", ["w"], ["y"])]
    inputs = []
    if home == "constant":
        nodes.insert(0, helper.make_node("Constant", [], ["w"], value=tensor))
    elif ir_version < 4 or home == "input":
        inputs.append(helper.make_tensor_value_info("w", tensor.data_type, values.shape))
    graph = helper.make_graph(nodes, "g", inputs, [output], [] if home == "constant" else [tensor])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)
    return Model(from_proto(proto), Source(None, "", 0))


def bfloat16_weight(values: np.ndarray) -> Model:
    """Return a model whose output is its only weight, ``w``, a bfloat16 one, as float32."""
    graph = helper.make_graph(
        [helper.make_node("Cast", ["w"], ["y"], to=TensorProto.FLOAT)],
        "g",
        [],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, values.shape)],
        [helper.make_tensor("w", TensorProto.BFLOAT16, values.shape, values.tobytes(), raw=True)],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return Model(from_proto(proto), Source(None, "", 0))


def stored_proto(model: Model, encoding: Encoding) -> onnx.ModelProto:
    """Return the model with ``w`` in stored form; raises if it was refused."""
    lowered, refusals = stored.lower(model.with_encodings({"w": encoding}, "test"))
    assert not refusals, refusals
    return to_proto(lowered)


def stored_at(opset: int, encoding: Encoding) -> onnx.ModelProto:
    """Return a model of that operator set with the encoding in stored form, checked to decode bit by bit."""
    ir_version = max(v for o, v in IR_OF_OPSET.items() if o <= opset)
    proto = stored_proto(one_weight(encoding.decode(), opset=opset, ir_version=ir_version), encoding)
    assert (proto.opset_import[0].version, proto.ir_version) == (opset, ir_version)
    onnx.checker.check_model(proto, full_check=True)
    assert run(proto).tobytes() == encoding.decode().tobytes()
    assert left(proto) <= {"Identity"}
    return proto


def run(proto: onnx.ModelProto) -> np.ndarray:
    """Return the output in onnxruntime, as bits for the types NumPy lacks."""
    value = open_session(proto.SerializeToString()).run({})["y"]
    return np.asarray(value)


def left(proto: onnx.ModelProto) -> set[str]:
    """Return the operators that onnxruntime leaves in a model."""
    return {op for _, op in optimized_ops(proto.SerializeToString())}


def packed_bytes(proto: onnx.ModelProto, names: str = "qks") -> int:
    """Return the bytes of codes, entries and scales in a file: those letters begin their names."""
    tensors = list(proto.graph.initializer)
    tensors += [n.attribute[0].t for n in proto.graph.node if n.op_type == "Constant"]
    found = [t for t in tensors if t.name[:2] in {f"{c}_" for c in names}]
    return sum(numpy_helper.to_array(t).nbytes for t in found)


DTYPES = {
    "float32": (np.dtype(np.float32), TensorProto.FLOAT),
    "float16": (np.dtype(np.float16), TensorProto.FLOAT16),
    "float64": (np.dtype(np.float64), TensorProto.DOUBLE),
}
