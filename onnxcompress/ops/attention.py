"""Attention and what transformers put around it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from onnxcompress.ops._base import Example, Node, Shape, operator
from onnxcompress.ops._examples import always, bools, example, normal
from onnxcompress.ops._torch import F, Tensor, torch
from onnxcompress.ops._types import torch_dtype


def _macs(node: Node, inputs: Sequence[Shape | None], outputs: Sequence[Shape]) -> int:
    """Return query · key plus weights · value: batch × heads × queries × keys × (key size + value size)."""
    q, k, v = inputs[:3]
    assert q is not None
    assert k is not None
    assert v is not None
    past = inputs[4] if len(inputs) > 4 else None
    if len(q) == 4:
        keys = k[2] + (past[2] if past else 0)
        return q[0] * q[1] * q[2] * keys * (q[3] + v[3])
    keys = k[1] + (past[2] if past else 0)
    # by the shapes alone: a cut of heads is foretold with the numbers of heads of before
    return q[0] * q[1] * keys * (q[2] + outputs[0][2])


def _attention_examples(version: int) -> list[Example]:
    q, k, v = normal(2, 4, 3, 8), normal(2, 4, 5, 8, seed=1), normal(2, 4, 5, 6, seed=2)
    mask = normal(3, 5, seed=3)
    flat = normal(2, 3, 32), normal(2, 5, 16, seed=1), normal(2, 5, 12, seed=2)
    return [
        example(q, k, v),
        example(q, k, v, is_causal=1),
        example(q, k, v, mask, scale=0.3),
        example(q, k, v, bools(3, 5) | np.eye(3, 5, dtype=bool)),
        example(q, k, v, softcap=2.0),
        example(*flat, q_num_heads=4, kv_num_heads=2),
        example(q, k, v, None, normal(2, 4, 2, 8, seed=4), normal(2, 4, 2, 6, seed=5), outputs=3),
    ]


def _heads(x: Tensor, count: int) -> Tensor:
    """Return x (N L heads·size) as N heads L size."""
    return x.reshape(x.shape[0], x.shape[1], count, -1).transpose(1, 2)


@operator("Attention", examples=_attention_examples, macs=_macs)
def _attention(node: Node, q: Tensor, k: Tensor, v: Tensor, *rest: Tensor | None) -> Tensor | tuple[Any, ...]:
    mask, past_key, past_value, lengths = [*rest, None, None, None, None][:4]
    flat = q.dim() == 3
    if flat:
        shared = node.attributes["kv_num_heads"]
        q, k, v = _heads(q, node.attributes["q_num_heads"]), _heads(k, shared), _heads(v, shared)
    if past_key is not None and past_value is not None:
        k, v = torch.cat([past_key, k], 2), torch.cat([past_value, v], 2)
    present = (k, v)
    if q.shape[1] != k.shape[1]:
        k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
    past = None if past_key is None else past_key.shape[2]
    bias = _bias(node, (q, k), mask, past, lengths)
    exposed = len(node.outputs) > 3 and node.outputs[3]
    scores = None
    if bias is None and not exposed and not node.get("softcap") and not node.get("softmax_precision"):
        y = F.scaled_dot_product_attention(q, k, v, scale=node.get("scale"))
    else:
        y, scores = _explicit(node, q, k, v, bias)
    if flat:
        y = y.transpose(1, 2).flatten(2)
    return (y, *present, scores) if len(node.outputs) > 1 else y


def _explicit(node: Node, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the output and what ``qk_matmul_output_mode`` exposes: 0 raw, 1 capped, 2 masked, 3 weights."""
    scale = q.new_tensor(math.sqrt(node.get("scale") or 1 / math.sqrt(q.shape[-1])))
    mode, cap = node.get("qk_matmul_output_mode", 0), node.get("softcap", 0.0)
    raw = (q * scale) @ (k * scale).transpose(-1, -2)
    capped = torch.tanh(raw / cap) * cap if cap else raw
    masked = capped if bias is None else capped + bias
    code = node.get("softmax_precision")
    wide = masked.to(torch_dtype(node, code)) if code else masked
    if bias is None:
        weights = torch.softmax(wide, -1)
    else:  # a query that may look at nothing gets zeros
        nothing = torch.isneginf(bias.amax(-1, keepdim=True))
        weights = torch.softmax(torch.where(nothing, torch.zeros_like(wide), wide), -1)
        weights = torch.where(nothing, torch.zeros_like(weights), weights)
    weights = weights.to(q.dtype)
    exposed = (raw, capped, masked, weights)[mode]
    return weights @ v, exposed


