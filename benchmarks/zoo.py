"""Networks as torch modules with random weights, and what torch's two exporters make of them.

torchvision's networks, and small ones of our own: recurrent, attention, and the blocks that make channels
hard to follow (C2f, GroupNorm and PReLU, pixel shuffle, squeeze-and-excitation). Nothing of them is silent:
scales and heads that a network starts with at zero are random, so that a wrong cut shows in the outputs.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from typing import Any

import onnx
import torch
from torch import nn
from torch.nn import functional as F

Built = tuple[nn.Module, tuple[torch.Tensor, ...]]


class Recurrent(nn.Module):
    """A bidirectional recurrent network of two layers with a classifier on the last step."""

    def __init__(self, kind: type[nn.LSTM] | type[nn.GRU], inputs: int = 12, width: int = 16) -> None:
        super().__init__()
        self.rnn = kind(inputs, width, num_layers=2, bidirectional=True, batch_first=True)
        self.head = nn.Linear(2 * width, 5)

    def forward(self, x):
        return self.head(self.rnn(x)[0][:, -1])


class Tagger(nn.Module):
    """Embeddings, one recurrent layer, and a label for every step."""

    def __init__(self, kind: type[nn.LSTM] | type[nn.GRU]) -> None:
        super().__init__()
        self.words = nn.Embedding(50, 24)
        self.rnn = kind(24, 32, batch_first=True)
        self.hidden, self.head = nn.Linear(32, 20), nn.Linear(20, 7)

    def forward(self, ids):
        return self.head(torch.relu(self.hidden(self.rnn(self.words(ids))[0])))


class Attention(nn.Module):
    """Multi-head self-attention, written out, with an optional causal mask."""

    def __init__(self, width: int, heads: int, causal: bool) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x):
        n, t, _ = x.shape
        q, k, v = self.qkv(x).view(n, t, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return self.out(y.transpose(1, 2).reshape(n, t, -1))


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

    def __init__(self, width: int = 32, heads: int = 4, blocks: int = 2, words: int = 50) -> None:
        super().__init__()
        self.token, self.position = nn.Embedding(words, width), nn.Embedding(16, width)
        self.kind, self.norm = nn.Embedding(2, width), nn.LayerNorm(width)
        self.blocks = nn.Sequential(*(Block(width, heads, before=False, causal=False) for _ in range(blocks)))
        self.pool, self.head = nn.Linear(width, width), nn.Linear(width, 3)

    def forward(self, ids, kinds):
        places = torch.arange(ids.shape[1], device=ids.device)[None]
        x = self.norm(self.token(ids) + self.position(places) + self.kind(kinds))
        return self.head(torch.tanh(self.pool(self.blocks(x)[:, 0])))


class Gpt(nn.Module):
    """Causal blocks normalised beforehand; the output layer is the embedding (tied)."""

    def __init__(self, width: int = 32, heads: int = 4, blocks: int = 2, words: int = 50) -> None:
        super().__init__()
        self.token, self.position = nn.Embedding(words, width), nn.Embedding(16, width)
        self.blocks = nn.Sequential(*(Block(width, heads, before=True, causal=True) for _ in range(blocks)))
        self.norm = nn.LayerNorm(width)

    def forward(self, ids):
        places = torch.arange(ids.shape[1], device=ids.device)[None]
        x = self.norm(self.blocks(self.token(ids) + self.position(places)))
        return x @ self.token.weight.T


class Encoder(nn.Module):
    """Attention by torch's own module, which keeps heads and examples on one axis."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.norm, self.head = nn.Linear(10, 24), nn.LayerNorm(24), nn.Linear(24, 3)
        self.attention = nn.MultiheadAttention(24, 4, batch_first=True)

    def forward(self, x):
        x = self.enter(x)
        y = self.norm(x)
        return self.head(x + self.attention(y, y, y, need_weights=False)[0])


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


