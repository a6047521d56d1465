"""Activations: element-wise, one input, most with constants as attributes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from onnxcompress.core.encoding import Array
from onnxcompress.ops._base import Node, operator
from onnxcompress.ops._examples import always, example, normal, since
from onnxcompress.ops._torch import F, Tensor, late, torch

_SELU_ALPHA = 1.67326319217681884765625
_SELU_GAMMA = 1.05070102214813232421875


def _x() -> Array:
    return normal(3, 4, 5, seed=1)


def _linear_above(x: Tensor) -> float:
    """Return where softplus equals the identity to the last bit of the type; torch's 20 fits float32."""
    return {torch.float64: 40.0, torch.float32: 20.0}.get(x.dtype, 10.0)


_PLAIN: dict[str, Callable[[Tensor], Tensor]] = {
    "Relu": late("relu"),
    "Sigmoid": late("sigmoid"),
    "Tanh": late("tanh"),
    "Softplus": lambda x: F.softplus(x, threshold=_linear_above(x)),
    "Softsign": lambda x: x / (1 + x.abs()),
    "HardSwish": late("F.hardswish"),
    "Mish": late("F.mish"),
}


def _plain(function: Callable[[Tensor], Tensor]) -> Callable[..., Any]:
    return lambda node, x: function(x)


for _name, _function in _PLAIN.items():
    operator(_name, examples=always(example(_x())))(_plain(_function))


def _alpha(**attributes: Any) -> Any:
    return always(example(_x()), example(_x(), **attributes))


@operator("LeakyRelu", examples=_alpha(alpha=0.3))
def _leaky_relu(node: Node, x: Tensor) -> Tensor:
    return F.leaky_relu(x, node.get("alpha", 0.01))


@operator("Elu", examples=_alpha(alpha=0.7))
def _elu(node: Node, x: Tensor) -> Tensor:
    return F.elu(x, node.get("alpha", 1.0))


@operator("Celu", examples=_alpha(alpha=0.7))
def _celu(node: Node, x: Tensor) -> Tensor:
    return F.celu(x, node.get("alpha", 1.0))


@operator("Selu", examples=_alpha(alpha=1.2, gamma=0.9))
def _selu(node: Node, x: Tensor) -> Tensor:
    # the defaults of version 1 differ from the published constants in the fourth digit
    alpha = node.get("alpha", 1.6732 if node.version == 1 else _SELU_ALPHA)
    gamma = node.get("gamma", 1.0507 if node.version == 1 else _SELU_GAMMA)
    return torch.mul(F.elu(x, alpha), gamma)


@operator("ThresholdedRelu", examples=_alpha(alpha=0.4))
def _thresholded_relu(node: Node, x: Tensor) -> Tensor:
    return torch.where(x > node.get("alpha", 1.0), x, torch.zeros_like(x))


@operator("HardSigmoid", examples=_alpha(alpha=0.3, beta=0.4))
def _hard_sigmoid(node: Node, x: Tensor) -> Tensor:
    return torch.clamp(x * node.get("alpha", 0.2) + node.get("beta", 0.5), 0, 1)


@operator("Shrink", examples=_alpha(lambd=0.4, bias=0.2))
def _shrink(node: Node, x: Tensor) -> Tensor:
    threshold, bias = node.get("lambd", 0.5), node.get("bias", 0.0)
    zero = torch.zeros_like(x)
    shrunk = torch.where(x < -threshold, x + bias, torch.where(x > threshold, x - bias, zero))
    return shrunk.to(x.dtype)


@operator("Gelu", examples=always(example(_x()), example(_x(), approximate="tanh")))
def _gelu(node: Node, x: Tensor) -> Tensor:
    return F.gelu(x, approximate=node.get("approximate", "none"))


@operator("Swish", examples=_alpha(alpha=0.7))
def _swish(node: Node, x: Tensor) -> Tensor:
    return x * torch.sigmoid(node.get("alpha", 1.0) * x)


@operator(
    "PRelu",
    examples=since(
        {
            1: [example(_x(), normal(4, seed=2)), example(_x(), normal(1, seed=2))],
            7: [example(_x(), normal(4, 1, seed=2)), example(_x(), normal(1, seed=2)), example(_x(), _x())],
        }
    ),
)
def _prelu(node: Node, x: Tensor, slope: Tensor) -> Tensor:
    # before version 7 a slope is one number or one a channel
    if node.version < 7 and slope.numel() > 1:
        slope = slope.reshape(-1, *[1] * (x.dim() - 2))
    return torch.where(x < 0, x * slope, x)


@operator("SwiGLU", examples=always(example(_x(), _x(), alpha=0.8)))
def _swiglu(node: Node, gate: Tensor, value: Tensor) -> Tensor:
    return gate * torch.sigmoid(node.get("alpha", 1.0) * gate) * value
