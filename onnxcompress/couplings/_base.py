"""What is known of an operator's channels: how labels cross it, and what a cut must repair in it.

Every position along every axis of every tensor carries a label. Positions that must be kept or cut together
carry labels that were merged. A rule sees one node and says which labels are merged, which axes of its
outputs carry which labels, and which labels cannot be cut at all.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import onnx_ir as ir

from onnxcompress.core.encoding import Array
from onnxcompress.core.registry import Registry
from onnxcompress.ops._base import Node, Shape

Labels: TypeAlias = Array
"""``int64``, one label for each position along one axis."""


class Crossing(ABC):
    """One node while labels cross it. Axes may be negative; slots count inputs, outputs count outputs.

    Attributes:
        node: the node as operators see it (type, version, attributes).
        source: the node in the graph.
        inputs: number of input slots (left-out inputs included).
    """

    node: Node
    source: ir.Node
    inputs: int

    @abstractmethod
    def present(self, slot: int) -> bool:
        """Tell whether an input is given."""

    @abstractmethod
    def shape(self, slot: int) -> Shape:
        """Return the shape of an input."""

    @abstractmethod
    def out_shape(self, output: int = 0) -> Shape:
        """Return the shape of an output."""

    @abstractmethod
    def constant(self, slot: int) -> Array | None:
        """Return an input's value where no data reaches it and it is the same for all input sizes."""

    @abstractmethod
    def data_free(self, slot: int) -> bool:
        """Tell whether no data reaches an input: it is a constant, however large, or computed from some."""

    @abstractmethod
    def labels(self, slot: int, axis: int) -> Labels | None:
        """Return the labels along one axis of an input; None where it has none (length 1, or no channels)."""

    @abstractmethod
    def put(self, output: int, axis: int, labels: Labels | None) -> None:
        """Give an axis of an output its labels; None gives none. Its length must be that of ``labels``."""

    @abstractmethod
    def fresh(self, count: int) -> Labels:
        """Return new labels, for positions that nothing else is tied to."""

    @abstractmethod
    def merge(self, first: Labels | None, second: Labels | None) -> Labels | None:
        """Tie labels position by position; where only one side has labels they are frozen.

        Returns:
            The labels to go on with; None where neither side has any.
        """

    @abstractmethod
    def freeze(self, labels: Labels | None, why: str) -> None:
        """Say that these labels cannot be cut, and why, in words that follow "is kept because it".

        >>> # crossing.freeze(labels, "is normalised over by a Softmax")
        """

    @abstractmethod
    def freeze_inputs(self, why: str) -> None:
        """Freeze every label of every input."""

    @abstractmethod
    def mix(self, labels: Labels | None) -> None:
        """Mark labels whose removal changes what the node computes of the others (LayerNormalization)."""

    @abstractmethod
    def contract(
        self, slot: int, axis: int, other: Labels | None, weight: tuple[int, int] | None = None
    ) -> None:
        """Say that this axis of an activation is summed over against ``other``.

        Both are tied, and the place is noted as a *site*: a channel has no effect through this node if and
        only if its positions on the site are zero. Where the activation has no labels (a model's input),
        those of ``other`` are frozen, but the site remains: they can be cut by a Gather in front of it.

        Args:
            slot: input with the activation.
            axis: its axis that is summed over.
            other: labels of the other operand, one for each position of that axis; None: nothing is
                multiplied (a plain sum).
            weight: (slot, axis) of the other operand's own axis that ``other`` comes from.
        """

    @abstractmethod
    def consume(self, slot: int, axis: int) -> None:
        """Say that the node sums over this axis of a weight against its own state (recurrence of an LSTM).

        There is no site, because no activation can be silenced: the weight's slices are.
        """


class Cut(ABC):
    """One node of a graph whose tensors were cut, while it is repaired.

    Attributes:
        node: the node as operators see it, before the cut.
        source: the node in the graph that is changed.
    """

    node: Node
    source: ir.Node

    @abstractmethod
    def keep(self, slot: int, axis: int) -> Array | None:
        """Return which positions of an input's axis stay, as bool; None where all do."""

    @abstractmethod
    def keep_out(self, output: int, axis: int) -> Array | None:
        """Return which positions of an output's axis stay, as bool; None where all do."""

    @abstractmethod
    def shape(self, slot: int) -> Shape:
        """Return the shape of an input before the cut."""

    @abstractmethod
    def out_shape(self, output: int = 0) -> Shape:
        """Return the shape of an output before the cut."""

    @abstractmethod
    def cut_shape(self, slot: int) -> Shape:
        """Return the shape of an input after the cut."""

    @abstractmethod
    def cut_out_shape(self, output: int = 0) -> Shape:
        """Return the shape of an output after the cut."""

    @abstractmethod
    def is_dynamic(self, output: int, axis: int) -> bool:
        """Tell whether the length of an output's axis depends on the sizes the model is fed with."""

    @abstractmethod
    def constant(self, slot: int) -> Array | None:
        """Return an input's value before the cut where no data reaches it, None where it is computed."""

    @abstractmethod
    def set_input(self, slot: int, array: Array) -> None:
        """Give the node a constant of its own as input; slots in between that are missing stay left out."""

    @abstractmethod
    def set_target_shape(self, slot: int, output: int = 0) -> None:
        """Let the shape vector at ``slot`` name ``cut_out_shape(output)``; dynamic lengths stay computed."""

    @abstractmethod
    def set_attribute(self, name: str, value: Any) -> None:
        """Set an attribute; None removes it."""


Rule: TypeAlias = Callable[[Crossing], None]
Repair: TypeAlias = Callable[[Cut], None]


@dataclass(frozen=True)
class Coupling:
    """What is known of one operator's channels.

    Attributes:
        type: operator name.
        rule: how labels cross it; None for movement: the operator itself is executed on the labels.
        moved: for movement, the inputs that carry data (the others are sizes, axes, indices); the labels of
            each of their axes are moved by running the operator on them. Empty: every input (Concat).
        repair: what a cut must change in the node besides its weights; None: nothing.
        domain: operator set; ``""`` is ai.onnx.
    """

    type: str
    rule: Rule | None
    moved: tuple[int, ...] = (0,)
    repair: Repair | None = None
    domain: str = ""


COUPLINGS: Registry[tuple[str, str], Coupling] = Registry("onnxcompress.couplings", "coupling")


def coupling(*types: str, domain: str = "", repair: Repair | None = None) -> Callable[[Rule], Rule]:
    """Register the decorated rule for one operator, or for several that couple alike."""

    def register(rule: Rule) -> Rule:
        for type_ in types:
            COUPLINGS.add((domain, type_), Coupling(type_, rule, repair=repair, domain=domain))
        return rule

    return register


def movement(
    *types: str,
    domain: str = "",
    moved: tuple[int, ...] = (0,),
    repair: Repair | None = None,
) -> None:
    """Register operators that only move, copy or drop elements: they are executed on the labels."""
    for type_ in types:
        COUPLINGS.add((domain, type_), Coupling(type_, None, moved, repair, domain))
