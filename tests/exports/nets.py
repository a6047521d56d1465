"""The networks that are exported: torchvision's, and small recurrent and attention networks of our own."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F


class Recurrent(nn.Module):
    """A bidirectional recurrent network of two layers with a classifier on the last step."""

    def __init__(self, kind: type[nn.LSTM] | type[nn.GRU]) -> None:
        super().__init__()
        self.rnn = kind(12, 16, num_layers=2, bidirectional=True, batch_first=True)
        self.head = nn.Linear(32, 5)

    def forward(self, x):
        return self.head(self.rnn(x)[0][:, -1])


class Attention(nn.Module):
    """Multi-head self-attention, written out, with an optional causal mask."""

    def __init__(self, width: int, heads: int, causal: bool) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x):
        n, t, c = x.shape
        q, k, v = self.qkv(x).view(n, t, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return self.out(y.transpose(1, 2).reshape(n, t, c))


class Block(nn.Module):
    """A transformer block: normalisation after the sum (BERT) or before the layers (GPT)."""

    def __init__(self, width: int, heads: int, before: bool, causal: bool) -> None:
        super().__init__()
        self.before = before
        self.attention = Attention(width, heads, causal)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x):
        if self.before:
            x = x + self.attention(self.norm1(x))
            return x + self.mlp(self.norm2(x))
        x = self.norm1(x + self.attention(x))
        return self.norm2(x + self.mlp(x))


class Bert(nn.Module):
    """Token, position and type embeddings, blocks normalised afterwards, a pooled classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.token, self.position, self.kind = nn.Embedding(50, 32), nn.Embedding(16, 32), nn.Embedding(2, 32)
        self.norm = nn.LayerNorm(32)
        self.blocks = nn.Sequential(*(Block(32, 4, before=False, causal=False) for _ in range(2)))
        self.pool, self.head = nn.Linear(32, 32), nn.Linear(32, 3)

    def forward(self, ids, kinds):
        places = torch.arange(ids.shape[1], device=ids.device)[None]
        x = self.norm(self.token(ids) + self.position(places) + self.kind(kinds))
        return self.head(torch.tanh(self.pool(self.blocks(x)[:, 0])))


class Gpt(nn.Module):
    """Causal blocks normalised beforehand; the output layer is the embedding (tied)."""

    def __init__(self) -> None:
        super().__init__()
        self.token, self.position = nn.Embedding(50, 32), nn.Embedding(16, 32)
        self.blocks = nn.Sequential(*(Block(32, 4, before=True, causal=True) for _ in range(2)))
        self.norm = nn.LayerNorm(32)

    def forward(self, ids):
        places = torch.arange(ids.shape[1], device=ids.device)[None]
        x = self.norm(self.blocks(self.token(ids) + self.position(places)))
        return x @ self.token.weight.T


class Cnn(nn.Module):
    """Convolutions with normalisation, a squeeze-and-excitation gate and a dynamic flatten."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Hardswish())
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 8, 1), nn.Hardsigmoid())
        self.depthwise = nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=8, bias=False)
        self.norm, self.head = nn.GroupNorm(2, 8), nn.Linear(8 * 8 * 8, 5)

    def forward(self, x):
        x = self.first(x)
        x = F.max_pool2d(F.silu(self.norm(self.depthwise(x * self.gate(x)))), 1)
        x = F.interpolate(F.avg_pool2d(x, 2), scale_factor=2.0, mode="bilinear")
        return self.head(x.flatten(1))


def ids(*shape: int) -> torch.Tensor:
    """Return token numbers."""
    return torch.randint(0, 50, shape, generator=torch.Generator().manual_seed(0))


def image(side: int) -> tuple[torch.Tensor, ...]:
    """Return two images."""
    return (torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0)),)


SMALL: dict[str, Callable[[], tuple[nn.Module, tuple[torch.Tensor, ...]]]] = {
    "cnn": lambda: (Cnn(), image(16)),
    "lstm": lambda: (Recurrent(nn.LSTM), (torch.randn(2, 7, 12),)),
    "gru": lambda: (Recurrent(nn.GRU), (torch.randn(2, 7, 12),)),
    "bert": lambda: (Bert(), (ids(2, 9), ids(2, 9) % 2)),
    "gpt": lambda: (Gpt(), (ids(2, 9),)),
}


def vision(name: str, side: int, **options: object) -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    """Return one of torchvision's networks with random weights, none of its layers silent."""
    import torchvision

    net = getattr(torchvision.models, name)(weights=None, **options)
    with torch.no_grad():
        for parameter in net.parameters():
            # ViT's head and ConvNeXt's layer scales start at (nearly) zero: a wrong body would not show.
            if parameter.abs().max() < 1e-3:
                parameter.copy_(torch.randn_like(parameter) * 0.1)
    return net, image(side)


LARGE: dict[str, Callable[[], tuple[nn.Module, tuple[torch.Tensor, ...]]]] = {
    "resnet18": lambda: vision("resnet18", 64),
    "resnet50": lambda: vision("resnet50", 64),
    "mobilenet_v2": lambda: vision("mobilenet_v2", 64),
    "mobilenet_v3_small": lambda: vision("mobilenet_v3_small", 64),
    "efficientnet_b0": lambda: vision("efficientnet_b0", 64),
    "densenet121": lambda: vision("densenet121", 64),
    "squeezenet1_1": lambda: vision("squeezenet1_1", 64),
    "shufflenet_v2_x0_5": lambda: vision("shufflenet_v2_x0_5", 64),
    "vit_b_16": lambda: vision("vit_b_16", 32, image_size=32),
    "swin_t": lambda: vision("swin_t", 64),
    "convnext_tiny": lambda: vision("convnext_tiny", 64),
}