class Unet(nn.Module):
    """Two levels with GroupNorm and PReLU, transposed convolution upwards, Concat with the way down."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()

        def level(inputs: int, outputs: int) -> nn.Sequential:
            return nn.Sequential(
                nn.Conv2d(inputs, outputs, 3, padding=1), nn.GroupNorm(4, outputs), nn.PReLU(outputs)
            )

        self.down1, self.down2 = level(3, width), level(width, 2 * width)
        self.middle = level(2 * width, 4 * width)
        self.up2 = nn.ConvTranspose2d(4 * width, 2 * width, 2, stride=2)
        self.up1 = nn.ConvTranspose2d(2 * width, width, 2, stride=2)
        self.join2, self.join1 = level(4 * width, 2 * width), level(2 * width, width)
        self.head = nn.Conv2d(width, 2, 1)

    def forward(self, x):
        first = self.down1(x)
        second = self.down2(F.max_pool2d(first, 2))
        x = self.up2(self.middle(F.max_pool2d(second, 2)))
        x = self.up1(self.join2(torch.cat([second, x], 1)))
        return self.head(self.join1(torch.cat([first, x], 1)))


class C2f(nn.Module):
    """YOLO's block: halves of a split, a chain of bottlenecks with residuals, everything concatenated."""

    def __init__(self, width: int, repeats: int = 2) -> None:
        super().__init__()
        self.enter = self.conv(width, width, 1)
        half = width // 2
        self.bottlenecks = nn.ModuleList(
            nn.Sequential(self.conv(half, half, 3), self.conv(half, half, 3)) for _ in range(repeats)
        )
        self.leave = self.conv((2 + repeats) * half, width, 1)

    @staticmethod
    def conv(inputs: int, outputs: int, size: int, stride: int = 1) -> nn.Sequential:
        layer = nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False)
        return nn.Sequential(layer, nn.BatchNorm2d(outputs), nn.SiLU())

    def forward(self, x):
        parts = list(self.enter(x).chunk(2, 1))
        for bottleneck in self.bottlenecks:
            parts.append(parts[-1] + bottleneck(parts[-1]))
        return self.leave(torch.cat(parts, 1))


class Yolo(nn.Module):
    """Focus slicing, two C2f blocks, spatial pyramid pooling, and a head with boxes as YOLO lays them out."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = C2f.conv(12, 32, 3)
        self.first, self.down, self.second = C2f(32), C2f.conv(32, 64, 3, 2), C2f(64)
        self.squeeze, self.mix = C2f.conv(64, 32, 1), C2f.conv(128, 64, 1)
        self.lateral = C2f(96)
        self.box, self.score = nn.Conv2d(96, 4, 1), nn.Conv2d(96, 3, 1)

    def forward(self, x):
        x = torch.cat([x[..., ::2, ::2], x[..., 1::2, ::2], x[..., ::2, 1::2], x[..., 1::2, 1::2]], 1)
        fine = self.first(self.stem(x))
        pyramid = [self.squeeze(self.second(self.down(fine)))]
        for _ in range(3):
            pyramid.append(F.max_pool2d(pyramid[-1], 5, 1, 2))
        coarse = F.interpolate(self.mix(torch.cat(pyramid, 1)), scale_factor=2.0, mode="nearest")
        x = self.lateral(torch.cat([coarse, fine], 1))
        return torch.cat([self.box(x), self.score(x).sigmoid()], 1).flatten(2).transpose(1, 2)


class SuperResolution(nn.Module):
    """Residual convolutions and two pixel shuffles."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, width, 3, padding=1)
        self.body = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(width, width, 3, padding=1), nn.PReLU(), nn.Conv2d(width, width, 3, padding=1)
            )
            for _ in range(2)
        )
        self.grow, self.last = nn.Conv2d(width, 4 * width, 3, padding=1), nn.Conv2d(width, 4, 3, padding=1)

    def forward(self, x):
        x = self.first(x)
        for block in self.body:
            x = x + block(x)
        return F.pixel_shuffle(self.last(F.pixel_shuffle(self.grow(x), 2)), 2)


class Excite(nn.Module):
    """Squeeze-and-excitation with Linear layers, behind a Pad and in front of a flattening classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 16, 3, stride=2), nn.BatchNorm2d(16)
        self.squeeze, self.excite = nn.Linear(16, 8), nn.Linear(8, 16)
        self.second, self.head = nn.Conv2d(16, 24, 3, groups=4), nn.Linear(24 * 9, 5)

    def forward(self, x):
        x = F.leaky_relu(self.norm(self.first(F.pad(x, (0, 1, 0, 1)))))
        gate = torch.sigmoid(self.excite(torch.relu(self.squeeze(x.mean((2, 3))))))
        x = self.second(x * gate[:, :, None, None])
        return self.head(F.avg_pool2d(torch.relu(x), 3, 1).flatten(1))


def ids(*shape: int, words: int = 50) -> torch.Tensor:
    """Return token numbers."""
    return torch.randint(0, words, shape, generator=torch.Generator().manual_seed(0))


def image(side: int, channels: int = 3) -> tuple[torch.Tensor, ...]:
    """Return two images."""
    return (torch.randn(2, channels, side, side, generator=torch.Generator().manual_seed(0)),)


def wake(net: nn.Module) -> nn.Module:
    """Give random values to what a network starts with at zero or one: scales, heads, statistics."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in net.parameters():
            # ViT's head and ConvNeXt's layer scales start at (nearly) zero: a wrong body would not show.
            if parameter.abs().max() < 1e-3:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
        for module in net.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.running_mean.normal_(0.0, 0.1, generator=generator)
                module.running_var.uniform_(0.5, 1.5, generator=generator)
            if isinstance(module, (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm)):
                module.weight.uniform_(0.5, 1.5, generator=generator)
    return net


