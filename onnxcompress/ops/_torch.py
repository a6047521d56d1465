"""torch, imported when first used: costs and channel rules of operators are needed without it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    import torch.nn.functional as F
    from torch import Tensor
else:
    Tensor = object  # for annotations, which are never evaluated

    from onnxcompress.core.lazy import LazyModule

    torch = LazyModule("torch")
    F = LazyModule("torch.nn.functional")

__all__ = ["F", "Tensor", "late", "torch"]


def late(name: str) -> Callable[..., Any]:
    """Return torch's function of this name, looked up when it is called; ``F.`` names are functional ones."""
    path = name.split(".")

    def call(*arguments: Any, **options: Any) -> Any:
        return getattr(F if path[0] == "F" else torch, path[-1])(*arguments, **options)

    return call
