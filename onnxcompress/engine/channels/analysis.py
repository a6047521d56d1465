"""Channel analysis: labels on every axis of every constant, carried through the whole graph."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from types import MappingProxyType

import onnx_ir as ir

from onnxcompress.core.model import FLOAT_TYPES, Model, constant_of
from onnxcompress.core.refusal import CALL, Refusal
from onnxcompress.couplings._base import COUPLINGS
from onnxcompress.engine.channels.channels import Channels
from onnxcompress.engine.channels.crossing import Ground, NodeCrossing, refused, settled, stop_at_varying
from onnxcompress.engine.channels.grouping import grouping
from onnxcompress.engine.channels.movement import move
from onnxcompress.engine.channels.straightening import straightened
from onnxcompress.engine.channels.tracing import trace
from onnxcompress.engine.channels.unsharing import unshared
from onnxcompress.engine.measures.costs import as_node
from onnxcompress.engine.measures.shapes import Shape

_FREE = frozenset(["Shape", "Size", "Constant"])
"""Operators whose outputs hold no channels."""


def analyse(model: Model, input_shapes: Mapping[str, Shape]) -> Channels:
    """Find the channel groups of a model (design, idea 3).

    Args:
        model: any model that onnxruntime runs.
        input_shapes: input name -> concrete shape.

    Returns:
        The groups, on a clone of the model in which small shared constants are not shared any more, and views
        spelt out by index are Reshapes. The same object for the same model and shapes.

    Raises:
        UnsupportedError: the model does not run.
    """
    cache = model.__dict__.setdefault("_channels", {})
    key = tuple(sorted(input_shapes.items()))
    if key not in cache:
        cache[key] = _analysed(model, input_shapes)
    found: Channels = cache[key]
    return found


def _analysed(model: Model, input_shapes: Mapping[str, Shape]) -> Channels:
    clone = unshared(model)
    seen = trace(clone, input_shapes)
    if straightened(clone, seen):
        seen = trace(clone, input_shapes)
    ground = Ground(seen)
    graph = clone.ir.graph
    _label_constants(ground, graph)
    unknown: Counter[str] = Counter()
    _freeze_captured(ground, graph)
    for node in graph:
        _cross(ground, node, clone.ir, unknown)
    ground.settle_rivals()
    for value in graph.outputs:
        for labels in ground.along.get(value, {}).values():
            ground.ledger.freeze(labels, f"reaches the output {value.name!r}")
    names = {w.value: name for name, w in clone.weights.items()}
    names |= {v: v.name or "" for _, v, _ in ground.origins if v not in names}
    found = grouping(ground, names)
    return Channels(clone, found, ground, MappingProxyType(dict(unknown)), tuple(_out_of_reach(clone)))


def _out_of_reach(model: Model) -> Iterator[Refusal]:
    """Name the layer weights that no group can hold, because they lie in nested graphs."""
    nested = [w for w in model.weights.values() if w.graph is not model.ir.graph and len(w.shape) > 1]
    for weight in nested:
        yield Refusal(weight.name, "lies inside the body of an If, Loop or Scan, which is not cut")


def _label_constants(ground: Ground, graph: ir.Graph) -> None:
    """Give every axis of every constant fresh labels; axes of length 1 cannot be cut."""
    used = [v for node in graph for v in node.inputs if v is not None and constant_of(v) is not None]
    constants = dict.fromkeys((*used, *graph.initializers.values()))  # as the graph meets them
    for value in constants:
        tensor = constant_of(value)
        if tensor is None or not _holds_channels(value, tensor):
            continue
        shape = tuple(int(d) for d in tensor.shape.numpy())
        ground.trace.shapes.setdefault(value, shape)
        axes = {}
        for axis, length in enumerate(shape):
            if length > 1:
                axes[axis] = ground.ledger.fresh(length)
                ground.origins.append((int(axes[axis][0]), value, axis))
        if axes:
            ground.along[value] = axes
        if value.is_graph_output():
            for labels in axes.values():
                ground.ledger.freeze(labels, f"belongs to {value.name!r}, which is an output")


_SMALL_SLOTS = {
    "Reshape": (1,), "Expand": (1,), "Tile": (1,), "Slice": (1, 2, 3, 4), "Split": (1,), "Squeeze": (1,),
    "Unsqueeze": (1,), "Resize": (1, 2, 3), "Upsample": (1,), "Pad": (1, 2, 3), "ConstantOfShape": (0,),
    "TopK": (1,), "Range": (0, 1, 2), "Gather": (1,), "OneHot": (1,),
}  # fmt: skip
"""Inputs that are sizes, axes, indices: what they hold are no channels."""


def _holds_channels(value: ir.Value, tensor: ir.TensorProtocol) -> bool:
    if tensor.dtype == ir.DataType.STRING:
        return False
    uses = [slot in _SMALL_SLOTS.get(node.op_type, ()) for node, slot in value.uses()]
    return not all(uses) if uses else tensor.dtype in FLOAT_TYPES


def _freeze_captured(ground: Ground, graph: ir.Graph) -> None:
    """Remember the values nested graphs read from outside: they are frozen when they get labels."""
    for node in graph:
        for attribute in node.attributes.values():
            if attribute.type != ir.AttributeType.GRAPH:
                continue
            for inner in ir.traversal.RecursiveGraphIterator(attribute.as_graph()):
                for value in inner.inputs:
                    if value is not None and value.graph is graph:
                        ground.captured.setdefault(value, node)
            for value in attribute.as_graph().outputs:
                if value.graph is graph:
                    ground.captured.setdefault(value, node)
    for value, node in ground.captured.items():
        for labels in ground.along.get(value, {}).values():
            ground.ledger.freeze(labels, _inside(node))


def _inside(node: ir.Node) -> str:
    return f"is read inside {node.op_type} {node.name!r}, whose body is not cut"


def _cross(ground: Ground, node: ir.Node, model: ir.Model, unknown: Counter[str]) -> None:
    """Carry labels over one node."""
    domain = "" if node.domain == "ai.onnx" else node.domain
    if node.op_type in _FREE and not domain:
        return
    crossing = NodeCrossing(ground, as_node(node, model.opset_imports), node)
    labelled = any(v is not None and ground.along.get(v) for v in node.inputs)
    coupling = COUPLINGS.get((domain, node.op_type))
    given = [v for v in (*node.inputs, *node.outputs) if v is not None and v.name]
    if coupling is None:
        if labelled:
            name = f"{domain}.{node.op_type}" if domain else node.op_type
            unknown[name] += 1
            why = CALL if node.op_identifier() in model.functions else "for which no rule is known"
            refused(crossing, f"is used by {name} {node.name!r}, {why}")
        return
    if any(v not in ground.trace.shapes for v in given):
        refused(crossing, f"is used by {node.op_type} {node.name!r}, of which not all shapes are known")
        return
    stop_at_varying(crossing, ground.trace)
    if coupling.rule is not None:
        coupling.rule(crossing)
    else:
        move(crossing, coupling)
    crossing.settle_used()
    for value, axes in settled(ground, crossing).items():
        ground.along[value] = axes
        if value in ground.captured:
            for labels in axes.values():
                ground.freeze(labels, _inside(ground.captured[value]))
