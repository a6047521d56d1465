"""The channels of a model as plain facts: its groups, and the network they run through."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import onnx_ir as ir

from onnxcompress.core.channel_facts import ChannelFacts, GroupFacts, MemberFacts, NodeFacts
from onnxcompress.core.channels import Group
from onnxcompress.core.errors import OnnxCompressError
from onnxcompress.core.model import Model
from onnxcompress.engine.channels import Channels, analyse
from onnxcompress.engine.channels.carried import Carried, carried, groups_along, macs_of_nodes
from onnxcompress.engine.layers import layers

INPUT, OUTPUT = "input", "output"
"""What stands for an operator where a node is one of the model's own inputs or outputs."""


def channel_facts(model: Model, shapes: Mapping[str, tuple[int, ...]]) -> ChannelFacts:
    """Return the channel groups of a model and its network; why not, where channels cannot be traced.

    Args:
        model: the model; a method that analysed it at the same shapes has done the work already.
        shapes: input name -> concrete shape.
    """
    try:
        channels = analyse(model, shapes)
    except OnnxCompressError as error:
        return ChannelFacts(problem=f"channels could not be traced: {error.why or error}")
    carries = carried(channels)
    gone = {g.name: np.zeros(g.size, bool) for g in channels.free}
    return ChannelFacts(
        groups=tuple(_group(g, carries[g.name]) for g in channels.groups),
        nodes=tuple(_nodes(channels)),
        free_parameters=channels.parameters({}) - channels.parameters(gone),
        free_macs=channels.macs({}) - channels.macs(gone),
        without_rule=dict(sorted(channels.unknown.items())),
        out_of_reach=channels.out_of_reach,
    )


def _group(group: Group, carries: Carried) -> GroupFacts:
    members = tuple(
        MemberFacts(m.tensor, m.axis, int((m.channel_of >= 0).sum()), m.consumes) for m in group.members
    )
    return GroupFacts(
        group.name,
        group.size,
        members,
        carries.parameters,
        carries.macs,
        group.mixed,
        group.frozen,
        group.sliceable,
    )


def _nodes(channels: Channels) -> Iterator[NodeFacts]:
    """Yield what data reaches: inputs, operators in graph order, outputs."""
    graph, free = channels.model.ir.graph, channels.ground.trace.data_free
    place = {g.name: i for i, g in enumerate(channels.groups)}
    along = {v: tuple(place[n] for n in names) for v, names in groups_along(channels).items()}
    macs, own = macs_of_nodes(channels), frozenset(_with_weights(channels.model))
    made_by: dict[ir.Value, int] = {}
    for value in graph.inputs:
        if value not in free:
            made_by[value] = len(made_by)
            yield NodeFacts(value.name or "", INPUT)
    count = len(made_by)
    for node in graph:
        if all(v in free for v in node.outputs):
            continue
        read = tuple(sorted({made_by[v] for v in _read(node) if v in made_by}))
        domain = "" if node.domain in ("", "ai.onnx") else f"{node.domain}."
        result = next((v for v in node.outputs if v.name), None)
        groups = along.get(result, ()) if result is not None else ()
        name = node.name or (result.name if result is not None else None) or ""
        yield NodeFacts(name, domain + node.op_type, read, groups, node in own, macs.get(node))
        made_by |= dict.fromkeys(node.outputs, count)
        count += 1
    for value in graph.outputs:
        if value in made_by:
            yield NodeFacts(value.name or "", OUTPUT, (made_by[value],), along.get(value, ()))


def _read(node: ir.Node) -> Iterator[ir.Value]:
    """Yield what a node reads, what its bodies read from outside included."""
    yield from (v for v in node.inputs if v is not None)
    for body in _bodies(node):
        for inner in ir.traversal.RecursiveGraphIterator(body):
            yield from (v for v in inner.inputs if v is not None)
        yield from body.outputs


def _bodies(node: ir.Node) -> Iterator[ir.Graph]:
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH and not attribute.is_ref():
            yield attribute.as_graph()


def _with_weights(model: Model) -> Iterator[ir.Node]:
    """Yield the nodes of the main graph that have a weight to sum against or to look up in, or a body."""
    consumers = {c.node for layer in layers(model) for c in layer.consumers}
    for node in model.ir.graph:
        label = node.name or f"{node.op_type}({', '.join(v.name or '' for v in node.outputs)})"
        if label in consumers or any(_bodies(node)) or node.op_identifier() in model.ir.functions:
            yield node
