"""Is the latency comparison honest? A model against itself, and against one with a known amount more work.

Usage: ``python benchmarks/latency_aa.py [--repeats 100] [--budget 10] [--write results/latency_aa.md]``

A against A must be called "no measurable difference" in at least 95 of 100 comparisons. Against the same
network on images of 1.073 times the pixels, and with 1.25 times the layers, "slower" must be said.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper

from onnxcompress import bench
from onnxcompress.core.encoding import Array
from onnxcompress.core.run import LatencyRatio
from onnxcompress.engine.measures import facts, stats


def _model(nodes: list[NodeProto], name: str, shape: tuple[int, ...], weights: dict[str, Array]) -> bytes:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, None)],
        [numpy_helper.from_array(w, name) for name, w in weights.items()],
    )
    opsets = [helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()


def _weight(*shape: int) -> Array:
    rng = np.random.default_rng(shape[0])
    return (rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)


@dataclass(frozen=True)
class Network:
    """A network of one input: its file, and the input's name and shape."""

    file: bytes
    name: str
    shape: tuple[int, ...]


def convolutions(side: int, widths: tuple[int, ...] = (3, 32, 64, 64)) -> Network:
    """3×3 convolutions with ReLU on one image of ``side``² pixels."""
    name, shape = f"image{side}", (1, widths[0], side, side)
    nodes, weights, last = [], {}, name
    for i, (width, out) in enumerate(pairwise(widths)):
        weights[f"w{i}"] = _weight(out, width, 3, 3)
        nodes.append(helper.make_node("Conv", [last, f"w{i}"], [f"c{i}"], pads=[1, 1, 1, 1]))
        nodes.append(helper.make_node("Relu", [f"c{i}"], [f"r{i}"]))
        last = f"r{i}"
    return Network(_model(nodes, name, shape, weights), name, shape)


def perceptron(batch: int, widths: tuple[int, ...]) -> Network:
    """Fully connected layers with ReLU on ``batch`` rows."""
    name, shape = f"rows{batch}", (batch, widths[0])
    nodes, weights, last = [], {}, name
    for i, (width, out) in enumerate(pairwise(widths)):
        weights[f"w{i}"] = _weight(out, width)
        nodes.append(helper.make_node("Gemm", [last, f"w{i}"], [f"g{i}"], transB=1))
        nodes.append(helper.make_node("Relu", [f"g{i}"], [f"r{i}"]))
        last = f"r{i}"
    return Network(_model(nodes, name, shape, weights), name, shape)


@dataclass(frozen=True)
class Case:
    """Two networks, the verdict that is right, and the ratio of their work."""

    name: str
    first: Network
    second: Network
    expected: str
    work: float


def cases() -> Iterator[Case]:
    """Yield the comparisons, A against A first."""
    small, large = (256, 512, 512, 10), (1024, 2048, 2048, 1024, 10)
    for name, network in (
        ("convolutions, 56²", convolutions(56)),
        ("perceptron, 1.6 MB", perceptron(1, small)),
        ("perceptron, 34 MB", perceptron(1, large)),
    ):
        yield Case(f"{name}, against itself", network, network, stats.SAME, 1.0)
    planted = (58 / 56) ** 2
    yield Case("convolutions, 56² → 58²", convolutions(56), convolutions(58), stats.SLOWER, planted)
    four, five = (convolutions(28, (64,) * depth) for depth in (5, 6))
    yield Case("4 → 5 convolutions, 28²", four, five, stats.SLOWER, 5 / 4)


def compared(case: Case, *, budget_s: float, seed: int) -> LatencyRatio:
    """Return ratio, interval and verdict of one comparison."""
    rng = np.random.default_rng(seed)
    networks = (case.first, case.second)
    feeds = {n.name: rng.standard_normal(n.shape).astype(np.float32) for n in networks}
    models = {"first": case.first.file, "second": case.second.file}
    result = bench.compare_latency(models, feeds, budget_s=budget_s, seed=seed, memory=False)
    return result.ratios[0]


def row(case: Case, ratios: list[LatencyRatio]) -> str:
    """Return one line of the table."""
    right = sum(r.verdict == case.expected for r in ratios)
    holds = sum(r.low <= case.work <= r.high for r in ratios)
    values = np.array([r.ratio for r in ratios])
    half = np.median([(r.high - r.low) / 2 for r in ratios])
    spread = f"{np.median(values):.3f} ({values.min():.3f} to {values.max():.3f})"
    return (
        f"| {case.name} | {case.work:.3f} | {spread} "
        f"| ±{100 * half:.1f} % | {holds} of {len(ratios)} | {case.expected}: {right} of {len(ratios)} |"
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=100)
    parser.add_argument("--budget", type=float, default=bench.BUDGET_S, help="seconds a comparison")
    parser.add_argument("--write", type=Path)
    arguments = parser.parse_args()
    environment = facts.environment()
    lines = [
        "# Latency comparison: A against A, and planted differences",
        "",
        f"{environment.cpu}, {environment.cores} cores, onnxruntime {environment.packages['onnxruntime']}; "
        f"{arguments.budget:g} s a comparison; load of the machine {_load()}.",
        "",
        "| models | work | ratio, median (range) | interval | holds the work's ratio | right verdict |",
        "|---|---|---|---|---|---|",
    ]
    honest = True
    for case in cases():
        ratios = [compared(case, budget_s=arguments.budget, seed=i) for i in range(arguments.repeats)]
        lines.append(row(case, ratios))
        print(lines[-1], flush=True)
        right = sum(r.verdict == case.expected for r in ratios)
        honest &= right >= 0.95 * len(ratios)
    if arguments.write:
        arguments.write.parent.mkdir(exist_ok=True)
        arguments.write.write_text("\n".join(lines) + "\n")
    return 0 if honest else 1


def _load() -> str:
    return f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "not known"


if __name__ == "__main__":
    raise SystemExit(main())
