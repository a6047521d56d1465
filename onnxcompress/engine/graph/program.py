"""The graph as a program: steps in order, every value in a numbered slot, nested graphs as blocks."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.passes import PassError
from onnx_ir.passes.common import InlinePass

from onnxcompress.core.encoding import Array
from onnxcompress.core.model import Model, subgraphs
from onnxcompress.core.names import free_name
from onnxcompress.engine.graph.values import constant_array
from onnxcompress.ops._base import Node

ABSENT = -1
"""Slot of an input that is left out, or of an output that is not wanted."""


@dataclass(eq=False)
class Step:
    """One node, ready to run.

    Attributes:
        node: what its operator sees in evaluation.
        training: what its operator sees in training.
        source: the node in the graph.
        label: unique name for messages and reports.
        inputs: slot of each input.
        outputs: slot of each output.
        blocks: attribute name -> nested graph.
        free: slots that hold nothing of interest after this step.
        fed: for each input, whether it depends on what the graph is fed with.
        fixed: whether it depends neither on that nor on a trainable weight, so that it is run once.
    """

    node: Node
    training: Node
    source: ir.Node
    label: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    blocks: dict[str, Block]
    free: tuple[int, ...] = ()
    fed: tuple[bool, ...] = ()
    fixed: bool = False


@dataclass(eq=False)
class Block:
    """A graph or nested graph: where its inputs go, its steps, where its outputs are."""

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    steps: tuple[Step, ...]
    used: frozenset[int]

    def walk(self) -> Iterator[Step]:
        """Yield all steps, each before those of the graphs nested in it."""
        for step in self.steps:
            yield step
            for block in step.blocks.values():
                yield from block.walk()


@dataclass(eq=False)
class Program:
    """A whole model, compiled.

    Attributes:
        main: the outermost block.
        names: name of the value in each slot; nested ones prefixed by their path as weights are.
        values: the graph's value in each slot.
        constants: slot -> value of initializers and Constant nodes that are not weights.
        weights: weight name -> slot.
        inputs: names the graph must be fed with.
        optional: names of initializers that may be fed, because they are graph inputs too.
        outputs: names of the outputs.
        slots: input name -> slot.
        opsets: domain -> version.
        ir_version: of the file.
    """

    main: Block
    names: list[str]
    values: list[ir.Value]
    constants: dict[int, Array]
    weights: dict[str, int]
    inputs: tuple[str, ...]
    optional: frozenset[str]
    outputs: tuple[str, ...]
    slots: dict[str, int]
    opsets: Mapping[str, int]
    ir_version: int
    steps: list[Step] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.steps = list(self.main.walk())

    def momenta(self) -> dict[str, float]:
        """Return the weights that hold running statistics -> the share of them that one batch leaves."""
        names = {slot: name for name, slot in self.weights.items()}
        found: dict[str, float] = {}
        for step in self.steps:
            if step.node.op_type == "BatchNormalization":
                for name in (names[slot] for slot in step.inputs[3:5] if slot in names):
                    found[name] = found.get(name, 1.0) * step.node.get("momentum", 0.9)
        return found

    def idle(self, outputs: Collection[str]) -> frozenset[Step]:
        """Return the steps of the outermost block that these outputs do not need; none if one has weights."""
        needed = {s for n, s in zip(self.outputs, self.main.outputs, strict=True) if n in outputs}
        weights, found = set(self.weights.values()), set()
        for step in reversed(self.main.steps):
            if needed.isdisjoint(step.outputs):
                found.add(step)
            else:
                needed |= _read(step)
        trained = {s for s in weights if len(self.values[s].shape or ()) > 1}
        return frozenset() if any(trained & _read(step) for step in found) else frozenset(found)


def _read(step: Step) -> set[int]:
    return set(step.inputs).union(*(block.used for block in step.blocks.values()))


def since_version(op_type: str, domain: str, opset: int) -> int:
    """Return the version of the operator's definition that ``opset`` selects, else ``opset``."""
    try:
        schema = onnx.defs.get_schema(op_type, max_inclusive_version=opset, domain=domain)
    except onnx.defs.SchemaError:
        return opset
    return int(schema.since_version)


def compile_model(model: Model) -> Program:
    """Compile a model; functions are inlined on a clone, the model itself is not touched."""
    graph_model, weights = model.ir, model.weights
    if graph_model.functions:
        inlined = graph_model.clone()
        found = Model(inlined, model.source).weights
        # A function of another operator set than its model's stays a call: onnxruntime runs it whole.
        with contextlib.suppress(PassError, ValueError):
            InlinePass()(inlined)
            graph_model, weights = inlined, found
    compiler = _Compiler(graph_model, {id(w.value): name for name, w in weights.items()})
    return compiler.program()


