"""What the graph tells about the values an input may take: table sizes, constants it is compared with."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnx_ir as ir

from onnxcompress.core.encoding import Array
from onnxcompress.core.model import Model, constant_of
from onnxcompress.engine.tensor_info import TensorInfo

Kind = Literal["normal", "uniform", "integers", "choices", "fill"]

# Operators whose output holds the values of their first input, moved, repeated or cast.
_MOVES = frozenset(
    {
        "Cast",
        "Identity",
        "Reshape",
        "Squeeze",
        "Unsqueeze",
        "Flatten",
        "Transpose",
        "Slice",
        "Split",
        "Concat",
    }
    | {"Expand", "Tile", "Pad", "Gather", "Unique", "Dropout"}
)
_COMPARES = frozenset({"Equal", "Less", "Greater", "LessOrEqual", "GreaterOrEqual"})
_LENGTHS = {("LSTM", 4), ("GRU", 4), ("RNN", 4), ("ReverseSequence", 1)}
_SMALL_COUNTS = {("Loop", 0), ("TopK", 1), ("ConstantOfShape", 0), ("Tile", 1), ("Expand", 1), ("Range", 1)}


@dataclass(frozen=True)
class Draw:
    """How the values of one input are drawn.

    ``normal``: N(0, high²); ``uniform``: [low, high); ``integers``: low … high, both included; ``choices``:
    one of them, the same everywhere; ``fill``: a constant, ``low``, or the longest open dimension where None.
    """

    kind: Kind
    low: float | None = 0
    high: float = 1
    choices: tuple[float, ...] = ()

    def array(
        self, rng: np.random.Generator, dtype: np.dtype[Any], shape: tuple[int, ...], longest: int
    ) -> Array:
        """Return an array of this type and shape, in the input's own type."""
        low = 0 if self.low is None else self.low
        if dtype == np.object_:
            words = np.array(["alpha", "beta", "gamma", "delta", "1", "2.5", ""], dtype=np.object_)
            return np.asarray(rng.choice(words, shape), dtype=np.object_)
        if self.kind == "normal":
            values: Any = rng.standard_normal(shape) * self.high
            if dtype.kind == "c":
                values = values + 1j * rng.standard_normal(shape)
        elif self.kind == "uniform":
            values = rng.uniform(low, self.high, shape)
        elif self.kind == "integers":
            values = rng.integers(int(low), int(self.high), shape, endpoint=True)
        elif self.kind == "choices":
            values = np.full(shape, self.choices[0])
        else:
            values = np.full(shape, longest if self.low is None else low)
        return np.asarray(values).astype(dtype).reshape(shape)


def draws(info: TensorInfo, model: Model | None) -> tuple[Draw, ...]:
    """Return ways to draw an input, the most plausible first; all but the first are second thoughts."""
    dtype = info.numpy
    value = _input(model, info.name) if model is not None else None
    if dtype is None or dtype == np.object_:
        return (Draw("normal"),)
    if dtype.kind in "iu":
        return _integers(info, value)
    if dtype == np.bool_:
        if value is not None and any(n.op_type == "Dropout" and i == 2 for n, i in _readers(value)):
            return (Draw("fill", 0),)
        return Draw("integers", 0, 1), Draw("fill", 1), Draw("fill", 0)
    found: tuple[Draw, ...] = (
        Draw("normal"),
        Draw("uniform"),
        Draw("uniform", 0, 255),
        Draw("normal", high=0.01),
    )
    constants = tuple(_constants_met(value, {"Equal"})) if value is not None else ()
    if constants:
        found = (Draw("choices", choices=constants), *found)
    elif value is not None and _is_byte_scaled(value):
        found = (Draw("uniform", 0, 255), *found)
    return (*found, Draw("fill", 0), Draw("fill", 1))


def _integers(info: TensorInfo, value: ir.Value | None) -> tuple[Draw, ...]:
    assert info.numpy is not None
    name, limits = info.name.lower(), np.iinfo(info.numpy)
    small = Draw("integers", 0, 1), Draw("fill", 1), Draw("fill", 0), Draw("fill", None)
    if value is not None:
        bounds = (
            [b for b in map(_table_size, *zip(*_readers(value), strict=True)) if b] if value.uses() else []
        )
        if bounds:
            return Draw("integers", 0, min(min(bounds) - 1, int(limits.max))), *small
        readers = {(node.op_type, index) for node, index in _readers(value)}
        if readers & _LENGTHS:
            return Draw("fill", None), *small
        if readers & _SMALL_COUNTS:
            return Draw("fill", 1), Draw("fill", 2), *small
        constants = tuple(_constants_met(value, {"Equal"}))
        if constants:
            return *(Draw("choices", choices=(c,)) for c in constants[:4]), *small
    if "mask" in name:
        return Draw("fill", 1), *small
    if "len" in name:
        return Draw("fill", None), *small
    if name in {"sr", "sample_rate", "rate"}:
        return Draw("fill", 16000), Draw("fill", 8000), *small
    if info.numpy.itemsize == 1:
        return Draw("integers", int(limits.min), int(limits.max)), *small
    return small


