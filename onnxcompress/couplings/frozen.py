"""Operators that channels do not pass: everything they touch is kept, and this says why."""

from __future__ import annotations

from collections.abc import Callable

from onnxcompress.couplings._base import Crossing, coupling

_BODY = "is used by {}, whose body is not cut"
_LIST = "becomes part of a sequence ({})"
_DRAWN = "is read by {}: a cut would change which random numbers are drawn"
_LOSS = "is read by the loss {}, to which every class contributes"

FROZEN: dict[tuple[str, str], str] = {
    ("", "If"): _BODY,
    ("", "Loop"): _BODY,
    ("", "Scan"): _BODY,
    ("", "SequenceMap"): _BODY,
    ("", "ConcatFromSequence"): _LIST,
    ("", "SequenceAt"): _LIST,
    ("", "SequenceConstruct"): _LIST,
    ("", "SequenceEmpty"): _LIST,
    ("", "SequenceErase"): _LIST,
    ("", "SequenceInsert"): _LIST,
    ("", "SequenceLength"): _LIST,
    ("", "SplitToSequence"): _LIST,
    ("", "Optional"): "becomes an optional value ({})",
    ("", "OptionalGetElement"): "is an optional value ({})",
    ("", "OptionalHasElement"): "is an optional value ({})",
    ("", "Bernoulli"): _DRAWN,
    ("", "Multinomial"): _DRAWN,
    ("", "RandomNormalLike"): _DRAWN,
    ("", "RandomUniformLike"): _DRAWN,
    ("", "EyeLike"): "gives {} its size, whose diagonal follows the position",
    ("", "Det"): "is part of a matrix whose determinant is taken",
    ("", "STFT"): "is a signal that {} transforms in windows",
    ("", "AffineGrid"): "is part of the matrix that {} makes coordinates of",
    ("", "NonMaxSuppression"): "is a box or a score that {} compares with others",
    ("", "NonZero"): "is numbered by {}",
    ("", "Unique"): "is compared with others by {}",
    ("", "NegativeLogLikelihoodLoss"): _LOSS,
    ("", "SoftmaxCrossEntropyLoss"): _LOSS,
    ("ai.onnx.ml", "ZipMap"): "is a class that {} gives a name",
}
"""(domain, operator) -> why, in words that follow "is kept because it"."""


def _freezing(why: str) -> Callable[[Crossing], None]:
    return lambda crossing: crossing.freeze_inputs(why)


for (_domain, _type), _why in FROZEN.items():
    coupling(_type, domain=_domain)(_freezing(_why.format(_type)))
