"""Simplification without loss: the graph computes the same afterwards, and that is proven."""

from onnxcompress.surgery.lossless.computed_weights import store_computed_weights
from onnxcompress.surgery.lossless.simplification import Simplified, join_duplicates, simplify

__all__ = ["Simplified", "join_duplicates", "simplify", "store_computed_weights"]
