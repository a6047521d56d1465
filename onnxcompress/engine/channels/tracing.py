"""One look at the running model: shapes of all values, and the values that no data reaches.

The model runs on several input sizes where its inputs have symbolic dimensions, and on other data where data
decide a length. What differs between the runs is dynamic, and a value computed from shapes is a constant
only if it does not differ.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir

from onnxcompress.core.encoding import Array
from onnxcompress.core.errors import OnnxCompressError, UnsupportedError
from onnxcompress.core.model import LEAST_IR_VERSION, Model, constant_of
from onnxcompress.engine import randomness, runtime
from onnxcompress.engine.channels.other_sizes import LOOKS, Place, Shapes, attempted, by_name
from onnxcompress.engine.feeds import random_feeds
from onnxcompress.engine.measures import shapes as measured
from onnxcompress.engine.measures.shapes import Shape
from onnxcompress.engine.tensor_info import TensorInfo

_LARGEST_LOOK = 1 << 26
"""Larger inputs than the model is used with are not looked at where a value between had more elements."""

_LARGEST = 1 << 16
"""Computed values with more elements are no sizes, axes or indices; they are not kept."""


@dataclass(frozen=True, eq=False)
class Trace:
    """What one look at the running model showed.

    Attributes:
        shapes: shape of each value of the main graph.
        dynamic: axes whose length depends on the sizes the model is fed with; values without any left out.
        arrays: values that no data reaches (computed ones of moderate size), of the first run.
        constant: those of ``arrays`` that are the same for all input sizes.
        counting: those of ``arrays`` that count 0, 1, 2 … through their elements, in every run.
        data_free: every value that no data reaches, initializers included.
        dtypes: element type of each value, where it is known.
    """

    shapes: dict[ir.Value, Shape]
    dynamic: Mapping[ir.Value, frozenset[int]]
    arrays: Mapping[ir.Value, Array]
    constant: frozenset[ir.Value]
    counting: frozenset[ir.Value]
    data_free: frozenset[ir.Value]
    dtypes: Mapping[ir.Value, ir.DataType]


def trace(model: Model, input_shapes: Mapping[str, Shape]) -> Trace:
    """Run a model and return what was seen.

    Args:
        model: the model; functions are calls in it, and nested graphs are not looked into.
        input_shapes: input name -> concrete shape that onnxruntime accepts.

    Raises:
        UnsupportedError: onnxruntime cannot run the model.
    """
    free = frozenset(_data_free(model.ir.graph))
    first = _look(model, input_shapes, free)
    symbolic = _symbolic(model, input_shapes)
    others = attempted(
        input_shapes,
        symbolic,
        lambda shapes: _try(model, shapes, free, _elements(input_shapes)),
        rows=LOOKS,
        each=True,
    )
    sized = list(others)
    if _sizes_from_data(model.ir.graph, free):
        others += [_look(model, input_shapes, free, seed=seed) for seed in (1, 2)]
    dynamic: dict[ir.Value, frozenset[int]] = {}
    for value, shape in first.shapes.items():
        axes = {
            axis
            for look in others
            for axis, (a, b) in enumerate(zip(shape, look.shapes.get(value, shape), strict=False))
            if a != b
        }
        if axes:
            dynamic[value] = frozenset(axes)
    constant = frozenset(
        value
        for value, array in first.arrays.items()
        if all(value in look.arrays and _same(array, look.arrays[value]) for look in others)
    )
    counting = frozenset(v for v in first.arrays if all(_counts(k.arrays.get(v)) for k in (first, *others)))
    if symbolic and not sized:
        # Nothing is known of how sizes spread: only what does not come from a shape is constant.
        constant &= frozenset(_data_free(model.ir.graph, shapes=False))
        counting &= constant
        dynamic |= {v: frozenset(range(len(s))) & _named(v) for v, s in first.shapes.items() if _named(v)}
    return Trace(first.shapes, dynamic, first.arrays, constant, counting, free, first.dtypes)


_SIZED_BY_DATA = frozenset(["Compress", "If", "Loop", "NonMaxSuppression", "NonZero", "Unique"])
_SIZE_SLOTS = {
    "ConstantOfShape": (0,), "Expand": (1,), "Pad": (1,), "Range": (0, 1, 2), "Reshape": (1,),
    "Resize": (2, 3), "Slice": (1, 2), "Split": (1,), "Tile": (1,), "TopK": (1,), "OneHot": (1,),
}  # fmt: skip
"""Inputs that set the length of an output's axis."""


def _sizes_from_data(graph: ir.Graph, free: frozenset[ir.Value]) -> bool:
    """Tell whether the data, not only the sizes, of inputs decide how long some axis is."""
    for node in graph:
        sizes = (node.inputs[s] for s in _SIZE_SLOTS.get(node.op_type, ()) if s < len(node.inputs))
        if node.op_type in _SIZED_BY_DATA or any(v is not None and v not in free for v in sizes):
            return True
    return False


def _named(value: ir.Value) -> frozenset[int]:
    """Return the axes whose length the file gives a name instead of a number."""
    shape = value.shape or ()
    return frozenset(axis for axis, d in enumerate(shape) if not isinstance(d, int))


def _same(first: Array, second: Array) -> bool:
    return first.shape == second.shape and bool(
        np.array_equal(first, second, equal_nan=first.dtype.kind == "f")
    )


