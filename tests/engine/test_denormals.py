"""Denormal numbers: flushing them makes a network fast that computes with nothing else."""

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from onnxcompress import bench
from onnxcompress.core.run import Benchmark, Latency
from onnxcompress.pipeline import _original as originals


def sinking(scale: float) -> bytes:
    """Return 12 products of 256 × 256, each of which multiplies the size of its input by ``scale``."""
    rng = np.random.default_rng(0)
    nodes, arrays = [], {}
    for index in range(12):
        rotation, _ = np.linalg.qr(rng.standard_normal((256, 256)))
        arrays[f"w{index}"] = (rotation * (scale if index == 0 else 1.0)).astype(np.float32)
        nodes.append(helper.make_node("MatMul", [f"h{index}", f"w{index}"], [f"h{index + 1}"]))
    graph = helper.make_graph(
        nodes,
        "sinking",
        [helper.make_tensor_value_info("h0", onnx.TensorProto.FLOAT, [8, 256])],
        [helper.make_tensor_value_info("h12", onnx.TensorProto.FLOAT, [8, 256])],
        [numpy_helper.from_array(a, n) for n, a in arrays.items()],
    )
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    ).SerializeToString()


def test_only_the_network_that_sinks_is_slowed_by_denormals():
    feeds = {"h0": np.random.default_rng(1).standard_normal((8, 256)).astype(np.float32)}
    models = {"firm": sinking(1.0), "sinking": sinking(1e-39)}
    found = bench.compare_latency(models, feeds, budget_s=1.0, memory=False, denormals=True)
    firm, low = found.latencies
    if low.median_ms < 1.3 * firm.median_ms:
        pytest.skip("this processor computes with denormal numbers as fast as with others")
    assert low.flushed_ms < low.median_ms / 1.3
    words = "the latency of sinking rests on random inputs and denormal numbers"
    (said,) = (w for w in originals.latency_warnings(found) if words in w)
    assert "its ratio would be" in said


def times(name, median, flushed):
    return Latency(name, median, median, median, median, None, None, None, (), flushed)


def test_the_warning_gives_both_ratios_and_is_silent_without_cause():
    def of(*latencies):
        return Benchmark(latencies, (), 1, "", "", 1, 1, "")

    (said,) = originals.latency_warnings(of(times("a", 10.0, 9.9), times("b", 18.0, 9.0)))
    assert "18 ms, 9 ms with them flushed to zero" in said
    assert "its ratio would be 0.91 and not 1.80" in said
    assert originals.latency_warnings(of(times("a", 10.0, 9.0), times("b", 5.0, None))) == ()
    assert originals.latency_warnings(None) == ()
