"""Which inputs of which operators are layer weights, and along which of their axes the outputs lie."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

Axes = tuple[int | None, ...]
"""For each axis of a value, the axis of the weight it comes from; None: of none, or of several."""

CONTRACTION, EMBEDDING, RECURRENT = "contraction", "embedding", "recurrent"

_SECOND = {
    "": ("Conv", "ConvTranspose", "DeformConv", "Gemm", "MatMul"),
    "com.microsoft": (
        "Attention", "ConvTransposeWithDynamicPads", "FusedConv", "FusedGemm", "FusedMatMul",
        "FusedMatMulActivation", "GemmFastGelu", "NhwcFusedConv", "TransposeMatMul",
    ),
    "com.microsoft.nchwc": ("Conv",),
}  # fmt: skip
"""Operators whose input 1 is a weight that is contracted with input 0."""

_FIRST = {"": ("Gemm", "MatMul"), "com.microsoft": ("FusedGemm", "FusedMatMul", "TransposeMatMul")}
"""Operators that may have the weight at input 0 as well."""

_EMBEDDINGS = {("com.microsoft", "EmbedLayerNormalization"): (2, 3, 4)}
_EXPERTS = {("com.microsoft", "MoE"): (2, 4, 6)}

MOVEMENT = frozenset({
    "Cast", "CastLike", "Concat", "DequantizeLinear", "Expand", "Flatten", "Gather", "Identity", "Pad",
    "QuantizeLinear", "Reshape", "Slice", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze",
})  # fmt: skip
"""Operators that hand a weight on, its elements unchanged or only copied, cut or rounded."""

_SCALING = frozenset({"Add", "Div", "Mul", "Neg", "Sub"})


def domain_of(node: ir.Node) -> str:
    """Return the node's operator set, ``""`` for the default one."""
    return "" if node.domain == "ai.onnx" else node.domain


def attribute(node: ir.Node, name: str, default: Any) -> Any:
    """Return an attribute's value, ``default`` where the node does not set it."""
    found = node.attributes.get(name)
    return default if found is None else found.value


