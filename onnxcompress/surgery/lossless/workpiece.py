"""The graph under work: what in it is fixed, what is known of its values, and how a node leaves it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import onnx_ir as ir

from onnxcompress.core.encoding import Array, Encoding
from onnxcompress.core.model import Model, constant_of
from onnxcompress.core.names import free_name
from onnxcompress.engine import randomness
from onnxcompress.engine.measures import shapes
from onnxcompress.engine.proto import to_proto
from onnxcompress.engine.storage.lift import graphs

STANDARD = ("", "ai.onnx")
"""Domains of the default operator set; operators of others are not known, and left alone."""

INITIALIZERS_ALONE = 4
"""Version of the file format from which initializers need not be inputs of the graph as well."""

Dims = tuple[int | None, ...]
"""A shape as far as it is known."""


class Workpiece:
    """A clone of a model that rules work on.

    Attributes:
        ir: the clone.
        refused: node -> why a rule left it alone.
    """

    def __init__(self, model: Model) -> None:
        self._model = model
        self.ir = model.ir.clone()
        clone = Model(self.ir, model.source, model.encodings, model.steps)
        self._encodings: dict[ir.Value, Encoding] = {
            clone.weights[name].value: encoding
            for name, encoding in model.encodings.items()
            if name in clone.weights
        }
        self.refused: dict[str, str] = {}
        self._names = {v.name for v in _values(self.ir.graph) if v.name}
        self._known: dict[ir.Value, tuple[ir.DataType | None, Dims | None]] = {}

    def model(self) -> Model:
        """Return the model as it is now; what is compressed keeps its encoding."""
        found = Model(self.ir, self._model.source, {}, self._model.steps)
        encodings = {
            w.name: self._encodings[w.value] for w in found.weights.values() if w.value in self._encodings
        }
        return Model(self.ir, self._model.source, encodings, self._model.steps)

    @property
    def opset(self) -> int:
        """Version of the default operator set."""
        return int(self.ir.opset_imports.get("", self.ir.opset_imports.get("ai.onnx", 1)))

    @property
    def modern(self) -> bool:
        """Whether a new initializer need not be an input of the graph."""
        return (self.ir.ir_version or 0) >= INITIALIZERS_ALONE

    def graphs(self) -> list[ir.Graph]:
        """Return the main graph and all that are nested in it."""
        return list(graphs(self.ir.graph))

    def size_bytes(self) -> int:
        """Return the bytes of the file, weights decoded and in it."""
        return int(to_proto(self.ir).ByteSize())

    def count_nodes(self) -> int:
        """Return the number of nodes, nested ones included."""
        return sum(len(graph) for graph in self.graphs())

    # what is known of values ----------------------------------------------------------------------------

    def look(self) -> None:
        """Find types and shapes anew, from those of the inputs alone; what a file says may be wrong."""
        clone = self.ir.clone()
        shapes.forget(clone)
        shapes.infer(clone)
        self._known = {}
        pairs = zip(graphs(self.ir.graph), graphs(clone.graph), strict=True)
        for graph, twin in pairs:
            for value, found in zip(graph.inputs, twin.inputs, strict=True):
                self._note(value, found)
            for node, twin_node in zip(graph, twin, strict=True):
                for value, found in zip(node.outputs, twin_node.outputs, strict=True):
                    self._note(value, found)

    def _note(self, value: ir.Value, found: ir.Value) -> None:
        dims = None
        if found.shape is not None:
            dims = tuple(int(d) if isinstance(d, int) else None for d in found.shape)
        self._known[value] = (found.dtype, dims)

    def dtype(self, value: ir.Value) -> ir.DataType | None:
        """Return the element type of a value, None where it is not known."""
        tensor = constant_of(value)
        if tensor is not None:
            return tensor.dtype
        return self._known.get(value, (None, None))[0]

    def dims(self, value: ir.Value) -> Dims | None:
        """Return the shape of a value, None where not even its rank is known."""
        tensor = constant_of(value)
        if tensor is not None:
            return tuple(int(d) for d in tensor.shape.numpy())
        return self._known.get(value, (None, None))[1]

    def fixed(self, value: ir.Value | None) -> ir.TensorProtocol | None:
        """Return the tensor of a constant that no caller can replace, None for everything else."""
        if value is None or value.is_graph_input():
            return None
        return constant_of(value)

    def array(self, value: ir.Value | None) -> Array | None:
        """Return what a fixed constant holds, None for everything else."""
        tensor = self.fixed(value)
        return None if tensor is None else tensor.numpy()

    def encoded(self, value: ir.Value) -> bool:
        """Tell whether a weight is stored compressed."""
        encoding = self._encodings.get(value)
        return encoding is not None and encoding.kind != "dense"

    def own(self, value: ir.Value | None) -> bool:
        """Tell whether a value is a fixed, uncompressed constant of the main graph that one node reads."""
        if value is None or self.fixed(value) is None or value.is_graph_output() or self.encoded(value):
            return False
        return len(tuple(value.uses())) == 1 and _home(value) is self.ir.graph

    # changes --------------------------------------------------------------------------------------------

    def bypass(self, node: ir.Node, source: ir.Value) -> bool:
        """Let everybody who reads a node's first result read ``source``, and remove the node.

        Returns:
            False where that cannot be: the result is an output of the graph, and the source, being an input,
            a constant or an output itself, cannot take its name.
        """
        graph, result = node.graph, node.outputs[0]
        assert isinstance(graph, ir.Graph)
        if result.is_graph_output():
            maker = source.producer()
            taken = source.is_graph_output() or source.is_initializer() or constant_of(source) is not None
            if maker is None or maker.graph is not graph or taken:
                return False
            name = result.name
            source.type, source.shape = result.type or source.type, result.shape
            result.replace_all_uses_with(source, replace_graph_outputs=True)
            graph.remove(node, safe=True)
            result.name = None
            source.name = name
        else:
            result.replace_all_uses_with(source)
            graph.remove(node, safe=True)
        return True

    def take_over(self, node: ir.Node, source: ir.Value) -> None:
        """Let ``source``, the only thing read by a node, become its result, under the result's own name."""
        graph, result = node.graph, node.outputs[0]
        assert isinstance(graph, ir.Graph)
        name, kind, shape = result.name, result.type, result.shape
        result.replace_all_uses_with(source, replace_graph_outputs=True)
        graph.remove(node, safe=True)
        result.name = None
        source.name, source.type, source.shape = name, kind or source.type, shape
        self._known[source] = self._known.get(result, (None, None))

    def set(self, value: ir.Value, array: Array, dtype: ir.DataType | None = None) -> None:
        """Let a constant hold another array, as this type."""
        tensor = constant_of(value)
        assert tensor is not None
        changed = ir.Tensor(array, dtype=dtype or ir.DataType.from_numpy(array.dtype), name=tensor.name)
        if value.is_initializer():
            value.const_value = changed
        else:
            producer = value.producer()
            assert producer is not None
            producer.attributes.clear()
            producer.attributes["value"] = ir.AttrTensor("value", changed)
        # A clone shares its types with the original: one of its own, not another content for the same.
        value.shape, value.type = ir.Shape(array.shape), ir.TensorType(changed.dtype)
        self._encodings.pop(value, None)

    def store(self, graph: ir.Graph, value: ir.Value, array: Array) -> None:
        """Let readers of a computed value read a constant of its name instead."""
        node, name = value.producer(), value.name or ""
        assert node is not None
        value.name = self.free_name(f"{name}_computed")
        self._names.discard(name)
        value.replace_all_uses_with(self.constant(graph, name, array, node))

    def constant(self, graph: ir.Graph, base: str, array: Array, before: ir.Node) -> ir.Value:
        """Return a new constant: an initializer, or a node in front of ``before`` where files are too old."""
        tensor = ir.Tensor(array, dtype=ir.DataType.from_numpy(array.dtype))
        name = self.free_name(base)
        if self.modern:
            value = ir.Value(name=name, const_value=tensor)
            tensor.name = name
            value.shape, value.dtype = ir.Shape(array.shape), tensor.dtype
            graph.register_initializer(value)
            return value
        node = ir.Node("", "Constant", [], [ir.AttrTensor("value", tensor)], num_outputs=1, name=name)
        node.outputs[0].name = name
        node.outputs[0].shape, node.outputs[0].dtype = ir.Shape(array.shape), tensor.dtype
        graph.insert_before(before, node)
        return node.outputs[0]

    def drop_unread(self, constants: Iterable[ir.Value]) -> None:
        """Remove constants that nobody reads any more."""
        for value in constants:
            if value.uses() or value.is_graph_output() or value.is_graph_input():
                continue
            maker = value.producer()
            if maker is not None and maker.op_type == "Constant" and isinstance(maker.graph, ir.Graph):
                maker.graph.remove(maker, safe=True)
            elif maker is None and value.is_initializer() and value.graph is not None:
                value.graph.initializers.pop(value.name or "", None)

    def move(self, value: ir.Value, place: ir.Value) -> None:
        """Note that a weight is to be found at another value from now on."""
        if value in self._encodings:
            self._encodings[place] = self._encodings.pop(value)

    def free_name(self, base: str) -> str:
        """Return a name that no value has yet, and take it."""
        return free_name(base, self._names)


def standard(node: ir.Node) -> bool:
    """Tell whether a node's operator is one of the default set."""
    return node.domain in STANDARD


def plain(node: ir.Node) -> bool:
    """Tell whether a node's operator is of the default set, gives the same every time, and nests no graph."""
    nests = any(a.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for a in node.attributes.values())
    return standard(node) and not nests and node.op_type not in randomness.ALWAYS


def label(node: ir.Node) -> str:
    """Return what to call a node in a report."""
    result = next((v.name for v in node.outputs if v.name), None)
    return node.name or (f"{node.op_type} of {result}" if result else node.op_type)


def number(node: ir.Node, name: str, default: float) -> float:
    """Return an attribute that is a number."""
    attribute = node.attributes.get(name)
    return default if attribute is None else float(attribute.value)


def _home(value: ir.Value) -> ir.Graph | ir.Function | None:
    producer = value.producer()
    return value.graph if producer is None else producer.graph


def _values(graph: ir.Graph) -> Iterator[ir.Value]:
    for inner in graphs(graph):
        yield from (*inner.inputs, *inner.initializers.values())
        for node in inner:
            yield from node.outputs
