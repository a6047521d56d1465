"""Fused operators of onnxruntime's own domain, as its optimiser and its transformer tools write them."""

from __future__ import annotations

from collections.abc import Callable

from onnxcompress.ops._base import Node, NotCoveredError, operator
from onnxcompress.ops._contraction import conv_macs, convolved, matmul_macs
from onnxcompress.ops._examples import always, example, normal
from onnxcompress.ops._torch import F, Tensor, torch

_X = normal(2, 3, 4)
_BIAS = normal(4, seed=1)


@operator("Gelu", domain="com.microsoft", examples=always(example(_X)))
def _gelu(node: Node, x: Tensor) -> Tensor:
    return F.gelu(x)


@operator("FastGelu", domain="com.microsoft", examples=always(example(_X), example(_X, _BIAS)))
def _fast_gelu(node: Node, x: Tensor, bias: Tensor | None = None) -> Tensor:
    return F.gelu(x if bias is None else x + bias, approximate="tanh")


@operator("BiasGelu", domain="com.microsoft", examples=always(example(_X, _BIAS)))
def _bias_gelu(node: Node, x: Tensor, bias: Tensor) -> Tensor:
    return F.gelu(x + bias)


@operator("QuickGelu", domain="com.microsoft", examples=always(example(_X), example(_X, alpha=1.0)))
def _quick_gelu(node: Node, x: Tensor) -> Tensor:
    return x * torch.sigmoid(torch.mul(x, node.get("alpha", 1.702)))


def _activated(node: Node, x: Tensor) -> Tensor:
    """Apply the activation a fused operator names."""
    name = node.get("activation", "")
    named = [node.get(f"activation_{letter}") for letter in ("alpha", "beta")]  # of FusedGemm
    numbers = [*(node.get("activation_params") or named), None, None]
    table: dict[str, Callable[[], Tensor]] = {
        "": lambda: x,
        "Relu": lambda: torch.relu(x),
        "Tanh": lambda: torch.tanh(x),
        "Sigmoid": lambda: torch.sigmoid(x),
        "LeakyRelu": lambda: F.leaky_relu(x, 0.01 if numbers[0] is None else numbers[0]),
        "Clip": lambda: torch.clamp(x, numbers[0], numbers[1]),
        "HardSigmoid": lambda: torch.clamp(x * numbers[0] + numbers[1], 0, 1),
    }
    if name not in table:
        raise NotCoveredError(f"fused activation {name!r}")
    return table[name]()


_IMAGE, _KERNEL = normal(1, 2, 5, 5), normal(3, 2, 3, 3, seed=1)


@operator(
    "FusedConv",
    domain="com.microsoft",
    examples=always(
        example(_IMAGE, _KERNEL, normal(3, seed=2), activation="Relu", pads=[1, 1, 1, 1]),
        example(_IMAGE, _KERNEL, activation="LeakyRelu", activation_params=[0.2]),
        example(_IMAGE, _KERNEL, activation="Clip", activation_params=[-0.5, 0.5]),
        example(_IMAGE, _KERNEL, normal(3, seed=2), normal(1, 3, 3, 3, seed=3), activation="Relu"),
    ),
    macs=conv_macs,
)
def _fused_conv(
    node: Node, x: Tensor, weight: Tensor, bias: Tensor | None = None, added: Tensor | None = None
) -> Tensor:
    y = convolved(node, x, weight, bias)
    return _activated(node, y if added is None else y + added)


@operator(
    "FusedGemm",
    domain="com.microsoft",
    examples=always(
        example(normal(3, 4), normal(4, 5, seed=1), normal(5, seed=2), activation="Relu"),
        example(normal(3, 4), normal(4, 5, seed=1), alpha=0.5, activation="LeakyRelu", activation_alpha=0.2),
        example(
            normal(3, 4),
            normal(4, 5, seed=1),
            activation="HardSigmoid",
            activation_alpha=0.3,
            activation_beta=0.4,
        ),
    ),
    macs=matmul_macs,
)
def _fused_gemm(node: Node, a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
    a = a.transpose(0, 1) if node.get("transA", 0) else a
    b = b.transpose(0, 1) if node.get("transB", 0) else b
    y = torch.mul(a @ b, node.get("alpha", 1.0))
    return _activated(node, y if c is None else y + c * node.get("beta", 1.0))
