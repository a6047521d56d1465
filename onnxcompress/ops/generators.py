"""Tensors made from shapes and numbers; random ones come from torch's seeded generator."""

from __future__ import annotations

import math

import numpy as np

from onnxcompress.ops._base import Node, operator
from onnxcompress.ops._examples import always, example, i64, normal
from onnxcompress.ops._torch import Tensor, torch
from onnxcompress.ops._types import constant, ints, torch_dtype

_SLICED = example(normal(2, 3, 4), start=-2, end=3)


@operator(
    "Shape", examples=lambda version: [example(normal(2, 3, 4)), *([_SLICED] if version >= 15 else [])],
    differentiable=False, arrays=True,
)  # fmt: skip
def _shape(node: Node, x: Tensor) -> Tensor:
    sizes = list(x.shape)[slice(node.get("start", 0), node.get("end"))]
    return torch.tensor(sizes, dtype=torch.int64, device=getattr(x, "device", None))


@operator("Size", examples=always(example(normal(2, 3, 4))), differentiable=False, arrays=True)
def _size(node: Node, x: Tensor) -> Tensor:
    return torch.tensor(math.prod(x.shape), dtype=torch.int64, device=getattr(x, "device", None))


@operator(
    "ConstantOfShape",
    examples=always(
        example(i64(2, 3)), example(i64(2, 3), value=np.array([7], np.int64)), example(np.zeros(0, np.int64))
    ),
    differentiable=False,
)
def _constant_of_shape(node: Node, shape: Tensor) -> Tensor:
    value = constant(node, node.get("value", np.zeros(1, np.float32)), shape.device)
    return value.reshape(-1)[0].expand(ints(shape)).clone()


@operator(
    "Range",
    examples=always(
        example(np.array(1), np.array(11), np.array(3)),
        example(np.array(5.0, np.float32), np.array(-1.0, np.float32), np.array(-1.5, np.float32)),
        example(np.array(5), np.array(1), np.array(2)),
    ),
    differentiable=False,
)
def _range(node: Node, start: Tensor, limit: Tensor, delta: Tensor) -> Tensor:
    first, step = start.item(), delta.item()
    count = max(math.ceil((limit.item() - first) / step), 0)
    return torch.arange(count, device=start.device).to(start.dtype) * step + first


@operator(
    "EyeLike",
    examples=always(example(normal(3, 4)), example(normal(3, 4), k=1, dtype=7), example(normal(4, 3), k=-1)),
    differentiable=False,
)
def _eye_like(node: Node, x: Tensor) -> Tensor:
    dtype = torch_dtype(node, node.get("dtype")) if node.get("dtype") else x.dtype
    rows, columns, k = x.shape[0], x.shape[1], node.get("k", 0)
    row = torch.arange(rows, device=x.device).unsqueeze(1)
    return torch.eq(torch.arange(columns, device=x.device) - row, k).to(dtype)


def _drawn(node: Node, shape: list[int], dtype: torch.dtype, device: torch.device | None) -> Tensor:
    working = dtype if dtype in (torch.float32, torch.float64) else torch.float32
    if node.op_type.startswith("RandomNormal"):
        x: Tensor = torch.randn(shape, dtype=working, device=device) * node.get("scale", 1.0) + node.get(
            "mean", 0.0
        )
    else:
        low, high = node.get("low", 0.0), node.get("high", 1.0)
        x = torch.rand(shape, dtype=working, device=device) * (high - low) + low
    return x.to(dtype)


# no examples: two libraries draw different numbers from one seed
@operator("RandomNormal", "RandomUniform", examples=always(), differentiable=False)
def _random(node: Node) -> Tensor:
    return _drawn(node, list(node.attributes["shape"]), torch_dtype(node, node.get("dtype", 1)), None)


@operator("RandomNormalLike", "RandomUniformLike", examples=always(), differentiable=False)
def _random_like(node: Node, x: Tensor) -> Tensor:
    code = node.get("dtype")
    return _drawn(node, list(x.shape), torch_dtype(node, code) if code else x.dtype, x.device)


@operator("Bernoulli", examples=always(), differentiable=False)
def _bernoulli(node: Node, probability: Tensor) -> Tensor:
    code = node.get("dtype")
    drawn = torch.bernoulli(probability)
    return drawn.to(torch_dtype(node, code)) if code else drawn


@operator("Multinomial", examples=always(), differentiable=False)
def _multinomial(node: Node, logits: Tensor) -> Tensor:
    probability = torch.softmax(logits, -1)
    drawn = torch.multinomial(probability, node.get("sample_size", 1), replacement=True)
    return drawn.to(torch_dtype(node, node.get("dtype", 6)))
