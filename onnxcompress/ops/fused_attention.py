"""Transformer blocks of onnxruntime's own domain: fused attention and embeddings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from onnxcompress.ops._base import Example, Node, NotCoveredError, Shape, operator
from onnxcompress.ops._examples import example, integers, normal
from onnxcompress.ops._torch import F, Tensor, torch


def _heads(x: Tensor, count: int) -> Tensor:
    """Return x (N L heads·size) as N heads L size."""
    return x.reshape(x.shape[0], x.shape[1], count, -1).transpose(1, 2)


def _attended(node: Node, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    """Return softmax(q·kᵀ·scale + bias)·v (N L heads·size) of tensors N heads L size."""
    scale = node.get("scale", 0.0) or 1 / math.sqrt(q.shape[-1])
    if node.get("unidirectional", 0):
        # as onnxruntime does: counted from the first key, and the last query sees every key
        hidden = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device).triu(1)
        hidden[-1:] = False
        blocked = torch.zeros_like(hidden, dtype=q.dtype).masked_fill(hidden, float("-inf"))
        bias = blocked if bias is None else bias + blocked
    y = F.scaled_dot_product_attention(q, k, v, bias, scale=scale)
    return y.transpose(1, 2).flatten(2)


def _mask(node: Node, mask: Tensor | None, added: Tensor | None, like: Tensor) -> Tensor | None:
    """Return the additive form of a key mask (N L; 1: look, 0: do not) and of a given bias together."""
    if mask is None:
        return added
    if mask.dim() != 2:
        raise NotCoveredError("attention mask other than batch × keys")
    fill = node.get("mask_filter_value", -10000.0)
    blocked = torch.mul(1 - mask.to(like.dtype), fill)[:, None, None, :]
    return blocked if added is None else blocked + added


def _attention_macs(node: Node, inputs: Sequence[Shape | None], outputs: Sequence[Shape]) -> int:
    """Return projection (N·L × input × 3 hidden) plus scores and weighted values."""
    x, w = inputs[:2]
    assert x is not None
    assert w is not None
    sizes: list[int] = node.get("qkv_hidden_sizes") or [w[1] // 3] * 3
    return x[0] * x[1] * (x[2] * w[1] + x[1] * (sizes[1] + sizes[2]))


def _attention_examples(version: int) -> list[Example]:
    x, w, b = normal(2, 5, 8), normal(8, 24, seed=1) * np.float32(0.4), normal(24, seed=2)
    mask = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]], dtype=np.int32)
    return [
        example(x, w, b, num_heads=2),
        example(x, w, b, mask, num_heads=4),
        example(x, w, b, num_heads=2, unidirectional=1),
        example(x, w, b, None, None, normal(2, 2, 5, 5, seed=3), num_heads=2, scale=0.7),
    ]


@operator("Attention", domain="com.microsoft", examples=_attention_examples, macs=_attention_macs)
def _attention(node: Node, x: Tensor, weight: Tensor, *rest: Tensor | None) -> Tensor:
    bias, mask, past, added = [*rest, None, None, None, None][:4]
    if past is not None or len(node.outputs) > 1:
        raise NotCoveredError("attention with a cache")
    heads = node.attributes["num_heads"]
    sizes = node.get("qkv_hidden_sizes") or [weight.shape[1] // 3] * 3
    projected = x @ weight if bias is None else x @ weight + bias
    q, k, v = (_heads(part, heads) for part in torch.split(projected, list(sizes), -1))
    return _attended(node, q, k, v, _mask(node, mask, added, x))


def _multi_head_macs(node: Node, inputs: Sequence[Shape | None], outputs: Sequence[Shape]) -> int:
    """Return scores plus weighted values: N × queries × keys × (hidden + value size)."""
    q, k, v = inputs[:3]
    assert q is not None
    assert k is not None
    assert v is not None
    return q[0] * q[1] * k[1] * (q[2] + v[2])


def _multi_head_examples(version: int) -> list[Example]:
    q, k, v = normal(2, 3, 8), normal(2, 5, 8, seed=1), normal(2, 5, 8, seed=2)
    mask = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]], dtype=np.int32)
    return [
        example(q, k, v, num_heads=2),
        example(q, k, v, normal(24, seed=3), num_heads=4),
        example(q, k, v, None, mask, num_heads=2),
        example(q, k, v, None, None, normal(2, 2, 3, 5, seed=4), num_heads=2, scale=0.6),
        example(q, k, v, num_heads=2, unidirectional=1),
        example(k, q, q, num_heads=2, unidirectional=1),
    ]


@operator("MultiHeadAttention", domain="com.microsoft", examples=_multi_head_examples, macs=_multi_head_macs)
def _multi_head_attention(node: Node, q: Tensor, *rest: Tensor | None) -> Tensor:
    given = [*rest, None, None, None, None, None]
    k, v, bias, mask, added = given[:5]
    cached = any(x is not None for x in given[5:]) or len(node.outputs) > 1
    if k is None or v is None or cached or not q.dim() == k.dim() == v.dim() == 3:
        raise NotCoveredError("packed or cached attention")
    if bias is not None:
        bq, bk, bv = torch.split(bias, [q.shape[-1], k.shape[-1], v.shape[-1]])
        q, k, v = q + bq, k + bk, v + bv
    heads = node.attributes["num_heads"]
    return _attended(node, _heads(q, heads), _heads(k, heads), _heads(v, heads), _mask(node, mask, added, q))


def _embedding_examples(version: int) -> list[Example]:
    words, segments = integers(0, 9, 2, 5, dtype=np.int32), integers(0, 2, 2, 5, dtype=np.int32)
    tables = normal(9, 4), normal(6, 4, seed=1), normal(2, 4, seed=2)
    scale, shift = normal(4, seed=3), normal(4, seed=4)
    mask = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]], dtype=np.int32)
    common: dict[str, Any] = {"epsilon": 1e-5, "outputs": 2}
    return [
        example(words, segments, *tables, scale, shift, mask, **common),
        example(words, None, *tables[:2], None, scale, shift, **common),
    ]


@operator("EmbedLayerNormalization", domain="com.microsoft", examples=_embedding_examples)
def _embed_layer_normalization(
    node: Node, words: Tensor, *rest: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    segments, table, places, kinds, scale, shift, mask, positions = [*rest, *[None] * 8][:8]
    assert table is not None
    assert places is not None
    index = torch.arange(words.shape[1], device=words.device) if positions is None else positions.long()
    total = F.embedding(words.long(), table) + F.embedding(index, places)
    if segments is not None and kinds is not None:
        total = total + F.embedding(segments.long(), kinds)
    y = F.layer_norm(total, [total.shape[-1]], scale, shift, node.get("epsilon", 1e-12))
    lengths = words.new_zeros(words.shape[0]) if mask is None else mask.sum(1)
    return y, lengths.to(torch.int32), total
