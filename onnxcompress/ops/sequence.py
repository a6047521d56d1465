"""Sequences: a sequence is a Python list of tensors (or of NumPy arrays of types torch does not have)."""

from __future__ import annotations

from collections.abc import Iterable

from onnxcompress.ops._base import Example, Node, NotCoveredError, TensorLike, operator
from onnxcompress.ops._torch import torch


def no_examples(version: int) -> Iterable[Example]:
    """Yield nothing: sequences are not arrays; they are tested through whole models."""
    return ()


def _index(position: TensorLike, length: int, *, end: bool = False) -> int:
    """Return a position counted from the front; ``end`` allows the place behind the last element."""
    index = int(position.reshape(-1)[0])
    index += length if index < 0 else 0
    if not 0 <= index < length + end:
        raise NotCoveredError("position outside the sequence")
    return index


@operator("SequenceEmpty", examples=no_examples)
def SequenceEmpty(node: Node) -> list[TensorLike]:
    """Return a sequence without elements."""
    return []


@operator("SequenceConstruct", examples=no_examples)
def SequenceConstruct(node: Node, *items: TensorLike) -> list[TensorLike]:
    """Return a sequence of the inputs."""
    return list(items)


@operator("SequenceAt", examples=no_examples)
def SequenceAt(node: Node, sequence: list[TensorLike], position: TensorLike) -> TensorLike:
    """Return the element at a position."""
    return sequence[_index(position, len(sequence))]


@operator("SequenceInsert", examples=no_examples)
def SequenceInsert(
    node: Node, sequence: list[TensorLike], item: TensorLike, position: TensorLike = None
) -> list[TensorLike]:
    """Return the sequence with an element more, at the end where no position is given."""
    at = len(sequence) if position is None else _index(position, len(sequence), end=True)
    return [*sequence[:at], item, *sequence[at:]]


@operator("SequenceErase", examples=no_examples)
def SequenceErase(node: Node, sequence: list[TensorLike], position: TensorLike = None) -> list[TensorLike]:
    """Return the sequence without one element, the last where no position is given."""
    at = len(sequence) - 1 if position is None else _index(position, len(sequence))
    return [*sequence[:at], *sequence[at + 1 :]]


@operator("SequenceLength", examples=no_examples, differentiable=False)
def SequenceLength(node: Node, sequence: list[TensorLike]) -> TensorLike:
    """Return the number of elements."""
    return torch.tensor(len(sequence))


@operator("SplitToSequence", examples=no_examples)
def SplitToSequence(node: Node, x: TensorLike, split: TensorLike = None) -> list[TensorLike]:
    """Return the pieces of a tensor along one axis.

    ``split`` is one size for all (the last piece may be smaller), or one size for each piece; without it the
    pieces have size 1, and ``keepdims=0`` then drops the axis.
    """
    axis = int(node.get("axis", 0))
    if split is None:
        pieces = torch.split(x, 1, axis)
        return [p.squeeze(axis) for p in pieces] if not node.get("keepdims", 1) else list(pieces)
    sizes = [int(v) for v in split.reshape(-1)]
    return list(torch.split(x, sizes[0] if split.dim() == 0 else sizes, axis))


@operator("ConcatFromSequence", examples=no_examples)
def ConcatFromSequence(node: Node, sequence: list[TensorLike]) -> TensorLike:
    """Join the elements along an axis, or stack them along a new one."""
    axis = int(node.attributes["axis"])
    return torch.stack(sequence, axis) if node.get("new_axis", 0) else torch.cat(sequence, axis)
