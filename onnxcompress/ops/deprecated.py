"""Operators of the first experimental operator set that old files hold and onnxruntime still runs."""

from __future__ import annotations

from onnxcompress.ops._base import Node, operator
from onnxcompress.ops._examples import always, example, normal
from onnxcompress.ops._torch import F, Tensor, torch
from onnxcompress.ops._types import ints

_MAPS = normal(2, 3, 6, 7)


@operator(
    "Crop",
    examples=always(example(_MAPS, border=[1, 2, 1, 0]), example(_MAPS, border=[1, 2, 0, 0], scale=[3, 4])),
)
def _crop(node: Node, x: Tensor) -> Tensor:
    left, top, right, bottom = node.get("border") or [0, 0, 0, 0]
    scale = node.get("scale")
    if scale:
        return x[..., top : top + scale[0], left : left + scale[1]]
    return x[..., top : x.shape[-2] - bottom, left : x.shape[-1] - right]


@operator("ImageScaler", examples=always(example(_MAPS, scale=0.5, bias=[1.0, 2.0, 3.0])))
def _image_scaler(node: Node, x: Tensor) -> Tensor:
    bias = torch.tensor(node.get("bias") or [0.0] * x.shape[1], dtype=x.dtype, device=x.device)
    return torch.mul(x, node.get("scale", 1.0)) + bias.reshape(-1, 1, 1)


@operator("Affine", examples=always(example(_MAPS, alpha=1.5, beta=0.25)))
def _affine(node: Node, x: Tensor) -> Tensor:
    return torch.add(torch.mul(x, node.get("alpha", 1.0)), node.get("beta", 0.0))


@operator("Scale", examples=always(example(_MAPS, scale=1.5)))
def _scale(node: Node, x: Tensor) -> Tensor:
    return torch.mul(x, node.get("scale", 1.0))


@operator("ScaledTanh", examples=always(example(_MAPS, alpha=1.5, beta=0.5)))
def _scaled_tanh(node: Node, x: Tensor) -> Tensor:
    return torch.mul(torch.tanh(torch.mul(x, node.get("beta", 1.0))), node.get("alpha", 1.0))


@operator("ParametricSoftplus", examples=always(example(_MAPS, alpha=1.5, beta=0.5)))
def _parametric_softplus(node: Node, x: Tensor) -> Tensor:
    return torch.mul(F.softplus(torch.mul(x, node.get("beta", 1.0))), node.get("alpha", 1.0))


@operator("DynamicSlice", examples=always())
def _dynamic_slice(node: Node, x: Tensor, starts: Tensor, ends: Tensor, axes: Tensor | None = None) -> Tensor:
    begin, end = ints(starts), ints(ends)
    along = ints(axes) or list(range(len(begin)))
    for b, e, axis in zip(begin, end, along, strict=True):
        taken = range(*slice(b, e).indices(x.shape[axis]))
        x = x.narrow(axis, taken.start, len(taken))
    return x
