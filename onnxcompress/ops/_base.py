"""What is known of an operator: how torch computes it, what it costs, examples to test it with."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from onnxcompress.core.encoding import Array
from onnxcompress.core.registry import Registry

TensorLike: TypeAlias = Any
"""A torch tensor; a list of them (ONNX sequence); or a NumPy array of a type torch does not have
(strings, 4-bit and 8-bit floats), which only operators run by onnxruntime touch. None: left out."""


class NotCoveredError(Exception):
    """Raised by a forward for a case it does not compute (an attribute, a type): the next way is tried."""


@dataclass(frozen=True)
class Node:
    """One node as an operator sees it.

    Attributes:
        op_type: operator name.
        version: the ``since_version`` of the operator's definition that the model's opset selects.
        attributes: name -> int, float, str, list of those, NumPy array (tensor) or graph runner.
        outputs: for each output slot, whether something reads it.
        training: whether the graph is run in training mode (BatchNormalization, Dropout).
        name: for messages.
        domain: operator set; ``""`` is ai.onnx.
        wide: whether the graph is executed in float64: then every float type an attribute names
            (``Cast`` to FLOAT, ``dtype`` of a generator) means float64.
    """

    op_type: str
    version: int
    attributes: Mapping[str, Any] = field(default_factory=dict)
    outputs: tuple[bool, ...] = (True,)
    training: bool = False
    name: str = ""
    domain: str = ""
    wide: bool = False

    def get(self, name: str, default: Any = None) -> Any:
        """Return an attribute, or ``default`` where the node does not set it."""
        return self.attributes.get(name, default)


@dataclass(frozen=True)
class Example:
    """One case for the contract test: attributes, inputs (None: left out) and number of outputs."""

    inputs: tuple[Array | None, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    outputs: int = 1


Forward: TypeAlias = Callable[..., Any]
"""``forward(node, *inputs) -> tensor | tuple``; inputs left out at the end are not passed, inner are None."""

Shape: TypeAlias = tuple[int, ...]
Macs: TypeAlias = Callable[[Node, Sequence[Shape | None], Sequence[Shape]], int]
"""``macs(node, input_shapes, output_shapes)``: multiply-accumulates of one execution."""


@dataclass(frozen=True)
class Op:
    """One operator of one domain.

    Attributes:
        type: operator name in the specification.
        domain: ``""`` for ai.onnx.
        forward: computes it in torch, differentiable where the mathematics is.
        versions: every ``since_version`` this forward covers, as (first, last).
        macs: cost rule; None where the operator has no multiply-accumulates worth counting.
        examples: cases that the contract test compares with onnxruntime.
        differentiable: False where gradients stop by nature (shape, comparison, index operators).
        domain: operator set; ``""`` is ai.onnx.
        arrays: whether the forward takes NumPy arrays of types torch does not have.
    """

    type: str
    forward: Forward
    versions: tuple[int, int]
    examples: Callable[[int], Iterable[Example]]
    macs: Macs | None = None
    differentiable: bool = True
    domain: str = ""
    arrays: bool = False


OPS: Registry[tuple[str, str], Op] = Registry("onnxcompress.ops", "operator")


def operator(
    *types: str,
    examples: Callable[[int], Iterable[Example]],
    versions: tuple[int, int] = (1, 99),
    macs: Macs | None = None,
    differentiable: bool = True,
    domain: str = "",
    arrays: bool = False,
) -> Callable[[Forward], Forward]:
    """Register the decorated forward for one operator, or for several that it computes alike.

    ``examples(version)`` yields cases valid for that ``since_version``. A forward that takes NumPy arrays
    of types torch does not have says so with ``arrays``; others never see one.
    """

    def register(forward: Forward) -> Forward:
        guarded = _guarded(forward, arrays)
        for type_ in types:
            op = Op(type_, guarded, versions, examples, macs, differentiable, domain, arrays)
            OPS.add((domain, type_), op)
        return forward

    return register


def _guarded(forward: Forward, arrays: bool) -> Forward:
    """Turn types that the forward or torch itself has no code for into NotCoveredError."""

    @functools.wraps(forward)
    def call(node: Node, *inputs: TensorLike) -> Any:
        if not arrays and any(isinstance(x, np.ndarray) for x in inputs):
            raise NotCoveredError(f"{node.op_type} of a type torch does not have")
        try:
            return forward(node, *inputs)
        except RuntimeError as error:
            if "not implemented for" in str(error) or "Promotion for" in str(error):
                raise NotCoveredError(str(error)) from error
            raise

    return call
