"""Softmax and its relatives: what they are taken over stays whole."""

from __future__ import annotations

from onnxcompress.couplings._axes import passed, positive
from onnxcompress.couplings._base import Crossing, coupling


@coupling("Softmax", "LogSoftmax", "Hardmax")
def _softmax(crossing: Crossing) -> None:
    rank, version = len(crossing.shape(0)), crossing.node.version
    axis = positive(crossing.node.get("axis", -1 if version >= 13 else 1), rank)
    axes = {axis} if version >= 13 else set(range(axis, rank))
    passed(crossing, axes, f"is taken over by a {crossing.node.op_type}, to which every value contributes")
