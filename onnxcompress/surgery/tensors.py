"""The constants of a graph under the knife: read, sliced, replaced, added."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxcompress.core.encoding import Array, Encoding
from onnxcompress.core.model import LEAST_IR_VERSION, Model, Weight, constant_of, set_constant
from onnxcompress.core.names import free_name

_CONSTANT_ATTRIBUTES = ("value_float", "value_floats", "value_int", "value_ints", "sparse_value")


class Tensors:
    """Constants of one clone, and the encodings of those that are not stored densely.

    Args:
        model: the clone; its main graph is changed.

    Attributes:
        encodings: weight name -> encoding, as it is after the changes.
        no_inputs: constants that were optional inputs of the graph as well and had to change.
    """

    def __init__(self, model: Model) -> None:
        self._model, self._graph = model, model.ir.graph
        self._weights = {w.value: w for w in model.weights.values()}
        self.encodings: dict[str, Encoding] = dict(model.encodings)
        self.no_inputs: list[str] = []
        self._constants = dict(self._graph.initializers)
        outputs = [node.outputs[0] for node in self._graph if node.op_type == "Constant"]
        self._constants |= {value.name: value for value in outputs if value.name}
        self._names = {v.name for v in _values(self._graph) if v.name}
        self._names |= {node.name for node in self._graph.all_nodes() if node.name}
        self._made: dict[tuple[str, tuple[int, ...], bytes], ir.Value] = {}
        self._added = False

    def value(self, name: str) -> ir.Value:
        """Return the constant of a weight or value name; raises KeyError."""
        weight = self._model.weights.get(name)
        return weight.value if weight is not None else self._constants[name]

    def array(self, value: ir.Value) -> Array:
        """Return what a constant holds, decoded if it is encoded."""
        weight = self._weights.get(value)
        if weight is not None and weight.name in self.encodings:
            return self.encodings[weight.name].decode()
        tensor = constant_of(value)
        assert tensor is not None, f"{value.name!r} is no constant"
        return np.asarray(tensor.numpy())

    def take(self, value: ir.Value, kept: Mapping[int, Array]) -> None:
        """Keep some positions (sorted indices) along some axes of a constant, in its own encoding."""
        weight = self._weights.get(value)
        encoding = None if weight is None else self.encodings.get(weight.name)
        if weight is not None and encoding is not None:
            for axis, indices in kept.items():
                encoding = encoding.take(axis, indices)
            self._encode(weight, encoding)
            return
        array = self.array(value)
        for axis, indices in kept.items():
            array = np.take(array, indices, axis=axis)
        self.set(value, array)

    def set(self, value: ir.Value, array: Array) -> None:
        """Let a constant hold another array, stored densely."""
        tensor = constant_of(value)
        assert tensor is not None
        weight = self._weights.get(value)
        if weight is not None:
            self.encodings.pop(weight.name, None)
        changed = ir.Tensor(
            np.ascontiguousarray(array).reshape(array.shape), dtype=tensor.dtype, name=tensor.name
        )
        if value.is_initializer():
            value.const_value = changed
        else:
            attributes = _producer(value).attributes
            for name in _CONSTANT_ATTRIBUTES:
                attributes.pop(name, None)
            attributes["value"] = ir.AttrTensor("value", changed)
        self._changed(value, array.shape)

    def _encode(self, weight: Weight, encoding: Encoding) -> None:
        self.encodings[weight.name] = encoding
        changed = Weight(weight.name, weight.value, weight.graph, weight.home, encoding.shape, encoding.dtype)
        set_constant(changed, encoding)
        self._changed(weight.value, encoding.shape)

    def _changed(self, value: ir.Value, shape: tuple[int, ...]) -> None:
        # It no longer is what it was made as: who asks for that array again must get another constant.
        self._made = {key: made for key, made in self._made.items() if made is not value}
        value.shape = ir.Shape(shape)
        tensor = constant_of(value)
        if value.type is None and tensor is not None:
            value.dtype = tensor.dtype
        if value.is_graph_input():
            self._drop_input(value)

    def _drop_input(self, value: ir.Value) -> None:
        """A constant that changes cannot be replaced by the caller any more: it is no input."""
        index = next(i for i, v in enumerate(self._graph.inputs) if v is value)
        self._graph.inputs.pop(index)
        self.no_inputs.append(value.name or "")

    def own(self, value: ir.Value | None) -> bool:
        """Tell whether a value is a constant that only one node reads and nobody outside the graph sees."""
        if value is None or constant_of(value) is None or value.is_graph_output() or value.is_graph_input():
            return False
        return len(list(value.uses())) == 1 and value.graph is self._graph

    def new(self, base: str, array: Array) -> ir.Value:
        """Return a constant with this value; equal ones are made once."""
        key = (str(array.dtype), array.shape, array.tobytes())
        if key not in self._made:
            name = self.free_name(base)
            tensor = ir.Tensor(np.array(array), dtype=ir.DataType.from_numpy(array.dtype), name=name)
            value = ir.Value(name=name, const_value=tensor, shape=ir.Shape(array.shape))
            value.dtype = tensor.dtype
            self._graph.register_initializer(value)
            self._made[key], self._added = value, True
        return self._made[key]

    def node(
        self,
        before: ir.Node | None,
        op_type: str,
        inputs: Iterable[ir.Value | None],
        name: str,
        attributes: Mapping[str, Any] | None = None,
    ) -> ir.Value:
        """Insert a node with one output in front of another (None: at the end); return its output."""
        converted = ir.convenience.convert_attributes(dict(attributes or {}))
        made = ir.Node("", op_type, list(inputs), converted, num_outputs=1)
        made.name = made.outputs[0].name = self.free_name(name)
        if before is None:
            self._graph.append(made)
        else:
            self._graph.insert_before(before, made)
        return made.outputs[0]

    def take_over(self, output: ir.Value, made: ir.Value, before: ir.Node | None) -> None:
        """Let ``made`` be the output of the graph that ``output`` was, under its name.

        Args:
            output: the value that nothing outside the graph shall see any more.
            made: what shall be seen instead.
            before: node in front of which one may be added (a constant is no output of a graph).
        """
        if made.producer() is None:
            made = self.node(before, "Identity", [made], f"{output.name}_out")
        made.type, made.shape = output.type, output.shape
        self.swap(output, made)

    def swap(self, output: ir.Value, made: ir.Value) -> None:
        """Give ``made`` the name of ``output``, and its place among the outputs of the graph."""
        for index, value in enumerate(self._graph.outputs):
            if value is output:
                self._graph.outputs[index] = made
        name = output.name
        output.name = self.free_name(f"{name}_inner")
        made.name = name

    def free_name(self, base: str) -> str:
        """Return a name the graph does not use yet, and take it."""
        return free_name(base, self._names)

    def modernise(self) -> None:
        """Raise the format to where initializers need not be inputs, where one of them changed or is new.

        Runtimes take no initializer of an older file from the caller, so none of them is an input then.
        """
        model = self._model.ir
        if model.ir_version >= LEAST_IR_VERSION or not (self.no_inputs or self._added):
            return
        model.ir_version = LEAST_IR_VERSION
        self.no_inputs.clear()
        for value in [v for v in self._graph.inputs if v.is_initializer()]:
            self._graph.inputs.remove(value)  # `del` leaves it saying that it is an input


def _producer(value: ir.Value) -> ir.Node:
    node = value.producer()
    assert node is not None
    return node


def _values(graph: ir.Graph) -> Iterable[ir.Value]:
    yield from graph.inputs
    yield from graph.initializers.values()
    for node in graph.all_nodes():
        yield from node.outputs
        for attribute in node.attributes.values():
            if attribute.type == ir.AttributeType.GRAPH and not attribute.is_ref():
                yield from attribute.as_graph().inputs
                yield from attribute.as_graph().initializers.values()
