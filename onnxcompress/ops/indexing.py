"""Picking and placing elements by index tensors."""

from __future__ import annotations

import numpy as np

from onnxcompress.ops._base import Example, Node, operator
from onnxcompress.ops._examples import always, bools, example, f32, i64, integers, normal
from onnxcompress.ops._torch import Tensor, torch
from onnxcompress.ops._types import positive_axis

_REDUCE = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


def _from_front(index: Tensor, size: int) -> Tensor:
    """Return indices counted from the front."""
    index = index.long()
    return torch.where(index < 0, index + size, index)


@operator(
    "GatherElements",
    examples=always(
        example(normal(3, 4), integers(-3, 3, 2, 4)), example(normal(3, 4), integers(-4, 4, 3, 2), axis=1)
    ),
)
def _gather_elements(node: Node, x: Tensor, indices: Tensor) -> Tensor:
    axis = node.get("axis", 0)
    return torch.gather(x, axis, _from_front(indices, x.shape[axis]))


def _gather_nd_examples(version: int) -> list[Example]:
    cases = [
        example(normal(3, 4, 2), integers(-3, 3, 5, 2)),
        example(normal(3, 4, 2), integers(0, 2, 2, 2, 3)),
    ]
    if version >= 12:
        cases.append(example(normal(3, 4, 2), integers(0, 4, 3, 5, 1), batch_dims=1))
    return cases


@operator("GatherND", examples=_gather_nd_examples)
def _gather_nd(node: Node, x: Tensor, indices: Tensor) -> Tensor:
    batch = node.get("batch_dims", 0)
    depth = indices.shape[-1]
    index: list[Tensor] = []
    for axis in range(batch):
        shape = [1] * (indices.dim() - 1)
        shape[axis] = -1
        index.append(torch.arange(x.shape[axis], device=x.device).reshape(shape))
    index += [_from_front(indices[..., i], x.shape[batch + i]) for i in range(depth)]
    return x[tuple(index)]


def _scatter_elements_examples(version: int) -> list[Example]:
    x, index = normal(4, 3), np.array([[0, 2, -1], [3, 1, 0]], dtype=np.int64)
    cases = [
        example(x, index, normal(2, 3, seed=1)),
        example(x, np.array([[0, 2], [-1, 1]]), normal(2, 2, seed=1), axis=1),
    ]
    if version < 11:
        return [example(x, np.abs(index), normal(2, 3, seed=1))]
    if version >= 16:
        cases += [example(x, index, normal(2, 3, seed=1), reduction=r) for r in ("add", "mul")]
    if version >= 18:
        cases += [example(x, index, normal(2, 3, seed=1), reduction=r) for r in ("max", "min")]
    return cases


