"""A network with one layer that 8 bits ruin, for tests of several folders."""

import numpy as np
import onnx
from onnx import helper, numpy_helper


def fragile(layers: int = 4) -> onnx.ModelProto:
    """Products one after the other; in ``frail`` one output channel needs digits that 8 bits do not have.

    Its inputs 0 to 7 are large and cancel, input 8 is small and decides the output.
    """
    rng = np.random.default_rng(0)
    nodes, arrays, last = [], {}, "x"
    for index in range(layers):
        name = "frail" if index == 2 else f"firm{index}"
        weight = rng.standard_normal((16, 16)) / 4
        if name == "frail":
            weight = np.eye(16) * 0.01
            weight[0, :] += 30.0
            weight[1, :] -= 30.0
        else:
            weight = np.eye(16) + 0.05 * weight
            if index == 1:
                weight[:, 1] = weight[:, 0]  # so that the large terms cancel exactly
        arrays[f"{name}.w"] = weight.astype(np.float32)
        nodes.append(helper.make_node("MatMul", [last, f"{name}.w"], [f"h{index}"], name))
        last = f"h{index}"
    nodes.append(helper.make_node("Identity", [last], ["y"]))
    graph = helper.make_graph(
        nodes,
        "fragile",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N", 16])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["N", 16])],
        [numpy_helper.from_array(a, n) for n, a in arrays.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
