"""Layers: the weights that are worth compressing, and the nodes that use them.

A layer weight is a floating-point tensor that is contracted with data (Conv, Gemm, MatMul, Einsum, LSTM …) or
whose rows are looked up (an embedding), directly or after operators that only move its elements. Biases,
normalisation parameters and constants of element-wise operators are not.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import onnx_ir as ir

from onnxcompress.core.errors import UsageError
from onnxcompress.core.model import Model, Weight, constant_of, subgraphs
from onnxcompress.core.refusal import Refusal
from onnxcompress.engine.operands import Axes, domain_of, hands_on, moved, out_axis, role_of


@dataclass(frozen=True)
class Consumer:
    """A node that uses a weight: its name (with the path of nested graphs) and operator."""

    node: str
    op_type: str


@dataclass(frozen=True)
class Layer:
    """One weight that can be compressed.

    Attributes:
        weight: its name.
        consumers: the nodes that contract it or look it up, in graph order.
        out_axis: axis of the weight along which the first consumer's outputs lie; None where that cannot be
            told (a reshape mixes axes).
        role: ``"contraction"``, ``"recurrent"`` or ``"embedding"``, of the first consumer that is not an
            embedding if there is one.
        shape: of the weight.
    """

    weight: str
    consumers: tuple[Consumer, ...]
    out_axis: int | None
    role: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class _Use:
    consumer: Consumer
    role: str
    out_axis: int | None


def layers(model: Model) -> tuple[Layer, ...]:
    """Return the layers of a model, in the order of its weights, nested graphs and functions included."""
    paths = _Paths(model.ir)
    found = []
    for weight in model.weights.values():
        uses = list(dict.fromkeys(_uses(weight, paths)))
        if not uses or weight.size == 0:
            continue
        main = next((u for u in uses if u.role != "embedding"), uses[0])
        consumers = tuple(dict.fromkeys(u.consumer for u in uses))
        found.append(Layer(weight.name, consumers, main.out_axis, main.role, weight.shape))
    return tuple(found)


def left_alone(model: Model, found: Iterable[Layer]) -> tuple[Refusal, ...]:
    """Return why each other floating-point tensor of two or more axes is no layer."""
    names = {layer.weight for layer in found}
    paths = _Paths(model.ir)
    refusals = []
    for weight in model.weights.values():
        if weight.name in names or len(weight.shape) < 2:
            continue
        users = [Consumer(paths.label(node), node.op_type) for node, _ in weight.value.uses()]
        if weight.size == 0:
            why = "has no elements"
        elif not users:
            why = "is not used by any node"
        else:
            told = ", ".join(f"{u.op_type} '{u.node}'" for u in users[:3])
            more = f" and {len(users) - 3} more" if len(users) > 3 else ""
            why = f"is no contraction operand or embedding: it only enters {told}{more}"
        refusals.append(Refusal(weight.name, why))
    return (*refusals, *_in_functions(model))


def _in_functions(model: Model) -> Iterator[Refusal]:
    """Yield the constants of two or more axes that lie in the body of a function.

    A body is shared by all calls of the function, and has no initializers that could be encoded.
    """
    for function in model.ir.functions.values():
        for node in function.all_nodes():
            if node.op_type != "Constant" or domain_of(node):
                continue
            output = node.outputs[0]
            tensor = constant_of(output)
            if tensor is not None and len(tensor.shape) >= 2 and tensor.dtype.is_floating_point():
                where = f"{function.name}/{output.name}"
                yield Refusal(
                    where, f"is a constant in the body of function '{function.name}'; it stays dense"
                )


def companions(model: Model, found: Iterable[Layer]) -> tuple[str, ...]:
    """Return the weights that are worth training along uncompressed layers: biases, scales, slopes.

    These are vectors (all axes but one of length 1); single numbers only where an operator has them as bias.
    Constants of other shapes (grids of anchors, masks, windows) are part of the computation and are not.
    """
    names = {layer.weight for layer in found}
    chosen = []
    for weight in model.weights.values():
        if weight.name in names or weight.size != max(weight.shape, default=0):
            continue
        if weight.size > 1 or any(slot >= 2 for _, slot in weight.value.uses()):
            chosen.append(weight.name)
    return tuple(chosen)


def select(
    found: Sequence[Layer], include: Sequence[str], exclude: Sequence[str], *, others: Iterable[str] = ()
) -> tuple[Layer, ...]:
    """Return the layers that globs on weight names or consumers' node names choose.

    Args:
        found: all layers.
        include: a layer must match one of these; empty: all layers.
        exclude: and none of these.
        others: names of weights that are no layers, for the message.

    Raises:
        UsageError: a glob matches no layer; names the closest.
    """
    for option, globs in (("--include", include), ("--exclude", exclude)):
        for glob in globs:
            matching(found, glob, option=option, others=others)
    chosen = [layer for layer in found if not include or any(_matches(layer, g) for g in include)]
    return tuple(layer for layer in chosen if not any(_matches(layer, g) for g in exclude))


def matching(found: Sequence[Layer], glob: str, *, option: str, others: Iterable[str] = ()) -> list[Layer]:
    """Return the layers that one glob chooses; raises UsageError as :func:`select`, naming the ``option``."""
    matched = [layer for layer in found if _matches(layer, glob)]
    if not matched:
        raise _unmatched(option, glob, found, others)
    return matched


def unmatched(found: Sequence[Layer], globs: Iterable[str]) -> tuple[str, ...]:
    """Return the globs that choose no layer."""
    return tuple(glob for glob in globs if not any(_matches(layer, glob) for layer in found))


def _matches(layer: Layer, glob: str) -> bool:
    names = (layer.weight, *(c.node for c in layer.consumers))
    return any(name == glob or fnmatchcase(name, glob) for name in names)


def _unmatched(option: str, glob: str, found: Sequence[Layer], others: Iterable[str]) -> UsageError:
    beside = [name for name in others if name == glob or fnmatchcase(name, glob)]
    if beside:
        return UsageError(
            f"{option} '{glob}' matches no weight that can be compressed",
            why=f"'{beside[0]}' is no contraction operand or embedding",
        )
    names = list(dict.fromkeys(n for la in found for n in (la.weight, *(c.node for c in la.consumers))))
    close = difflib.get_close_matches(glob.strip("*"), names, 3, 0.5) or names[:3]
    told = ", ".join(f"'{name}'" for name in close)
    return UsageError(
        f"{option} '{glob}' matches no weight and no node that uses one",
        fix=f"names like it: {told}" if told else "the model has no weight that can be compressed",
    )


class _Paths:
    """What following a value through nested graphs and functions needs: labels, owners, what is constant."""

    def __init__(self, model: ir.Model) -> None:
        self.functions = model.functions
        self._prefixes: dict[int, str] = {}
        self.owners: dict[int, ir.Node] = {}
        self.constant: set[ir.Value] = set()
        self._graph(model.graph, "")
        for function in model.functions.values():
            self._constants(function)

    def label(self, node: ir.Node) -> str:
        """Return the node's name, prefixed by its path."""
        prefix = self._prefixes.get(id(node.graph), "")
        outputs = ", ".join(v.name or "" for v in node.outputs)
        return prefix + (node.name or f"{node.op_type}({outputs})")

    def _graph(self, graph: ir.Graph, prefix: str) -> None:
        self._prefixes[id(graph)] = prefix
        self._constants(graph)
        for node in graph:
            for attribute in node.attributes.values():
                if attribute.type == ir.AttributeType.GRAPH:
                    self.owners[id(attribute.as_graph())] = node
        for path, nested in subgraphs(graph):
            self._graph(nested, prefix + path)

    def _constants(self, graph: ir.Graph | ir.Function) -> None:
        if isinstance(graph, ir.Graph):
            self.constant.update(v for v in graph.initializers.values() if not v.is_graph_input())
        for node in graph:
            inputs = [v for v in node.inputs if v is not None]
            nested = any(a.type == ir.AttributeType.GRAPH for a in node.attributes.values())
            made = node.op_type == "Constant" or (inputs and all(v in self.constant for v in inputs))
            if made and not nested:
                self.constant.update(node.outputs)


