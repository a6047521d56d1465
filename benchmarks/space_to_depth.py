"""A convolution behind a space-to-depth, and one that reads the picture itself: which is faster.

Usage: ``python benchmarks/space_to_depth.py``

Shapes of first layers, and others. ``--method lossless`` takes the second form for up to 8 channels of the
picture, and for multiples of 16 where the kernel is 1 x 1; the table shows what it leaves alone, too. Writes
``benchmarks/results/space_to_depth.md``.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

RESULTS = Path(__file__).parent / "results"
LAYERS = (
    (3, 16, 3, 416, 2), (3, 32, 3, 640, 2), (1, 16, 3, 416, 2), (3, 64, 1, 224, 2), (3, 96, 1, 224, 4),
    (3, 192, 1, 224, 16), (3, 48, 3, 224, 4), (4, 10, 3, 208, 2), (6, 32, 3, 208, 2), (8, 32, 3, 208, 2),
    (12, 32, 3, 208, 2), (16, 32, 3, 208, 2), (16, 32, 1, 208, 2), (18, 32, 3, 208, 2), (20, 32, 3, 208, 2),
    (64, 128, 3, 56, 2), (64, 128, 1, 56, 2), (96, 192, 1, 56, 2),
)  # fmt: skip
"""Channels of the picture, of the layer, side of the kernel, of the picture, of a square."""


def model(nodes: list[onnx.NodeProto], channels: int, size: int, weight: np.ndarray) -> bytes:
    """Return a file of a layer and what reads it."""
    graph = helper.make_graph(
        [*nodes, helper.make_node("Relu", ["c"], ["r"]), helper.make_node("GlobalMaxPool", ["r"], ["y"])],
        "layer",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, channels, size, size])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, weight.shape[0], 1, 1])],
        [numpy_helper.from_array(weight, "w")],
    )
    opset = [helper.make_opsetid("", 17)]
    return bytes(helper.make_model(graph, opset_imports=opset, ir_version=8).SerializeToString())


def main() -> None:
    """Measure and write the table."""
    from onnxcompress import bench
    from onnxcompress.surgery.lossless.space_to_depth import Squares, spread

    lines = [
        "# A convolution behind a space-to-depth",
        "",
        'Written by `python benchmarks/space_to_depth.py`; see there. "behind" is the latency '
        "behind a space-to-depth; the ratio is below 1 where reading the picture itself is faster.",
        "",
        "| channels | outputs | kernel | picture | square | behind | ratio | 95 % interval |",
        "|---|---|---|---|---|---|---|---|",
    ]
    rng = np.random.default_rng(0)
    for channels, outputs, kernel, size, side in LAYERS:
        weight = rng.normal(size=(outputs, channels * side * side, kernel, kernel)).astype(np.float32)
        places = np.array(list(itertools.product(range(side), range(side), range(channels))))
        squares = Squares(side, side, places[:, 2], places[:, 0], places[:, 1])
        pad = kernel // 2
        deep = [
            helper.make_node("SpaceToDepth", ["x"], ["d"], blocksize=side),
            helper.make_node("Conv", ["d", "w"], ["c"], pads=[pad] * 4),
        ]
        itself = [helper.make_node("Conv", ["x", "w"], ["c"], pads=[pad * side] * 4, strides=[side] * 2)]
        found = bench.compare_latency(
            {
                "behind": model(deep, channels, size, weight),
                "itself": model(itself, channels, size, spread(weight, squares)),
            },
            {"x": rng.normal(size=(1, channels, size, size)).astype(np.float32)},
            budget_s=4,
            memory=False,
        )
        ratio = found.ratios[0]
        lines.append(
            f"| {channels} | {outputs} | {kernel} | {size} | {side} | {found.latencies[0].median_ms:.2f} ms "
            f"| {ratio.ratio:.2f} | {ratio.low:.2f} to {ratio.high:.2f} |"
        )
        print(lines[-1], flush=True)
    (RESULTS / "space_to_depth.md").write_text("\n".join([*lines, ""]))


if __name__ == "__main__":
    main()
