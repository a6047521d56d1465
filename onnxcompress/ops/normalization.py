"""Normalisation by statistics of the batch, a channel, or neighbouring channels."""

from __future__ import annotations

from typing import Any

from onnxcompress.ops._base import Example, Node, operator
from onnxcompress.ops._examples import always, example, normal
from onnxcompress.ops._grouped import grouped
from onnxcompress.ops._torch import F, Tensor, torch


def _batch_examples(version: int) -> list[Example]:
    x, scale, bias, mean = normal(3, 4, 2, 5), normal(4, seed=1), normal(4, seed=2), normal(4, seed=3)
    variance = normal(4, seed=4) ** 2 + 0.5
    old: dict[str, Any] = {"is_test": 1} if version < 7 else {}
    if version < 6:
        old["consumed_inputs"] = [0, 0, 0, 1, 1]
    cases = [example(x, scale, bias, mean, variance, **old, epsilon=1e-3)]
    if version >= 7:
        cases.append(example(normal(3, 4), scale, bias, mean, variance))
    if 7 <= version < 14:
        cases.append(example(x, scale, bias, mean, variance, momentum=0.7, outputs=5))
    if version >= 14:
        cases.append(example(x, scale, bias, mean, variance, training_mode=1, momentum=0.7, outputs=3))
    return cases


def by_its_batch(node: Node) -> bool:
    """Tell whether a BatchNormalization normalises by what it is given, though nothing trains it.

    Before version 14 there was no attribute: further outputs asked for it, and onnxruntime still obeys.
    """
    return bool(node.get("training_mode", 0)) or (7 <= node.version < 14 and len(node.outputs) > 1)


@operator("BatchNormalization", examples=_batch_examples)
def _batch_normalization(node: Node, x: Tensor, *parameters: Tensor) -> Tensor | tuple[Tensor, ...]:
    """Normalise by stored statistics, or, when training, by the batch's.

    In training the stored mean and (population) variance move towards the batch's by ``1 − momentum`` and
    are changed in place. A batch with a single value per channel has no variance: it is normalised by the
    stored statistics, which then stay as they are.
    """
    scale, bias, mean, variance = parameters
    epsilon, momentum = node.get("epsilon", 1e-5), node.get("momentum", 0.9)
    asked = by_its_batch(node)
    if node.version < 9 and not node.get("spatial", 1):
        return (x - mean.detach()) * torch.rsqrt(variance.detach() + epsilon) * scale + bias
    single = x.numel() == x.shape[1] or x.numel() == 0
    if not asked and (not node.training or single):
        return F.batch_norm(x, mean.detach(), variance.detach(), scale, bias, False, 0.0, epsilon)
    if single:
        y, current_mean, current_variance = _by_hand(x, scale, bias, epsilon)
    else:
        y = F.batch_norm(x, None, None, scale, bias, True, 0.0, epsilon)
        with torch.no_grad():
            axes = [axis for axis in range(x.dim()) if axis != 1]
            current_variance, current_mean = torch.var_mean(x, axes, correction=0)
    with torch.no_grad():
        new_mean = mean * momentum + current_mean.to(mean.dtype) * (1 - momentum)
        new_variance = variance * momentum + current_variance.to(variance.dtype) * (1 - momentum)
        if node.training and not asked:
            mean.copy_(new_mean)
            variance.copy_(new_variance)
    # What onnxruntime saves of the variance is the inverse of the standard deviation.
    told = (y, new_mean, new_variance, current_mean, torch.rsqrt(current_variance + epsilon))
    return told[: len(node.outputs)] if len(node.outputs) > 1 else y


def _by_hand(x: Tensor, scale: Tensor, bias: Tensor, epsilon: float) -> tuple[Tensor, Tensor, Tensor]:
    axes = [axis for axis in range(x.dim()) if axis != 1]
    shape = [1, -1, *[1] * (x.dim() - 2)]
    variance, mean = torch.var_mean(x, axes, correction=0)
    y = (x - mean.reshape(shape)) * torch.rsqrt(variance.reshape(shape) + epsilon)
    return y * scale.reshape(shape) + bias.reshape(shape), mean, variance


