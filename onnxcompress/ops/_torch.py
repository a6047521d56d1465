"""torch, imported when first used: costs and channel rules of operators are needed without it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    import torch.nn.functional as F
    from torch import Tensor
else:
    Tensor = object  # for annotations, which are never evaluated

    from onnxcompress.core.lazy import LazyModule

    torch = LazyModule("torch")
    F = LazyModule("torch.nn.functional")

__all__ = ["F", "Tensor", "torch"]