def _uses(weight: Weight, paths: _Paths) -> Iterator[_Use]:
    """Follow a weight forward to the nodes that contract it or look it up."""
    start: Axes = tuple(range(len(weight.shape)))
    front: list[tuple[ir.Value, Axes | None, tuple[int, ...] | None]] = [(weight.value, start, weight.shape)]
    seen: set[ir.Value] = set()
    while front:
        value, axes, shape = front.pop(0)
        if value in seen:
            continue
        seen.add(value)
        for node, slot in value.uses():
            role = role_of(node, slot, paths.constant)
            if role is not None:
                yield _Use(Consumer(paths.label(node), node.op_type), role, _axis(node, slot, axes))
            elif hands_on(node, slot, paths.constant, shape or weight.shape):
                after, target = None, _target(node)
                if axes is not None:
                    after = moved(node, axes, shape, target)
                for output in node.outputs:
                    front.append((output, after, _shape_after(node, shape, target, output)))
            else:
                front += [(inner, axes, shape) for inner in _inner(node, slot, paths)]
        if value.is_graph_output():
            front += [(outer, axes, shape) for outer in _outer(value, paths)]


def _axis(node: ir.Node, slot: int, axes: Axes | None) -> int | None:
    if axes is None:
        return None
    axis = out_axis(node, slot, len(axes))
    return None if axis is None or axis >= len(axes) else axes[axis]


