"""One node while labels cross it: the engine's side of the coupling rules."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from onnxcompress.core.encoding import Array
from onnxcompress.core.model import constant_of
from onnxcompress.couplings._base import Crossing, Labels
from onnxcompress.engine.channels.labels import Kind, Ledger
from onnxcompress.engine.channels.repetition import repetition
from onnxcompress.engine.channels.tracing import Trace
from onnxcompress.ops._base import Node, Shape

AxisLabels = dict[int, Labels]
"""Axis of a value -> the labels along it."""

_CARRIERS = frozenset(["Transpose", "Reshape", "Cast", "Identity", "Squeeze", "Unsqueeze", "Flatten"])
"""What may lie between a weight and the operand it is, if a scale on the operand is a scale on the weight."""


@dataclass(frozen=True, eq=False)
class Sum:
    """A place where an activation is summed over, as noted by a rule.

    Attributes:
        node: the consumer.
        slot: its input.
        axis: the activation's axis.
        labels: along that axis.
        weight: the constant it is summed against, None where there is none or it is computed.
        weight_axis: the constant's axis.
    """

    node: ir.Node
    slot: int
    axis: int
    labels: Labels
    weight: ir.Value | None
    weight_axis: int | None


@dataclass
class Ground:
    """What all crossings of one analysis share.

    Attributes:
        trace: what running the model showed.
        ledger: of the labels.
        along: value -> labels along its axes.
        sums: every site, in graph order.
        consumed: label arrays along which a constant is summed over.
        recurrent: (node, slot, axis) of each weight that a node sums over against its own state.
        rivals: label arrays (by identity) of axes that a Reshape merged into one; one of them can be cut
            along it, the others then stay whole. Which one, the first partner decides.
        captured: value that a nested graph reads -> the node that has the nested graph.
        origins: first label of each labelled axis of a constant -> that axis, in rising order.
        mixing: nodes that normalise over labelled axes, in graph order.
    """

    trace: Trace
    ledger: Ledger = field(default_factory=Ledger)
    along: dict[ir.Value, AxisLabels] = field(default_factory=dict)
    sums: list[Sum] = field(default_factory=list)
    consumed: list[Labels] = field(default_factory=list)
    recurrent: list[tuple[ir.Node, int, int]] = field(default_factory=list)
    rivals: dict[int, list[Labels]] = field(default_factory=dict)
    captured: dict[ir.Value, ir.Node] = field(default_factory=dict)
    origins: list[tuple[int, ir.Value, int]] = field(default_factory=list)
    mixing: dict[ir.Node, None] = field(default_factory=dict)

    def origin(self, label: int) -> tuple[ir.Value, int] | None:
        """Return the constant and axis that a label was given to first; None for other labels."""
        firsts = [first for first, _, _ in self.origins]
        index = int(np.searchsorted(firsts, label, side="right")) - 1
        if index < 0:
            return None
        first, value, axis = self.origins[index]
        length = len(self.along[value][axis])
        return (value, axis) if label < first + length else None

    def meet(self, first: Labels, second: Labels) -> None:
        """Note that two runs of labels lie along one axis."""
        together = self.rivals.get(id(first), [first])
        together.append(second)
        for labels in together:
            self.rivals[id(labels)] = together

    def likeliest(self, labels: Labels) -> Labels:
        """Return the one of its rivals that can be cut, as far as is known, and has the most channels."""
        return max(
            self.rivals.get(id(labels), [labels]),
            key=lambda run: (not self.ledger.is_frozen(run), len(np.unique(run))),
        )

    def fitting(self, first: Labels, second: Labels) -> tuple[Labels, Labels]:
        """Return the rivals of two runs that repeat in the same pattern, the runs themselves if none do."""
        ours, theirs = self.rivals.get(id(first), [first]), self.rivals.get(id(second), [second])
        if first is second or len(ours) == len(theirs) == 1:
            return first, second
        for one in (first, *ours):
            for other in (second, *theirs):
                if np.array_equal(_pattern(one), _pattern(other)):
                    self._decide(one, ours)
                    self._decide(other, theirs)
                    return one, other
        return self.decided(self.likeliest(first)), self.decided(self.likeliest(second))

    def decided(self, labels: Labels) -> Labels:
        """Let a run that is used be the one its axis can be cut along; return it."""
        self._decide(labels, self.rivals.get(id(labels), [labels]))
        return labels

    def freeze(self, labels: Labels, why: str, kind: Kind = Kind.FIXED) -> None:
        """Freeze a run and its rivals: an axis that must stay whole can be cut along none of them."""
        for run in self.rivals.get(id(labels), [labels]):
            self.ledger.freeze(run, why, kind)

    def _decide(self, chosen: Labels, among: list[Labels]) -> None:
        """Let one run be that of the axis, wherever the axis was seen before, and freeze the others."""
        losers = [labels for labels in among if labels is not chosen]
        for labels in among:
            self.rivals.pop(id(labels), None)
        for labels in losers:
            self.ledger.freeze(labels, _MERGED)
        if losers:
            lost = {id(labels) for labels in losers}
            for axes in self.along.values():
                for axis in [axis for axis, labels in axes.items() if id(labels) in lost]:
                    axes[axis] = chosen

    def settle_rivals(self) -> None:
        """Let the likeliest of each set of rivals that met no partner be the one that can be cut."""
        for together in list(self.rivals.values()):
            if id(together[0]) in self.rivals:
                self._decide(self.likeliest(together[0]), together)


_MERGED = "is merged with other channels into one axis, along which those are cut"


def _pattern(labels: Labels) -> Array:
    """Return for each position the number of the first one that has its label."""
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    return np.asarray(first[inverse])


class NodeCrossing(Crossing):
    """One node, on the ground of one analysis."""

    def __init__(self, ground: Ground, node: Node, source: ir.Node) -> None:
        self.node, self.source = node, source
        self.inputs = len(source.inputs)
        self._ground = ground
        self.out: dict[int, AxisLabels] = {}

    @property
    def _where(self) -> str:
        return f"{self.node.op_type} {self.node.name!r}" if self.node.name else self.node.op_type

    def present(self, slot: int) -> bool:
        """Tell whether an input is given."""
        return slot < self.inputs and self.source.inputs[slot] is not None

    def value(self, slot: int) -> ir.Value:
        """Return the value at an input that is given."""
        value = self.source.inputs[slot]
        assert value is not None
        return value

    def shape(self, slot: int) -> Shape:
        """Return the shape of an input."""
        return self._ground.trace.shapes[self.value(slot)]

    def out_shape(self, output: int = 0) -> Shape:
        """Return the shape of an output."""
        return self._ground.trace.shapes[self.source.outputs[output]]

    def constant(self, slot: int) -> Array | None:
        """Return an input that is the same for all data and sizes."""
        if not self.present(slot):
            return None
        value, trace = self.value(slot), self._ground.trace
        if value in trace.constant:
            return trace.arrays[value]
        tensor = constant_of(value)
        return None if tensor is None else np.asarray(tensor.numpy())

    def shape_of(self, value: ir.Value) -> Shape | None:
        """Return the shape of any value of the graph, None where it is not known."""
        return self._ground.trace.shapes.get(value)

    def is_constant(self, value: ir.Value) -> bool:
        """Tell whether no data reaches a value."""
        return value in self._ground.trace.data_free

    def data_free(self, slot: int) -> bool:
        """Tell whether no data reaches an input."""
        return self.present(slot) and self.is_constant(self.value(slot))

    def seen(self, slot: int) -> Array | None:
        """Return an input's value in the first run, where no data reaches it."""
        found = self._ground.trace.arrays.get(self.value(slot)) if self.present(slot) else None
        return found if found is not None else self.constant(slot)

    def labels(self, slot: int, axis: int) -> Labels | None:
        """Return the labels along an axis of an input."""
        if not self.present(slot):
            return None
        value = self.value(slot)
        along = self._ground.along.get(value)
        return along.get(axis % max(1, len(self.shape(slot)))) if along else None

    def put(self, output: int, axis: int, labels: Labels | None) -> None:
        """Give an axis of an output its labels."""
        if labels is None or output >= len(self.source.outputs) or not self.source.outputs[output].name:
            return
        shape = self.out_shape(output)
        axis %= len(shape)
        assert len(labels) == shape[axis], f"{self._where}: {len(labels)} labels on an axis of {shape[axis]}"
        if shape[axis] == 1:
            self.freeze(labels, f"becomes the whole of an axis in {self._where}")
            return
        own = self.out.setdefault(output, {})
        if axis in own:
            self._ground.meet(own[axis], labels)
        own[axis] = self._ground.likeliest(own.get(axis, labels))

    def fresh(self, count: int) -> Labels:
        """Return new labels."""
        return self._ground.ledger.fresh(count)

    def merge(self, first: Labels | None, second: Labels | None) -> Labels | None:
        """Tie two runs of labels; one that meets none is frozen."""
        if first is None and second is None:
            return None
        if first is None or second is None:
            one = first if second is None else second
            self.freeze(one, f"meets values that are no channels of a layer in {self._where}")
            return one
        first, second = self._ground.fitting(first, second)
        self._ground.ledger.tie(first, second)
        return first

    def freeze(self, labels: Labels | None, why: str) -> None:
        """Freeze labels."""
        if labels is not None:
            self._ground.freeze(labels, why)

    def freeze_inputs(self, why: str) -> None:
        """Freeze every label of every input."""
        for slot in range(self.inputs):
            if self.present(slot):
                for labels in self._ground.along.get(self.value(slot), {}).values():
                    self.freeze(labels, why)

    def mix(self, labels: Labels | None) -> None:
        """Mark labels as mixed."""
        if labels is not None:
            self._ground.ledger.mix(self._ground.decided(labels))
            self._ground.mixing[self.source] = None

    def settle_used(self) -> None:
        """Let the runs that the node read and did not hand on as they are be those of their axes."""
        passed = {id(labels) for axes in self.out.values() for labels in axes.values()}
        for value in self.source.inputs:
            for labels in list(self._ground.along.get(value, {}).values()) if value is not None else ():
                if not any(id(run) in passed for run in self._ground.rivals.get(id(labels), ())):
                    self._ground.decided(labels)

    def contract(
        self, slot: int, axis: int, other: Labels | None, weight: tuple[int, int] | None = None
    ) -> None:
        """Note a site, and tie both operands."""
        own = self.labels(slot, axis)
        axis %= len(self.shape(slot))
        if axis in self._ground.trace.dynamic.get(self.value(slot), ()):
            self.freeze(own, _varying(self.value(slot)))
        if own is None and other is None:
            return
        constant, constant_axis = self._weight(weight) if weight is not None else (None, None)
        if own is not None and other is not None:
            own, other = self._ground.fitting(own, other)
            self._ground.ledger.tie(own, other)
        elif own is not None and weight is not None:
            self.freeze(
                own, f"is summed over against values that are no channels of a layer in {self._where}"
            )
        elif own is None and other is not None:
            value = self.value(slot)
            self._ground.freeze(other, f"reads {value.name!r}, {_origin(value)}", Kind.INPUT)
        labels = own if own is not None else other
        assert labels is not None
        self._ground.decided(labels)
        if len(labels) == self.shape(slot)[axis]:
            self._ground.sums.append(Sum(self.source, slot, axis, labels, constant, constant_axis))
        else:
            self.freeze(labels, f"is summed over in another order in {self._where}")
        if other is not None:
            self._ground.consumed.append(other)

    def consume(self, slot: int, axis: int) -> None:
        """Note that a weight is summed over against the node's own state."""
        labels = self.labels(slot, axis)
        if labels is not None:
            self._ground.consumed.append(labels)
            self._ground.recurrent.append((self.source, slot, axis % len(self.shape(slot))))

    def _weight(self, weight: tuple[int, int]) -> tuple[ir.Value | None, int | None]:
        """Return the constant and axis behind an operand's axis, through movement that keeps its values."""
        slot, axis = weight
        labels = self.labels(slot, axis)
        value: ir.Value | None = self.value(slot)
        while value is not None and constant_of(value) is None:
            producer = value.producer()
            moves = (
                producer is not None and producer.op_type in _CARRIERS and producer.domain in ("", "ai.onnx")
            )
            value = producer.inputs[0] if moves and producer is not None else None
        if value is None or labels is None:
            return None, None
        found = self._ground.origin(int(labels.flat[0]))
        return found if found is not None and found[0] is value else (None, None)


