"""Normalisation over the last axes or over groups of channels, as transformers use it."""

from __future__ import annotations

from onnxcompress.ops._base import Example, Node, operator
from onnxcompress.ops._examples import always, example, normal
from onnxcompress.ops._grouped import grouped
from onnxcompress.ops._torch import F, Tensor, torch
from onnxcompress.ops._types import positive_axis, torch_dtype

_LAYER = always(
    example(normal(2, 3, 4), normal(4, seed=1), normal(4, seed=2), outputs=1),
    example(normal(2, 3, 4), normal(3, 4, seed=1), axis=1, epsilon=1e-3),
    example(normal(2, 3, 4), normal(4, seed=1), normal(4, seed=2), outputs=3),
)


@operator("LayerNormalization", examples=_LAYER)
def _layer_normalization(
    node: Node, x: Tensor, scale: Tensor, bias: Tensor | None = None
) -> Tensor | tuple[Tensor, ...]:
    axis = positive_axis(node.get("axis", -1), x.dim())
    shape, epsilon = list(x.shape[axis:]), node.get("epsilon", 1e-5)
    fits = list(scale.shape) == shape and (bias is None or list(bias.shape) == shape)
    y = F.layer_norm(x, shape, scale if fits else None, bias if fits else None, epsilon)
    if not fits:
        y = y * scale if bias is None else y * scale + bias
    if len(node.outputs) == 1:
        return y
    axes = list(range(axis, x.dim()))
    stash = torch_dtype(node, node.get("stash_type", 1))
    wide = x if x.dtype == torch.float64 else x.float()
    variance, mean = torch.var_mean(wide, axes, correction=0, keepdim=True)
    return y, mean.to(stash), torch.rsqrt(variance + epsilon).to(stash)


def _rms(node: Node, x: Tensor, axis: int, epsilon: float = 1e-5) -> tuple[Tensor, Tensor]:
    """Return x over its root mean square, and the inverse of the latter; ``epsilon`` is the default."""
    wide = x if x.dtype == torch.float64 else x.float()
    axes = list(range(positive_axis(axis, x.dim()), x.dim()))
    inverse = torch.rsqrt(wide.pow(2).mean(axes, keepdim=True) + node.get("epsilon", epsilon))
    return (wide * inverse).to(x.dtype), inverse


@operator(
    "RMSNormalization",
    examples=always(
        example(normal(2, 3, 4), normal(4, seed=1)), example(normal(2, 3, 4), normal(3, 4, seed=1), axis=1)
    ),
)
def _rms_normalization(node: Node, x: Tensor, scale: Tensor) -> Tensor:
    return _rms(node, x, node.get("axis", -1))[0] * scale


# onnxruntime keeps this one of its own operators in the default domain
@operator(
    "SimplifiedLayerNormalization",
    examples=always(example(normal(2, 3, 4), normal(4, seed=1), axis=-1, epsilon=1e-5)),
)
def _simplified_layer_normalization(node: Node, x: Tensor, scale: Tensor) -> Tensor | tuple[Tensor, Tensor]:
    y, inverse = _rms(node, x, node.get("axis", -1))
    return (y * scale, inverse) if len(node.outputs) > 1 else y * scale


@operator(
    "SkipLayerNormalization",
    domain="com.microsoft",
    examples=always(
        example(normal(2, 3, 4), normal(2, 3, 4, seed=1), normal(4, seed=2), normal(4, seed=3), epsilon=1e-5),
        example(
            normal(2, 3, 4), normal(2, 3, 4, seed=1), normal(4, seed=2), None, normal(4, seed=3), epsilon=1e-5
        ),
    ),
)
def _skip_layer_normalization(
    node: Node, x: Tensor, skip: Tensor, gamma: Tensor, *rest: Tensor | None
) -> Tensor | tuple[Tensor | None, ...]:
    beta, bias = [*rest, None, None][:2]
    total = x + skip if bias is None else x + skip + bias
    y = F.layer_norm(total, [total.shape[-1]], gamma, beta, node.get("epsilon", 1e-12))
    if len(node.outputs) == 1:
        return y
    variance, mean = torch.var_mean(total, -1, correction=0, keepdim=True)
    return y, mean, torch.rsqrt(variance + node.get("epsilon", 1e-12)), total


@operator(
    "SkipSimplifiedLayerNormalization",
    domain="com.microsoft",
    examples=always(
        example(normal(2, 3, 4), normal(2, 3, 4, seed=1), normal(4, seed=2), epsilon=1e-5),
        # so small that the default shows
        example(normal(2, 3, 4) * 1e-3, normal(2, 3, 4, seed=1) * 1e-3, normal(4, seed=2)),
    ),
)
def _skip_simplified(
    node: Node, x: Tensor, skip: Tensor, gamma: Tensor, bias: Tensor | None = None
) -> Tensor | tuple[Tensor | None, ...]:
    total = x + skip if bias is None else x + skip + bias
    y, inverse = _rms(node, total, -1, 1e-12)
    return y * gamma if len(node.outputs) == 1 else (y * gamma, None, inverse, total)


def _group_examples(version: int) -> list[Example]:
    channels = 2 if version < 21 else 4
    scale, bias = normal(channels, seed=1), normal(channels, seed=2)
    return [
        example(normal(2, 4, 3, 5), scale, bias, num_groups=2),
        example(normal(2, 4, 3), scale, bias, num_groups=2, epsilon=1e-2),
    ]


@operator("GroupNormalization", examples=_group_examples)
def _group_normalization(node: Node, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    groups, epsilon = node.attributes["num_groups"], node.get("epsilon", 1e-5)
    if node.version < 21:  # scale and bias of a group, not of a channel
        repeats = x.shape[1] // groups
        scale, bias = scale.repeat_interleave(repeats), bias.repeat_interleave(repeats)
    return grouped(x, groups, scale, bias, epsilon)