@operator("ScatterElements", "Scatter", examples=_scatter_elements_examples)
def _scatter_elements(node: Node, x: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
    axis = node.get("axis", 0)
    index = _from_front(indices, x.shape[axis])
    reduction = node.get("reduction", "none")
    if reduction == "none":
        return x.scatter(axis, index, updates)
    return x.scatter_reduce(axis, index, updates, _REDUCE[reduction])


def _scatter_nd_examples(version: int) -> list[Example]:
    x, index = normal(4, 3, 2), np.array([[[0, 1]], [[3, 2]]], dtype=np.int64)
    cases = [
        example(x, index, normal(2, 1, 2, seed=1)),
        example(x, i64(2, 0)[:, None], normal(2, 3, 2, seed=1)),
    ]
    double = i64(2, 0, 2)[:, None]
    if version >= 16:
        cases += [example(x, double, normal(3, 3, 2, seed=1), reduction=r) for r in ("add", "mul")]
    if version >= 18:
        cases += [example(x, double, normal(3, 3, 2, seed=1), reduction=r) for r in ("max", "min")]
    return cases


@operator("ScatterND", examples=_scatter_nd_examples)
def _scatter_nd(node: Node, x: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
    depth = indices.shape[-1]
    index = tuple(_from_front(indices[..., i], x.shape[i]) for i in range(depth))
    reduction = node.get("reduction", "none")
    if reduction == "none":
        return x.index_put(index, updates)
    if reduction == "add":
        return x.index_put(index, updates, accumulate=True)
    flat = torch.zeros_like(index[0])
    for i, part in enumerate(index):
        flat = flat * x.shape[i] + part
    rows = x.reshape(-1, int(np.prod(x.shape[depth:], dtype=np.int64)))
    flat = flat.reshape(-1, 1).expand(-1, rows.shape[1])
    values = updates.reshape(-1, rows.shape[1])
    return rows.scatter_reduce(0, flat, values, _REDUCE[reduction]).reshape(x.shape)


@operator(
    "TensorScatter",
    examples=always(
        example(normal(2, 4, 3), normal(2, 2, 3, seed=1), i64(1, 0)),
        example(normal(2, 4, 3), normal(2, 2, 3, seed=1), i64(3, 2), mode="circular"),
    ),
)
def _tensor_scatter(node: Node, past: Tensor, update: Tensor, write: Tensor | None = None) -> Tensor:
    axis = positive_axis(node.get("axis", -2), past.dim())
    steps = torch.arange(update.shape[axis], device=past.device)
    start = torch.zeros(past.shape[0], 1, device=past.device, dtype=torch.int64)
    if write is not None:
        start = write.long().reshape(-1, 1)
    place = start + steps
    if node.get("mode", "linear") == "circular":
        place = place % past.shape[axis]
    shape = [1] * past.dim()
    shape[0], shape[axis] = past.shape[0], update.shape[axis]
    return past.scatter(axis, place.reshape(shape).expand(update.shape), update)


@operator(
    "OneHot",
    examples=always(
        example(i64(1, 3, 0), i64(4), f32(0.5, 2.0)),
        example(integers(-4, 6, 2, 3), np.array(4), f32(0.0, 1.0), axis=1),
    ),
)
def _one_hot(node: Node, indices: Tensor, depth: Tensor, values: Tensor) -> Tensor:
    size = int(depth.reshape(-1)[0])
    index = indices.long().unsqueeze(-1)
    index = torch.where(index < 0, index + size, index)
    hot = index == torch.arange(size, device=index.device)
    return torch.where(hot.movedim(-1, node.get("axis", -1)), values[1], values[0])


def _top_k_examples(version: int) -> list[Example]:
    x = np.round(normal(3, 6) * 2)
    if version < 10:
        return [example(x, k=2, outputs=2), example(x, k=2, axis=0, outputs=2)]
    cases = [example(x, i64(4), outputs=2), example(x, i64(2), axis=0, outputs=2)]
    if version >= 11:
        cases.append(example(x, i64(3), largest=0, outputs=2))
        cases.append(example(normal(3, 6), i64(3), outputs=2))
    return cases


@operator("TopK", examples=_top_k_examples)
def _top_k(node: Node, x: Tensor, k: Tensor | None = None) -> tuple[Tensor, Tensor]:
    count = node.attributes["k"] if k is None else int(k.reshape(-1)[0])
    axis = node.get("axis", -1)
    # a stable sort, because the specification wants the lower index first among equals
    values, indices = torch.sort(x, dim=axis, descending=bool(node.get("largest", 1)), stable=True)
    return values.narrow(axis, 0, count), indices.narrow(axis, 0, count)


@operator(
    "NonZero",
    examples=always(example(np.round(normal(3, 4))), example(np.array(2.0, np.float32))),
    differentiable=False,
)
def _non_zero(node: Node, x: Tensor) -> Tensor:
    return torch.nonzero(x if x.dim() else x.reshape(1)).T.contiguous()


@operator(
    "Compress",
    examples=always(
        example(normal(3, 4), np.array([True, False, True]), axis=0),
        example(normal(3, 4), np.array([False, True]), axis=1),
        example(normal(3, 4), bools(12)),
    ),
)
def _compress(node: Node, x: Tensor, condition: Tensor) -> Tensor:
    axis = node.get("axis")
    if axis is None:
        x, axis = x.reshape(-1), 0
    return x.index_select(axis, condition.nonzero().reshape(-1))


@operator(
    "Unique",
    examples=always(
        example(f32(2, 1, 1, 3, 4, 3), outputs=4),
        example(f32(2, 1, 1, 3, 4, 3), sorted=0, outputs=4),
        example(np.round(normal(5, 1) + normal(1, 2)), axis=0, outputs=4),
    ),
    differentiable=False,
)
def _unique(node: Node, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    axis = node.get("axis")
    if axis is None:
        x, axis = x.reshape(-1), 0
    values, inverse, counts = torch.unique(x, return_inverse=True, return_counts=True, dim=axis)
    position = torch.arange(inverse.numel(), device=x.device)
    first = torch.full_like(counts, inverse.numel()).scatter_reduce(0, inverse, position, "amin")
    if not node.get("sorted", 1):
        order = torch.argsort(first)
        rank = torch.argsort(order)
        values, first, counts = values.index_select(axis, order), first[order], counts[order]
        inverse = rank[inverse]
    return values, first, inverse, counts


@operator(
    "ArrayFeatureExtractor",
    domain="ai.onnx.ml",
    examples=always(example(normal(3, 4), i64(0, 2))),
)
def _array_feature_extractor(node: Node, x: Tensor, indices: Tensor) -> Tensor:
    picked = x.index_select(-1, indices.reshape(-1).long())
    return picked.reshape(1, -1) if x.dim() == 1 else picked
