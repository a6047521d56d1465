"""Fourier transforms, windows and mel filters."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from onnxcompress.ops._base import Example, Node, operator
from onnxcompress.ops._examples import always, example, normal
from onnxcompress.ops._torch import Tensor, torch
from onnxcompress.ops._types import torch_dtype


def _complex(x: Tensor) -> Tensor:
    """Return a complex tensor from one whose last axis holds real parts, or real and imaginary parts.

    Half precision is widened: torch transforms none on the CPU.
    """
    x = x if x.dtype == torch.float64 else x.float()
    return x.squeeze(-1) if x.shape[-1] == 1 else torch.complex(x[..., 0], x[..., 1])


def _whole(value: Any) -> Any:
    return np.array(value, dtype=np.int64)


def _dft_examples(version: int) -> list[Example]:
    x, z = normal(2, 8, 1), normal(2, 5, 6, 2)
    if version < 20:
        return [
            example(x, axis=1),
            example(x, axis=1, onesided=1),
            example(x, _whole(5), axis=1),
            example(z, axis=2, inverse=1),
        ]
    return [
        example(x, None, _whole(1)),
        example(x, None, _whole(1), onesided=1),
        example(x, _whole(5), _whole(-2)),
        example(z, None, _whole(1), inverse=1),
    ]


@operator("DFT", examples=_dft_examples)
def _dft(node: Node, x: Tensor, length: Tensor | None = None, axis: Tensor | None = None) -> Tensor:
    dim = node.get("axis", 1) if node.version < 20 else -2 if axis is None else int(axis)
    dim = dim + x.dim() if dim < 0 else dim
    onesided, inverse = bool(node.get("onesided", 0)), bool(node.get("inverse", 0))
    signal = _complex(x)
    size = None if length is None else int(length.reshape(-1)[0])
    if inverse and onesided:
        real: Tensor = torch.fft.irfft(signal, size or 2 * (x.shape[dim] - 1), dim)
        return real.unsqueeze(-1).to(x.dtype)
    if inverse:
        y = torch.fft.ifft(signal, size, dim)
    else:
        y = torch.fft.fft(signal, size, dim)
        if onesided:
            y = y.narrow(dim, 0, y.shape[dim] // 2 + 1)
    return torch.view_as_real(y.resolve_conj()).to(x.dtype)


@operator(
    "STFT",
    examples=always(
        example(normal(2, 32, 1), _whole(4), normal(8, seed=1)),
        example(normal(2, 32, 1), _whole(4), None, _whole(8)),
        example(normal(1, 32, 2), _whole(8), normal(16, seed=1), _whole(16), onesided=0),
        example(normal(1, 32, 2), _whole(8), normal(16, seed=1), onesided=1),
    ),
)
def _stft(
    node: Node, x: Tensor, step: Tensor, window: Tensor | None = None, length: Tensor | None = None
) -> Tensor:
    whole = x.shape[1] if window is None else window.shape[0]
    size = whole if length is None else int(length)
    signal = _complex(x if x.dim() == 3 else x.unsqueeze(-1))
    frames = signal.unfold(1, size, int(step))
    if window is not None:
        frames = frames * window
    y = torch.fft.fft(frames, size, -1)
    if node.get("onesided", 1):
        y = y[..., : size // 2 + 1]
    return torch.view_as_real(y).to(x.dtype)


_COSINES = {
    "HannWindow": (0.5, 0.5, 0.0),
    # the specification's own constants: 25/46, not 0.54
    "HammingWindow": (25 / 46, 21 / 46, 0.0),
    "BlackmanWindow": (0.42, 0.5, 0.08),
}


def _window(node: Node, size: Tensor) -> Tensor:
    """Return a0 − a1·cos(2πn/N) + a2·cos(4πn/N)."""
    a0, a1, a2 = _COSINES[node.op_type]
    count = int(size)
    period = count if node.get("periodic", 1) else count - 1
    angle = torch.arange(count, dtype=torch.float64, device=size.device) * (2 * math.pi / max(period, 1))
    y = a0 - a1 * torch.cos(angle) + a2 * torch.cos(2 * angle)
    return y.to(torch_dtype(node, node.get("output_datatype", 1)))


for _type in _COSINES:
    _cases = always(example(_whole(10)), example(_whole(9), periodic=0, output_datatype=11))
    operator(_type, examples=_cases, differentiable=False)(_window)


@operator(
    "MelWeightMatrix",
    examples=always(
        example(_whole(8), _whole(64), _whole(8192), np.array(0, np.float32), np.array(4096, np.float32))
    ),
    differentiable=False,
)
def _mel_weight_matrix(node: Node, *inputs: Tensor) -> Tensor:
    """Triangles between neighbouring mel frequencies, by spectrogram bin."""
    bins, dft, rate = (int(value) for value in inputs[:3])
    low, high = (2595 * math.log10(1 + float(value) / 700) for value in inputs[3:5])
    spectrum = dft // 2 + 1
    mel = np.arange(bins + 2) * ((high - low) / (bins + 2)) + low
    edges = np.floor((dft + 1) * (700 * (10 ** (mel / 2595) - 1)) / rate).astype(np.int64)
    matrix = np.zeros((spectrum, bins))
    for i in range(bins):
        lower, centre, upper = edges[i : i + 3]
        if centre == lower:
            matrix[centre, i] = 1
        else:
            rise = np.arange(lower, centre + 1)
            matrix[rise, i] = (rise - lower) / (centre - lower)
        if upper > centre:
            fall = np.arange(centre, upper)
            matrix[fall, i] = (upper - fall) / (upper - centre)
    made = torch.from_numpy(matrix).to(inputs[0].device)
    return made.to(torch_dtype(node, node.get("output_datatype", 1)))
