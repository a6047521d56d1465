"""Model: one ONNX graph from the file to the file, with the weights a method may change."""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxcompress.core.encoding import Array, Encoding

FLOAT_TYPES = frozenset({ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE})
LEAST_IR_VERSION = 4
"""The first version of the file format whose initializers need not be inputs of the graph as well."""

_FLOAT_VALUES = frozenset({"value_float", "value_floats"})


class Home(enum.Enum):
    """Where a weight's value is kept in the graph."""

    INITIALIZER = "initializer"
    CONSTANT = "constant"


@dataclass(frozen=True)
class Weight:
    """One floating-point tensor of the model, by the one name the whole program uses for it.

    Attributes:
        name: the initializer's or Constant output's name; inside a nested graph (a branch of If, a body
            of Loop or Scan) prefixed by the path of its node, ``"If_12.then_branch/W"``.
        value: the value in the graph.
        graph: the graph, or nested graph, that owns it.
        home: initializer or Constant node.
        shape: static shape.
        dtype: NumPy storage type (float32, float16, float64, ml_dtypes.bfloat16).
    """

    name: str
    value: ir.Value
    graph: ir.Graph
    home: Home
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def size(self) -> int:
        """Number of elements."""
        return int(np.prod(self.shape, dtype=np.int64))


@dataclass(frozen=True)
class Source:
    """Where a model came from; ``path`` is None for a model given in memory."""

    path: str | None
    sha256: str
    size_bytes: int


@dataclass(frozen=True)
class Model:
    """An ONNX model: its graph, and the encodings of the weights that are not stored densely.

    The graph is read-only by convention; ``with_encodings`` returns a changed clone. In the graph an encoded
    weight is an ordinary initializer or Constant whose tensor decodes when it is read, so that serialising
    ``ir`` as it is gives the *dense twin*: the same function, stored without encodings.

    Attributes:
        ir: the graph.
        encodings: weight name -> encoding, for the weights that are not dense.
        source: the file it came from.
        steps: what was done so far, in words, one entry a method.
    """

    ir: ir.Model
    source: Source
    encodings: Mapping[str, Encoding] = field(default_factory=lambda: MappingProxyType({}))
    steps: tuple[str, ...] = ()

    @property
    def weights(self) -> Mapping[str, Weight]:
        """All floating-point tensors with a value, in graph order, nested graphs included."""
        cached = self.__dict__.get("_weights")
        if cached is None:
            cached = MappingProxyType({w.name: w for w in _weights(self.ir.graph, "")})
            object.__setattr__(self, "_weights", cached)
        return cached

    @property
    def opset(self) -> int:
        """Version of the default operator set."""
        opsets = self.ir.opset_imports
        return int(opsets.get("", opsets.get("ai.onnx", 1)))

    def array(self, name: str) -> Array:
        """Return the value of one weight, decoded if it is encoded, in its storage type."""
        if name in self.encodings:
            return self.encodings[name].decode()
        tensor = constant_of(self.weights[name].value)
        assert tensor is not None
        return np.asarray(tensor.numpy())

    def digest(self) -> str:
        """Return a hash of all weights, decoded, and of how each is stored."""
        found = hashlib.sha256()
        for name in sorted(self.weights):
            encoding, array = self.encodings.get(name), self.array(name)
            kind = "dense" if encoding is None else encoding.kind
            found.update(f"{name} {kind} {array.dtype} {array.shape}\n".encode())
            found.update(np.ascontiguousarray(array).tobytes())
        return found.hexdigest()

    def with_encodings(self, encodings: Mapping[str, Encoding], step: str) -> Model:
        """Return a clone in which these weights are stored as given."""
        clone = self.ir.clone()
        model = Model(clone, self.source, {**self.encodings, **encodings}, (*self.steps, step))
        for name, encoding in encodings.items():
            set_constant(model.weights[name], encoding)
        return model

    def with_steps(self, *steps: str) -> Model:
        """Return the same model with further steps noted."""
        return replace(self, steps=(*self.steps, *steps))


def constant_of(value: ir.Value) -> ir.TensorProtocol | None:
    """Return the tensor a value holds as initializer or as output of a Constant node, None otherwise."""
    if value.const_value is not None and value.is_initializer():
        return value.const_value
    producer = value.producer()
    if producer is not None and producer.op_type == "Constant" and producer.domain in ("", "ai.onnx"):
        attributes = producer.attributes
        for name in _FLOAT_VALUES & attributes.keys():
            if not attributes[name].is_ref():
                return ir.Tensor(np.array(attributes[name].value, np.float32), name=value.name)
        attribute = attributes.get("value")
        if attribute is not None and not attribute.is_ref() and attribute.type == ir.AttributeType.TENSOR:
            return attribute.as_tensor()
    return None


def subgraphs(graph: ir.Graph) -> Iterator[tuple[str, ir.Graph]]:
    """Yield the graphs directly nested in ``graph``, each with a path that is unique in it."""
    labels: set[str] = set()
    for index, node in enumerate(graph):
        nested = [a for a in node.attributes.values() if a.type == ir.AttributeType.GRAPH and not a.is_ref()]
        if nested:
            # Names of nodes are optional and need not be unique.
            label = node.name or f"{node.op_type}_{index}"
            while label in labels:
                label += f"_{index}"
            labels.add(label)
            yield from ((f"{label}.{a.name}/", a.as_graph()) for a in nested)


def _weights(graph: ir.Graph, prefix: str) -> Iterator[Weight]:
    values = list(graph.initializers.values())
    values += [node.outputs[0] for node in graph if node.op_type == "Constant" and node.outputs]
    for value in values:
        tensor = constant_of(value)
        if tensor is None or tensor.dtype not in FLOAT_TYPES or value.name is None:
            continue
        home = Home.INITIALIZER if value.is_initializer() else Home.CONSTANT
        shape = tuple(int(d) for d in tensor.shape.numpy())
        yield Weight(prefix + value.name, value, graph, home, shape, np.dtype(tensor.dtype.numpy()))
    for path, nested in subgraphs(graph):
        yield from _weights(nested, prefix + path)


def set_constant(weight: Weight, encoding: Encoding) -> None:
    """Let the weight's value in the graph decode from its encoding when it is read."""
    dtype = ir.DataType.from_numpy(encoding.dtype)
    name = weight.value.name
    tensor = ir.LazyTensor(
        lambda: ir.Tensor(encoding.decode(), name=name, dtype=dtype),
        dtype=dtype,
        shape=ir.Shape(encoding.shape),
        name=name,
    )
    if weight.home is Home.INITIALIZER:
        weight.value.const_value = tensor
    else:
        producer = weight.value.producer()
        assert producer is not None
        for attribute in _FLOAT_VALUES:
            producer.attributes.pop(attribute, None)
        producer.attributes["value"] = ir.AttrTensor("value", tensor)