@operator(
    "InstanceNormalization",
    examples=always(
        example(normal(2, 3, 4, 5), normal(3, seed=1), normal(3, seed=2)),
        example(normal(2, 3, 6), normal(3, seed=1), normal(3, seed=2), epsilon=1e-2),
    ),
)
def _instance_normalization(node: Node, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    return grouped(x, x.shape[1], scale, bias, node.get("epsilon", 1e-5))


@operator(
    "LRN",
    examples=always(
        example(normal(2, 6, 3, 2), size=3),
        example(normal(2, 6, 3, 2), size=5, alpha=0.5, beta=0.6, bias=1.5),
    ),
)
def _lrn(node: Node, x: Tensor) -> Tensor:
    size = node.attributes["size"]
    before = (size - 1) // 2
    squares = F.pad(x.movedim(1, -1) ** 2, (before, size - 1 - before))
    total = squares.unfold(-1, size, 1).sum(-1).movedim(-1, 1)
    scale = node.get("bias", 1.0) + node.get("alpha", 1e-4) / size * total
    return x / torch.pow(scale, node.get("beta", 0.75))


@operator(
    "MeanVarianceNormalization",
    examples=always(example(normal(2, 3, 4, 5)), example(normal(2, 3, 4), axes=[2])),
)
def _mean_variance_normalization(node: Node, x: Tensor) -> Tensor:
    axes = node.get("axes", [0, 2, 3])
    mean = x.mean(axes, keepdim=True)
    centred = x - mean
    variance = centred.pow(2).mean(axes, keepdim=True)
    # at a variance of zero the root has no finite gradient, and what is centred is zero whatever it is over
    flat = variance == 0
    spread = torch.where(flat, torch.ones_like(variance), variance).sqrt()
    return centred / (spread + 1e-9)


@operator(
    "LpNormalization",
    examples=always(example(normal(3, 4)), example(normal(3, 4), axis=0, p=1)),
)
def _lp_normalization(node: Node, x: Tensor) -> Tensor:
    norm = torch.linalg.vector_norm(x, node.get("p", 2), node.get("axis", -1), keepdim=True)
    zero = norm == 0
    return torch.where(zero, torch.zeros_like(x), x / torch.where(zero, torch.ones_like(norm), norm))


def _dropout_examples(version: int) -> list[Example]:
    x = normal(3, 4)
    if version < 12:
        old: dict[str, Any] = {"is_test": 1} if version < 7 else {}
        mask = [example(x, outputs=2)] if version >= 7 else []
        return [example(x, **old), example(x, **old, ratio=0.3), *mask]
    return [example(x, outputs=2), example(x)]


@operator("Dropout", examples=_dropout_examples)
def _dropout(node: Node, x: Tensor, *options: Tensor | None) -> Tensor | tuple[Tensor, Tensor]:
    """Drop elements when the graph is trained or the node itself asks for it; the identity otherwise."""
    given, mode = [*options, None, None][:2]
    default = node.get("ratio", 0.5)
    ratio = default if given is None else float(given.reshape(-1)[0])
    training = node.training or (mode is not None and bool(mode.reshape(-1)[0]))
    if training and ratio > 0:
        mask = torch.rand(x.shape, device=x.device) >= ratio
        y = x * mask.to(x.dtype) / (1 - ratio) if ratio < 1 else torch.zeros_like(x)
    else:
        # before version 12 onnxruntime hands out an empty mask where nothing is dropped
        mask, y = torch.full(x.shape, node.version >= 12, dtype=torch.bool, device=x.device), x
    # before version 10 the mask has the type of the data
    return (y, mask if node.version >= 10 else mask.to(x.dtype)) if len(node.outputs) > 1 else y