def _bias(
    node: Node, pair: tuple[Tensor, Tensor], mask: Tensor | None, past: int | None, lengths: Tensor | None
) -> Tensor | None:
    """Return what is added to the scores: the mask, and −∞ for keys a query may not see; None: nothing."""
    q, k = pair
    queries, keys = q.shape[2], k.shape[2]
    left, right = node.get("left_window_size", -1), node.get("right_window_size", -1)
    causal = bool(node.get("is_causal", 0))
    if mask is None and lengths is None and not causal and left < 0 and right < 0:
        return None
    bias = q.new_zeros(queries, keys)
    forbidden = float("-inf")
    if mask is not None:
        missing = keys - mask.shape[-1]
        if mask.dtype == torch.bool:
            mask = q.new_zeros(mask.shape).masked_fill(~mask, forbidden)
        if missing > 0:
            mask = F.pad(mask, (0, missing), value=forbidden)
        bias = bias + mask
    i = torch.arange(queries, device=q.device).unsqueeze(1)
    j = torch.arange(keys, device=q.device)
    offset: Tensor | int = 0 if past is None else past
    if past is None and lengths is not None:
        offset = (lengths.reshape(-1, 1, 1, 1) - queries).to(torch.int64)
    ahead = j - (i + offset)
    hidden = torch.zeros_like(ahead, dtype=torch.bool)
    if causal:
        hidden = hidden | (ahead > 0)
    if left >= 0:
        hidden = hidden | (-ahead > left)
    if right >= 0:
        hidden = hidden | (ahead > right)
    if lengths is not None:
        hidden = hidden | (j >= lengths.reshape(-1, 1, 1, 1))
    # only where something is hidden: a mask of rank 3 keeps its own broadcasting
    return torch.where(hidden, torch.full_like(bias[..., :1, :1], forbidden), bias)


def _rotary_examples(version: int) -> list[Example]:
    x, cos, sin = normal(2, 3, 4, 8), normal(10, 4, seed=1), normal(10, 4, seed=2)
    where = np.array([[0, 1, 2, 3], [4, 5, 6, 9]], dtype=np.int64)
    return [
        example(x, cos, sin, where),
        example(x, cos, sin, where, interleaved=1),
        example(normal(2, 4, 24), cos, sin, where, num_heads=3),
        example(x, cos[:, :2].copy(), sin[:, :2].copy(), where, rotary_embedding_dim=4),
    ]


@operator("RotaryEmbedding", examples=_rotary_examples)
def _rotary_embedding(
    node: Node, x: Tensor, cos: Tensor, sin: Tensor, positions: Tensor | None = None
) -> Tensor:
    flat = x.dim() == 3
    y = _heads(x, node.attributes["num_heads"]) if flat else x  # N heads L size
    if positions is not None:
        cos, sin = cos[positions.long()], sin[positions.long()]
    cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
    size = node.get("rotary_embedding_dim", 0) or y.shape[-1]
    turned, kept = y[..., :size], y[..., size:]
    if node.get("interleaved", 0):
        a, b = turned[..., 0::2], turned[..., 1::2]
        turned = torch.stack([cos * a - sin * b, sin * a + cos * b], -1).flatten(-2)
    else:
        a, b = turned.chunk(2, -1)
        turned = torch.cat([cos * a - sin * b, sin * a + cos * b], -1)
    y = torch.cat([turned, kept], -1)
    return y.transpose(1, 2).reshape(x.shape) if flat else y


@operator(
    "LinearAttention",
    examples=always(
        example(
            normal(2, 3, 16), normal(2, 3, 8, seed=1), normal(2, 3, 6, seed=2),
            update_rule="linear", q_num_heads=4, kv_num_heads=2, outputs=2,
        )
    ),
)  # fmt: skip
def _linear_attention(
    node: Node, query: Tensor, key: Tensor, value: Tensor, *rest: Tensor | None
) -> tuple[Tensor, Tensor]:
    past, decay, beta = [*rest, None, None, None][:3]
    heads, shared = node.attributes["q_num_heads"], node.attributes["kv_num_heads"]
    wide = torch.float64 if query.dtype == torch.float64 else torch.float32
    q, k, v = (_heads(x.to(wide), n) for x, n in ((query, heads), (key, shared), (value, shared)))
    state = q.new_zeros(q.shape[0], shared, k.shape[-1], v.shape[-1]) if past is None else past.to(wide)
    gate = None if decay is None else _heads(decay.to(wide), shared).exp()
    rate = None if beta is None else _heads(beta.to(wide), beta.shape[-1])
    scale = node.get("scale", 0.0) or 1 / math.sqrt(k.shape[-1])
    outputs = []
    for t in range(q.shape[2]):
        written = v[:, :, t]
        if gate is not None:
            state = state * gate[:, :, t].unsqueeze(-1)
        if rate is not None:
            recalled = torch.einsum("bhdm,bhd->bhm", state, k[:, :, t])
            written = rate[:, :, t] * (written - recalled)
        state = state + k[:, :, t].unsqueeze(-1) * written.unsqueeze(-2)
        seen = state.repeat_interleave(heads // shared, 1)
        outputs.append(scale * torch.einsum("bhd,bhdm->bhm", q[:, :, t], seen))
    y = torch.stack(outputs, 2).transpose(1, 2).flatten(2).to(query.dtype)
    return y, state.to(query.dtype if past is None else past.dtype)
