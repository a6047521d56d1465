"""Sliding windows: how many there are, and the padding that ``auto_pad`` and ``ceil_mode`` imply."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from onnxcompress.ops._base import Node
from onnxcompress.ops._torch import F, Tensor, torch


@dataclass(frozen=True)
class Windows:
    """The windows of one node along its spatial axes.

    Attributes:
        kernel: window sizes.
        strides: steps between windows.
        dilations: steps inside a window.
        pads: (before, after) an axis, as the node asks.
        reach: (before, after) an axis, with what the last window of ``ceil_mode`` needs beyond.
        sizes: number of windows along each axis.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]
    reach: tuple[tuple[int, int], ...]
    sizes: tuple[int, ...]

    @property
    def symmetric(self) -> list[int] | None:
        """The padding as torch takes it, one number an axis; None where torch cannot take it."""
        if any(low != high for low, high in self.reach):
            return None
        return [low for low, _ in self.reach]


def windows(node: Node, spatial: Sequence[int], kernel: Sequence[int], *, pooling: bool = False) -> Windows:
    """Return the windows of a convolution or pooling node over axes of these sizes.

    SAME padding differs between the two in onnxruntime: pooling forgets dilations, and cuts where the
    padding it computes is negative.
    """
    count = len(spatial)
    strides = node.get("strides") or [1] * count
    dilations = node.get("dilations") or [1] * count
    ceil = bool(node.get("ceil_mode", 0))
    pads, reach, sizes = [], [], []
    for i, size in enumerate(spatial):
        extent = (kernel[i] - 1) * dilations[i] + 1
        low, high = _pads(node, i, size, (kernel[i], extent, strides[i]), pooling)
        room = size + low + high - extent
        number = (-(-room // strides[i]) if ceil else room // strides[i]) + 1
        if ceil and (number - 1) * strides[i] >= size + low:
            number -= 1  # a window that starts in the padding at the end does not count
        needed = (number - 1) * strides[i] + extent - size - low
        pads.append((low, high))
        reach.append((low, max(high, needed) if ceil else high))
        sizes.append(max(number, 0))
    return Windows(tuple(kernel), tuple(strides), tuple(dilations), tuple(pads), tuple(reach), tuple(sizes))


def _pads(node: Node, i: int, size: int, window: tuple[int, int, int], pooling: bool) -> tuple[int, int]:
    mode = node.get("auto_pad", "NOTSET")
    kernel, extent, stride = window
    if mode in ("NOTSET", ""):
        pads = node.get("pads")
        return (pads[i], pads[i + len(pads) // 2]) if pads else (0, 0)
    if mode == "VALID":
        return 0, 0
    total = (-(-size // stride) - 1) * stride + (kernel if pooling else extent) - size
    if not pooling:
        total = max(total, 0)
    low = int(total / 2) if mode == "SAME_UPPER" else int((total + 1) / 2)  # towards zero
    return low, total - low


def padded(x: Tensor, pads: Sequence[tuple[int, int]], value: float = 0.0) -> Tensor:
    """Return ``x`` padded along its last axes; negative pads cut."""
    flat = [p for pair in reversed(pads) for p in pair]
    return F.pad(x, flat, value=value) if any(flat) else x


def unfolded(x: Tensor, w: Windows, axis: int) -> Tensor:
    """Return ``x``, already padded, with spatial axis ``axis`` (0-based) replaced by (windows, kernel)."""
    dim = x.dim() - len(w.kernel) + axis
    starts = torch.arange(w.sizes[axis], device=x.device) * w.strides[axis]
    steps = torch.arange(w.kernel[axis], device=x.device) * w.dilations[axis]
    index = (starts.unsqueeze(1) + steps).reshape(-1)
    shape = (*x.shape[:dim], w.sizes[axis], w.kernel[axis], *x.shape[dim + 1 :])
    return x.index_select(dim, index).reshape(shape)