def vision(name: str, side: int, **options: object) -> Built:
    """Return one of torchvision's networks with random weights, none of its layers silent."""
    from onnxcompress.engine.graph.foreign_onnx2torch import beside_torch

    build = getattr(beside_torch("torchvision").models, name)
    return wake(build(weights=None, **options)), image(side)


SMALL: dict[str, Callable[[], Built]] = {
    "cnn": lambda: (wake(Cnn()), image(16)),
    "lstm": lambda: (Recurrent(nn.LSTM), (torch.randn(2, 7, 12),)),
    "gru": lambda: (Recurrent(nn.GRU), (torch.randn(2, 7, 12),)),
    "bert": lambda: (Bert(), (ids(2, 9), ids(2, 9) % 2)),
    "gpt": lambda: (Gpt(), (ids(2, 9),)),
    "encoder": lambda: (Encoder(), (torch.randn(2, 5, 10),)),
    "lstm_tagger": lambda: (Tagger(nn.LSTM), (ids(2, 9),)),
    "gru_tagger": lambda: (Tagger(nn.GRU), (ids(2, 9),)),
    "unet": lambda: (wake(Unet()), image(32)),
    "yolo": lambda: (wake(Yolo()), image(32)),
    "super_resolution": lambda: (SuperResolution(), image(12, channels=1)),
    "excite": lambda: (wake(Excite()), image(15)),
}

LARGE: dict[str, Callable[[], Built]] = {
    "resnet18": lambda: vision("resnet18", 64),
    "resnet50": lambda: vision("resnet50", 64),
    "densenet121": lambda: vision("densenet121", 64),
    "mobilenet_v2": lambda: vision("mobilenet_v2", 64),
    "mobilenet_v3_small": lambda: vision("mobilenet_v3_small", 64),
    "efficientnet_b0": lambda: vision("efficientnet_b0", 64),
    "shufflenet_v2_x0_5": lambda: vision("shufflenet_v2_x0_5", 64),
    "squeezenet1_1": lambda: vision("squeezenet1_1", 64),
    "googlenet": lambda: vision("googlenet", 64, aux_logits=False, init_weights=False),
    "vgg11_bn": lambda: vision("vgg11_bn", 224),
    "vit_b_16": lambda: vision("vit_b_16", 32, image_size=32),
    "swin_t": lambda: vision("swin_t", 64),
    "convnext_tiny": lambda: vision("convnext_tiny", 64),
    "bert_4x128": lambda: (Bert(128, 4, 4, 500), (ids(2, 9, words=500), ids(2, 9) % 2)),
    "gpt_4x128": lambda: (Gpt(128, 4, 4, 500), (ids(2, 9, words=500),)),
}

EXPORTERS = ("torchscript", "dynamo")


def build(name: str) -> Built:
    """Return a network in evaluation mode and inputs for it, the same every time."""
    torch.manual_seed(0)
    net, inputs = (SMALL | LARGE)[name]()
    return net.eval(), inputs


def export(
    net: nn.Module,
    inputs: tuple[torch.Tensor, ...],
    exporter: str,
    *,
    opset: int | None = None,
    dynamic_batch: bool = False,
) -> onnx.ModelProto:
    """Return the ONNX model of a network in evaluation mode; its inputs are ``input_0``, ``input_1`` …"""
    names = [f"input_{k}" for k in range(len(inputs))]
    options: dict[str, Any] = {"input_names": names, "output_names": ["output_0"], "opset_version": opset}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if exporter == "dynamo":
            if dynamic_batch:
                options["dynamic_shapes"] = tuple({0: torch.export.Dim("batch")} for _ in inputs)
            program = torch.onnx.export(net.eval(), inputs, dynamo=True, verbose=False, **options)
            return program.model_proto
        if dynamic_batch:
            options["dynamic_axes"] = {name: {0: "batch"} for name in names}
        target = io.BytesIO()
        torch.onnx.export(net.eval(), inputs, target, dynamo=False, **options)
    return onnx.load_from_string(target.getvalue())
