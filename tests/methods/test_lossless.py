"""--method lossless from end to end: alone, with nothing to find, and before other methods."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
from text_graphs import proto_of

import onnxcompress
from onnxcompress.core.errors import NothingChangedError

RNG = np.random.default_rng(0)
NET = (
    "a = Conv <pads = [1, 1, 1, 1]> (x, w1, z1) b = BatchNormalization (a, s, h, m, v)"
    "c = Relu (b) d = Identity (c)"
    "e = Conv <pads = [1, 1, 1, 1]> (d, w2, z2) f = Relu (e) g = GlobalAveragePool (f) i = Flatten (g)"
    "y = Gemm <transB = 1> (i, w3, b3)"
)
WEIGHTS = {
    "w1": (16, 3, 3, 3), "w2": (16, 16, 3, 3), "z1": np.zeros(16, np.float32), "z2": np.zeros(16, np.float32),
    "s": (16,), "h": (16,), "m": (16,), "v": RNG.uniform(1, 2, 16).astype(np.float32),
    "w3": (10, 16), "b3": (10,),
}  # fmt: skip
SMALL = ("float[N, 3, 8, 8] x", "float[N, 10] y")


def net():
    return proto_of(NET, *SMALL, WEIGHTS)


def test_alone():
    result = onnxcompress.compress(net(), method="lossless")
    assert [n.op_type for n in result.model.graph.node] == [
        "Conv",
        "Relu",
        "Conv",
        "Relu",
        "GlobalAveragePool",
        "Flatten",
        "Gemm",
    ]
    (facts,) = result.run.simplifications
    assert {c.rule: c.count for c in facts.changes} == {"passing on": 1, "normalisation": 1}
    assert result.run.models[1].size_bytes < result.run.models[0].size_bytes
    assert (
        result.run.models[0].size_bytes - result.run.models[1].size_bytes
        == facts.bytes_before - facts.bytes_after
    )
    (outputs,) = result.run.comparisons[0].outputs
    assert outputs.relative_l2 < 1e-5


def test_bit_by_bit():
    result = onnxcompress.compress(net(), method="lossless", bitwise=True)
    assert [c.rule for f in result.run.simplifications for c in f.changes] == ["passing on", "duplicates"]
    assert all(o.equal for o in result.run.comparisons[0].outputs)


def test_nothing_to_find():
    simple = onnxcompress.compress(net(), method="lossless").model
    with pytest.raises(NothingChangedError, match="holds nothing twice or for nothing") as error:
        onnxcompress.compress(simple, method="lossless")
    assert error.value.exit_code == 4


def test_methods_after_it_meet_layers_apart():
    """Equal biases of two layers, stored once, would tie the channels of both."""
    both = onnxcompress.compress(net(), method=("lossless", "magnitude"), keep=0.5, round_to=4)
    alone = onnxcompress.compress(net(), method="magnitude", keep=0.5, round_to=4)
    assert [g.of for g in both.run.cuts[0].groups] == [g.of for g in alone.run.cuts[0].groups] == [16, 16]
    assert both.run.models[1].size_bytes < alone.run.models[1].size_bytes


def test_quantisation_after_it():
    both = onnxcompress.compress(net(), method=("lossless", "lc-quant"), bits=2)
    alone = onnxcompress.compress(net(), method="lc-quant", bits=2)
    assert both.run.models[1].size_bytes < alone.run.models[1].size_bytes
    assert "BatchNormalization" not in {n.op_type for n in both.model.graph.node}


def test_after_quantisation_compressed_weights_stay_so():
    packed = onnxcompress.compress(net(), method="lc-quant", bits=1)
    again = onnxcompress.compress(packed.model, method="lossless")
    assert again.run.models[1].size_bytes < packed.run.models[1].size_bytes
    assert any("compressed" in r.why for r in again.run.refusals)
    assert sum(w.encoding != "dense" for w in again.run.weights) == sum(
        w.encoding != "dense" for w in packed.run.weights
    )