def _input(model: Model, name: str) -> ir.Value | None:
    return next((v for v in model.ir.graph.inputs if v.name == name), None)


def _readers(value: ir.Value) -> Iterator[tuple[ir.Node, int]]:
    """Yield (node, input index) of everything that reads these values, through moves and nested graphs."""
    seen: set[ir.Value] = set()
    waiting = [value]
    while waiting:
        current = waiting.pop(0)
        if current in seen:
            continue
        seen.add(current)
        for use in current.uses():
            node, index = use.node, use.idx
            yield node, index
            if node.op_type in _MOVES and (index == 0 or node.op_type == "Concat"):
                waiting.extend(node.outputs)
            waiting.extend(_body_inputs(node, index))


def _body_inputs(node: ir.Node, index: int) -> Iterator[ir.Value]:
    """Yield the values that stand for input ``index`` inside the bodies of Loop and Scan."""
    body = node.attributes.get("body")
    if body is not None and body.type == ir.AttributeType.GRAPH and node.op_type in {"Loop", "Scan"}:
        inputs = body.as_graph().inputs
        if index < len(inputs) and (node.op_type == "Scan" or index >= 2):
            yield inputs[index]


def _table_size(node: ir.Node, index: int) -> int | None:
    """Return how many rows the table has that this input of ``node`` indexes, None where it is no index."""
    if node.op_type == "OneHot" and index == 0 and len(node.inputs) > 1:
        depth = _number(node.inputs[1])
        return int(depth) if depth and depth > 0 else None
    if node.op_type == "Equal" and len(node.inputs) == 2:
        return _one_hot_size(node.inputs[1 - index])
    if index != 1 or node.op_type not in {"Gather", "GatherElements", "ScatterElements", "GatherND"}:
        return None
    table = node.inputs[0]
    if table is None:
        return None
    tensor = constant_of(table)
    shape = tensor.shape if tensor is not None else table.shape
    if shape is None or not len(shape):
        return None
    axis = node.attributes.get_int("axis", 0) if node.op_type != "GatherND" else 0
    size = shape[axis if axis is not None and -len(shape) <= axis < len(shape) else 0]
    return size if isinstance(size, int) and size > 0 else None


def _one_hot_size(value: ir.Value | None) -> int | None:
    """Return n where a value is compared with 0, 1, … n-1, as a one-hot code is written without OneHot."""
    tensor = constant_of(value) if value is not None else None
    if tensor is None or tensor.size < 2 or tensor.dtype == ir.DataType.STRING:
        return None
    numbers = np.asarray(tensor.numpy(), dtype=np.float64).reshape(-1)
    return tensor.size if np.array_equal(numbers, np.arange(tensor.size)) else None


def _constants_met(value: ir.Value, operators: set[str]) -> Iterator[float]:
    """Yield single numbers this value is compared with, in graph order, once each."""
    met: set[float] = set()
    for node, index in _readers(value):
        if node.op_type in operators & _COMPARES and len(node.inputs) == 2:
            number = _number(node.inputs[1 - index])
            if number is not None and number not in met:
                met.add(number)
                yield number


def _is_byte_scaled(value: ir.Value) -> bool:
    """Return whether the model itself scales this input down from 0 … 255."""
    for node, index in _readers(value):
        if len(node.inputs) != 2 or node.op_type not in {"Div", "Mul", "Sub"}:
            continue
        constant = node.inputs[1 - index]
        tensor = constant_of(constant) if constant is not None else None
        if tensor is None or tensor.size == 0 or tensor.size > 2**16 or tensor.dtype == ir.DataType.STRING:
            continue
        scale = float(np.abs(np.asarray(tensor.numpy(), dtype=np.float64)).mean())
        if node.op_type == "Mul" and 1 / 300 < scale < 1 / 30:
            return True
        if index == 0 and (
            (node.op_type == "Div" and 30 < scale < 300) or (node.op_type == "Sub" and 30 < scale < 256)
        ):
            return True
    return False


def _number(value: ir.Value | None) -> float | None:
    tensor = constant_of(value) if value is not None else None
    if tensor is None or tensor.size != 1 or tensor.dtype == ir.DataType.STRING:
        return None
    return float(np.asarray(tensor.numpy(), dtype=np.float64).reshape(-1)[0])
