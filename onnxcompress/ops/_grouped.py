"""Normalisation over groups of channels, accurate for groups of few elements too."""

from __future__ import annotations

from onnxcompress.ops._torch import Tensor, torch

_FEW = 32


def grouped(x: Tensor, groups: int, scale: Tensor, bias: Tensor, epsilon: float) -> Tensor:
    """Return x (N C …) normalised over each group of channels, times ``scale`` plus ``bias`` (C)."""
    few = x.numel() < _FEW * x.shape[0] * groups
    if not few:
        return torch.group_norm(x, groups, scale, bias, epsilon)
    # torch's kernel folds the mean into the offset: a group of one element then keeps rounding noise
    # that a tiny variance magnifies
    rows = x.reshape(x.shape[0], groups, -1)
    variance, mean = torch.var_mean(rows, -1, correction=0, keepdim=True)
    y = ((rows - mean) * torch.rsqrt(variance + epsilon)).reshape(x.shape)
    column = (-1, *[1] * (x.dim() - 2))
    return y * scale.reshape(column) + bias.reshape(column)