class _Compiler:
    """Walks the graphs once and hands out slots."""

    def __init__(self, model: ir.Model, weights: Mapping[int, str]) -> None:
        self.model = model
        self.weight_names = weights
        self.slots: dict[ir.Value, int] = {}
        self.names: list[str] = []
        self.values: list[ir.Value] = []
        self.constants: dict[int, Array] = {}
        self.weights: dict[str, int] = {}
        self.labels: set[str] = set()

    def program(self) -> Program:
        graph = self.model.graph
        main = self.block(graph, "")
        required = [v for v in graph.inputs if not v.is_initializer()]
        return Program(
            main=main,
            names=self.names,
            values=self.values,
            constants=self.constants,
            weights=self.weights,
            inputs=tuple(v.name or "" for v in required),
            optional=frozenset(v.name or "" for v in graph.inputs if v.is_initializer()),
            outputs=tuple(v.name or "" for v in graph.outputs),
            slots={v.name or "": self.slots[v] for v in graph.inputs},
            opsets=self.model.opset_imports,
            ir_version=self.model.ir_version,
        )

    def slot(self, value: ir.Value, prefix: str) -> int:
        known = self.slots.get(value)
        if known is None:
            known = self.slots[value] = len(self.names)
            self.names.append(prefix + (value.name or ""))
            self.values.append(value)
        return known

    def hold(self, value: ir.Value, tensor: Array | None, prefix: str) -> None:
        """Give a constant its slot, as weight or as constant."""
        slot = self.slot(value, prefix)
        name = self.weight_names.get(id(value))
        if name is not None:
            self.weights[name] = slot
        elif tensor is not None:
            self.constants[slot] = tensor

    def block(self, graph: ir.Graph, prefix: str) -> Block:
        inputs = tuple(self.slot(v, prefix) for v in graph.inputs)
        own = {slot for slot, v in zip(inputs, graph.inputs, strict=True) if not v.is_initializer()}
        for value in graph.initializers.values():
            known = id(value) in self.weight_names
            tensor = None if known or value.const_value is None else constant_array(value.const_value)
            self.hold(value, tensor, prefix)
        paths = {id(nested): path for path, nested in subgraphs(graph)}
        steps = []
        for node in graph:
            if node.op_type == "Constant" and node.domain in ("", "ai.onnx"):
                known = id(node.outputs[0]) in self.weight_names
                tensor = None if known else _constant(node)
                if known or tensor is not None:
                    self.hold(node.outputs[0], tensor, prefix)
                    continue
            steps.append(self.step(node, prefix, paths))
            own.update(slot for slot in steps[-1].outputs if slot != ABSENT)
        outputs = tuple(self.slot(v, prefix) for v in graph.outputs)
        used = self.liveness(steps, own, outputs)
        return Block(inputs, outputs, tuple(steps), frozenset(used - own))

    def step(self, node: ir.Node, prefix: str, paths: Mapping[int, str]) -> Step:
        blocks = {}
        for attribute in node.attributes.values():
            if attribute.type == ir.AttributeType.GRAPH:
                nested = attribute.as_graph()
                blocks[attribute.name] = self.block(nested, prefix + paths[id(nested)])
        inputs = tuple(ABSENT if v is None else self.slot(v, prefix) for v in node.inputs)
        outputs = tuple(self.slot(v, prefix) if v.name else ABSENT for v in node.outputs)
        label = self.label(node, prefix)
        seen = _node(node, self.model.opset_imports, label)
        training = Node(**{**vars(seen), "training": True})
        return Step(seen, training, node, label, inputs, outputs, blocks)

    def label(self, node: ir.Node, prefix: str) -> str:
        base = prefix + (node.name or f"{node.op_type}({', '.join(v.name or '' for v in node.outputs)})")
        return free_name(base, self.labels, "#")

    @staticmethod
    def liveness(steps: list[Step], own: set[int], outputs: tuple[int, ...]) -> set[int]:
        """Set what each step may free; return every slot the block reads."""
        last: dict[int, int] = {}
        for index, step in enumerate(steps):
            reads = set(step.inputs).union(*(block.used for block in step.blocks.values())) - {ABSENT}
            last.update(dict.fromkeys(reads, index))
            for slot in step.outputs:
                last.setdefault(slot, index)
        kept = set(outputs) | {ABSENT}
        free: list[list[int]] = [[] for _ in steps]
        for slot, index in last.items():
            if slot in own and slot not in kept:
                free[index].append(slot)
        for step, slots in zip(steps, free, strict=True):
            step.free = tuple(slots)
        return (set(last) | set(outputs)) - {ABSENT}


def _constant(node: ir.Node) -> Array | None:
    """Return what a Constant node holds; None for forms that onnxruntime must expand (sparse)."""
    for name, attribute in node.attributes.items():
        if name == "value":
            return constant_array(attribute.as_tensor())
        if name in ("value_float", "value_floats"):
            return np.array(attribute.value, dtype=np.float32)
        if name in ("value_int", "value_ints"):
            return np.array(attribute.value, dtype=np.int64)
        if name == "value_string":
            return np.array(_plain(attribute), dtype=object)
        if name == "value_strings":
            texts = _plain(attribute)
            return np.array(texts, dtype=object).reshape(len(texts))
    return None


def _plain(attribute: ir.Attr) -> Any:
    """Return an attribute as the plain value that operators read; None for graphs."""
    kind, value = attribute.type, attribute.value
    if kind == ir.AttributeType.TENSOR:
        return constant_array(attribute.as_tensor())
    if kind == ir.AttributeType.STRING:
        return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else str(value)
    if kind == ir.AttributeType.STRINGS:
        return [s.decode("utf-8", "surrogateescape") if isinstance(s, bytes) else str(s) for s in value]
    if kind in (ir.AttributeType.INTS, ir.AttributeType.FLOATS):
        return list(value)
    return None if kind == ir.AttributeType.GRAPH else value


def _node(node: ir.Node, opsets: Mapping[str, int], label: str) -> Node:
    """Return the node as its operator sees it."""
    domain = "" if node.domain == "ai.onnx" else node.domain
    opset = opsets.get(domain) or opsets.get(domain or "ai.onnx") or 1
    return Node(
        op_type=node.op_type,
        version=since_version(node.op_type, domain, opset),
        attributes={a.name: _plain(a) for a in node.attributes.values()},
        outputs=tuple(bool(v.name) and (bool(v.uses()) or v.is_graph_output()) for v in node.outputs),
        name=label,
        domain=domain,
    )
