"""Small networks for pruning, as ONNX, with seeded weights."""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from onnx import TensorProto, helper, numpy_helper

from onnxcompress.core.model import Model, Source
from onnxcompress.engine.data import make_task, open_data
from onnxcompress.engine.tensor_info import TensorInfo


def model_of(nodes, tensors, shape, classes, opset: int = 17) -> Model:
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ("N", *shape))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ("N", classes))],
        [numpy_helper.from_array(np.asarray(a, np.float32), n) for n, a in tensors.items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    return Model(ir.serde.deserialize_model(proto), Source(None, "0", 0))


def conv_net(seed: int = 0, **changed) -> Model:
    """Conv 3→16, BatchNorm, Relu, Conv 16→32, Relu, mean over positions, Gemm → 5; on 8×8."""
    rng = np.random.default_rng(seed)
    tensors = {
        "c1.w": rng.normal(size=(16, 3, 3, 3)) * 0.3,
        "c1.b": rng.normal(size=16) * 0.1,
        "bn.g": rng.uniform(0.5, 1.5, 16),
        "bn.b": rng.normal(size=16) * 0.1,
        "bn.m": rng.normal(size=16) * 0.1,
        "bn.v": rng.uniform(0.5, 1.5, 16),
        "c2.w": rng.normal(size=(32, 16, 3, 3)) * 0.1,
        "c2.b": rng.normal(size=32) * 0.1,
        "fc.w": rng.normal(size=(5, 32)),
        "fc.b": rng.normal(size=5),
        **changed,
    }
    nodes = [
        helper.make_node("Conv", ["x", "c1.w", "c1.b"], ["a"], "conv1", pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["a", "bn.g", "bn.b", "bn.m", "bn.v"], ["b"], "bn"),
        helper.make_node("Relu", ["b"], ["c"], "relu1"),
        helper.make_node("Conv", ["c", "c2.w", "c2.b"], ["d"], "conv2"),
        helper.make_node("Relu", ["d"], ["e"], "relu2"),
        helper.make_node("GlobalAveragePool", ["e"], ["f"], "pool"),
        helper.make_node("Flatten", ["f"], ["g"], "flatten"),
        helper.make_node("Gemm", ["g", "fc.w", "fc.b"], ["y"], "fc", transB=1),
    ]
    return model_of(nodes, tensors, (3, 8, 8), 5)


def mlp(first, second, activation: str | None = "Relu", bias=None) -> Model:
    """x → Gemm → activation → Gemm → y, from the two weights (out in)."""
    hidden, width = np.shape(first)
    tensors = {
        "w1": first,
        "b1": np.zeros(hidden) if bias is None else bias,
        "w2": second,
        "b2": np.zeros(np.shape(second)[0]),
    }
    nodes = [helper.make_node("Gemm", ["x", "w1", "b1"], ["h"], "fc1", transB=1)]
    if activation:
        nodes.append(helper.make_node(activation, ["h"], ["t"], "act"))
    nodes.append(helper.make_node("Gemm", ["t" if activation else "h", "w2", "b2"], ["y"], "fc2", transB=1))
    return model_of(nodes, tensors, (width,), np.shape(second)[0])


def sum_of_towers(tensors):
    """y = A Relu(first x) + B Relu(second x); weights by name, in pairs: first, A, second, B."""
    nodes, names = [], list(tensors)
    for first, second in zip(names[::2], names[1::2], strict=True):
        nodes += [
            helper.make_node("Gemm", ["x", first], [f"{first}.h"], f"{first}.fc", transB=1),
            helper.make_node("Relu", [f"{first}.h"], [f"{first}.t"], f"{first}.act"),
            helper.make_node("Gemm", [f"{first}.t", second], [f"{first}.y"], f"{second}.fc", transB=1),
        ]
    nodes.append(helper.make_node("Add", [f"{name}.y" for name in names[::2]], ["y"], "sum"))
    return model_of(nodes, tensors, (tensors[names[0]].shape[1],), len(tensors[names[1]]))


def task_for(shape, classes: int, *, labelled: bool = False, count: int = 64, seed: int = 1, label=None):
    """Seeded normal inputs; ``label(x)`` is the class of one input, by default its number."""
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(count, *shape)).astype(np.float32)
    classed = [i % classes if label is None else label(x) for i, x in enumerate(inputs)] if labelled else None
    return task_of(inputs, classes, classed)


def task_of(inputs: np.ndarray, classes: int, labels: Sequence[int] | None = None):
    """These inputs, with labels or without."""
    info = TensorInfo("x", "tensor(float)", np.dtype(np.float32), ("N", *inputs.shape[1:]))
    out = TensorInfo("y", "tensor(float)", np.dtype(np.float32), ("N", classes))
    rows = [{"x": x[None]} for x in inputs]
    labelled = labels is not None
    if labelled:
        rows = [row | {"labels": np.array([c])} for row, c in zip(rows, labels, strict=True)]
    return make_task(open_data(rows, [info], outputs=[out], labels="labels" if labelled else None), seed=3)
