"""Movement operators are executed on the labels: where a label ends up is where the operator puts it."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxcompress.core.encoding import Array
from onnxcompress.couplings._axes import whole_groups
from onnxcompress.couplings._base import COUPLINGS, Coupling, Labels
from onnxcompress.engine.channels.crossing import NodeCrossing, refused
from onnxcompress.ops._base import OPS, NotCoveredError

_NONE = -1
"""In the place of a label: a position that an operator filled in by itself."""

_BEFORE_ATTENTION = frozenset([
    "Mul", "Div", "Add", "Sub", "Neg", "Sqrt", "Where", "Cast", "Softmax", "Gather", "Split", "Slice",
    "Concat", "Expand", "Tile", "LayerNormalization", "RMSNormalization", "LpNormalization",
])  # fmt: skip
"""What stands between a Reshape into heads and their product, besides movement: parts, scales, positions."""

_SEARCH = 64
"""Nodes looked at for an attention behind a Reshape."""


def move(crossing: NodeCrossing, coupling: Coupling) -> None:
    """Carry the labels of the moved inputs over to the outputs."""
    slots = [s for s in (coupling.moved or range(crossing.inputs)) if crossing.present(s)]
    axes = sorted(
        {
            axis
            for s in slots
            for axis in range(len(crossing.shape(s)))
            if crossing.labels(s, axis) is not None
        }
    )
    if not axes:
        return
    others = [s for s in range(crossing.inputs) if s not in slots and crossing.present(s)]
    if any(crossing.seen(s) is None for s in others):
        refused(crossing, f"is moved by {crossing.node.op_type} {crossing.node.name!r} as the data says")
        return
    for axis in axes:
        for output, moved in enumerate(_executed(crossing, slots, axis)):
            if moved is not None and output < len(crossing.source.outputs):
                _settle(crossing, output, moved, axis if len(slots) > 1 else None)


def _executed(crossing: NodeCrossing, slots: list[int], axis: int) -> list[Array | None]:
    """Run the operator with each element replaced by its label along ``axis``; None: no tensor."""
    import torch  # noqa: PLC0415

    inputs: list[Any] = [None] * crossing.inputs
    for slot in range(crossing.inputs):
        if slot in slots:
            inputs[slot] = torch.from_numpy(_spread(crossing, slot, axis))
        elif crossing.present(slot):
            seen = crossing.seen(slot)
            assert seen is not None
            inputs[slot] = torch.from_numpy(np.array(seen))
    node = crossing.node
    try:
        found = OPS[node.domain, node.op_type].forward(node, *inputs)
    except (KeyError, NotCoveredError):
        refused(crossing, f"crosses {node.op_type} {node.name!r}, for which labels cannot be moved")
        return []
    results = found if isinstance(found, (tuple, list)) else (found,)
    return [r.numpy() if isinstance(r, torch.Tensor) else None for r in results]


def _spread(crossing: NodeCrossing, slot: int, axis: int) -> Array:
    """Return labels in the shape of an input, without copying: other axes have stride 0."""
    shape = crossing.shape(slot)
    labels = crossing.labels(slot, axis) if axis < len(shape) else None
    if labels is None:
        labels = np.full(shape[axis] if axis < len(shape) else 1, _NONE, np.int64)
    along = [len(labels) if k == axis else 1 for k in range(len(shape))]
    spread = np.broadcast_to(labels.reshape(along), shape)
    # Writable, because torch warns otherwise; nothing writes.
    return np.lib.stride_tricks.as_strided(labels, spread.shape, spread.strides)


def _settle(crossing: NodeCrossing, output: int, moved: Array, preferred: int | None) -> None:
    """Find the axis along which the labels lie now, tie what must stay rectangular, and put them."""
    if moved.size == 0:
        return
    views = {k: rows for k in range(moved.ndim) if (rows := _rows(moved, k)) is not None and len(rows) > 1}
    explaining = [k for k, rows in views.items() if _explains(rows)]
    if explaining:
        axis = preferred if preferred in explaining else explaining[0]
    elif views:
        axis = preferred if preferred in views else _kept_axis(crossing, output, moved, list(views))
    else:
        crossing.freeze(
            moved.reshape(-1)[:1][moved.reshape(-1)[:1] >= 0], _WHOLE + f" {crossing.node.name!r}"
        )
        return
    rows = views[axis]
    labels = rows.max(axis=1)
    if not explaining:
        first = np.broadcast_to(labels[:, None], rows.shape)
        known = rows >= 0
        crossing.merge(first[known], rows[known])
    crossing.put(output, axis, _filled(crossing, labels))


_WHOLE = "becomes the whole of an axis in"


def _rows(moved: Array, axis: int) -> Array | None:
    """Return the labels as positions along one axis × the rest; None where they do not vary along it."""
    if moved.strides[axis] == 0 or moved.shape[axis] == 1:
        return None
    # Axes of stride 0 repeat the same labels: one look at them is enough.
    slim = moved[
        tuple(slice(None) if s != 0 or k == axis else slice(0, 1) for k, s in enumerate(moved.strides))
    ]
    rows = np.moveaxis(slim, axis, 0).reshape(moved.shape[axis], -1)
    return None if (rows == rows[:1]).all() else rows


def _explains(rows: Array) -> bool:
    """Tell whether the position along the axis alone says which label it is."""
    return bool(((rows == rows.max(axis=1, keepdims=True)) | (rows == _NONE)).all())


def _filled(crossing: NodeCrossing, labels: Labels) -> Labels:
    """Give positions that the operator filled in by itself labels that cannot be cut."""
    empty = labels == _NONE
    if not empty.any():
        return labels
    new = crossing.fresh(int(empty.sum()))
    crossing.freeze(new, f"is filled in by {crossing.node.op_type} {crossing.node.name!r}")
    result = labels.copy()
    result[empty] = new
    return result


def _kept_axis(crossing: NodeCrossing, output: int, moved: Array, axes: list[int]) -> int:
    """Choose the axis to cut along, where a Reshape spread the channels over several.

    Attention: the heads, because what a query, key and value are multiplied over is then left whole.
    GroupNormalization as InstanceNormalization over channels and pixels: the groups, where these are many.
    Otherwise the longer axis: groups × channels keep their groups.
    """
    shape, made = moved.shape, crossing.source.outputs[output]
    if 1 in axes and any(node.op_type == "InstanceNormalization" for node, _ in made.uses()):
        if whole_groups(shape[1], shape[1] * len(np.unique(moved[:1, :1]))):
            return 1
    # A single head has no axis of its own: what lies further in front are query, key and value.
    elif len(axes) > 1 and axes[-1] - axes[-2] == 1 and _feeds_attention(made, shape[axes[-1]], crossing):
        return axes[-2]
    return max(axes, key=lambda k: (shape[k], k))


def _feeds_attention(value: ir.Value, length: int, crossing: NodeCrossing) -> bool:
    """Tell whether a value reaches a product of two activations with little in between.

    An axis of that ``length`` must get there whole: one that is split once more is not that of a head.
    """
    queue, seen = deque([value]), {value}
    for _ in range(_SEARCH):
        if not queue:
            return False
        for node, _slot in queue.popleft().uses():
            domain = "" if node.domain == "ai.onnx" else node.domain
            if node.op_type in ("MatMul", "Einsum", "FusedMatMul", "Attention"):
                if not any(v is None or crossing.is_constant(v) for v in node.inputs[:2]):
                    return True
                continue
            known = COUPLINGS.get((domain, node.op_type))
            passes = node.op_type in _BEFORE_ATTENTION or (known is not None and known.rule is None)
            for out in node.outputs if passes else ():
                whole = node.op_type != "Reshape" or length in (crossing.shape_of(out) or (length,))
                if out not in seen and whole:
                    seen.add(out)
                    queue.append(out)
    return False
