"""Encodings taken apart for a checkpoint and put together again are the same."""

from __future__ import annotations

import json

import numpy as np
import pytest

from onnxcompress.core.encoding import Encoding
from onnxcompress.encodings._base import ENCODINGS
from onnxcompress.encodings.additive import Sum
from onnxcompress.encodings.codebook import AdaptiveCodebook
from onnxcompress.encodings.dense import Dense
from onnxcompress.encodings.half import HalfPrecision
from onnxcompress.encodings.lowrank import FixedRank
from onnxcompress.encodings.scaled import IntGrid
from onnxcompress.encodings.sparse import Pruning
from onnxcompress.encodings.sparse_codebook import PruneCodebook
from onnxcompress.encodings.trellis import Trellis, TrellisCodebook
from onnxcompress.engine.lc.keeping import put_together, taken_apart

WEIGHT = np.random.default_rng(0).normal(size=(20, 6, 3, 3)).astype(np.float32)
KINDS = {
    "codebook": AdaptiveCodebook(4),
    "codebooks of groups": AdaptiveCodebook(3, granularity="group", axis=1, group_size=10),
    "scaled": IntGrid(entries=4, granularity="channel"),
    "sparse": Pruning(0.2),
    "sparse codebook": PruneCodebook(4, 0.3),
    "low rank": FixedRank(2),
    "half": HalfPrecision("bf16"),
    "trellis": TrellisCodebook(4),
    "sum": Sum((FixedRank(2), Sum((AdaptiveCodebook(2), Pruning(0.1))))),
}


def encodings(dtype: type = np.float32) -> dict[str, Encoding]:
    weight = WEIGHT.astype(dtype)
    found = {name: kind.project([weight])[0] for name, kind in KINDS.items()}
    _, scaled = TrellisCodebook(4).project([3 * weight, weight])
    assert isinstance(scaled, Trellis)
    assert scaled.scale < 1
    return {"layers.0/weight": Dense(weight), "trellis, scaled": scaled, **found}


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_what_is_put_together_is_what_was_taken_apart(dtype: type) -> None:
    before = encodings(dtype)
    arrays, description = taken_apart(before)
    after = put_together(arrays, json.loads(json.dumps(description)))
    assert set(after) == set(before)
    for name, encoding in before.items():
        again = after[name]
        assert type(again) is type(encoding)
        assert (again.shape, again.dtype, again.stored_bits()) == (
            encoding.shape,
            encoding.dtype,
            encoding.stored_bits(),
        )
        assert again.decode().tobytes() == encoding.decode().tobytes()
        assert np.array_equal(again.take(0, np.arange(5)).decode(), encoding.take(0, np.arange(5)).decode())


def test_arrays_are_all_that_is_large() -> None:
    arrays, description = taken_apart(encodings())
    assert len(json.dumps(description)) < 4000
    assert sum(a.size for a in arrays.values()) > WEIGHT.size


def test_every_kind_can_be_kept() -> None:
    kinds = {e.kind for e in encodings().values()}
    assert kinds == set(ENCODINGS), "a new kind of encoding needs an example here"
