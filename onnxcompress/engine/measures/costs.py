"""Multiply-accumulates of one inference, by node: the rules are the operators', the shapes the model's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from onnxcompress.core.model import Model
from onnxcompress.core.task import Feeds
from onnxcompress.engine import runtime
from onnxcompress.engine.feeds import random_feeds
from onnxcompress.engine.measures import shapes
from onnxcompress.ops._base import OPS, Node

FREE = {
    "ai.onnx.ml": frozenset(
        [
            "ArrayFeatureExtractor",
            "Binarizer",
            "CastMap",
            "CategoryMapper",
            "DictVectorizer",
            "FeatureVectorizer",
            "Imputer",
            "LabelEncoder",
            "OneHotEncoder",
            "TreeEnsemble",
            "TreeEnsembleClassifier",
            "TreeEnsembleRegressor",
            "ZipMap",
        ]
    )
}
"""Operators outside the registry, by domain, that look up, compare or rename: nothing is multiplied."""

_IMPOSSIBLE = "onnxcompress.impossible"

BRANCHING, REPEATING = "If", frozenset({"Loop", "Scan", "SequenceMap"})


@dataclass(frozen=True)
class Macs:
    """Multiply-accumulates of one inference.

    Attributes:
        total: of all nodes that are known; of an ``If`` the branch that costs more, of those that
            onnxruntime can run on these inputs.
        by_node: node name -> multiply-accumulates, nodes with none left out; sums up to ``total``. A node in
            a nested graph has the path of the nesting in its name, and counts every repetition.
        unknown_ops: what is not in ``total``: operators without a rule, and those whose shapes or whose
            number of repetitions are not known, with the reason in brackets.
    """

    total: int
    by_node: Mapping[str, int]
    unknown_ops: tuple[str, ...]


@dataclass
class _Tally:
    by_node: dict[str, int] = field(default_factory=dict)
    unknown: set[str] = field(default_factory=set)

    @property
    def total(self) -> int:
        return sum(self.by_node.values())

    def add(self, other: _Tally, times: int = 1) -> None:
        for name, macs in other.by_node.items():
            self.by_node[name] = self.by_node.get(name, 0) + macs * times
        self.unknown |= other.unknown


def count_macs(
    model: Model, input_shapes: Mapping[str, tuple[int, ...]], *, feeds: Feeds | None = None
) -> Macs:
    """Count the multiply-accumulates of one inference.

    Shapes come from ONNX's inference on the given input shapes; where that does not reach a node that costs,
    the model is run once in onnxruntime and asked for the shapes that are missing.

    Args:
        model: the model; encoded weights cost nothing to decode, because onnxruntime folds them at load.
        input_shapes: input name -> shape.
        feeds: inputs for that run; None: random ones of these shapes.

    >>> # Conv 64×3×7×7, stride 2, on 1×3×224×224: 112·112·64 outputs of 3·7·7 products = 118 013 952
    """
    graph = shapes.concrete(model.ir, input_shapes)
    if _incomplete(graph.graph):

        def make_feeds(infos: tuple[runtime.TensorInfo, ...]) -> Feeds:
            if feeds is not None:
                return {info.name: feeds[info.name] for info in infos}
            return random_feeds(infos, seed=0, shapes=input_shapes, model=model)[0]

        shapes.measure(graph, make_feeds)
        _take_branches(graph, graph.graph, make_feeds, {})
    tally = _graph(graph.graph, "", graph.opset_imports)
    by_node = {name: macs for name, macs in tally.by_node.items() if macs}
    return Macs(tally.total, by_node, tuple(sorted(tally.unknown)))


def _incomplete(graph: ir.Graph) -> bool:
    """Tell whether a rule needs a shape, in nested graphs too, that inference did not find."""
    for node in ir.traversal.RecursiveGraphIterator(graph):
        op = OPS.get((_domain(node), node.op_type))
        if op is None or op.macs is None:
            continue
        needed = [v for v in (*node.inputs, *_used_outputs(node)) if v is not None]
        if any(shapes.shape_of(v) is None for v in needed):
            return True
    return False


def _take_branches(
    model: ir.Model, graph: ir.Graph, make_feeds: shapes.MakeFeeds, taken: Mapping[ir.Node, str]
) -> None:
    """Run the branches in which shapes are missing because no run took them yet; mark those that cannot run.

    A branch may be impossible on these inputs: exporters write both ways of a Squeeze, for example.
    """
    for node in graph:
        if node.op_type != BRANCHING or _domain(node):
            continue
        for attribute in [a for a in node.attributes.values() if _is_graph(a)]:
            branch = attribute.as_graph()
            if not _incomplete(branch):
                continue
            path = {**taken, node: attribute.name}
            if shapes.measure(model, make_feeds, path) is None:
                _take_branches(model, branch, make_feeds, path)
            elif _incomplete(branch):
                branch.meta[_IMPOSSIBLE] = True


def _graph(graph: ir.Graph, path: str, opsets: Mapping[str, int]) -> _Tally:
    tally = _Tally()
    for index, node in enumerate(graph):
        label = path + (node.name or f"{node.op_type}_{index}")
        if node.op_type == BRANCHING and not _domain(node):
            tally.add(_larger_branch(node, label, opsets))
        elif node.op_type in REPEATING and not _domain(node):
            tally.add(_repeated(node, label, opsets))
        elif node.op_type != "Constant":
            _count(node, label, opsets, tally)
    return tally


def _larger_branch(node: ir.Node, label: str, opsets: Mapping[str, int]) -> _Tally:
    """Return the tally of the branch that costs more; what is unknown in either stays unknown."""
    graphs = [(a.name, a.as_graph()) for a in node.attributes.values() if _is_graph(a)]
    possible = [(name, graph) for name, graph in graphs if not graph.meta.get(_IMPOSSIBLE)]
    branches = [_graph(graph, f"{label}.{name}/", opsets) for name, graph in possible or graphs]
    larger = max(branches, key=lambda b: b.total, default=_Tally())
    return _Tally(larger.by_node, set().union(*(b.unknown for b in branches)))


def _repeated(node: ir.Node, label: str, opsets: Mapping[str, int]) -> _Tally:
    """Return the tally of a body times its repetitions, unknown where their number is."""
    body = node.attributes["body"].as_graph()
    once = _graph(body, f"{label}.body/", opsets)
    if not once.by_node and not once.unknown:
        return once
    times = {"Loop": _loop_count, "Scan": _scan_count}.get(node.op_type, lambda _: None)(node)
    if times is None:
        return _Tally({}, once.unknown | {f"{node.op_type} (number of repetitions not known)"})
    tally = _Tally()
    tally.add(once, times)
    return tally


def _loop_count(node: ir.Node) -> int | None:
    """Return the repetitions of a Loop that has a constant trip count and no other way to end."""
    count, condition = (*node.inputs, None, None)[:2]
    if count is None or count.const_value is None:
        return None
    body = node.attributes["body"].as_graph()
    goes_on = body.outputs[0]
    producer = goes_on.producer()
    while producer is not None and producer.op_type == "Identity" and producer.inputs[0] is not None:
        goes_on = producer.inputs[0]
        producer = goes_on.producer()
    carried = goes_on is body.inputs[1]
    if not (carried or _is_true(goes_on)):
        return None
    if condition is not None and not _is_true(condition):
        return None
    return max(0, int(count.const_value.numpy().reshape(-1)[0]))


def _is_true(value: ir.Value) -> bool:
    return value.const_value is not None and bool(np.all(value.const_value.numpy()))


def _scan_count(node: ir.Node) -> int | None:
    """Return the repetitions of a Scan (from operator set 9 on): the length of what it scans."""
    scanned = node.attributes["num_scan_inputs"].as_int()
    first = node.inputs[len(node.inputs) - scanned]
    shape = None if first is None else shapes.shape_of(first)
    axes = node.attributes.get("scan_input_axes")
    axis = 0 if axes is None else axes.as_ints()[0]
    return None if shape is None else shape[axis]


def _count(node: ir.Node, label: str, opsets: Mapping[str, int], tally: _Tally) -> None:
    """Add one node that has no nested graph."""
    domain = _domain(node)
    op = OPS.get((domain, node.op_type))
    name = f"{domain}.{node.op_type}" if domain else node.op_type
    if op is None and node.op_type not in FREE.get(domain, ()):
        tally.unknown.add(name)
    if op is None or op.macs is None:
        return
    inputs = [None if v is None else shapes.shape_of(v) for v in node.inputs]
    outputs = [shapes.shape_of(v) for v in node.outputs]
    unknown = any(v is not None and s is None for v, s in zip(node.inputs, inputs, strict=True))
    unknown |= any(shapes.shape_of(v) is None for v in _used_outputs(node))
    if unknown:
        tally.unknown.add(f"{name} (shape not known)")
        return
    macs = op.macs(as_node(node, opsets), inputs, [s or () for s in outputs])
    tally.by_node[label] = tally.by_node.get(label, 0) + int(macs)


def as_node(node: ir.Node, opsets: Mapping[str, int]) -> Node:
    """Return a node of the graph as the operators' rules see it; nested graphs are left out."""
    domain = _domain(node)
    opset = opsets.get(domain, opsets.get("ai.onnx", 1) if not domain else 1)
    try:
        version = int(onnx.defs.get_schema(node.op_type, opset, domain).since_version)
    except onnx.defs.SchemaError:
        version = opset
    attributes = {name: _plain(a) for name, a in node.attributes.items() if not _is_graph(a)}
    used = tuple(bool(v.uses()) or v.is_graph_output() for v in node.outputs)
    return Node(node.op_type, version, attributes, used, name=node.name or "", domain=domain)


def _plain(attribute: ir.Attr) -> Any:
    if attribute.type == ir.AttributeType.TENSOR:
        return attribute.as_tensor().numpy()
    value = attribute.value
    return list(value) if isinstance(value, tuple) else value


def _is_graph(attribute: ir.Attr) -> bool:
    return attribute.type == ir.AttributeType.GRAPH


def _used_outputs(node: ir.Node) -> list[ir.Value]:
    return [v for v in node.outputs if v.uses() or v.is_graph_output()]


def _domain(node: ir.Node) -> str:
    return "" if node.domain == "ai.onnx" else node.domain
