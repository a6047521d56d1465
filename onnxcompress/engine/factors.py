"""Which weights can be two layers: how the nodes that use a weight can work with its factors, at what cost.

A convolution with factored weight is two convolutions, a matrix product two, a look-up of rows a look-up in
the left factor and a product with the right one. Other operators need the weight itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from onnxcompress.core.model import Model, Weight, constant_of
from onnxcompress.encodings._layout import Layout, Scheme, layouts_of, most_useful
from onnxcompress.encodings._ranks import Option, Options
from onnxcompress.encodings.lowrank import FixedRank
from onnxcompress.engine.layers import Layer
from onnxcompress.engine.operands import attribute, domain_of

Shape = tuple[int, ...]
ShapeOf = Callable[[ir.Value], Shape | None]
"""Returns the shape of a value, None where it is not known."""

Runs = tuple[tuple[int, ...], ...]
"""For each axis of a value, the axes of the weight that run along it, in order."""

CONVOLUTION, TRANSPOSED, PRODUCT, ROWS = "Conv", "ConvTranspose", "product", "Gather"

_MOVES = frozenset({"Identity", "Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze"})


@dataclass(frozen=True, eq=False)
class Use:
    """A node that can work with the factors of a weight.

    Attributes:
        node: the node.
        slot: its input that is the weight, or the weight reshaped or transposed.
        kind: ``"Conv"``, ``"ConvTranspose"``, ``"product"`` (MatMul, Gemm) or ``"Gather"``.
        seen: the matrix that a product or a look-up sees; None for convolutions.
    """

    node: ir.Node
    slot: int
    kind: str
    seen: Layout | None


@dataclass(frozen=True, eq=False)
class Ways:
    """How a weight can be factored.

    Attributes:
        layouts: as which matrices.
        uses: the nodes that use it.
    """

    layouts: tuple[Layout, ...]
    uses: tuple[Use, ...]

    def allows(self, layout: Layout) -> bool:
        """Tell whether all uses can work with factors of this layout; matrices may be transposed."""
        turned = layout.turned in self.layouts and all(use.seen is not None for use in self.uses)
        return layout in self.layouts or turned


def ways(weight: Weight, scheme: Scheme = "auto") -> Ways | str:
    """Return how a weight can be factored so that its users work with the factors; why not where not."""
    if weight.size == 0:
        return "has no elements"
    uses: list[Use] = []
    for found in _uses(weight):
        if isinstance(found, str):
            return found
        uses.append(found)
    if not uses:
        return "is not used by any node"
    if len({use.kind in (CONVOLUTION, TRANSPOSED) for use in uses}) > 1:
        return "is used as a kernel and as a matrix"
    layouts = _layouts(uses[0], weight.shape, scheme)
    for use in uses[1:]:
        others = _layouts(use, weight.shape, scheme)
        layouts = [la for la in layouts if la in others or la.turned in others]
    return Ways(tuple(layouts), tuple(uses)) if layouts else "is used as matrices of different shapes"


def _layouts(use: Use, shape: Shape, scheme: Scheme) -> list[Layout]:
    if use.kind == CONVOLUTION:
        # A kernel of one position is the same matrix in both schemes.
        pointwise = math.prod(shape[2:]) == 1
        return list(layouts_of(len(shape), "1" if pointwise else scheme))
    if use.kind == TRANSPOSED:
        return list(layouts_of(len(shape), "1"))
    assert use.seen is not None
    return [use.seen]


def _uses(weight: Weight) -> Iterator[Use | str]:
    """Yield what uses a weight, through operators that only move its elements, or why that is no use."""
    front: list[tuple[ir.Value, Runs]] = [(weight.value, tuple((a,) for a in range(len(weight.shape))))]
    while front:
        value, runs = front.pop(0)
        if value.is_graph_output():
            yield "is handed out of the graph"
            return
        for node, slot in value.uses():
            label = f"{node.op_type} '{node.name or node.outputs[0].name}'"
            if not domain_of(node) and node.op_type in _MOVES and slot == 0:
                moved = _moved(node, runs, weight.shape)
                if moved is None:
                    yield f"is reshaped by {label} across its axes"
                    return
                front.append((node.outputs[0], moved))
            else:
                yield _use(node, slot, runs, weight.shape, label)


def _use(node: ir.Node, slot: int, runs: Runs, shape: Shape, label: str) -> Use | str:
    kind = "" if domain_of(node) else node.op_type
    if kind in (CONVOLUTION, TRANSPOSED) and slot == 1:
        if int(attribute(node, "group", 1)) != 1:
            return "is the kernel of a convolution in groups: each is too small to be worth two"
        plain = runs == tuple((a,) for a in range(len(shape)))
        return Use(node, slot, kind, None) if plain else f"is reshaped in front of {label}"
    matrix = Layout(*runs) if len(runs) == 2 else None
    if kind in ("MatMul", "Gemm") and slot in (0, 1):
        if matrix is None:
            return f"has {len(runs)} axes in {label}, no matrix"
        return Use(node, slot, PRODUCT, matrix)
    if kind == ROWS and slot == 0:
        looked_up = int(attribute(node, "axis", 0)) in (0, -len(runs))
        if matrix is not None and looked_up and constant_of(node.inputs[1]) is None:  # type: ignore[arg-type]
            return Use(node, slot, ROWS, matrix)
    return f"is used by {label}, which cannot work with two factors"


def _moved(node: ir.Node, runs: Runs, shape: Shape) -> Runs | None:
    """Return which axes run along the axes of a movement operator's output; None where some are torn."""
    if node.op_type == "Identity":
        return runs
    if node.op_type == "Transpose":
        order = attribute(node, "perm", None) or range(len(runs))[::-1]
        return tuple(runs[int(i)] for i in order)
    lengths = [math.prod(shape[a] for a in run) for run in runs]
    target = _target(node, lengths)
    if target is None:
        return None
    result, rest = [], [a for run in runs for a in run]
    for length in target:
        run: list[int] = []
        while rest and math.prod(shape[a] for a in run) < length:
            run.append(rest.pop(0))
        if math.prod(shape[a] for a in run) != length:
            return None
        result.append(tuple(run))
    if result and rest:  # axes of length 1 at the end
        result[-1] += tuple(rest)
    return tuple(result)


