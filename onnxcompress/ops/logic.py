"""Comparison, logic, bits and selection; gradients stop here, except through Where."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from onnxcompress.ops._base import Example, Node, operator
from onnxcompress.ops._broadcast import aligned
from onnxcompress.ops._examples import always, bools, example, integers, normal, since
from onnxcompress.ops._torch import Tensor, late, torch

Binary = Callable[[Tensor, Tensor], Tensor]


def _comparable(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Widen unsigned types that torch cannot compare; uint64 keeps its order with the top bit flipped."""
    if x.dtype in (torch.uint16, torch.uint32):
        return x.long(), y.long()
    if x.dtype == torch.uint64:
        top = -(2**63)
        return x.view(torch.int64) ^ top, y.view(torch.int64) ^ top
    return x, y


_COMPARE: dict[str, Binary] = {
    "Equal": late("eq"),
    "Less": late("lt"),
    "Greater": late("gt"),
    "LessOrEqual": late("le"),
    "GreaterOrEqual": late("ge"),
}
_LOGIC: dict[str, Binary] = {
    "And": late("logical_and"),
    "Or": late("logical_or"),
    "Xor": late("logical_xor"),
}
_BITS: dict[str, Binary] = {
    "BitwiseAnd": late("bitwise_and"),
    "BitwiseOr": late("bitwise_or"),
    "BitwiseXor": late("bitwise_xor"),
}


def _compare(function: Binary) -> Callable[..., Any]:
    return lambda node, x, y: function(*_comparable(x, aligned(node, x, y)))


def _plain(function: Binary) -> Callable[..., Any]:
    return lambda node, x, y: function(x, aligned(node, x, y))


def _bits(function: Binary) -> Callable[..., Any]:
    def forward(node: Node, x: Tensor, y: Tensor) -> Tensor:
        signed = _SIGNED().get(x.dtype)
        if signed is None:
            return function(x, y)
        return function(x.view(signed), y.view(signed)).view(x.dtype)

    return forward


def _SIGNED() -> dict[torch.dtype, torch.dtype]:
    return {torch.uint16: torch.int16, torch.uint32: torch.int32, torch.uint64: torch.int64}


def _compare_examples(type_: str) -> Callable[[int], list[Example]]:
    def examples(version: int) -> list[Example]:
        x, y = integers(0, 3, 3, 4), integers(0, 3, 4, seed=1)
        if version < 7:
            if type_ == "Equal":
                return [example(x, y, broadcast=1)]
            return [example(x.astype(np.float32), y.astype(np.float32), broadcast=1)]
        if version < 9 and type_ != "Equal":
            return [example(x.astype(np.float32), y.astype(np.float32))]
        return [example(x, y)] + ([example(normal(3, 4), normal(3, 1))] if version >= 11 else [])

    return examples


for _type, _function in _COMPARE.items():
    operator(_type, examples=_compare_examples(_type), differentiable=False)(_compare(_function))
for _type, _function in _LOGIC.items():
    _cases = since(
        {
            1: [example(bools(3, 4), bools(4, seed=1), broadcast=1)],
            7: [example(bools(3, 4), bools(4, seed=1))],
        }
    )
    operator(_type, examples=_cases, differentiable=False)(_plain(_function))
for _type, _function in _BITS.items():
    _cases = always(
        example(integers(-99, 99, 3, 4), integers(-99, 99, 4, seed=1)),
        example(integers(0, 99, 3, 4, dtype=np.uint16), integers(0, 99, 3, 1, seed=1, dtype=np.uint16)),
    )
    operator(_type, examples=_cases, differentiable=False)(_bits(_function))


@operator("Not", examples=always(example(bools(3, 4))), differentiable=False)
def _not(node: Node, x: Tensor) -> Tensor:
    return torch.logical_not(x)


@operator("BitwiseNot", examples=always(example(integers(-99, 99, 3, 4))), differentiable=False)
def _bitwise_not(node: Node, x: Tensor) -> Tensor:
    signed = _SIGNED().get(x.dtype)
    return torch.bitwise_not(x) if signed is None else torch.bitwise_not(x.view(signed)).view(x.dtype)


_SHIFTED = (integers(1, 250, 3, 4, dtype=np.uint8), integers(0, 8, 3, 4, seed=1, dtype=np.uint8))


@operator(
    "BitShift",
    examples=always(example(*_SHIFTED, direction="LEFT"), example(*_SHIFTED, direction="RIGHT")),
    differentiable=False,
)
def _bit_shift(node: Node, x: Tensor, y: Tensor) -> Tensor:
    bits = x.element_size() * 8
    wide, amount = x.to(torch.int64), y.to(torch.int64)
    out_of_range = (amount >= bits) | (amount < 0)
    amount = torch.where(out_of_range, torch.zeros_like(amount), amount)
    if node.get("direction") == "LEFT":
        shifted = wide << amount
    elif x.dtype == torch.uint64:
        # an arithmetic shift drags the top bit along; clear what it brought in
        kept = torch.where(
            amount == 0, torch.full_like(wide, -1), (torch.ones_like(wide) << (64 - amount)) - 1
        )
        shifted = (wide >> amount) & kept
    else:
        shifted = wide >> amount
    emptied = torch.where((wide < 0) & (node.get("direction") != "LEFT"), -1, 0)
    if not x.dtype.is_signed:
        emptied = torch.zeros_like(emptied)
    return torch.where(out_of_range, emptied, shifted).to(x.dtype)


_WITH_NAN = np.array([[1.0, np.nan, -np.inf], [np.inf, 0.0, -3.0]], dtype=np.float32)


@operator("IsNaN", examples=always(example(_WITH_NAN)), differentiable=False)
def _is_nan(node: Node, x: Tensor) -> Tensor:
    return torch.isnan(x)


@operator(
    "IsInf",
    examples=always(
        example(_WITH_NAN), example(_WITH_NAN, detect_positive=0), example(_WITH_NAN, detect_negative=0)
    ),
    differentiable=False,
)
def _is_inf(node: Node, x: Tensor) -> Tensor:
    result = torch.zeros_like(x, dtype=torch.bool)
    if node.get("detect_positive", 1):
        result = result | torch.isposinf(x)
    if node.get("detect_negative", 1):
        result = result | torch.isneginf(x)
    return result


@operator(
    "Where",
    examples=always(
        example(bools(3, 4), normal(3, 4), normal(1, 4, seed=1)),
        example(bools(2, 1, 4), integers(0, 9, 3, 4), integers(0, 9, 1, seed=1)),
    ),
)
def _where(node: Node, condition: Tensor, x: Tensor, y: Tensor) -> Tensor:
    return torch.where(condition, x, y)