def _counts(array: Array | None) -> bool:
    """Tell whether whole numbers count 0, 1, 2 … through the elements."""
    if array is None or array.dtype.kind not in "iu":
        return False
    return bool((array.reshape(-1) == np.arange(array.size)).all())


def _data_free(graph: ir.Graph, *, shapes: bool = True) -> Iterator[ir.Value]:
    """Yield the values that depend on no input's data; of its shape they may, if ``shapes``."""
    free: set[ir.Value] = set()
    inputs = set(graph.inputs)
    for value in graph.initializers.values():
        if value not in inputs or value.const_value is not None:
            free.add(value)
            yield value
    for node in graph:
        nested = any(
            a.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for a in node.attributes.values()
        )
        sizes = shapes and node.op_type in ("Shape", "Size") and node.domain in ("", "ai.onnx")
        known = all(v is None or v in free for v in node.inputs)
        if not nested and node.op_type not in randomness.ALWAYS and (sizes or known):
            for value in node.outputs:
                free.add(value)
                yield value


@dataclass(frozen=True, eq=False)
class _Look:
    shapes: dict[ir.Value, Shape]
    arrays: dict[ir.Value, Array]
    dtypes: dict[ir.Value, ir.DataType]


def _look(model: Model, input_shapes: Mapping[str, Shape], free: frozenset[ir.Value], seed: int = 0) -> _Look:
    clone = model.ir.clone()
    measured.forget(clone)
    if any(w.dtype != np.float32 for w in model.weights.values()):
        # onnxruntime computes half precision in single where it has no kernel, and would tell that type.
        measured.infer(clone)
        measured.forget(clone)

    def make_feeds(infos: tuple[TensorInfo, ...]) -> dict[str, Array]:
        return random_feeds(infos, seed=seed, shapes=input_shapes, model=model)[0]

    for value in clone.graph.inputs:
        if not value.is_initializer() and (value.name or "") in input_shapes:
            value.shape = ir.Shape(input_shapes[value.name or ""])
    failure = measured.measure(clone, make_feeds)
    if failure is not None:
        raise UnsupportedError("the model does not run, so its channels cannot be traced", why=failure)
    twins = dict(_pairs(model.ir.graph, clone.graph))
    shapes = {v: s for v, t in twins.items() if (s := measured.shape_of(t)) is not None}
    dtypes = {v: t.dtype for v, t in twins.items() if t.dtype is not None}
    wanted = [
        v
        for v in twins
        if v in free
        and v.producer() is not None
        and constant_of(v) is None
        and _size(shapes.get(v)) <= _LARGEST
    ]
    return _Look(shapes, _values(model, clone, wanted, twins, make_feeds), dtypes)


def _elements(shapes: Shapes) -> int:
    return sum(math.prod(shape) for shape in shapes.values())


def _size(shape: Shape | None) -> int:
    return _LARGEST + 1 if shape is None else int(np.prod(shape, dtype=np.int64))


def _pairs(graph: ir.Graph, twin: ir.Graph) -> Iterator[tuple[ir.Value, ir.Value]]:
    """Yield each value of the main graph with the clone's."""
    yield from zip(graph.inputs, twin.inputs, strict=True)
    yield from ((v, twin.initializers[name]) for name, v in graph.initializers.items())
    for node, other in zip(graph, twin, strict=True):
        yield from ((a, b) for a, b in zip(node.outputs, other.outputs, strict=True) if a.name)


def _values(
    model: Model,
    clone: ir.Model,
    wanted: Sequence[ir.Value],
    twins: Mapping[ir.Value, ir.Value],
    make_feeds: measured.MakeFeeds,
) -> dict[ir.Value, Array]:
    """Run the clone once more and return these values, those of fixed constants with them."""
    found = {
        v: np.asarray(tensor.numpy())
        for v in twins
        if (tensor := constant_of(v)) is not None and tensor.size <= _LARGEST
    }
    names = {v.name or "": v for v in wanted}
    if not names:
        return found
    own = {v.name for v in clone.graph.outputs}
    clone.graph.outputs.extend(twins[v] for v in wanted if v.name not in own)
    clone.ir_version = max(clone.ir_version, LEAST_IR_VERSION)
    with tempfile.TemporaryDirectory() as folder:
        session = runtime.open_session(measured.openable(clone, Path(folder)), optimization="none")
        arrays = session.run(make_feeds(session.inputs), list(names))
    found |= {names[n]: np.asarray(a) for n, a in arrays.items() if not isinstance(a, (list, dict))}
    return found


def _symbolic(model: Model, input_shapes: Shapes) -> list[list[Place]]:
    """Return the free dimensions of the inputs, those of one name together."""
    names: dict[Place, str] = {}
    for value in model.ir.graph.inputs:
        name = value.name or ""
        if value.is_initializer() or name not in input_shapes:
            continue
        shape = value.shape or (None,) * len(input_shapes[name])
        for axis, d in enumerate(shape):
            if not isinstance(d, int):
                names[name, axis] = str(getattr(d, "value", None) or f"{name}:{axis}")
    return by_name(names)


def _try(model: Model, input_shapes: Shapes, free: frozenset[ir.Value], least: int) -> _Look | None:
    """Look with other sizes; None where they do not run, or take too much memory."""
    if _elements(input_shapes) > least and measured.largest_value(model.ir, input_shapes) > _LARGEST_LOOK:
        return None
    try:
        return _look(model, input_shapes, free)
    except OnnxCompressError:
        return None
