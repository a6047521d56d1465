"""Changes of element type, those torch does not have included: they travel as NumPy arrays."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxcompress.ops._array_types import converted
from onnxcompress.ops._base import Example, Node, NotCoveredError, TensorLike, operator
from onnxcompress.ops._examples import always, example, integers, normal
from onnxcompress.ops._torch import torch
from onnxcompress.ops._types import code_of, known_to_torch, numpy_dtype, torch_dtype


def _examples(version: int) -> list[Example]:
    x = normal(3, 4) * 5
    if version < 6:
        return [example(x, to="INT32"), example(x, to="DOUBLE")]
    codes = [6, 7, 9, 10, 11] if version < 13 else [6, 7, 9, 10, 11, 16]
    return [example(x, to=code) for code in codes] + [example(integers(-2, 2, 3, 4), to=1)]


@operator("Cast", examples=_examples, arrays=True)
def _cast(node: Node, x: TensorLike) -> TensorLike:
    return converted(node, x, code_of(node.attributes["to"]))


@operator(
    "CastLike",
    examples=always(example(normal(3, 4) * 5, np.array([1])), example(np.array([1, 0]), normal(1))),
    arrays=True,
)
def _cast_like(node: Node, x: TensorLike, like: TensorLike) -> TensorLike:
    if isinstance(like, torch.Tensor):
        if isinstance(x, torch.Tensor):
            return x.to(like.dtype)
        return converted(node, x, 1).to(like.dtype).to(like.device)
    return converted(node, x, int(ir.DataType.from_numpy(like.dtype)))


@operator("BitCast", examples=always(example(normal(3, 4), to=6)), differentiable=False, arrays=True)
def _bit_cast(node: Node, x: TensorLike) -> TensorLike:
    code = node.attributes["to"]
    if isinstance(x, torch.Tensor) and known_to_torch(code):
        return x.view(torch_dtype(node, code))
    array = x.detach().cpu().numpy() if isinstance(x, torch.Tensor) else x
    if array.dtype.kind in "OUS":
        raise NotCoveredError("strings")
    seen = array.view(numpy_dtype(code))
    return torch.from_numpy(seen.copy()) if known_to_torch(code) else seen
