"""A convolution behind a space-to-depth reads the picture itself, with a stride.

Networks for detection start by putting the four pixels of every 2 x 2 square one behind the other along the
channels (the "focus" of YOLOv5 and YOLOX, SpaceToDepth, torch's PixelUnshuffle), before a convolution. With
s the side of the square, taps (a, b) of a kernel of k x k and pixels (p, q) of a square::

    W'[o, c, s a + p, s b + q] = W[o, depth(c, p, q), a, b]          kernel s k x s k

at s times the stride and the padding: the same products of the same numbers, so outputs change by the order
in which they are summed alone, and nothing has to be copied any more.

How the picture is moved is not read off the nodes but found by moving the numbers of its pixels: whatever
mixture of Slice, Concat, Reshape, Transpose, SpaceToDepth … there is, what counts is where pixels end up.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir

from onnxcompress.core.encoding import Array
from onnxcompress.core.errors import OnnxCompressError
from onnxcompress.core.model import LEAST_IR_VERSION
from onnxcompress.engine.runtime import open_session
from onnxcompress.surgery.lossless.workpiece import Dims, Workpiece, label, number, plain

_RESHAPING = ("Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze")
_MOVES = frozenset([*_RESHAPING, "Concat", "Gather", "Slice", "SpaceToDepth", "Split"])
"""Operators that put elements elsewhere and compute nothing, as long as all they read besides is constant."""

_FEW, _BLOCK = 8, 16
"""Reading the picture itself is faster in onnxruntime with up to 8 channels, and for kernels of 1 x 1 with
multiples of 16; otherwise it is no gain, and nearly twice as slow with 18 (benchmarks/space_to_depth.py)."""

_MOST_NODES = 64
_MOST_ELEMENTS = 1 << 25

_TRIAL = 336
"""Open lengths are tried as multiples of this: of 2, 3, 4, 6, 7, 8, 12, 14, 16, usual sides of squares."""

_UNBOUNDED = 1 << 30
"""Ends of a Slice from which on they mean "to the end"."""


@dataclass(frozen=True, eq=False)
class Squares:
    """How pixels lie along the channels of a depth.

    Attributes:
        rows, columns: sides of a square of pixels.
        channel, row, column: for every channel of the depth, the picture's channel and the place in the
            square that it holds.
    """

    rows: int
    columns: int
    channel: Array
    row: Array
    column: Array


@dataclass(frozen=True, eq=False)
class _Depth:
    """A space-to-depth: ``source`` N C H W becomes N (C·rows·columns) (H / rows) (W / columns).

    Attributes:
        source: the value that holds the picture.
        nodes: those that move it, in the order of the graph.
        squares: what ends up where.
    """

    source: ir.Value
    nodes: tuple[ir.Node, ...]
    squares: Squares


def fold_space_to_depth(work: Workpiece) -> Iterator[str]:
    """Let convolutions take in the space-to-depth in front of them; yields the nodes that go."""
    work.look()
    order = {node: place for place, node in enumerate(work.ir.graph)}
    for node in list(order):
        if node.op_type != "Conv" or not plain(node) or node.inputs[0] is None:
            continue
        depths = list(_depths_of(work, node.inputs[0], order))
        refusals = [_refusal(work, node, depth) for depth in depths]
        fitting = [depth for depth, why in zip(depths, refusals, strict=True) if why is None]
        if fitting:
            gone = [label(moving) for moving in fitting[-1].nodes]
            _fold(work, node, fitting[-1])
            yield from gone
        elif refusals:
            work.refused[label(node)] = str(refusals[0])


def _refusal(work: Workpiece, node: ir.Node, depth: _Depth) -> str | None:
    """Return why a convolution cannot read the picture itself."""
    weight = node.inputs[1]
    inside = set(depth.nodes)
    channels = int(depth.squares.channel.max()) + 1
    if any(
        reader not in inside | {node}
        for moving in depth.nodes
        for v in moving.outputs
        for reader, _ in v.uses()
    ):
        return "others read the space-to-depth in front of it"
    if any(v.is_graph_output() for moving in depth.nodes for v in moving.outputs):
        return "the space-to-depth in front of it is an output"
    if not work.own(weight):
        return "its weight is shared, compressed or may be replaced, so that it keeps the space-to-depth"
    if number(node, "group", 1) != 1 or any(d != 1 for d in _ints(node, "dilations", 1)):
        return "it has groups or dilations, and keeps the space-to-depth in front of it"
    if "auto_pad" in node.attributes and node.attributes["auto_pad"].as_string() not in ("NOTSET", "VALID"):
        return "its padding goes by its input's size, and it keeps the space-to-depth in front of it"
    taps = int(np.prod(_array(work, node).shape[2:]))
    if channels > _FEW and (channels % _BLOCK or taps > 1):
        return f"a convolution of {channels} channels would be slower than the space-to-depth in front of it"
    return None


def _fold(work: Workpiece, node: ir.Node, depth: _Depth) -> None:
    weight, squares, array = node.inputs[1], depth.squares, _array(work, node)
    assert weight is not None
    work.set(weight, spread(array, squares))
    steps, pads = _ints(node, "strides", 1), _ints(node, "pads", 0)
    sides = (squares.rows, squares.columns)
    node.attributes["kernel_shape"] = ir.AttrInt64s(
        "kernel_shape", [k * side for k, side in zip(array.shape[2:], sides, strict=True)]
    )
    node.attributes["strides"] = ir.AttrInt64s(
        "strides", [step * side for step, side in zip(steps, sides, strict=True)]
    )
    if any(pads):
        node.attributes["pads"] = ir.AttrInt64s(
            "pads", [pad * side for pad, side in zip(pads, (*sides, *sides), strict=True)]
        )
    node.replace_input_with(0, depth.source)
    for moving in reversed(depth.nodes):
        read = [v for v in moving.inputs if v is not None]
        work.ir.graph.remove(moving, safe=True)
        work.drop_unread(read)


def _array(work: Workpiece, node: ir.Node) -> Array:
    """Return the weight of a convolution whose weight is fixed."""
    array = work.array(node.inputs[1])
    assert array is not None
    return array


def spread(weights: Array, squares: Squares) -> Array:
    """Return the kernel over the picture of one over its depth.

    Args:
        weights: outputs x channels of the depth x k x l.
        squares: how pixels lie along these channels.

    Returns:
        outputs x channels of the picture x rows·k x columns·l.
    """
    outputs, _, high, wide = weights.shape
    channels = int(squares.channel.max()) + 1
    found = np.zeros((outputs, channels, high, squares.rows, wide, squares.columns), weights.dtype)
    # Indices of several axes apart put their own axis first.
    found[:, squares.channel, :, squares.row, :, squares.column] = weights.transpose(1, 0, 2, 3)
    return found.reshape(outputs, channels, high * squares.rows, wide * squares.columns)


# what a value is of another one ---------------------------------------------------------------------------


def _depths_of(work: Workpiece, value: ir.Value, order: Mapping[ir.Node, int]) -> Iterator[_Depth]:
    """Yield the space-to-depths that a value is of others before it, the nearest first.

    Args:
        work: the graph.
        value: what a convolution reads.
        order: places of the nodes of the graph.
    """
    nodes: set[ir.Node] = set()
    front = {value}
    while True:
        makers = [
            m
            for v in front
            if (m := v.producer()) is not None and m in order and m not in nodes and _moves(work, m)
        ]
        if not makers or len(nodes) == _MOST_NODES:
            return
        last = max(makers, key=order.__getitem__)
        nodes.add(last)
        front -= set(last.outputs)
        front |= {v for v in last.inputs if v is not None and work.array(v) is None}
        if len(front) == 1:
            (source,) = front
            found = _matched(work, source, value, tuple(sorted(nodes, key=order.__getitem__)))
            if found is not None:
                yield found


def _moves(work: Workpiece, node: ir.Node) -> bool:
    """Tell whether a node moves elements to places that do not depend on them."""
    data = len(node.inputs) if node.op_type == "Concat" else 1
    fixed = all(v is None or work.array(v) is not None for v in node.inputs[data:])
    return plain(node) and node.op_type in _MOVES and fixed


def _matched(work: Workpiece, source: ir.Value, value: ir.Value, nodes: tuple[ir.Node, ...]) -> _Depth | None:
    found = None
    for dims in _trials(work, source, nodes):
        moved = _moved(work, source, value, nodes, dims)
        depth = None if moved is None else _read(source, nodes, dims, moved)
        if depth is None:
            return None
        found = depth
    return found


def _read(source: ir.Value, nodes: tuple[ir.Node, ...], dims: tuple[int, ...], moved: Array) -> _Depth | None:
    """Return the space-to-depth that moved the numbers of pixels like this; None where none does."""
    examples, channels, high, wide = dims
    if moved.ndim != 4 or moved.shape[0] != examples or 0 in moved.shape:
        return None
    rows, columns = high // moved.shape[2], wide // moved.shape[3]
    if rows * columns == 1 or high % moved.shape[2] or wide % moved.shape[3] or moved.size != np.prod(dims):
        return None
    first = moved[0, :, 0, 0]
    channel, row, column = first // (high * wide), first // wide % high, first % wide
    squares = np.add.outer(
        np.arange(examples) * channels * high * wide,
        np.add.outer(first, np.add.outer(np.arange(0, high, rows) * wide, np.arange(0, wide, columns))),
    )
    # Each of the picture's numbers exactly once: then rows and columns stay below the sides, too.
    # (Sorted, because numpy.unique hashes integers, which takes two hundred times as long.)
    if not np.array_equal(squares, moved) or not np.array_equal(np.sort(moved, None), np.arange(moved.size)):
        return None
    return _Depth(source, nodes, Squares(rows, columns, channel, row, column))


def _trials(work: Workpiece, source: ir.Value, nodes: tuple[ir.Node, ...]) -> list[tuple[int, ...]]:
    """Return the shapes to try a source with: its own; two where it has open lengths, larger than any limit.

    A Slice that ends at a number may take all of one picture and a part of a larger one.
    """
    dims: Dims | None = work.dims(source)
    if dims is None or len(dims) != 4 or dims[1] is None:
        return []
    constants = [work.array(v) for node in nodes for v in node.inputs if v is not None]
    limits = [abs(int(n)) for c in constants if c is not None and c.dtype.kind in "iu" for n in c.reshape(-1)]
    limits += [abs(n) for node in nodes for a in ("starts", "ends") for n in _ints(node, a, 0)]
    far = max((n for n in limits if n < _UNBOUNDED), default=0)
    if None not in dims:
        trials = [tuple(d for d in dims if d is not None)]
    else:
        trials = [
            tuple(
                d if d is not None else (batch if axis == 0 else _TRIAL * (far // _TRIAL + more[axis - 2]))
                for axis, d in enumerate(dims)
            )
            for batch, more in ((2, (1, 2)), (1, (3, 1)))
        ]
    return trials if all(np.prod(t, dtype=float) <= _MOST_ELEMENTS for t in trials) else []


def _moved(
    work: Workpiece, source: ir.Value, value: ir.Value, nodes: tuple[ir.Node, ...], dims: tuple[int, ...]
) -> Array | None:
    """Return where the pixels of a picture end up: their numbers, moved; None where they cannot be."""
    constants = {v for node in nodes for v in node.inputs if v is not None and work.array(v) is not None}
    kind = onnx.TensorProto.DOUBLE
    graph = onnx.helper.make_graph(
        [ir.serde.serialize_node(node) for node in nodes],
        "moves",
        [onnx.helper.make_tensor_value_info(source.name or "", kind, dims)],
        [onnx.helper.make_tensor_value_info(value.name or "", kind, None)],
        [onnx.numpy_helper.from_array(np.asarray(work.array(v)), v.name or "") for v in constants],
    )
    model = onnx.helper.make_model(
        graph,
        opset_imports=[onnx.helper.make_opsetid("", work.opset)],
        ir_version=max(work.ir.ir_version or 0, LEAST_IR_VERSION),
    )
    numbers = np.arange(np.prod(dims), dtype=np.float64).reshape(dims)
    try:
        found = open_session(model.SerializeToString(), optimization="none").run({source.name or "": numbers})
    except OnnxCompressError:
        return None
    return np.asarray(found[value.name or ""]).astype(np.int64)


def _ints(node: ir.Node, name: str, default: int) -> list[int]:
    """Return an attribute that holds integers; without it the default, as often as a convolution has it."""
    attribute = node.attributes.get(name)
    if attribute is not None:
        return [int(n) for n in attribute.as_ints()]
    return [default] * (4 if name == "pads" else 2)
