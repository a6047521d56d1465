"""Arithmetic of one, two or many tensors, with the integer semantics of C."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from onnxcompress.ops._base import Example, Node, operator
from onnxcompress.ops._broadcast import aligned, folded
from onnxcompress.ops._examples import always, example, f32, integers, normal, since, uniform
from onnxcompress.ops._torch import Tensor, late, torch
from onnxcompress.ops._unsigned import calculated, is_bare

_LEGACY = [
    example(normal(2, 3, 4), normal(2, 3, 4, seed=1) + 3),
    example(normal(2, 3, 4), normal(4, seed=1) + 3, broadcast=1),
]
_BROADCAST = [
    example(normal(2, 3, 4), normal(3, 1, seed=1) + 3),
    example(integers(-20, 20, 3, 4), integers(1, 9, 4, seed=1)),
    example(integers(-20, 20, 3, 4, dtype=np.int32), integers(-9, -1, 3, 1, seed=1, dtype=np.int32)),
]


def divide(x: Tensor, y: Tensor) -> Tensor:
    """Return x / y; integers are truncated towards zero, as C does."""
    if x.is_floating_point() or x.is_complex():
        return torch.div(x, y)
    return torch.div(x, y, rounding_mode="trunc")


_BINARY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "Add": late("add"),
    "Sub": late("sub"),
    "Mul": late("mul"),
    "Div": divide,
}


def _binary(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Any]:
    def forward(node: Node, x: Tensor, y: Tensor) -> Tensor:
        y = aligned(node, x, y)
        return calculated(node.op_type, x, y) if is_bare(x) else function(x, y)

    return forward


for _type, _function in _BINARY.items():
    operator(_type, examples=since({1: _LEGACY, 7: _BROADCAST}))(_binary(_function))


def _mod_examples(version: int) -> list[Example]:
    x, y = integers(-20, 20, 3, 4), integers(1, 9, 3, 4, seed=1) * integers(0, 2, 3, 4, seed=2) * 2 - 9
    fractions = example(normal(3, 4) * 5, normal(3, 4, seed=1) + 3, fmod=1)
    return [example(x, y), example(x, y, fmod=1), fractions]


@operator("Mod", examples=_mod_examples)
def _mod(node: Node, x: Tensor, y: Tensor) -> Tensor:
    if is_bare(x):
        return calculated(node.op_type, x, y)
    return torch.fmod(x, y) if node.get("fmod", 0) else torch.remainder(x, y)


def _pow_examples(version: int) -> list[Example]:
    cases = [example(uniform(0.5, 2, 3, 4), normal(3, 4, seed=1))]
    if version >= 7:
        cases += [example(uniform(0.5, 2, 3, 4), f32(2.0)), example(normal(3, 4), normal(1, 4) * 0 + 3)]
    if version >= 12:
        cases += [
            example(integers(-5, 5, 3, 4), integers(0, 4, 3, 4, seed=1)),
            example(integers(1, 9, 3, 4), uniform(0, 2, 3, 4)),
            example(normal(3, 4), integers(-2, 3, 3, 4, seed=1)),
        ]
    return cases


@operator("Pow", examples=_pow_examples)
def _pow(node: Node, x: Tensor, y: Tensor) -> Tensor:
    y = aligned(node, x, y)
    if x.is_floating_point():
        if y.dim() == 0 and not y.requires_grad and y.device.type == "cpu":
            return torch.pow(x, y.item()).to(x.dtype)
        return torch.pow(x, y).to(x.dtype)
    if not y.is_floating_point() and not bool((y < 0).any()):
        return torch.pow(x, y).to(x.dtype)
    return torch.pow(x.double(), y.double()).to(x.dtype)


_UNARY: dict[str, tuple[Callable[[Tensor], Tensor], float, float]] = {
    "Abs": (late("abs"), -2, 2),
    "Neg": (late("neg"), -2, 2),
    "Reciprocal": (late("reciprocal"), 0.5, 2),
    "Exp": (late("exp"), -2, 2),
    "Log": (late("log"), 0.1, 3),
    "Sqrt": (late("sqrt"), 0.1, 3),
    "Erf": (late("erf"), -2, 2),
    "Sin": (late("sin"), -4, 4),
    "Cos": (late("cos"), -4, 4),
    "Tan": (late("tan"), -1, 1),
    "Asin": (late("asin"), -0.9, 0.9),
    "Acos": (late("acos"), -0.9, 0.9),
    "Atan": (late("atan"), -4, 4),
    "Sinh": (late("sinh"), -2, 2),
    "Cosh": (late("cosh"), -2, 2),
    "Asinh": (late("asinh"), -4, 4),
    "Acosh": (late("acosh"), 1.1, 4),
    "Atanh": (late("atanh"), -0.9, 0.9),
}
_STEPS: dict[str, Callable[[Tensor], Tensor]] = {
    "Floor": late("floor"),
    "Ceil": late("ceil"),
    "Round": late("round"),
    "Sign": late("sign"),
}


def _unary(function: Callable[[Tensor], Tensor]) -> Callable[..., Any]:
    return lambda node, x: function(x)


for _type, (_elementwise, _low, _high) in _UNARY.items():
    operator(_type, examples=always(example(uniform(_low, _high, 3, 5))))(_unary(_elementwise))
for _type, _step in _STEPS.items():
    _halves = np.round(normal(4, 6) * 4) / 2
    operator(_type, examples=always(example(_halves)), differentiable=False)(_unary(_step))


def _many_examples(version: int) -> list[Example]:
    same = example(normal(2, 3), normal(2, 3, seed=1), normal(2, 3, seed=2))
    wide = example(normal(2, 3), normal(3, seed=1), normal(2, 1, seed=2))
    return [example(normal(2, 3)), same] + ([wide] if version >= 8 else [])


_MANY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "Sum": late("add"),
    "Max": late("maximum"),
    "Min": late("minimum"),
}


def _many(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Any]:
    def forward(node: Node, *inputs: Tensor) -> Tensor:
        if is_bare(inputs[0]):
            return folded(lambda x, y: calculated(node.op_type, x, y), inputs)
        return folded(function, inputs)

    return forward


for _type, _function in _MANY.items():
    operator(_type, examples=_many_examples)(_many(_function))


@operator("Mean", examples=_many_examples)
def _mean(node: Node, *inputs: Tensor) -> Tensor:
    return folded(torch.add, inputs) / len(inputs)


def _clip_examples(version: int) -> list[Example]:
    x = normal(3, 4) * 2
    if version < 11:
        return [example(x, min=-1.0, max=0.5), example(x, max=0.5), example(x)]
    low, high = np.float32(-1.0), np.float32(0.5)
    cases = [example(x, np.array(low), np.array(high)), example(x, None, np.array(high)), example(x)]
    if version >= 12:
        whole = integers(-9, 9, 3, 4)
        cases.append(example(whole, np.array(-3), np.array(4)))
    return cases


@operator("Clip", examples=_clip_examples)
def _clip(node: Node, x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    least: Any = node.get("min") if low is None else low.reshape(()).to(x.dtype)
    most: Any = node.get("max") if high is None else high.reshape(()).to(x.dtype)
    if isinstance(least, float) or isinstance(most, float):
        return torch.clamp(x, least, most)
    if least is not None:
        x = torch.maximum(x, least)
    return x if most is None else torch.minimum(x, most)


def _running_examples(version: int) -> list[Example]:
    x, axis = normal(3, 4), np.array(1, dtype=np.int64)
    return [
        example(x, axis),
        example(x, np.array(-2, dtype=np.int32)),
        example(x, axis, exclusive=1),
        example(x, axis, reverse=1),
        example(x, axis, exclusive=1, reverse=1),
    ]


def _running(function: Callable[..., Tensor], neutral: int) -> Callable[..., Any]:
    def forward(node: Node, x: Tensor, axis: Tensor) -> Tensor:
        dim = int(axis)
        if node.get("reverse", 0):
            x = x.flip(dim)
        if node.get("exclusive", 0) and x.shape[dim]:
            first = torch.full_like(x.narrow(dim, 0, 1), neutral)
            x = torch.cat([first, x.narrow(dim, 0, x.shape[dim] - 1)], dim)
        y = function(x, dim, dtype=x.dtype)
        return y.flip(dim) if node.get("reverse", 0) else y

    return forward


operator("CumSum", examples=_running_examples)(_running(late("cumsum"), 0))
operator("CumProd", examples=_running_examples)(_running(late("cumprod"), 1))
