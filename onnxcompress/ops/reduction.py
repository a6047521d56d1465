"""Reductions over axes, given as attribute or, in newer versions, as input."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from onnxcompress.ops._base import Example, Node, operator
from onnxcompress.ops._examples import example, i64, integers, normal
from onnxcompress.ops._torch import Tensor, late, torch
from onnxcompress.ops._types import ints

Reduction = Callable[[Tensor, list[int], bool], Tensor]


def _through_float(function: Reduction) -> Reduction:
    """Let integers be reduced in float64 and come back as integers."""

    def reduce(x: Tensor, axes: list[int], keep: bool) -> Tensor:
        if x.is_floating_point():
            return function(x, axes, keep)
        return function(x.double(), axes, keep).to(x.dtype)

    return reduce


def _product(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    for axis in sorted((a % x.dim() for a in axes), reverse=True):
        x = x.prod(axis, keepdim=keep, dtype=x.dtype)
    return x


def _extreme(function: Callable[..., Tensor], sign: int) -> Reduction:
    """Maximum or minimum; over an empty set the neutral element of the type."""

    def reduce(x: Tensor, axes: list[int], keep: bool) -> Tensor:
        if x.dtype == torch.bool:
            return reduce(x.to(torch.uint8), axes, keep).to(torch.bool)
        if any(x.shape[a] == 0 for a in axes):
            shape = [1 if i in axes else n for i, n in enumerate(x.shape) if keep or i not in axes]
            info = None if x.is_floating_point() else torch.iinfo(x.dtype)
            neutral = -sign * math.inf if info is None else (info.min if sign > 0 else info.max)
            return x.new_full(shape, neutral)
        return function(x, axes, keep)

    return reduce


def _log_sum_exp(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return torch.logsumexp(x, axes, keep)


_REDUCTIONS: dict[str, Reduction] = {
    "ReduceSum": lambda x, a, k: x.sum(a, k, dtype=x.dtype),
    "ReduceMean": _through_float(lambda x, a, k: x.mean(a, k)),
    "ReduceMax": _extreme(lambda x, a, k: x.amax(a, k), 1),
    "ReduceMin": _extreme(lambda x, a, k: x.amin(a, k), -1),
    "ReduceProd": _product,
    "ReduceL1": lambda x, a, k: x.abs().sum(a, k, dtype=x.dtype),
    "ReduceL2": _through_float(lambda x, a, k: torch.linalg.vector_norm(x, 2, a, k)),
    "ReduceSumSquare": lambda x, a, k: (x * x).sum(a, k, dtype=x.dtype),
    "ReduceLogSum": _through_float(lambda x, a, k: x.sum(a, k).log()),
    "ReduceLogSumExp": _through_float(_log_sum_exp),
}
_AXES_INPUT_SINCE = {"ReduceSum": 13}


def _examples(type_: str) -> Callable[[int], list[Example]]:
    def examples(version: int) -> list[Example]:
        x = normal(3, 4, 2)
        if type_ == "ReduceLogSum":
            x = np.abs(x) + np.float32(0.1)
        if version < _AXES_INPUT_SINCE.get(type_, 18):
            cases = [example(x, axes=[1]), example(x, axes=[0, 2], keepdims=0), example(x)]
            return [*cases, example(x, axes=[-1])] if version >= 11 else cases
        return [
            example(x, i64(1)),
            example(x, i64(0, -1), keepdims=0),
            example(x),
            example(x, np.zeros(0, np.int64), noop_with_empty_axes=1),
            *([example(integers(-5, 5, 3, 4, dtype=np.int32), i64(1))] if type_ in _WHOLE else []),
        ]

    return examples


_WHOLE = ("ReduceSum", "ReduceMax", "ReduceMin", "ReduceL1", "ReduceSumSquare", "ReduceProd")


def _reducer(function: Reduction, alone: Callable[[Tensor], Tensor]) -> Callable[..., Any]:
    def forward(node: Node, x: Tensor, axes: Tensor | None = None) -> Tensor:
        wanted = ints(node.get("axes") if axes is None else axes)
        if not wanted:
            if node.get("noop_with_empty_axes", 0):
                return alone(x)
            wanted = list(range(x.dim()))
        if not wanted:  # a scalar has no axis to reduce
            return alone(x)
        return function(x, [a % x.dim() for a in wanted], bool(node.get("keepdims", 1)))

    return forward


_ALONE: dict[str, Callable[[Tensor], Tensor]] = {
    "ReduceL1": lambda x: x.abs(),
    "ReduceL2": lambda x: x.abs(),
    "ReduceSumSquare": lambda x: x * x,
    "ReduceLogSum": lambda x: x.log().to(x.dtype),
}


def _same(x: Tensor) -> Tensor:
    return x


for _type, _function in _REDUCTIONS.items():
    _forward = _reducer(_function, _ALONE.get(_type, _same))
    operator(_type, examples=_examples(_type))(_forward)


def _arg_examples(version: int) -> list[Example]:
    x = np.round(normal(3, 5, 4))
    cases = [example(x), example(x, axis=1, keepdims=0)]
    if version >= 12:
        cases.append(example(x, axis=1, select_last_index=1))
    return [*cases, example(x, axis=-1)] if version >= 11 else cases


def _arg(function: Callable[..., Tensor]) -> Callable[..., Any]:
    def forward(node: Node, x: Tensor) -> Tensor:
        axis, keep = node.get("axis", 0), bool(node.get("keepdims", 1))
        if node.get("select_last_index", 0):
            last: Tensor = x.shape[axis] - 1 - function(x.flip(axis), axis, keep)
            return last
        first: Tensor = function(x, axis, keep)
        return first

    return forward


operator("ArgMax", examples=_arg_examples, differentiable=False)(_arg(late("argmax")))
operator("ArgMin", examples=_arg_examples, differentiable=False)(_arg(late("argmin")))
