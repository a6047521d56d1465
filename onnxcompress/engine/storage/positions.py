"""Positions: the constants by which Gathers choose channels, stored as distances of one byte where that pays.

They are what a cut leaves in front of the layers that read only a part of the model's input. Ascending
positions no further than 255 apart are the running sum of as many bytes; others that are not negative and
below 65,536 take two bytes, or one, and a Cast. onnxruntime folds both while it loads.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from onnxcompress.core.encoding import Array, Site
from onnxcompress.core.model import LEAST_IR_VERSION, constant_of
from onnxcompress.encodings import _nodes
from onnxcompress.engine.storage.evaluation import UnknownError, evaluate
from onnxcompress.engine.storage.site import internal

_TYPES = (ir.DataType.INT32, ir.DataType.INT64)
_LEAST_OPSET = 11
"""Of CumSum."""


def positions(model: ir.Model) -> Iterator[ir.Value]:
    """Yield the initializers of the main graph that are read as the positions of Gathers and nothing else."""
    if (model.ir_version or 0) < LEAST_IR_VERSION:
        return
    for value in model.graph.initializers.values():
        tensor, uses = value.const_value, value.uses()
        if tensor is None or tensor.dtype not in _TYPES or len(tensor.shape) != 1 or not uses:
            continue
        if value.is_graph_input() or value.is_graph_output() or internal(value):
            continue
        if all(_chosen_by(node, slot) and node.graph is model.graph for node, slot in uses):
            yield value


def emit(site: Site, chosen: Array) -> ir.Value | None:
    """Emit the positions in fewer bytes, in their own type; None where they cannot be."""
    if not len(chosen) or chosen.min() < 0:
        return None
    to = {"to": _nodes.cast_type(site, ir.DataType.from_numpy(chosen.dtype))}
    steps = np.diff(chosen, prepend=0)
    if site.opset >= _LEAST_OPSET and chosen.max() > 255 and steps.min() >= 0 and steps.max() <= 255:
        bytes_ = site.node("Cast", [site.tensor("q", steps.astype(np.uint8))], to)
        return site.node("CumSum", [bytes_, site.shared("axis0", np.array(0, dtype=np.int64))])
    if chosen.max() >= 1 << 16:
        return None
    small = chosen.astype(np.uint8 if chosen.max() <= 255 else np.uint16)
    return site.node("Cast", [site.tensor("q", small)], to)


def recognise(graph: ir.Graph) -> int:
    """Turn what :func:`emit` wrote back into initializers, in place; return how many were found."""
    found = []
    for node in graph:
        value = node.inputs[1] if _chosen_by(node, 1) else None
        if value is not None and value not in found and _written(value):
            found.append(value)
    for value in found:
        _restore(graph, value)
    return len(found)


def _chosen_by(node: ir.Node, slot: int) -> bool:
    return node.op_type == "Gather" and node.domain in ("", "ai.onnx") and slot == 1


def _written(value: ir.Value) -> bool:
    last = value.producer()
    if last is None or last.op_type not in ("Cast", "CumSum") or internal(value):
        return False
    first = last.inputs[0]
    if first is None or not internal(first):
        return False
    if last.op_type == "CumSum":
        cast = first.producer()
        first = None if cast is None or cast.op_type != "Cast" else cast.inputs[0]
    tensor = None if first is None else constant_of(first)
    return tensor is not None and tensor.dtype in (ir.DataType.UINT8, ir.DataType.UINT16)


def _restore(graph: ir.Graph, value: ir.Value) -> None:
    last, name = value.producer(), value.name
    assert last is not None
    assert name is not None
    cast = last if last.op_type == "Cast" else last.inputs[0].producer()  # type: ignore[union-attr]
    assert cast is not None
    to = cast.attributes["to"]
    dtype = ir.DataType[to.as_string()] if to.type == ir.AttributeType.STRING else ir.DataType(to.as_int())
    try:
        array = evaluate(value, {}, skip_scaling=False).astype(dtype.numpy())
    except (UnknownError, ValueError, IndexError):
        return
    whole = ir.Value(
        name=name, const_value=ir.Tensor(array, dtype=dtype, name=name), shape=ir.Shape(array.shape)
    )
    whole.dtype = dtype
    value.replace_all_uses_with(whole)
    graph.remove(last, safe=True)
    graph.initializers.add(whole)
