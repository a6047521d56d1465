"""Training of models that have an output whose length depends on values."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
from text_graphs import proto_of

import onnxcompress
from onnxcompress.core.errors import UnsupportedError

WEIGHTS = {"w": (6, 64), "v": (64, 30), "z": np.array(0, np.int64)}
FOUND = (
    "h = MatMul(x, w) r = Relu(h) s = MatMul(r, v) n = NonZero(r) p = Transpose(n) f = GatherND(r, p) "
    "c = CumSum(f, z)"
)


def compressed(outputs: str):
    rows = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)
    return onnxcompress.compress(
        proto_of(FOUND, "float[N, 6] x", outputs, WEIGHTS),
        method="lc-quant",
        data={"x": rows},
        benchmark=False,
        bits=2,
        steps=2,
    )


def test_the_others_are_trained_towards() -> None:
    training = compressed("float[N, 30] s, float[K] f").run.methods[-1].training
    assert training.epochs > 0
    assert all(np.isfinite(p.compressed_loss) for p in training.points)


def test_where_there_is_no_other_what_they_are_selected_from_is_trained_towards() -> None:
    found = compressed("float[K] f")
    assert found.run.methods[-1].training.epochs > 0
    assert [o.name for o in found.run.comparisons[0].outputs] == ["f", "r"]
    assert [v.name for v in found.model.graph.output] == ["f"]


def test_where_that_is_not_known_the_reason_is_told() -> None:
    with pytest.raises(UnsupportedError, match=r"fixed length.*\n?.*lc-quant --mode dc"):
        compressed("float[K] c")
