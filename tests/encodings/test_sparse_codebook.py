"""Codebooks over non-zero weights: both forms in onnxruntime, bit by bit, folded, recognised, joint."""

import ml_dtypes
import numpy as np
import onnx
import pytest
from small import bfloat16_weight, one_weight, packed_bytes, run, stored_at, stored_proto

from onnxcompress.encodings.codebook import AdaptiveCodebook
from onnxcompress.encodings.scaled import Ternary
from onnxcompress.encodings.sparse import Pruning
from onnxcompress.encodings.sparse_codebook import OnNonzeros, PruneCodebook, sparse_codebook
from onnxcompress.engine.proto import from_proto
from onnxcompress.engine.storage import stored

RNG = np.random.default_rng(0)
KEEPS = {"mask": 0.5, "border": 0.14, "gaps": 0.05, "fillers": 0.002}


def coded(keep: float, entries: int = 4, shape: tuple[int, ...] = (61, 97), dtype: type = np.float32):
    return PruneCodebook(entries, keep).project([RNG.normal(size=shape).astype(dtype)])[0]


@pytest.mark.parametrize("keep", KEEPS)
@pytest.mark.parametrize("opset", range(11, 27))
def test_every_operator_set(opset: int, keep: str) -> None:
    encoding = coded(KEEPS[keep])
    proto = stored_at(opset, encoding)
    assert encoding.stored_bits() == 8 * packed_bytes(proto)
    operators = {n.op_type for n in proto.graph.node}
    assert ("ScatterElements" in operators) == (keep in ("gaps", "fillers"))
    assert ("Where" in operators) == (keep == "fillers")


@pytest.mark.parametrize("keep", KEEPS)
@pytest.mark.parametrize("entries", [2, 3, 16, 100])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64])
def test_lifting_is_the_inverse_of_lowering(keep: str, entries: int, dtype: type) -> None:
    encoding = coded(KEEPS[keep], entries, (30, 17, 3, 3), dtype)
    proto = stored_proto(one_weight(encoding.decode()), encoding)
    assert run(proto).tobytes() == encoding.decode().tobytes()
    graph, encodings = stored.lift(from_proto(proto))
    assert encodings["w"].kind == "sparse-codebook"
    for name in ("places", "codes", "entries", "shape"):
        assert np.array_equal(getattr(encodings["w"], name), getattr(encoding, name)), name
    assert [n.op_type for n in graph.graph] == ["Identity"]
    again = stored_proto(one_weight(encoding.decode()), encodings["w"])
    assert again.SerializeToString() == proto.SerializeToString()


@pytest.mark.parametrize("keep", KEEPS)
def test_bfloat16(keep: str) -> None:
    array = RNG.normal(size=(61, 97)).astype(ml_dtypes.bfloat16)
    encoding = PruneCodebook(8, KEEPS[keep]).project([array])[0]
    stored_form = stored_proto(bfloat16_weight(array), encoding)
    onnx.checker.check_model(stored_form, full_check=True)
    assert run(stored_form).tobytes() == encoding.decode().astype(np.float32).tobytes()
    assert stored.lift(from_proto(stored_form))[1]["w"].kind == "sparse-codebook"


@pytest.mark.parametrize("home", ["initializer", "constant", "input"])
@pytest.mark.parametrize("shape", [(4001,), (1, 4000), (2, 2, 2, 2, 2, 2, 99)])
def test_every_home_and_shape(home: str, shape: tuple[int, ...]) -> None:
    encoding = coded(0.1, 5, shape)
    model = one_weight(encoding.decode(), home=home)
    assert run(stored_proto(model, encoding)).tobytes() == encoding.decode().tobytes()


def test_distances_of_any_length_and_both_ends() -> None:
    for places in (
        [0],
        [9999],
        [0, 254, 510],
        [0, 255, 9999],
        [0, 256],
        [253],
        [254],
        [255],
        [256],
        [509, 765],
    ):
        array = np.zeros(10000, np.float32)
        array[places] = 1.0 + np.arange(len(places)) % 2
        encoding = sparse_codebook(array, array != 0, np.array([1.0, 2.0], np.float32))
        proto = stored_proto(one_weight(array), encoding)
        assert "ScatterElements" in {n.op_type for n in proto.graph.node}
        assert np.array_equal(run(proto), array), places
        assert encoding.stored_bits() == 8 * packed_bytes(proto)
        assert np.array_equal(stored.lift(from_proto(proto))[1]["w"].decode(), array)


def test_sizes_are_those_of_the_information_bound() -> None:
    """90 % zeros and 15 entries: 1.24 bits a weight, as measured for this form."""
    for keep, entries, most in ((0.1, 15, 1.25), (0.05, 2, 0.47), (0.01, 4, 0.12)):
        encoding = coded(keep, entries, (500, 400))
        assert encoding.stored_bits() / encoding.decode().size <= most
        assert encoding.information_bits() <= encoding.stored_bits()


def test_joint_weights_share_entries_and_the_number_that_stays() -> None:
    small, large = RNG.normal(size=(50, 10)) * 0.01, RNG.normal(size=300)
    first, second = PruneCodebook(3, 0.25).project([small, large])
    assert first.kind == "sparse"  # nothing is left of it
    assert not first.decode().any()
    assert np.count_nonzero(second.decode()) <= 200
    a, b = PruneCodebook(4, count=90).project([large[:100], large[100:].reshape(20, 10)])
    assert np.array_equal(a.entries, b.entries)
    assert len(a.places) + len(b.places) <= 90
    whole = PruneCodebook(4, count=90).project([large])[0]
    assert np.array_equal(np.concatenate([a.decode(), b.decode().ravel()]), whole.decode())


def test_zeros_that_are_decided_stay_and_the_others_are_quantised_as_by_themselves() -> None:
    arrays = [RNG.normal(size=(20, 30)).astype(np.float32), RNG.normal(size=400).astype(np.float32)]
    pruned = Pruning(0.2).project(arrays)
    stays = tuple(p.mask() for p in pruned)
    for codebook in (AdaptiveCodebook(4), Ternary()):
        found = OnNonzeros(codebook, stays).project(arrays)
        alone = codebook.project([w[s] for w, s in zip(arrays, stays, strict=True)])
        for encoding, stay, book in zip(found, stays, alone, strict=True):
            assert np.array_equal(encoding.mask(), stay)
            assert np.array_equal(encoding.decode()[stay], book.decode())
    one = OnNonzeros(AdaptiveCodebook(4), stays).of([1]).project(arrays[1:])[0]
    assert np.array_equal(one.mask(), stays[1])


def test_cutting_all_that_is_not_zero_leaves_zeros() -> None:
    array = np.zeros((8, 100), np.float32)
    array[3] = 1.0
    encoding = sparse_codebook(array, array != 0, np.array([1.0], np.float32))
    assert np.array_equal(encoding.take(0, np.array([3, 5])).decode(), array[[3, 5]])
    assert not encoding.take(0, np.array([0, 5])).decode().any()
