"""Element-wise operators: aligned axes are tied, an axis of length 1 is broadcast and ties nothing."""

from __future__ import annotations

from onnxcompress.couplings._axes import broadcast, fixed, given, passed, spread
from onnxcompress.couplings._base import Crossing, coupling

_UNARY = [
    "Abs", "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "BitwiseNot", "Ceil", "Celu", "Cos", "Cosh",
    "Elu", "Erf", "Exp", "Floor", "Gelu", "HardSigmoid", "HardSwish", "IsInf", "IsNaN", "LeakyRelu",
    "Log", "Mish", "Neg", "Not", "Reciprocal", "Relu", "Round", "Selu", "Shrink", "Sigmoid", "Sign",
    "Sin", "Sinh", "Softplus", "Softsign", "Sqrt", "Swish", "Tan", "Tanh", "ThresholdedRelu", "Affine",
    "ParametricSoftplus", "Scale", "ScaledTanh",
]  # fmt: skip
_MANY = [
    "And", "BitShift", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "Equal", "Greater", "GreaterOrEqual",
    "Less", "LessOrEqual", "Add", "Div", "Max", "Mean", "Min", "Mod", "Mul", "Or", "Pow", "Sub", "Sum",
    "SwiGLU", "Where", "Xor",
]  # fmt: skip


@coupling(*_UNARY)
def _unary(crossing: Crossing) -> None:
    passed(crossing)


@coupling("Cast", "CastLike")
def _cast(crossing: Crossing) -> None:
    """Pass labels on; of a second input only the type counts."""
    passed(crossing)


@coupling("Clip")
def _clip(crossing: Crossing) -> None:
    passed(crossing)
    fixed(crossing, 1, 2)


@coupling("Dropout")
def _dropout(crossing: Crossing) -> None:
    passed(crossing, outputs=(0, 1))


@coupling("BitCast")
def _bit_cast(crossing: Crossing) -> None:
    if crossing.shape(0) == crossing.out_shape():
        passed(crossing)
    else:
        crossing.freeze_inputs("is read bit by bit as another type")


@coupling(*_MANY)
def _many(crossing: Crossing) -> None:
    node = crossing.node
    axis = node.get("axis")
    if crossing.inputs == 2 and node.version < 7 and axis is not None and node.get("broadcast", 0):
        # before version 7 ``axis`` says where in the first input the shape of the second starts
        first, second = len(crossing.shape(0)), len(crossing.shape(1))
        start = axis + first if axis < 0 else axis
        spread(crossing, [(0, 0), (1, first - start - second)])
    else:
        broadcast(crossing)


@coupling("PRelu")
def _prelu(crossing: Crossing) -> None:
    slope, rank = crossing.shape(1), len(crossing.shape(0))
    if crossing.node.version < 7 and len(slope) == 1 and rank > 1:
        # before version 7 a slope is one number or one a channel
        spread(crossing, [(0, 0), (1, rank - 2)])
    else:
        broadcast(crossing)


@coupling("BiasGelu", "FastGelu", "Gelu", "QuickGelu", domain="com.microsoft")
def _fused_gelu(crossing: Crossing) -> None:
    broadcast(crossing, given(crossing, (0, 1)))


@coupling("ImageScaler")
def _image_scaler(crossing: Crossing) -> None:
    passed(crossing, (1,), "is shifted by a bias that ImageScaler holds as an attribute")
