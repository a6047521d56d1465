"""Which nodes of a graph can compute with 8 bits, and which nodes pass 8-bit values on between them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import onnx

STATIC = ("Conv", "Gemm", "MatMul")
"""Contractions for which onnxruntime's CPU kernels compute in integers; ConvTranspose has none."""

DYNAMIC = ("Gemm", "MatMul")
"""Contractions that pay with activations measured at run time; a ConvInteger is slower than float."""

CARRIERS = frozenset({
    "Add", "AveragePool", "Clip", "Concat", "Flatten", "GlobalAveragePool", "LeakyRelu", "MaxPool", "Mul",
    "Pad", "Relu", "Reshape", "Resize", "Sigmoid", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze",
})  # fmt: skip
"""Operators with an integer kernel, or that only move values."""

_ACTIVATIONS = ("Relu", "Clip")
"""They disappear: rounding to the range of their output does the same."""


@dataclass(frozen=True)
class Candidate:
    """A contraction that can be quantised.

    Attributes:
        node: its name.
        op_type: its operator.
        tensor: the initializer it contracts.
        dynamic: its activations can be measured at run time instead of calibrated.
    """

    node: str
    op_type: str
    tensor: str
    dynamic: bool


def candidates(proto: onnx.ModelProto) -> tuple[tuple[Candidate, ...], dict[str, str]]:
    """Return the contractions that can be quantised, and by node why others cannot be."""
    arrays = {t.name: t for t in proto.graph.initializer}
    found, refused = [], {}
    for node in proto.graph.node:
        if node.op_type not in (*STATIC, "ConvTranspose") or node.domain not in ("", "ai.onnx"):
            continue
        tensor = arrays.get(node.input[1])
        if tensor is None:
            if node.op_type != "MatMul":
                refused[node.name] = "its weight is computed while the model runs"
            continue
        if tensor.data_type != onnx.TensorProto.FLOAT:
            kind = onnx.TensorProto.DataType.Name(tensor.data_type).lower()
            refused[node.name] = f"its weight is {kind}; 8-bit kernels start from float"
        elif node.op_type == "ConvTranspose":
            refused[node.name] = "onnxruntime has no 8-bit kernel for ConvTranspose on the CPU"
        elif node.op_type == "Gemm" and _attribute(node, "transA", 0):
            refused[node.name] = "its first operand is transposed"
        elif node.op_type != "MatMul" and not _plain_bias(node, tensor, arrays):
            refused[node.name] = "its bias is not one constant number an output channel"
        else:
            plain = len(tensor.dims) == 2 and node.op_type in DYNAMIC
            found.append(Candidate(node.name, node.op_type, tensor.name, plain))
    return tuple(found), refused


def carriers(
    proto: onnx.ModelProto, static: Iterable[str], boundless: frozenset[str] = frozenset()
) -> tuple[str, ...]:
    """Return the nodes that pass 8-bit values from one static contraction to another.

    A node stays only while something quantised comes in and something quantised takes what goes out, so that
    no value is rounded that nobody computes with. Clip and Relu behind a contraction always stay: its rounded
    output has their range. What makes a ``boundless`` value, one without a range, is none of them.
    """
    quantised = set(static)
    nodes = {node.name: node for node in proto.graph.node}
    maker = {output: node.name for node in proto.graph.node for output in node.output if output}
    users: dict[str, list[str]] = {}
    for node in proto.graph.node:
        for name in node.input:
            users.setdefault(name, []).append(node.name)
    constants = {t.name for t in proto.graph.initializer}
    outputs = {o.name for o in proto.graph.output}
    kept = {
        n.name
        for n in proto.graph.node
        if n.op_type in CARRIERS and n.domain in ("", "ai.onnx") and boundless.isdisjoint(n.output)
    }
    while True:
        inside = quantised | kept
        gone = set()
        for name in kept:
            node = nodes[name]
            sources = [maker.get(i) for i in node.input[: _data_inputs(node)] if i and i not in constants]
            merges = node.op_type in ("Add", "Mul", "Concat")
            fed = [s in inside for s in sources]
            used = any(user in inside for o in node.output for user in users.get(o, ()))
            vanishes = node.op_type in _ACTIVATIONS and bool(sources) and sources[0] in quantised
            handed_out = any(o in outputs for o in node.output)
            if not sources or not (all(fed) if merges else fed[0]) or handed_out or not (used or vanishes):
                gone.add(name)
        if not gone:
            return tuple(n.name for n in proto.graph.node if n.name in kept)
        kept -= gone


def _data_inputs(node: onnx.NodeProto) -> int:
    """Return how many leading inputs are data; the others are shapes, indices and limits."""
    return len(node.input) if node.op_type in ("Add", "Mul", "Concat") else 1


def _plain_bias(node: onnx.NodeProto, weight: onnx.TensorProto, arrays: dict[str, onnx.TensorProto]) -> bool:
    if len(node.input) < 3 or not node.input[2]:
        return True
    bias = arrays.get(node.input[2])
    axis = 0 if node.op_type == "Conv" or _attribute(node, "transB", 0) else 1
    return bias is not None and list(bias.dims) == [weight.dims[axis]]


def _attribute(node: onnx.NodeProto, name: str, default: int) -> int:
    return next((int(a.i) for a in node.attribute if a.name == name), default)