def _target(node: ir.Node, lengths: Sequence[int]) -> list[int] | None:
    """Return the lengths after a Reshape, Flatten, Squeeze or Unsqueeze; None where they are not constant."""
    if node.op_type == "Flatten":
        cut = int(attribute(node, "axis", 1))
        return [math.prod(lengths[:cut]), math.prod(lengths[cut:])]
    given = attribute(node, "shape" if node.op_type == "Reshape" else "axes", None)
    if len(node.inputs) > 1 and node.inputs[1] is not None:
        tensor = constant_of(node.inputs[1])
        if tensor is None:
            return None
        given = tensor.numpy().ravel().tolist()
    if node.op_type == "Squeeze":
        gone = [a for a, d in enumerate(lengths) if d == 1] if given is None else given
        return [d for a, d in enumerate(lengths) if a not in {int(g) % len(lengths) for g in gone}]
    if given is None:
        return None
    if node.op_type == "Unsqueeze":
        rank = len(lengths) + len(given)
        new, rest = {int(g) % rank for g in given}, iter(lengths)
        return [1 if a in new else next(rest) for a in range(rank)]
    zero = bool(attribute(node, "allowzero", 0))
    wanted = [lengths[i] if d == 0 and not zero else int(d) for i, d in enumerate(given)]
    if -1 in wanted:
        known = -math.prod(wanted)
        wanted[wanted.index(-1)] = math.prod(lengths) // max(known, 1)
    return wanted


def work(found: Ways, shape: Shape, shape_of: ShapeOf) -> Options | None:
    """Return what a weight and its factors cost in multiply-accumulates; None where shapes are not known."""
    whole = 0
    each = [0] * len(found.layouts)
    for use in found.uses:
        x, y = use.node.inputs[1 - use.slot], use.node.outputs[0]
        x_shape, y_shape = None if x is None else shape_of(x), shape_of(y)
        if x_shape is None or y_shape is None:
            return None
        whole += _whole(use, shape, x_shape, y_shape)
        for way, layout in enumerate(found.layouts):
            each[way] += _each(use, layout, shape, x_shape, y_shape)
    options = tuple(Option(la, float(macs)) for la, macs in zip(found.layouts, each, strict=True))
    return Options(float(whole), options)


def _whole(use: Use, shape: Shape, x: Shape, y: Shape) -> int:
    if use.kind in (CONVOLUTION, TRANSPOSED):
        return math.prod(y if use.kind == CONVOLUTION else x) * math.prod(shape[1:])
    return 0 if use.kind == ROWS else _vectors(use, shape, y) * math.prod(shape)


def _each(use: Use, layout: Layout, shape: Shape, x: Shape, y: Shape) -> int:
    """Return the multiply-accumulates of one rank."""
    rows, columns = layout.sides(shape)
    if use.kind == CONVOLUTION:
        between = [y[a] if a in layout.columns else x[a] for a in range(2, len(shape))]
        return x[0] * (math.prod(between) * columns + math.prod(y[2:]) * rows)
    if use.kind == TRANSPOSED:
        return x[0] * math.prod(x[2:]) * (rows + columns)
    if use.kind == ROWS:
        return math.prod(y)
    return _vectors(use, shape, y) * (rows + columns)


def _vectors(use: Use, shape: Shape, y: Shape) -> int:
    """Return how many vectors a product multiplies its matrix with."""
    assert use.seen is not None
    inner = bool(attribute(use.node, "transB" if use.slot else "transA", 0))
    # The side of the matrix that the outputs lie along.
    last = bool(use.slot) != inner
    return math.prod(y) // max(1, use.seen.sides(shape)[1 if last else 0])


def storable(model: Model, layer: Layer, scheme: Scheme) -> tuple[Layout, ...] | str:
    """Return as which matrices a weight can be stored as two factors; why not where it cannot.

    Those its users can work with the factors of. Recurrent operators cannot with any, but their weights are
    most of such a model: they are multiplied while it is loaded.
    """
    found = ways(model.weights[layer.weight], scheme)
    if isinstance(found, Ways):
        return found.layouts
    last = len(layer.shape) - 1
    return (Layout(tuple(range(last)), (last,)),) if layer.role == "recurrent" else found


def at_rank(rank: int, shape: Shape, layouts: Sequence[Layout]) -> FixedRank | str:
    """Return the compression to a given rank, as those of the matrices it pays for; why not where none."""
    useful = tuple(la for la in layouts if rank <= most_useful(shape, la))
    return FixedRank(rank, layouts=useful) if useful else f"factors of rank {rank} would not be smaller"
