"""Surgery: changes of the graph itself, always on a clone. Channels are cut, shifts are folded into biases."""

from onnxcompress.surgery.shifts import Fold, fold_shifts

__all__ = ["Fold", "fold_shifts"]
