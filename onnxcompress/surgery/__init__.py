"""Surgery: changes of the graph itself, always on a clone. Channels are cut, shifts go into biases."""

from onnxcompress.surgery.cutting import CutModel, cut
from onnxcompress.surgery.lossless import Simplified, join_duplicates, simplify, store_computed_weights
from onnxcompress.surgery.proof import prove
from onnxcompress.surgery.shifts import Fold, fold_shifts

__all__ = [
    "CutModel",
    "Fold",
    "Simplified",
    "cut",
    "fold_shifts",
    "join_duplicates",
    "prove",
    "simplify",
    "store_computed_weights",
]
