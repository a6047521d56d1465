"""One node as a model of its own: run by onnxruntime, by the reference of the specification, and by us."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from onnxcompress.ops._base import Example, Node, Op

RELATIVE, ABSOLUTE = 2e-5, 1e-5


def attribute(name: str, value: Any) -> onnx.AttributeProto:
    if isinstance(value, np.ndarray):
        return helper.make_attribute(name, numpy_helper.from_array(value))
    return helper.make_attribute(name, value)


def model_of(domain: str, type_: str, version: int, case: Example) -> onnx.ModelProto:
    names = [f"x{i}" if x is not None else "" for i, x in enumerate(case.inputs)]
    outputs = [f"y{i}" for i in range(case.outputs)]
    node = helper.make_node(type_, names, outputs, domain=domain)
    node.attribute.extend(attribute(k, v) for k, v in case.attributes.items())
    inputs = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)
        for n, x in zip(names, case.inputs, strict=True)
        if x is not None
    ]
    graph = helper.make_graph([node], "one", inputs, [onnx.ValueInfoProto(name=o) for o in outputs])
    opsets = [helper.make_opsetid("", version if not domain else 17)]
    if domain:
        opsets.append(helper.make_opsetid(domain, version))
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def feeds_of(case: Example) -> dict[str, Any]:
    return {f"x{i}": x for i, x in enumerate(case.inputs) if x is not None}


def by_onnxruntime(model: onnx.ModelProto, case: Example) -> list[Any]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return list(session.run(None, feeds_of(case)))


def by_reference(model: onnx.ModelProto, case: Example) -> list[Any]:
    for output in model.graph.output:
        output.type.CopyFrom(helper.make_tensor_type_proto(TensorProto.FLOAT, None))
    return list(ReferenceEvaluator(model).run(None, feeds_of(case)))


def node_of(domain: str, type_: str, version: int, case: Example, **changes: Any) -> Node:
    node = Node(type_, version, case.attributes, (True,) * case.outputs, domain=domain)
    return dataclasses.replace(node, **changes)


def tensor(x: Any) -> Any:
    if x is None or x.dtype.name in ("int4", "uint4"):
        return x
    return torch.from_numpy(np.array(x))


def computed(op: Op, node: Node, case: Example) -> list[Any]:
    inputs = [tensor(x) for x in case.inputs]
    while inputs and inputs[-1] is None:
        inputs.pop()
    result = op.forward(node, *inputs)
    result = result if isinstance(result, tuple) else (result,)
    return [y.float().numpy() if y is not None and y.dtype == torch.bfloat16 else y for y in result]


def difference(got: Any, want: Any) -> str | None:
    """Return in words how two results differ, None where they agree."""
    got = got.detach().resolve_conj().numpy() if isinstance(got, torch.Tensor) else np.asarray(got)
    want = np.asarray(want)
    if got.shape != want.shape:
        return f"shape {got.shape} instead of {want.shape}"
    if want.dtype.name == "bfloat16":
        want = want.astype(np.float32)
    if got.dtype != want.dtype:
        return f"type {got.dtype} instead of {want.dtype}"
    if got.dtype.kind == "f":
        exact = np.array_equal(got, want, equal_nan=True)
        wide = got.astype(np.float64), want.astype(np.float64)
        # two half-precision results may round to neighbours
        relative = RELATIVE if got.dtype.itemsize > 2 else 2e-3
        close = exact or np.allclose(*wide, rtol=relative, atol=ABSOLUTE, equal_nan=True)
        return None if close else f"values differ by up to {np.nanmax(np.abs(wide[0] - wide[1])):.2g}"
    return None if np.array_equal(got, want) else f"{np.sum(got != want)} of {got.size} values differ"
