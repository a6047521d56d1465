"""Small ONNX models and data for the tests of data and training."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from onnx import TensorProto, helper, numpy_helper

from onnxcompress.core.model import Model, Source
from onnxcompress.engine.data import open_data
from onnxcompress.engine.data.task import make_task
from onnxcompress.engine.graph.torchgraph import TorchGraph
from onnxcompress.engine.tensor_info import TensorInfo

FLOAT = TensorProto.FLOAT


def model_of(nodes, inputs, outputs, initializers) -> Model:
    """Return a model; inputs and outputs are name -> shape of floats."""
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info(n, FLOAT, s) for n, s in inputs.items()],
        [helper.make_tensor_value_info(n, FLOAT, s) for n, s in outputs.items()],
        [numpy_helper.from_array(a, n) for n, a in initializers.items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return Model(ir.from_proto(proto), Source(None, "", 0))


def perceptron(
    features: int = 6, hidden: int = 8, classes: int = 3, *, batch: str | int = "N", end: str = ""
) -> Model:
    """Return features → hidden (tanh) → classes, ``end`` a last operator such as Softmax."""
    rng = np.random.default_rng(0)
    arrays = {
        "W1": rng.standard_normal((features, hidden)) / features**0.5,
        "b1": rng.standard_normal(hidden) * 0.1,
        "W2": rng.standard_normal((hidden, classes)) / hidden**0.5,
        "b2": np.zeros(classes),
    }
    nodes = [
        helper.make_node("Gemm", ["x", "W1", "b1"], ["h"]),
        helper.make_node("Tanh", ["h"], ["t"]),
        helper.make_node("Gemm", ["t", "W2", "b2"], ["s" if end else "y"]),
    ]
    if end:
        nodes.append(helper.make_node(end, ["s"], ["y"]))
    arrays = {name: a.astype(np.float32) for name, a in arrays.items()}
    return model_of(nodes, {"x": [batch, features]}, {"y": [batch, classes]}, arrays)


def linear(weight: np.ndarray, bias: np.ndarray, batch: str | int = "N") -> Model:
    """Return y = x W + b."""
    nodes = [helper.make_node("Gemm", ["x", "W", "b"], ["y"])]
    arrays = {"W": weight.astype(np.float32), "b": bias.astype(np.float32)}
    return model_of(nodes, {"x": [batch, weight.shape[0]]}, {"y": [batch, weight.shape[1]]}, arrays)


def info(name: str, *shape: int | str | None, dtype: str = "float32") -> TensorInfo:
    """Return an input or output as onnxruntime would declare it."""
    return TensorInfo(name, f"tensor({dtype})", np.dtype(dtype), shape)


def infos(model: Model) -> tuple[list[TensorInfo], list[TensorInfo]]:
    """Return inputs and outputs of a model."""

    def read(values: Any) -> list[TensorInfo]:
        return [
            info(v.name, *(d if isinstance(d, int) else str(d) for d in v.shape), dtype=v.dtype.numpy().name)
            for v in values
            if v.shape is not None and v.dtype is not None
        ]

    names = set(model.ir.graph.initializers)
    return read(v for v in model.ir.graph.inputs if v.name not in names), read(model.ir.graph.outputs)


def task_of(model: Model, arrays: Any, *, data: dict[str, Any] | None = None, **options: Any):
    """Return the task that a dict of arrays makes for a model."""
    inputs, outputs = infos(model)
    graph = TorchGraph(model)
    examples = open_data(arrays, inputs, outputs=outputs, predict=graph.run, **(data or {}))
    return make_task(examples, **options)


def blobs(count: int = 200, features: int = 6, classes: int = 3, seed: int = 1) -> dict[str, np.ndarray]:
    """Return a classification problem that a small net can learn."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((classes, features)) * 2
    labels = rng.integers(0, classes, count)
    x = centres[labels] + rng.standard_normal((count, features))
    return {"x": x.astype(np.float32), "labels": labels}
