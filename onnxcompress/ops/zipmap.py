"""ZipMap: class scores as maps. In torch the scores stay a tensor, so that gradients reach the classifier."""

from __future__ import annotations

from collections.abc import Iterable

from onnxcompress.ops._base import Example, Node, TensorLike, operator


def no_examples(version: int) -> Iterable[Example]:
    """Yield nothing: the result is no tensor; it is tested through whole models."""
    return ()


@operator("ZipMap", domain="ai.onnx.ml", examples=no_examples)
def ZipMap(node: Node, scores: TensorLike) -> TensorLike:
    """Return the scores (N C); whoever leaves torch makes one map of each row, with ``keys``."""
    return scores.reshape(-1, scores.shape[-1])


def keys(node: Node) -> list[int] | list[str]:
    """Return the class labels, in the order of the scores' columns."""
    found: list[int] | list[str] = node.get("classlabels_int64s") or node.get("classlabels_strings") or []
    return found
