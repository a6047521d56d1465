"""Torch-Pruning on one network of the zoo; run by ``pruning_peers.py`` with the peers' interpreter.

Usage: ``python _peer_torch_pruning.py NETWORK EXPORTER OUT.onnx``; prints one line of JSON. Used as its
own tests and examples use it on torchvision's networks: local pruning by ℓ1 magnitude at ratio 0.5, the final
layer ignored, heads of attention named where a module has them.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from importlib.metadata import version

import onnx
import torch
import torch_pruning
import zoo
from torch import nn

RATIO = 0.5


def final_layer(net: nn.Module) -> nn.Module:
    """Return the layer that makes the outputs: the last one with the weights of a layer."""
    return [m for m in net.modules() if isinstance(m, (nn.Linear, nn.Conv2d))][-1]


def options(net: nn.Module) -> dict[str, object]:
    """Return what has to be said of attention: heads that share a projection."""
    heads: dict[nn.Module, int] = {}
    for module in net.modules():
        if isinstance(module, nn.MultiheadAttention):
            heads[module] = module.num_heads
        elif isinstance(module, zoo.Attention):
            heads[module.qkv] = module.heads
        elif hasattr(module, "qkv") and hasattr(module, "num_heads"):
            heads[module.qkv] = module.num_heads
    # Widths stay multiples of the heads, as the authors' test of torchvision's ViT does.
    return {"num_heads": heads, "round_to": max(heads.values())} if heads else {}


def repair(net: nn.Module) -> None:
    """Set the widths that the networks' own forward functions read, as the authors' examples do."""
    for module in net.modules():
        if type(module).__name__ == "VisionTransformer":
            module.hidden_dim = module.conv_proj.out_channels


def main(name: str, exporter: str, out: str) -> None:
    torch.set_num_threads(1)
    net, inputs = zoo.build(name)
    report: dict[str, object] = {"version": version("torch-pruning")}
    report["parameters_before"] = sum(p.numel() for p in net.parameters())
    try:
        began = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pruner = torch_pruning.pruner.MagnitudePruner(
                net,
                example_inputs=inputs if len(inputs) > 1 else inputs[0],
                importance=torch_pruning.importance.MagnitudeImportance(p=1),
                pruning_ratio=RATIO,
                ignored_layers=[final_layer(net)],
                **options(net),
            )
            pruner.step()
        report["seconds"] = time.perf_counter() - began
        report["parameters_after"] = sum(p.numel() for p in net.parameters())
        repair(net)
        with torch.no_grad():
            net(*inputs)
        onnx.save(zoo.export(net, inputs, exporter), out)
        report["written"] = True
    except Exception as error:
        report["error"] = f"{type(error).__name__}: {error}".splitlines()[0]
    print(json.dumps(report))


if __name__ == "__main__":
    main(*sys.argv[1:])
