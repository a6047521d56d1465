"""Saturation: processors without instructions for sums of 8-bit products (VNNI) add pairs of them in 16 bits.

255 · 127 twice is more than those hold, and onnxruntime leaves it at the largest number there is: outputs are
far off then. With weights of 7 bits, 255 · 64 twice, nothing is cut off.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from onnxcompress.engine import runtime

_TERMS, _COLUMNS = 64, 16


@cache
def saturates() -> bool:
    """Return whether sums of 8-bit products are cut off here: onnxruntime is asked for the largest."""
    rows = np.full((4, _TERMS), 255, np.uint8)
    weight = np.full((_TERMS, _COLUMNS), 127, np.int8)
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["x", "w"], ["y"])],
        "largest",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, rows.shape)],
        [helper.make_tensor_value_info("y", TensorProto.INT32, (len(rows), _COLUMNS))],
        [numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=7)
    found = runtime.open_session(model.SerializeToString()).run({"x": rows})["y"]
    return not np.array_equal(found, rows.astype(np.int64) @ weight.astype(np.int64))
