"""The graph that is quantised: constants folded, normalisation inside the convolutions, every node named.

A normalisation between a convolution and its quantised output would keep onnxruntime from computing both as
one integer operator. onnxruntime's own basic optimisation merges what can be merged; its result uses standard
operators only.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx

from onnxcompress.core.errors import UnsupportedError
from onnxcompress.core.model import LEAST_IR_VERSION, Model
from onnxcompress.engine import opset, runtime
from onnxcompress.engine.dense_proto import Same, serialised
from onnxcompress.engine.layers import layers
from onnxcompress.engine.proto_edits import keep_declared, name_nodes

LEAST_OPSET = 13
"""The first operator set whose quantising operators take one scale a channel."""

FIRST_OPSET = 10
"""The first operator set that has 8-bit operators at all."""


@dataclass(frozen=True)
class Prepared:
    """A graph ready to be quantised.

    Attributes:
        proto: the graph; initializers are no inputs, nodes have unique names.
        weights: node name -> name of the original model's weight it contracts.
        warnings: sentences the user must see.
    """

    proto: onnx.ModelProto
    weights: dict[str, str]
    warnings: tuple[str, ...]


def prepare(model: Model, shapes: Mapping[str, tuple[int, ...]] | None = None) -> Prepared:
    """Return the model's graph ready to be quantised, proven to compute the same on a random input.

    Args:
        model: the model.
        shapes: concrete shapes of its inputs, as far as they are known.

    Raises:
        UnsupportedError: the model is larger than 2 GiB, or onnxruntime does not run it.
    """
    original = serialised(model)
    warnings: list[str] = []
    proto = onnx.ModelProto.FromString(original)
    constants = {t.name for t in proto.graph.initializer}
    inputs = [i for i in proto.graph.input if i.name not in constants]
    if len(inputs) < len(proto.graph.input):
        count = len(proto.graph.input) - len(inputs)
        del proto.graph.input[:]
        proto.graph.input.extend(inputs)
        # Before version 4 weights had to be inputs, and onnx's converter takes the version at its word.
        if proto.ir_version >= LEAST_IR_VERSION:
            warnings.append(f"{count} weights that a caller could override as inputs are constants now")
        proto.ir_version = max(proto.ir_version, LEAST_IR_VERSION)
    weights = _name_nodes(model, proto)
    same = Same(model, original, shapes or {})
    converted = opset.raised(proto, LEAST_OPSET)
    if converted is not None and not same.holds(converted):
        converted = None
    now = opset.version(proto)
    if converted is None and now < FIRST_OPSET:
        raise UnsupportedError(
            "the model cannot be quantised to 8 bits",
            where=model.source.path,
            why=f"8-bit operators need operator set {FIRST_OPSET}, the model has {now} and onnx's "
            "converter cannot raise it",
            fix="export the model with a newer operator set",
        )
    if converted is None and now < LEAST_OPSET:
        warnings.append(
            f"operator set {now} cannot be raised to {LEAST_OPSET} for this model: quantising "
            "operators are those of onnxruntime's own domain, which other runtimes do not have"
        )
    elif converted is not None:
        if opset.version(converted) != now:
            warnings.append(
                f"operator set {now} was raised to {opset.version(converted)}, "
                "which quantisation with one scale a channel needs"
            )
        proto = converted
    folded = _optimised(proto)
    if folded is not None and same.holds(folded):
        proto = folded
    name_nodes(proto.graph)
    _flatten_biases(proto)
    return Prepared(proto, _weights_after(model, proto, weights), tuple(warnings))


def _name_nodes(model: Model, proto: onnx.ModelProto) -> dict[str, str]:
    """Name every node as reports and globs do; return node -> the weight that it contracts."""
    name_nodes(proto.graph)
    return {consumer.node: layer.weight for layer in layers(model) for consumer in layer.consumers}


def _weights_after(model: Model, proto: onnx.ModelProto, before: dict[str, str]) -> dict[str, str]:
    """Return node -> weight after fusing: fused nodes are named after what they replace."""
    after = {}
    for node in proto.graph.node:
        own = node.name.removesuffix("/MatMulAddFusion")
        tensor = node.input[1] if len(node.input) > 1 else ""
        weight = before.get(own) or (tensor if tensor in model.weights else None)
        if weight is not None:
            after[node.name] = weight
    return after


def _flatten_biases(proto: onnx.ModelProto) -> None:
    """Give biases of Gemm that are one row one axis only: onnxruntime's quantiser knows no others."""
    arrays = {t.name: t for t in proto.graph.initializer}
    for node in proto.graph.node:
        if node.op_type != "Gemm" or len(node.input) < 3 or node.input[2] not in arrays:
            continue
        bias = arrays[node.input[2]]
        if len(bias.dims) == 2 and bias.dims[0] == 1:
            flat = onnx.numpy_helper.from_array(
                onnx.numpy_helper.to_array(bias).reshape(-1), f"{node.input[2]}_of_{node.name}"
            )
            proto.graph.initializer.append(flat)
            node.input[2] = flat.name


def _optimised(proto: onnx.ModelProto) -> onnx.ModelProto | None:
    """Return the graph after onnxruntime's basic optimisation, None where that used other operators."""
    with tempfile.TemporaryDirectory(prefix="onnxcompress-") as folder:
        target = Path(folder) / "basic.onnx"
        try:
            runtime.open_session(proto.SerializeToString(), optimization="basic", optimized_to=target)
            found = onnx.load(target)
        except (UnsupportedError, OSError, ValueError):
            return None
    own = {entry.domain for entry in proto.opset_import} | {"", "ai.onnx"}
    if any(node.domain not in own for node in found.graph.node):
        return None
    result = onnx.ModelProto()
    result.CopyFrom(proto)
    for field in ("node", "initializer", "sparse_initializer"):
        result.graph.ClearField(field)
        getattr(result.graph, field).extend(getattr(found.graph, field))
    keep_declared(result.graph, proto.graph)
    return result
