"""Constancy: which channels have the same value for every input, proven from the weights alone.

Constants are carried through the graph like labels are. They begin where a slice of a weight is zero (what
it makes is its bias) or the scale of a normalisation is; they go on through operators that work channel by
channel, and through sums of which all other terms are constant or multiplied by zero. What no rule is known
for is not constant. A spatial operator keeps a constant only where it adds none of its own at the border.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxcompress.core.encoding import Array
from onnxcompress.engine.channels import Channels
from onnxcompress.engine.measures.costs import as_node
from onnxcompress.ops._base import OPS, Node, NotCoveredError
from onnxcompress.ops.normalization import by_its_batch


@dataclass(frozen=True, eq=False)
class Constants:
    """Constant positions along one axis of a value.

    Attributes:
        known: whether all elements at this position are the same number for every input, bool.
        values: that number, float64; 0 where it is not known.
    """

    known: Array
    values: Array

    @property
    def zero(self) -> Array:
        """Positions known to be zero."""
        return np.asarray(self.known & (self.values == 0))


State = dict[int, Constants]
"""Axis -> the constants along it; axes without any are left out."""


def constants(channels: Channels) -> Mapping[ir.Value, State]:
    """Return for each value of the main graph what is constant along its axes with channels."""
    return _Walk(channels).run()


_PASSING = frozenset([
    "AveragePool", "Cast", "Concat", "DepthToSpace", "Dropout", "Expand", "Flatten", "Gather",
    "GlobalAveragePool", "GlobalMaxPool", "Identity", "MaxPool", "Pad", "ReduceMax", "ReduceMean",
    "ReduceMin", "Reshape", "Resize", "Slice", "SpaceToDepth", "Split", "Squeeze", "Tile", "Transpose",
    "Unsqueeze", "Upsample",
])  # fmt: skip
"""Operators that hold, at each channel of the result, nothing but what their inputs hold there, or zeros."""

_UNARY = frozenset([
    "Abs", "Ceil", "Celu", "Clip", "Cos", "Elu", "Erf", "Exp", "Floor", "Gelu", "HardSigmoid", "HardSwish",
    "LeakyRelu", "Log", "Mish", "Neg", "Reciprocal", "Relu", "Round", "Selu", "Sigmoid", "Sign", "Sin",
    "Softplus", "Softsign", "Sqrt", "Swish", "Tanh", "ThresholdedRelu",
])  # fmt: skip
_MANY = frozenset(["Add", "Div", "Max", "Mean", "Min", "Mul", "PRelu", "Pow", "Sub", "Sum"])


class _Walk:
    def __init__(self, channels: Channels) -> None:
        self.channels = channels
        self.opsets = channels.model.ir.opset_imports
        self.roots = channels.ground.ledger.roots()
        self.along = channels.ground.along
        self.states: dict[ir.Value, State] = {}

    def run(self) -> Mapping[ir.Value, State]:
        for node in self.channels.model.ir.graph:
            if node.domain in ("", "ai.onnx"):
                self._node(node, as_node(node, self.opsets))
        return self.states

    def _node(self, source: ir.Node, node: Node) -> None:
        if any(
            v is not None and v.name and v not in self.channels.ground.trace.shapes for v in source.outputs
        ):
            return
        if node.op_type in ("Conv", "Gemm", "MatMul"):
            self._contraction(source, node)
        elif node.op_type in ("BatchNormalization", "InstanceNormalization"):
            self._normalisation(source, node)
        elif node.op_type in _PASSING:
            self._passing(source, node)
        elif node.op_type in _UNARY or node.op_type in _MANY:
            self._elementwise(source, node)

    def _set(self, value: ir.Value, axis: int, known: Array, values: Array) -> None:
        known = known & np.isfinite(values)
        if known.any():
            self.states.setdefault(value, {})[axis] = Constants(known, np.where(known, values, 0.0))

    def _constant(self, value: ir.Value | None) -> Array | None:
        array = None if value is None else self.channels.constant(value.name or "")
        return None if array is None or array.dtype.kind in "OSUb" else array.astype(np.float64)

    def _rank(self, value: ir.Value) -> int:
        return len(self.channels.ground.trace.shapes[value])

    # sums --------------------------------------------------------------------------------------------------

    def _contraction(self, source: ir.Node, node: Node) -> None:
        data, weight = source.inputs[0], self._constant(source.inputs[1])
        if data is None or weight is None:
            return
        alpha, beta, padded = 1.0, 1.0, False
        if node.op_type == "Conv":
            axis, out_axis = 1, 1
            padded = _pads(node)
            groups = int(node.get("group", 1))
            taps = weight.reshape(groups, weight.shape[0] // groups, weight.shape[1], -1)  # g o i taps
        else:
            if weight.ndim != 2 or node.get("transA", 0):
                return
            alpha, beta = float(node.get("alpha", 1.0)), float(node.get("beta", 1.0))
            taps = (weight if node.get("transB", 0) else weight.T)[None, :, :, None]
            axis, out_axis = self._rank(data) - 1, self._rank(source.outputs[0]) - 1
        count = taps.shape[0] * taps.shape[2]
        given = self.states.get(data, {}).get(axis, Constants(np.zeros(count, bool), np.zeros(count)))
        if len(given.known) != count:
            return
        used = (taps != 0).any(axis=3)
        known = given.known.reshape(taps.shape[0], 1, -1)
        values = given.values.reshape(taps.shape[0], 1, -1)
        constant = ~(used & ~known).any(axis=2)
        if padded:  # the border sees fewer of the constants
            constant &= ~(used & (values != 0)).any(axis=2)
        made = alpha * (taps.sum(axis=3) * values).sum(axis=2)
        bias = self._bias(source, out_axis, made.size)
        if bias is not None:
            self._set(source.outputs[0], out_axis, constant.reshape(-1), made.reshape(-1) + beta * bias)

    def _bias(self, source: ir.Node, axis: int, length: int) -> Array | None:
        """Return the bias along the output's axis; None where it is computed, or differs along another."""
        value = source.inputs[2] if len(source.inputs) > 2 else None
        if value is None:
            return np.zeros(length)
        array = self._constant(value)
        if array is None:
            return None
        if source.op_type == "Conv":
            return array
        lined = np.broadcast_to(array, np.broadcast_shapes(array.shape, (length,)))
        rows = lined.reshape(-1, length)
        return rows[0] if (rows == rows[0]).all() else None

    def _normalisation(self, source: ir.Node, node: Node) -> None:
        data = source.inputs[0]
        arrays = [self._constant(v) for v in source.inputs[1:]]
        if data is None or any(a is None for a in arrays) or by_its_batch(node):
            return
        scale, bias = arrays[0], arrays[1]
        assert scale is not None
        assert bias is not None
        if scale.ndim != 1:  # numbers for every place, not for every channel
            return
        given = self.states.get(data, {}).get(1)
        known, values = scale == 0, bias.copy()
        if given is not None and len(given.known) == len(scale):
            known = known | given.known
            if node.op_type == "BatchNormalization":
                mean, variance = arrays[2], arrays[3]
                assert mean is not None
                assert variance is not None
                gain = scale / np.sqrt(variance + float(node.get("epsilon", 1e-5)))
                values = np.where(scale == 0, bias, (given.values - mean) * gain + bias)
        self._set(source.outputs[0], 1, known, values)

    # channel by channel ------------------------------------------------------------------------------------

    def _passing(self, source: ir.Node, node: Node) -> None:
        """Find what is constant by the labels: a channel is, where all its positions in all inputs are."""
        known: dict[int, float | None] = {}
        for value in source.inputs:
            for axis, labels in self.along.get(value, {}).items() if value is not None else ():
                state = self.states.get(value, {}).get(axis)  # type: ignore[arg-type]
                self._collect(known, labels, state)
        if not any(v is not None for v in known.values()) or self._pads_with_others(source, node):
            return
        zero_only = _adds_zeros(node)
        for output in source.outputs if node.op_type == "Split" else source.outputs[:1]:
            for axis, labels in self.along.get(output, {}).items():
                found = [known.get(int(r)) for r in self.roots[labels]]
                held = [v if v is not None and (v == 0 or not zero_only) else None for v in found]
                mask = np.array([v is not None for v in held])
                self._set(output, axis, mask, np.array([0.0 if v is None else v for v in held]))

    def _pads_with_others(self, source: ir.Node, node: Node) -> bool:
        """Tell whether a Pad puts a number that is not known to be zero."""
        if node.op_type != "Pad" or node.get("mode", "constant") not in ("constant", b"constant"):
            return False
        if len(source.inputs) < 3 or source.inputs[2] is None:
            return float(node.get("value", 0.0)) != 0
        array = self._constant(source.inputs[2])
        return array is None or bool((array != 0).any())

    def _collect(self, known: dict[int, float | None], labels: Array, state: Constants | None) -> None:
        roots = self.roots[labels]
        if state is None:
            known.update(dict.fromkeys(np.unique(roots).tolist()))
            return
        for root, sure, value in zip(roots.tolist(), state.known, state.values, strict=True):
            before = known.get(root, float(value))
            known[root] = float(value) if sure and before == value else None

    def _elementwise(self, source: ir.Node, node: Node) -> None:
        output = source.outputs[0]
        if node.version < 7 and len(source.inputs) > 1 and node.op_type != "Sum":
            return  # the second input may start at another axis
        rank = self._rank(output)
        for axis in self.along.get(output, {}):
            length = self.channels.ground.trace.shapes[output][axis]
            parts = [self._aligned(v, axis, rank, length) for v in source.inputs]
            known = np.logical_and.reduce([p.known for p in parts])
            values = self._computed(node, parts, source.inputs)
            if values is None:
                continue
            if node.op_type == "Mul":
                zero = np.logical_or.reduce([p.zero for p in parts])
                known, values = known | zero, np.where(zero, 0.0, values)
            self._set(output, axis, known, values)

    def _aligned(self, value: ir.Value | None, axis: int, rank: int, length: int) -> Constants:
        """Return what is constant in an operand along an axis of the result it is broadcast to."""
        unknown = Constants(np.zeros(length, bool), np.zeros(length))
        if value is None:
            return Constants(np.ones(length, bool), np.zeros(length))
        array = self._constant(value)
        if array is not None:
            own = axis - (rank - array.ndim)
            rows = np.moveaxis(array, own, -1) if 0 <= own < array.ndim else array[..., None]
            rows = rows.reshape(-1, rows.shape[-1])
            same = (rows == rows[:1]).all(axis=0) if len(rows) else np.zeros(rows.shape[-1], bool)
            return Constants(np.broadcast_to(same, length), np.broadcast_to(rows[0], length))
        own = axis - (rank - self._rank(value))
        found = self.states.get(value, {}).get(own)
        return found if found is not None and len(found.known) == length else unknown

    def _computed(
        self, node: Node, parts: Sequence[Constants], inputs: Sequence[ir.Value | None]
    ) -> Array | None:
        """Compute the operator on the constants alone, one number a channel."""
        import torch  # noqa: PLC0415

        given = [
            None if v is None else torch.from_numpy(p.values.copy())
            for p, v in zip(parts, inputs, strict=True)
        ]
        if node.op_type == "Clip":  # its bounds are single numbers
            given = given[:1] + [None if t is None else t[0] for t in given[1:]]
        try:
            found = OPS[node.domain, node.op_type].forward(node, *given)
        except (KeyError, NotCoveredError):
            return None
        return np.asarray(found.double().numpy())


def _pads(node: Node) -> bool:
    """Tell whether a convolution or pooling may read beyond its input."""
    if str(node.get("auto_pad", "NOTSET")).startswith("SAME"):
        return True
    return any(int(p) != 0 for p in node.get("pads") or ())


def _adds_zeros(node: Node) -> bool:
    """Tell whether an operator keeps zeros alone: it puts some beside what it passes on, or rounds."""
    if node.op_type == "AveragePool":
        return _pads(node) or bool(node.get("ceil_mode", 0))
    if node.op_type in ("Resize", "Upsample"):
        return str(node.get("coordinate_transformation_mode")) == "tf_crop_and_resize"
    return node.op_type == "Pad" or (node.op_type == "Cast" and node.get("to") not in (1, 10, 11, 16))
