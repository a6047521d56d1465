"""One weight in a model of its own: what an encoding emits, run in onnxruntime."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from onnxcompress.core.encoding import Encoding
from onnxcompress.core.model import Model, Source
from onnxcompress.engine.proto import from_proto, to_proto
from onnxcompress.engine.runtime import open_session, optimized_ops
from onnxcompress.engine.storage import stored


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


def stored_proto(model: Model, encoding: Encoding) -> onnx.ModelProto:
    """Return the model with ``w`` in stored form; raises if it was refused."""
    lowered, refusals = stored.lower(model.with_encodings({"w": encoding}, "test"))
    assert not refusals, refusals
    return to_proto(lowered)


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