def refused(crossing: NodeCrossing, why: str) -> None:
    """Freeze everything that touches a node, and forget what its rule had said of the outputs."""
    crossing.freeze_inputs(why)
    crossing.out.clear()


_THROUGH_VARYING = frozenset([
    "Add", "Cast", "Div", "Dropout", "Identity", "InstanceNormalization", "MatMul", "Mul", "Reshape",
    "Softmax", "Squeeze", "Sub", "Transpose", "Unsqueeze", "Where",
])  # fmt: skip
"""Operators that treat all positions of an axis alike, so that it may vary in length and be cut as well."""


def stop_at_varying(crossing: NodeCrossing, trace: Trace) -> None:
    """Freeze labels along axes of varying length in front of an operator that looks at positions."""
    if crossing.node.op_type in _THROUGH_VARYING and not crossing.node.domain:
        return
    for slot in range(crossing.inputs):
        for axis in trace.dynamic.get(crossing.value(slot), ()) if crossing.present(slot) else ():
            crossing.freeze(crossing.labels(slot, axis), _varying(crossing.value(slot)))


def settled(ground: Ground, crossing: NodeCrossing) -> Mapping[ir.Value, AxisLabels]:
    """Return the labels of a node's outputs, those of axes of varying length frozen and left out.

    What a Reshape folds into such an axis stays where it finds the length by itself after a cut: that is
    the only varying one, or asked for as −1. Heads are folded into the batch like that, and channels into the
    pixels of a group that a normalisation looks at.
    """
    found: dict[ir.Value, AxisLabels] = {}
    for output, axes in crossing.out.items():
        value = crossing.source.outputs[output]
        varying = ground.trace.dynamic.get(value, frozenset())
        through = crossing.node.op_type in _THROUGH_VARYING - {"Reshape"} and not crossing.node.domain
        found[value] = dict(axes)
        for axis in varying & axes.keys() if not through else ():
            finds = crossing.node.op_type == "Reshape" and (len(varying) == 1 or _found_out(crossing, axis))
            if finds and repetition(axes[axis]) is not None:
                continue
            crossing.freeze(axes[axis], _varying(value))
            del found[value][axis]
    return found


def _found_out(crossing: NodeCrossing, axis: int) -> bool:
    """Tell whether a Reshape is asked to find the length of an axis of its output."""
    target = crossing.seen(1) if crossing.inputs > 1 else None
    return target is not None and axis < len(target) and int(target[axis]) == -1


def _varying(value: ir.Value) -> str:
    return f"lies along an axis whose length depends on the input ({value.name!r})"


def _origin(value: ir.Value) -> str:
    """Say where a value comes from whose axis is no layer's channels."""
    if value.is_graph_input():
        return "an input of the model"
    node = value.producer()
    while node is not None and node.domain in ("", "ai.onnx") and not _has_body(node):
        node = node.inputs[0].producer() if node.inputs and node.inputs[0] is not None else None
    told = "which no layer makes"
    if node is None:
        return told
    return f"{told} but {node.op_type} {node.name!r}, through which channels are not traced"


def _has_body(node: ir.Node) -> bool:
    return any(attribute.type == ir.AttributeType.GRAPH for attribute in node.attributes.values())