MOVING = frozenset(["Cast", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"])
"""Operators behind which a layer still sees the weight that is stored."""


def readers(value: ir.Value) -> list[tuple[ir.Node, int]]:
    """Return who reads a value, and at which input, directly or after nodes that only move it."""
    found = []
    for node, slot in value.uses():
        if node.op_type in MOVING and slot == 0:
            found += readers(node.outputs[0])
        else:
            found.append((node, slot))
    return found


def role_of(node: ir.Node, slot: int, constant: set[ir.Value]) -> str | None:
    """Return what a weight at this input is to the operator, None where it is no layer weight.

    Args:
        node: the consumer.
        slot: the input.
        constant: values that do not depend on the model's inputs.
    """
    domain, kind = domain_of(node), node.op_type
    if not domain and kind in ("LSTM", "GRU", "RNN"):
        return RECURRENT if slot in (1, 2) else None
    if not domain and kind == "Einsum":
        return CONTRACTION if len(node.inputs) > 1 else None
    if not domain and kind == "Gather":
        return EMBEDDING if slot == 0 and node.inputs[1] not in constant else None
    if slot in _EMBEDDINGS.get((domain, kind), ()):
        return EMBEDDING
    if slot in _EXPERTS.get((domain, kind), ()):
        return CONTRACTION
    if (slot == 1 and kind in _SECOND.get(domain, ())) or (slot == 0 and kind in _FIRST.get(domain, ())):
        return CONTRACTION
    return None


def out_axis(node: ir.Node, slot: int, rank: int) -> int | None:
    """Return the axis of the operand (of ``rank`` axes) that the operator's outputs lie along.

    >>> # Conv: out in kh kw -> 0; MatMul on the right: in out -> 1; Gather: rows -> 0
    """
    kind = node.op_type
    if kind in ("LSTM", "GRU", "RNN"):
        return 1
    if kind in ("ConvTranspose", "ConvTransposeWithDynamicPads"):
        return 1
    if kind == "Gather":
        return int(attribute(node, "axis", 0)) % rank
    if kind == "Einsum":
        return _einsum_axis(node, slot)
    if kind in ("Gemm", "FusedGemm", "GemmFastGelu", "FusedMatMul", "TransposeMatMul"):
        if rank < 2:
            return None
        flipped = bool(attribute(node, "transB" if slot else "transA", 0))
        last = bool(slot) != flipped
        return rank - 1 if last else rank - 2
    if kind in ("MatMul", "FusedMatMulActivation", "Attention"):
        if rank < 2:
            return None
        return rank - 1 if slot else rank - 2
    return 0


def _einsum_axis(node: ir.Node, slot: int) -> int | None:
    equation = str(attribute(node, "equation", "")).replace(" ", "")
    left, arrow, right = equation.partition("->")
    terms = left.split(",")
    if not arrow or slot >= len(terms) or "." in equation:
        return None
    others = set("".join(t for i, t in enumerate(terms) if i != slot))
    own = [axis for axis, letter in enumerate(terms[slot]) if letter in right and letter not in others]
    return own[0] if len(own) == 1 else None


def hands_on(node: ir.Node, slot: int, constant: set[ir.Value], sizes: Sequence[int]) -> bool:
    """Return whether a weight at this input is handed on to the node's outputs.

    So do movement operators, and element-wise operators with a constant that is not larger: a weight times
    its scale is still that weight.
    """
    if domain_of(node):
        return False
    if node.op_type == "Gather":
        return slot == 0 and node.inputs[1] in constant
    if node.op_type == "Concat":
        return True
    if node.op_type in MOVEMENT:
        return slot == 0
    if node.op_type in _SCALING and all(v in constant for v in node.inputs if v is not None):
        other = [size_of(v) for i, v in enumerate(node.inputs) if v is not None and i != slot]
        return all(size is not None and size <= math.prod(sizes) for size in other)
    return False


def size_of(value: ir.Value | None) -> int | None:
    """Return the number of elements of a value whose shape is known."""
    if value is None or value.shape is None or not value.shape.is_static():
        return None
    return int(np.prod(value.shape.numpy(), dtype=np.int64))


def moved(node: ir.Node, axes: Axes, shape: Sequence[int] | None, target: Any) -> Axes | None:
    """Return where the weight's axes are after a movement operator; None where that cannot be told.

    Args:
        node: the movement operator.
        axes: where they are before it.
        shape: lengths before it, None where unknown.
        target: the constant of its second input (a shape, axes) as list, None where there is none.
    """
    kind, rank = node.op_type, len(axes)
    if kind == "Transpose":
        order = attribute(node, "perm", None)
        return tuple(axes[int(i)] for i in order) if order else tuple(reversed(axes))
    if kind in ("Squeeze", "Unsqueeze"):
        chosen = target if target is not None else attribute(node, "axes", None)
        if chosen is None:
            return None
        if kind == "Squeeze":
            gone = {int(i) % rank for i in chosen}
            return tuple(a for i, a in enumerate(axes) if i not in gone)
        new = {int(i) % (rank + len(chosen)) for i in chosen}
        rest = iter(axes)
        return tuple(None if i in new else next(rest) for i in range(rank + len(chosen)))
    if kind in ("Reshape", "Flatten"):
        if kind == "Flatten" and shape is not None:
            cut = int(attribute(node, "axis", 1))
            target = [math.prod(shape[:cut]), math.prod(shape[cut:])]
        return _reshaped(axes, shape, target)
    if kind == "Gather":
        indices = node.inputs[1].shape if node.inputs[1] is not None else None
        return axes if indices is not None and len(indices) == 1 else None
    if kind == "Expand":
        return None if target is None else (None,) * (len(target) - rank) + axes
    return axes


def _reshaped(axes: Axes, shape: Sequence[int] | None, target: Any) -> Axes | None:
    """Match equal runs of elements before and after: an axis survives where it is a run of its own."""
    if shape is None or target is None:
        return None
    wanted = [shape[i] if int(d) == 0 else int(d) for i, d in enumerate(target)]
    if -1 in wanted:
        wanted[wanted.index(-1)] = math.prod(shape) // max(1, -math.prod(wanted))
    result: list[int | None] = []
    i = 0
    for length in wanted:
        if length == 1:
            result.append(None)
            continue
        while i < len(shape) and shape[i] == 1:
            i += 1
        if i < len(shape) and shape[i] == length:
            result.append(axes[i])
            i += 1
        else:
            # Merged or split from here on; an axis that is the same at the end is found from behind.
            return _from_behind(axes, shape, wanted, result)
    return tuple(result)


def _from_behind(
    axes: Axes, shape: Sequence[int], wanted: Sequence[int], front: Sequence[int | None]
) -> Axes:
    back: list[int | None] = []
    i = len(shape) - 1
    for length in reversed(wanted[len(front) :]):
        if i < 0 or shape[i] != length:
            break
        back.insert(0, axes[i])
        i -= 1
    middle = len(wanted) - len(front) - len(back)
    return (*front, *([None] * middle), *back)
