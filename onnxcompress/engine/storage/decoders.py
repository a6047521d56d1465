"""The decoding part of a stored model on its own: a graph without inputs whose outputs are the weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import onnx
import onnx_ir as ir

from onnxcompress.core.encoding import Encoding
from onnxcompress.core.model import LEAST_IR_VERSION

Decoded = tuple[ir.Graph, str, Encoding]
"""A stored weight: the graph it lies in, the name of its value, what it must decode to."""
_AT_ONCE = 1 << 27
"""Bytes of decoded weights in one model: bounds the memory that checking them takes."""


def decoders(model: ir.Model, weights: Sequence[Decoded]) -> Iterator[tuple[onnx.ModelProto, list[Decoded]]]:
    """Yield models that decode these weights, and the weights in the order of the outputs."""
    chosen: list[Decoded] = []
    total = 0
    for weight in weights:
        size = int(np.prod(weight[2].shape)) * weight[2].dtype.itemsize
        if chosen and (weight[0] is not chosen[0][0] or total + size > _AT_ONCE):
            yield _decoder(model, chosen), chosen
            chosen, total = [], 0
        chosen.append(weight)
        total += size
    if chosen:
        yield _decoder(model, chosen), chosen


def _decoder(model: ir.Model, chosen: Sequence[Decoded]) -> onnx.ModelProto:
    graph = chosen[0][0]
    producers = {v.name: n for n in graph for v in n.outputs}
    needed: set[ir.Node] = set()
    tensors: dict[str, ir.TensorProtocol] = {}
    waiting = [producers[name] for _, name, _ in chosen]
    while waiting:
        node = waiting.pop()
        if node in needed:
            continue
        needed.add(node)
        for value in node.inputs:
            producer = None if value is None else value.producer()
            if producer is not None:
                waiting.append(producer)
            elif value is not None and value.name is not None and value.const_value is not None:
                tensors[value.name] = value.const_value
    result = onnx.ModelProto(ir_version=max(LEAST_IR_VERSION, model.ir_version or 0))
    for domain, version in model.opset_imports.items():
        result.opset_import.add(domain=domain, version=version)
    result.graph.name = "decoders"
    result.graph.node.extend(ir.to_proto(n) for n in graph if n in needed)
    for name, tensor in tensors.items():  # in the model itself, even where the file keeps them outside
        dims, kind = tuple(tensor.shape.numpy()), int(tensor.dtype)
        result.graph.initializer.add(name=name, dims=dims, data_type=kind, raw_data=tensor.tobytes())
    for index, (_, name, encoding) in enumerate(chosen):
        result.graph.node.add(op_type="Identity", input=[name], output=[f"decoded {index}"])
        kind = int(ir.DataType.from_numpy(encoding.dtype))
        output = onnx.helper.make_tensor_value_info(f"decoded {index}", kind, encoding.shape)
        result.graph.output.append(output)
    return result
