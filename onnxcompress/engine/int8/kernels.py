"""What this processor's 8-bit kernels compute: whether sums of products overflow on the way."""

from __future__ import annotations

import functools

import numpy as np
import onnx

from onnxcompress.core.errors import UnsupportedError
from onnxcompress.engine import runtime

_LENGTH = 64
_GREATEST, _WEIGHT = 255, 127


@functools.cache
def sums_overflow() -> bool:
    """Return whether weights of 8 bits are too large for onnxruntime's kernels on this processor.

    x86 without VNNI adds two products of unsigned and signed 8 bits in 16, which hold 32767: 255 · 127 · 2
    is cut off there, without a word, and 255 · 64 · 2 is not. Found by trying, as it depends on the
    processor and the version of onnxruntime.
    """
    nodes = [onnx.helper.make_node("MatMulInteger", ["a", "w"], ["y"])]
    a = onnx.helper.make_tensor_value_info("a", onnx.TensorProto.UINT8, [1, _LENGTH])
    y = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.INT32, [1, _LENGTH])
    weight = onnx.numpy_helper.from_array(np.full((_LENGTH, _LENGTH), _WEIGHT, np.int8), "w")
    graph = onnx.helper.make_graph(nodes, "probe", [a], [y], [weight])
    opsets = [onnx.helper.make_opsetid("", 13)]
    proto = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8)
    try:
        session = runtime.open_session(proto.SerializeToString())
    except UnsupportedError:
        return False  # no such kernels at all: nothing that is written will be computed by them here
    found = session.run({"a": np.full((1, _LENGTH), _GREATEST, np.uint8)})["y"]
    return bool((np.asarray(found) != _GREATEST * _WEIGHT * _LENGTH).any())
