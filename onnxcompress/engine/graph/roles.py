"""What inputs of operators are for: numbers read on the host, choices, statistics; and kinds of operators.

All tables speak of the default domain; the numbers are input slots.
"""

from __future__ import annotations

from onnxcompress.ops._base import Node

_REDUCTIONS = ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare")

HOST: dict[str, tuple[int, ...]] = {
    **{f"Reduce{kind}": (1,) for kind in _REDUCTIONS},
    **dict.fromkeys(("LSTM", "GRU", "RNN"), (4,)),
    **dict.fromkeys(("BlackmanWindow", "HannWindow", "HammingWindow", "ConstantOfShape", "If"), (0,)),
    **dict.fromkeys(("Reshape", "Expand", "Squeeze", "Unsqueeze", "Split", "SplitToSequence"), (1,)),
    **dict.fromkeys(("CenterCropPad", "CumSum", "CumProd", "OneHot", "TopK", "Trilu", "Upsample"), (1,)),
    **dict.fromkeys(("SequenceAt", "SequenceErase", "AffineGrid"), (1,)),
    **dict.fromkeys(("SequenceInsert", "MaxUnpool"), (2,)),
    **dict.fromkeys(("Dropout", "DFT", "Tile", "Col2Im"), (1, 2)),
    **dict.fromkeys(("Pad", "Resize"), (1, 2, 3)),
    "Slice": (1, 2, 3, 4),
    "Loop": (0, 1),
    "MelWeightMatrix": (0, 1, 2, 3, 4),
    "NonMaxSuppression": (2, 3, 4),
    "Range": (0, 1, 2),
    "STFT": (1, 3),
}
"""Inputs that are read as numbers (shapes, axes, counts): kept in CPU memory, so that a GPU never waits."""

CHOICES: dict[str, tuple[int, ...]] = {
    **dict.fromkeys(("CropAndResize", "Dropout", "RoiAlign", "TopK", "Upsample"), (1,)),
    **dict.fromkeys(("Clip", "OneHot"), (1, 2)),
    **dict.fromkeys(("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"), (0, 1)),
    **dict.fromkeys(("ArgMax", "ArgMin", "EyeLike", "IsInf", "IsNaN", "NonZero", "Shape", "Size"), (0,)),
    "CastLike": (1,),
    "MaxRoiPool": (1,),
    "NonMaxSuppression": (2, 3, 4),
    "Pad": (2,),
    "Range": (0, 1, 2),
    "Resize": (1, 2, 3),
}
"""Inputs that choose what an operator does, or are only compared or measured: never a gradient."""

STATISTICS: dict[str, tuple[int, ...]] = {"BatchNormalization": (3, 4)}
"""Inputs that hold running statistics: updated in training, never by a gradient."""

MOVEMENT = frozenset({
    "Cast", "CastLike", "Concat", "Expand", "Flatten", "Gather", "Identity", "Reshape", "Slice", "Split",
    "Squeeze", "Tile", "Transpose", "Trilu", "Unsqueeze", "Where",
})  # fmt: skip
"""Operators that hand elements on: what their output is for, their input is for."""

ANY_VALUE = frozenset({
    "Identity", "If", "Loop", "Optional", "OptionalGetElement", "OptionalHasElement", "Scan",
    "SequenceAt", "SequenceConstruct", "SequenceEmpty", "SequenceErase", "SequenceInsert", "SequenceLength",
    "SequenceMap",
})  # fmt: skip
"""Operators that hand values of any type on without looking into them."""

WIDENS = frozenset({"Cast", "DequantizeLinear"})
"""Operators whose 2-, 4- and 8-bit inputs may be given in a wider type, exactly."""


def slots(table: dict[str, tuple[int, ...]], node: Node) -> tuple[int, ...]:
    """Return a table's slots for a node; none outside the default domain."""
    return () if node.domain else table.get(node.op_type, ())


def among(kinds: frozenset[str], node: Node) -> bool:
    """Return whether a node's operator, of the default domain, is of a kind."""
    return not node.domain and node.op_type in kinds
