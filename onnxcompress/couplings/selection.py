"""Operators that choose by value: what they choose from stays whole, the other axes pass."""

from __future__ import annotations

from onnxcompress.couplings._axes import each, fixed, numbers, passed, positive
from onnxcompress.couplings._base import Crossing, coupling


@coupling("TopK")
def _top_k(crossing: Crossing) -> None:
    axis = positive(crossing.node.get("axis", -1), len(crossing.shape(0)))
    passed(crossing, (axis,), "is sorted by TopK", outputs=(0, 1))
    fixed(crossing, 1)


@coupling("Compress")
def _compress(crossing: Crossing) -> None:
    fixed(crossing, 1)
    axis = crossing.node.get("axis")
    if axis is None:
        crossing.freeze_inputs("is chosen from element by element by Compress")
    else:
        passed(crossing, (positive(axis, len(crossing.shape(0))),), "is chosen from by Compress")


@coupling("OneHot")
def _one_hot(crossing: Crossing) -> None:
    """Pass the indices' axes; the new one counts classes."""
    fixed(crossing, 1, 2)
    new = positive(crossing.node.get("axis", -1), len(crossing.out_shape()))
    for axis, labels in each(crossing, 0):
        crossing.put(0, axis if axis < new else axis + 1, labels)


@coupling("ArrayFeatureExtractor", domain="ai.onnx.ml")
def _array_feature_extractor(crossing: Crossing) -> None:
    fixed(crossing, 1)
    last = len(crossing.shape(0)) - 1
    for axis, labels in each(crossing, 0):
        if axis == last:
            crossing.freeze(labels, "is picked from by ArrayFeatureExtractor")
        else:
            crossing.put(0, axis, labels)


@coupling("DFT")
def _dft(crossing: Crossing) -> None:
    """Pass the axes that are not transformed."""
    fixed(crossing, 1, 2)
    rank, version = len(crossing.shape(0)), crossing.node.version
    axis = [crossing.node.get("axis", 1)] if version < 20 else numbers(crossing, 2)
    if axis is None and crossing.present(2):
        crossing.freeze_inputs("is transformed by a DFT along an axis that is only known when the model runs")
        return
    along = positive(-2 if axis is None else axis[0], rank)
    passed(crossing, (along, rank - 1), "is transformed by a DFT")
