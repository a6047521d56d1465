"""Optionals: an optional is the value itself, or None where it is empty."""

from __future__ import annotations

from collections.abc import Iterable

from onnxcompress.ops._base import Example, Node, NotCoveredError, TensorLike, operator
from onnxcompress.ops._torch import torch


def no_examples(version: int) -> Iterable[Example]:
    """Yield nothing: optionals are tested through whole models."""
    return ()


@operator("Optional", examples=no_examples)
def Optional(node: Node, value: TensorLike = None) -> TensorLike:
    """Return an optional that holds ``value``, or an empty one."""
    return value


@operator("OptionalGetElement", examples=no_examples)
def OptionalGetElement(node: Node, value: TensorLike = None) -> TensorLike:
    """Return what the optional holds."""
    if value is None:
        raise NotCoveredError("the optional is empty")
    return value


@operator("OptionalHasElement", examples=no_examples, differentiable=False)
def OptionalHasElement(node: Node, value: TensorLike = None) -> TensorLike:
    """Return whether the optional holds something."""
    return torch.tensor(value is not None)