def _target(node: ir.Node) -> list[int] | None:
    """Return the constant second input (shape or axes) of a movement operator."""
    if node.op_type not in ("Reshape", "Squeeze", "Unsqueeze", "Expand") or len(node.inputs) < 2:
        shape = node.attributes.get("shape") if node.op_type == "Reshape" else None
        return [int(d) for d in shape.value] if shape is not None else None
    value = node.inputs[1]
    tensor = constant_of(value) if value is not None else None
    return None if tensor is None else [int(d) for d in tensor.numpy().ravel()]


def _shape_after(
    node: ir.Node, shape: tuple[int, ...] | None, target: list[int] | None, output: ir.Value
) -> tuple[int, ...] | None:
    """Return the shape of a moved weight, from the operator or else from the file's shape information."""
    if shape is not None:
        if node.op_type == "Transpose":
            order = node.attributes.get("perm")
            indices = [int(i) for i in order.value] if order is not None else range(len(shape))[::-1]
            return tuple(shape[i] for i in indices)
        if node.op_type in ("Cast", "CastLike", "Identity", "QuantizeLinear", "DequantizeLinear"):
            return shape
        if node.op_type == "Reshape" and target is not None:
            wanted = [shape[i] if d == 0 else d for i, d in enumerate(target)]
            known = math.prod(d for d in wanted if d != -1)
            return tuple(math.prod(shape) // max(known, 1) if d == -1 else d for d in wanted)
    known_shape = output.shape
    if known_shape is not None and all(isinstance(d, int) for d in known_shape):
        return tuple(int(d) for d in known_shape)  # type: ignore[arg-type]
    return None


def _inner(node: ir.Node, slot: int, paths: _Paths) -> list[ir.Value]:
    """Return the inputs of the node's bodies, or of the function it calls, that this input becomes."""
    function = paths.functions.get((node.domain, node.op_type, getattr(node, "overload", "")))
    if function is not None:
        return [function.inputs[slot]] if slot < len(function.inputs) else []
    if domain_of(node) or node.op_type not in ("Loop", "Scan"):
        return []
    body = node.attributes["body"].as_graph()
    if node.op_type == "Scan" or slot >= 2:
        return [body.inputs[slot]] if slot < len(body.inputs) else []
    return []


def _outer(value: ir.Value, paths: _Paths) -> list[ir.Value]:
    """Return the outputs of the node whose branch hands this value out."""
    graph = value.graph
    owner = paths.owners.get(id(graph)) if isinstance(graph, ir.Graph) else None
    if owner is None or owner.op_type != "If" or not isinstance(graph, ir.Graph):
        return []
    return [owner.outputs[i] for i, output in enumerate(graph.outputs) if output is value]
