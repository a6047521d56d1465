"""Values of decoding subgraphs, computed with NumPy: what a file says, without a runtime."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxcompress.core.encoding import Array
from onnxcompress.core.model import constant_of

_LARGEST = 1 << 31
"""No decoded weight has more elements; a hostile file could ask for it."""


class UnknownError(Exception):
    """The nodes are not what decoding subgraphs consist of."""


def evaluate(value: ir.Value, given: Mapping[int, Array], *, skip_scaling: bool) -> Array:
    """Compute a value of a decoding subgraph with NumPy; ``given`` replaces values by their id."""
    known: dict[int, Array] = dict(given)
    waiting = [value]
    while waiting:
        current = waiting[-1]
        if id(current) in known:
            waiting.pop()
            continue
        if constant_of(current) is not None:
            known[id(current)] = array_of(current)
            continue
        node = current.producer()
        if node is None:
            raise UnknownError
        inputs = [v for v in node.inputs if v is not None]
        if skip_scaling and any(_is_scale(v) for v in inputs):
            inputs = inputs[:1]
            operator: Callable[..., Array] = lambda x: x  # noqa: E731
        else:
            operator = _operator(node)
        missing = [v for v in inputs if id(v) not in known]
        if missing:
            waiting += missing
            continue
        results = operator(*(known[id(v)] for v in inputs))
        known[id(current)] = results[current.index() or 0] if node.op_type == "Split" else results
    return known[id(value)]


def _is_scale(value: ir.Value) -> bool:
    """Whether a value holds scales: a tensor of that role, or the cast of one."""
    producer = value.producer()
    if producer is not None and producer.op_type == "Cast" and producer.inputs[0] is not None:
        value = producer.inputs[0]
    return (value.name or "").startswith("s_")


def _operator(node: ir.Node) -> Callable[..., Array]:
    simple: dict[str, Callable[..., Array]] = {
        "Add": np.add,
        "Mul": np.multiply,
        "Sub": np.subtract,
        "Div": np.floor_divide,
        "Mod": np.mod,
        "Range": np.arange,
        "Equal": np.equal,
        "Where": np.where,
        "Concat": lambda *parts: np.concatenate(parts, axis=_axis(node)),
        "CumSum": lambda x, axis: np.cumsum(x, axis=int(np.ravel(axis)[0])),
        "ConstantOfShape": lambda shape: _zeros(node, shape),
        "ScatterElements": _scatter,
        "Gather": lambda data, places: np.take(data, places, axis=_axis(node)),
        "Split": lambda x, *sizes: _split(node, x, *sizes),
        "Cast": lambda x: x.astype(np.int64) if x.dtype.kind in "iu" or _to_integers(node) else x,
        "ConvTranspose": lambda x, kernel: _spread(node, x, kernel),
        "Transpose": lambda x: np.transpose(x, node.attributes["perm"].as_ints()),
        "Reshape": lambda x, *shape: _reshape(x, shape[0] if shape else node.attributes["shape"].as_ints()),
        "Slice": lambda x, *bounds: _slice(node, x, *bounds),
    }
    if node.domain not in ("", "ai.onnx") or node.op_type not in simple:
        raise UnknownError
    return simple[node.op_type]


def _zeros(node: ir.Node, shape: Array) -> Array:
    value = node.attributes["value"].as_tensor().numpy()
    if int(np.prod(shape)) > _LARGEST or value.item() != 0:
        raise UnknownError
    return np.zeros([int(d) for d in shape], value.dtype)


def _scatter(data: Array, places: Array, updates: Array) -> Array:
    result = data.astype(updates.dtype)  # zeros of a type that may have been cast to this one
    result[places] = updates
    return result


def _axis(node: ir.Node) -> int:
    return node.attributes["axis"].as_int() if "axis" in node.attributes else 0


def _to_integers(node: ir.Node) -> bool:
    to = node.attributes["to"]
    return to.type == ir.AttributeType.INT and ir.DataType(to.as_int()).is_integer()


def _spread(node: ir.Node, x: Array, kernel: Array) -> Array:
    """Transposed convolution of groups (1, channels, n) by a kernel (channels, 1, 2 · stride)."""
    stride, (ahead, behind) = node.attributes["strides"].as_ints()[0], node.attributes["pads"].as_ints()
    made = x[0].T.astype(kernel.dtype) @ kernel[:, 0]
    found = np.zeros((len(made) + 1, stride), made.dtype)
    found[:-1] += made[:, :stride]
    found[1:] += made[:, stride:]
    return found.reshape(1, 1, -1)[:, :, ahead : found.size - behind]


def _split(node: ir.Node, x: Array, *sizes: Array) -> Any:
    if sizes:
        parts = sizes[0]
    elif "split" in node.attributes:
        parts = np.array(node.attributes["split"].as_ints())
    else:
        parts = np.full(len(node.outputs), x.shape[_axis(node)] // len(node.outputs))
    return np.split(x, np.cumsum(parts)[:-1], axis=_axis(node))


def _reshape(x: Array, shape: Iterable[Any]) -> Array:
    dims = [x.shape[i] if d == 0 and i < x.ndim and x.size else int(d) for i, d in enumerate(shape)]
    return x.reshape(dims)


def _slice(node: ir.Node, x: Array, *bounds: Array) -> Array:
    if bounds:
        end, axis = int(bounds[1][0]), int(bounds[2][0]) if len(bounds) > 2 else 0
    else:
        end, axis = node.attributes["ends"].as_ints()[0], node.attributes["axes"].as_ints()[0]
    return x[(slice(None),) * axis + (slice(0, end),)]


def array_of(value: ir.Value) -> Array:
    """Return the tensor a value holds; raises UnknownError where it holds none, or a giant."""
    tensor = constant_of(value)
    if tensor is None or tensor.size > _LARGEST:
        raise UnknownError
    return np.asarray(tensor.numpy())
