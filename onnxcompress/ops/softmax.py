"""Softmax and its relatives; before version 13 the axes from ``axis`` on are taken as one."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from onnxcompress.ops._base import Example, Node, operator
from onnxcompress.ops._examples import always, example, integers, normal
from onnxcompress.ops._torch import Tensor, late, torch

_CASES = always(example(normal(2, 3, 4)), example(normal(2, 3, 4), axis=1), example(normal(2, 3, 4), axis=0))


def _over_axis(function: Callable[[Tensor, int], Tensor]) -> Callable[..., Any]:
    def forward(node: Node, x: Tensor) -> Tensor:
        if node.version >= 13:
            return function(x, node.get("axis", -1))
        axis = node.get("axis", 1)
        axis = axis + x.dim() if axis < 0 else axis
        if axis == x.dim() - 1:
            return function(x, axis)
        return function(x.reshape(math.prod(x.shape[:axis]), -1), 1).reshape(x.shape)

    return forward


def _hardmax(x: Tensor, axis: int) -> Tensor:
    return torch.zeros_like(x).scatter(axis, x.argmax(axis, keepdim=True), 1)


operator("Softmax", examples=_CASES)(_over_axis(late("softmax")))
operator("LogSoftmax", examples=_CASES)(_over_axis(late("log_softmax")))
operator("Hardmax", examples=_CASES, differentiable=False)(_over_axis(_hardmax))


def _reduced(node: Node, losses: Tensor, weights: Tensor) -> Tensor:
    """Reduce weighted losses as the ``reduction`` attribute says."""
    reduction = node.get("reduction", "mean")
    if reduction == "none":
        return losses
    return losses.sum() if reduction == "sum" else losses.sum() / weights.sum()


def _nll(node: Node, scores: Tensor, target: Tensor, weight: Tensor | None) -> Tensor:
    """Return the negative log likelihood; scores N C d1 …, target N d1 …."""
    ignored = node.get("ignore_index")
    index = target.long()
    kept = torch.ones_like(index, dtype=torch.bool) if ignored is None else index != ignored
    index = torch.where(kept, index, torch.zeros_like(index))
    picked = scores.gather(1, index.unsqueeze(1)).squeeze(1)
    weights = torch.ones_like(picked) if weight is None else weight[index]
    weights = torch.where(kept, weights, torch.zeros_like(weights))
    return _reduced(node, -picked * weights, weights)


def _loss_examples(version: int) -> list[Example]:
    scores, target = normal(3, 5, 2), integers(0, 5, 3, 2)
    weight = normal(5, seed=3) ** 2
    return [
        example(scores, target),
        example(scores, target, weight, reduction="none"),
        example(scores, target, weight, reduction="sum"),
        example(scores, target, weight, reduction="mean", ignore_index=2),
    ]


@operator("NegativeLogLikelihoodLoss", examples=_loss_examples)
def _negative_log_likelihood(
    node: Node, scores: Tensor, target: Tensor, weight: Tensor | None = None
) -> Tensor:
    return _nll(node, scores, target, weight)


@operator("SoftmaxCrossEntropyLoss", examples=_loss_examples)
def _softmax_cross_entropy(
    node: Node, scores: Tensor, target: Tensor, weight: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    logarithms = torch.log_softmax(scores, 1)
    return _nll(node, logarithms, target, weight), logarithms
