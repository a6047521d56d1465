"""The place in a graph where weights are decoded: short names, shared tables, drafts that can be dropped."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import onnx_ir as ir

from onnxcompress.core.encoding import Array, Site
from onnxcompress.core.model import LEAST_IR_VERSION

_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
_INTERNAL = re.compile(r"[nqkst]_[0-9a-z]+")


def internal(value: ir.Value) -> bool:
    """Return whether a value has a name as :class:`Names` gives them."""
    return value.name is not None and _INTERNAL.fullmatch(value.name) is not None


class Names:
    """Short value names that the model does not use yet, in a fixed order.

    ``next`` may be set back when what the latest names were made for is dropped.
    """

    def __init__(self, model: ir.Model) -> None:
        self._used = set(_value_names(model.graph))
        self.next = 0

    def new(self, role: str) -> str:
        """Return the next free name; it begins with ``role``."""
        while True:
            name = f"{role}_{_base36(self.next)}"
            self.next += 1
            if name not in self._used:
                return name


class Draft:
    """Nodes and tensors of one weight that are not in the graph yet."""

    def __init__(self, site: GraphSite, tensors: Sequence[ir.Value] | None) -> None:
        self._site = site
        self._given = list(tensors or ())
        self.tensors: list[ir.Value] = []
        self.nodes: list[ir.Node] = []
        self.shared: dict[str, ir.Value] = {}
        self.shared_nodes: list[ir.Node] = []

    def next_tensor(self) -> ir.Value | None:
        """Return the tensor an earlier draft of the same weight made at this place, if it is re-used."""
        return self._given[len(self.tensors)] if len(self.tensors) < len(self._given) else None

    def size_bytes(self) -> int:
        """Bytes this draft adds to the file: tensors, nodes and their names, without the last one."""
        nodes = sum(_node_bytes(n) for n in (*self.nodes, *self.shared_nodes))
        values = [v for v in (*self.tensors, *self.shared.values()) if v.const_value is not None]
        return nodes + sum(_tensor_bytes(v) for v in values)

    def commit(self, before: ir.Node | None) -> None:
        """Put the draft into the graph, before a node or, for None, at the start."""
        self._site.place(self, before)


class GraphSite(Site):
    """Collects what encodings emit for one graph and puts it there.

    Below IR version 4 every initializer has to be a graph input (onnxruntime asks for none of them). Tensors
    are Constant nodes there, and inputs only before operator set 9, whose Constant holds nothing but floats.
    """

    def __init__(self, model: ir.Model, graph: ir.Graph, names: Names) -> None:
        opsets = model.opset_imports
        self.opset = int(opsets.get("", opsets.get("ai.onnx", 1)))
        self._graph, self._names = graph, names
        old = (model.ir_version or 0) < LEAST_IR_VERSION
        self._constants = old and self.opset >= 9
        self._inputs = old and not self._constants and graph is model.graph
        self._shared: dict[str, ir.Value] = {}
        self._draft: Draft | None = None
        self._front: list[ir.Node] = []

    @contextlib.contextmanager
    def draft(self, tensors: Sequence[ir.Value] | None = None) -> Iterator[Draft]:
        """Collect what is emitted inside the block; ``tensors`` are re-used in order."""
        self._draft = Draft(self, tensors)
        try:
            yield self._draft
        finally:
            self._draft = None

    def tensor(self, role: str, array: Array) -> ir.Value:
        """Add a constant of this weight."""
        draft = self._current()
        value = draft.next_tensor() or self._constant(role, array, draft.nodes)
        draft.tensors.append(value)
        return value

    def shared(self, name: str, array: Array) -> ir.Value:
        """Add a constant that all weights of the graph share, once."""
        draft = self._current()
        if name in self._shared:
            return self._shared[name]
        if name not in draft.shared:
            draft.shared[name] = self._constant("t", array, draft.shared_nodes)
        return draft.shared[name]

    def node(
        self, op_type: str, inputs: Sequence[ir.Value], attributes: Mapping[str, Any] | None = None
    ) -> ir.Value:
        """Add a node of this weight."""
        return self._node(self._current().nodes, op_type, inputs, attributes)

    def nodes(
        self, op_type: str, inputs: Sequence[ir.Value], outputs: int, attributes: Mapping[str, Any]
    ) -> list[ir.Value]:
        """Add a node with several outputs."""
        nodes = self._current().nodes
        self._node(nodes, op_type, inputs, attributes, outputs)
        return list(nodes[-1].outputs)

    def shared_node(
        self, name: str, op_type: str, inputs: Sequence[ir.Value], attributes: Mapping[str, Any] | None = None
    ) -> ir.Value:
        """Add a node that all weights of the graph share, once."""
        draft = self._current()
        if name in self._shared:
            return self._shared[name]
        if name not in draft.shared:
            draft.shared[name] = self._node(draft.shared_nodes, op_type, inputs, attributes)
        return draft.shared[name]

    def place(self, draft: Draft, before: ir.Node | None) -> None:
        """Insert a draft: shared nodes before everything else, the others where they are needed."""
        for value in (*draft.tensors, *draft.shared.values()):
            if value.const_value is not None and not value.is_initializer() and value.producer() is None:
                self._graph.initializers.add(value)
                if self._inputs:
                    self._graph.inputs.append(value)
        self._insert(draft.shared_nodes, None, front=True)
        self._shared.update(draft.shared)
        self._insert(draft.nodes, before, front=False)

    def _insert(self, nodes: list[ir.Node], before: ir.Node | None, *, front: bool) -> None:
        """Insert before a node; shared nodes follow earlier shared ones at the start of the graph."""
        if not nodes:
            return
        if before is not None:
            self._graph.insert_before(before, nodes)
        elif self._front:
            self._graph.insert_after(self._front[-1], nodes)
        elif len(self._graph):
            self._graph.insert_before(self._graph[0], nodes)
        else:
            self._graph.extend(nodes)
        if front:
            self._front += nodes
        for node in nodes:
            node.name = None

    def _constant(self, role: str, array: Array, nodes: list[ir.Node]) -> ir.Value:
        tensor = ir.Tensor(array, dtype=ir.DataType.from_numpy(array.dtype))
        name = self._names.new(role)
        tensor.name = name
        if self._constants:
            tensor.name = None
            node = ir.Node("", "Constant", [], [ir.AttrTensor("value", tensor)])
            node.outputs[0].name = name
            nodes.append(node)
            return node.outputs[0]
        return ir.Value(name=name, const_value=tensor, type=ir.TensorType(tensor.dtype), shape=tensor.shape)

    def _node(
        self,
        nodes: list[ir.Node],
        op_type: str,
        inputs: Sequence[ir.Value],
        attributes: Mapping[str, Any] | None,
        outputs: int = 1,
    ) -> ir.Value:
        converted = ir.convenience.convert_attributes(dict(attributes or {}))
        made = ir.Node("", op_type, inputs, converted, num_outputs=outputs)
        for value in made.outputs:
            value.name = self._names.new("n")
        nodes.append(made)
        return made.outputs[0]

    def _current(self) -> Draft:
        assert self._draft is not None, "an encoding emits inside a draft"
        return self._draft


def _node_bytes(node: ir.Node) -> int:
    return 4 + int(ir.to_proto(node).ByteSize())


def _tensor_bytes(value: ir.Value) -> int:
    assert value.const_value is not None
    tensor = value.const_value
    return int(tensor.nbytes) + len(value.name or "") + 14 + 3 * len(tensor.shape)


def _value_names(graph: ir.Graph) -> Iterator[str]:
    for value in (*graph.inputs, *graph.initializers.values()):
        if value.name:
            yield value.name
    for node in graph.all_nodes():
        for value in node.outputs:
            if value.name:
                yield value.name
        for attribute in node.attributes.values():
            if isinstance(attribute, ir.Attr) and attribute.type == ir.AttributeType.GRAPH:
                yield from (v.name for v in attribute.as_graph().inputs if v.name)
                yield from (n for n in attribute.as_graph().initializers)


def _base36(number: int) -> str:
    digits = ""
    while True:
        number, digit = divmod(number, 36)
        digits = _DIGITS[digit] + digits
        if number == 0:
            return digits
