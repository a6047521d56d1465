"""Sums of compressed weights: bit by bit in onnxruntime, recognised, and as close as trying everything."""

from itertools import combinations, product

import ml_dtypes
import numpy as np
import onnx
import pytest
from small import bfloat16_weight, left, one_weight, packed_bytes, run, stored_at, stored_proto

from onnxcompress.core.errors import UsageError
from onnxcompress.encodings._base import Projection
from onnxcompress.encodings.additive import Sum
from onnxcompress.encodings.codebook import AdaptiveCodebook
from onnxcompress.encodings.scaled import Binary, IntGrid, Ternary
from onnxcompress.encodings.sparse import L0Penalty, Pruning
from onnxcompress.engine.proto import from_proto
from onnxcompress.engine.storage import stored

RNG = np.random.default_rng(0)
KINDS: dict[str, Sum] = {
    "codebook and few": Sum((AdaptiveCodebook(2), Pruning(0.01))),
    "few and codebook": Sum((Pruning(0.01), AdaptiveCodebook(2))),
    "channels and many": Sum((AdaptiveCodebook(4, granularity="channel"), Pruning(0.3))),
    "scales and few": Sum((IntGrid(entries=4, granularity="channel", axis=1), Pruning(0.02))),
    "two codebooks": Sum((Binary(), Ternary())),
    "three": Sum((AdaptiveCodebook(2), Pruning(count=20), Binary(granularity="channel"))),
}


def weight(shape: tuple[int, ...] = (61, 97), dtype: type = np.float32, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).laplace(0, 0.1, shape).astype(dtype)


def distance(array: np.ndarray, decoded: np.ndarray) -> float:
    return float(np.square(array.astype(np.float64) - decoded.astype(np.float64)).sum())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_the_emitted_sum_decodes_bit_by_bit_folds_and_is_recognised(kind: str, dtype: type) -> None:
    array = weight((40, 31, 3, 3), dtype)
    encoding = KINDS[kind].project([array])[0]
    proto = stored_proto(one_weight(array), encoding)
    assert run(proto).tobytes() == encoding.decode().tobytes()
    assert left(proto) <= {"Identity"}
    assert encoding.stored_bits() == 8 * packed_bytes(proto)
    graph, encodings = stored.lift(from_proto(proto))
    assert encodings["w"].kind == "additive"
    assert [p.kind for p in encodings["w"].parts] == [p.kind for p in encoding.parts]
    assert encodings["w"].decode().tobytes() == encoding.decode().tobytes()
    assert [n.op_type for n in graph.graph] == ["Identity"]


@pytest.mark.parametrize("opset", [11, 13, 15, 18, 21, 26])
def test_every_operator_set(opset: int) -> None:
    stored_at(opset, KINDS["three"].project([weight()])[0])


def test_an_old_operator_set_is_refused_as_a_part_would_be() -> None:
    encoding = KINDS["three"].project([weight()])[0]
    model = one_weight(weight(), opset=10, ir_version=5).with_encodings({"w": encoding}, "test")
    (refusal,) = stored.lower(model)[1]
    assert "operator set 11" in refusal.why
    books = KINDS["two codebooks"].project([weight()])[0]
    assert stored_proto(one_weight(weight(), opset=9, ir_version=4), books)


def test_bfloat16() -> None:
    array = weight(dtype=ml_dtypes.bfloat16)
    encoding = KINDS["codebook and few"].project([array])[0]
    assert encoding.dtype == array.dtype
    stored_form = stored_proto(bfloat16_weight(array), encoding)
    onnx.checker.check_model(stored_form, full_check=True)
    assert run(stored_form).tobytes() == encoding.decode().astype(np.float32).tobytes()


@pytest.mark.parametrize("kind", KINDS)
def test_a_sum_is_no_further_than_its_first_part_alone(kind: str) -> None:
    array = weight(seed=3)
    both = distance(array, KINDS[kind].project([array])[0].decode())
    for part in KINDS[kind].parts:
        assert both < distance(array, part.project([array])[0].decode())


@pytest.mark.parametrize("kind", KINDS)
def test_rounds_from_a_previous_result_never_make_it_worse(kind: str) -> None:
    array, moved = weight(seed=4), weight(seed=4) + 0.02 * weight(seed=5)
    before = KINDS[kind].project([array])
    after = KINDS[kind].project([moved], previous=before)[0]
    assert distance(moved, after.decode()) <= distance(moved, before[0].decode())
    again = KINDS[kind].project([moved], previous=[after])[0]
    assert distance(moved, again.decode()) <= distance(moved, after.decode())


@pytest.mark.parametrize("kind", KINDS)
def test_a_sum_is_projected_to_itself_from_itself(kind: str) -> None:
    found = KINDS[kind].project([weight(seed=6)])[0]
    again = KINDS[kind].project([found.decode()], previous=[found])[0]
    assert np.allclose(again.decode(), found.decode(), rtol=1e-5, atol=1e-7)


def exact(w: np.ndarray, count: int) -> float:
    """Return the least distance of any two entries and any ``count`` corrections."""
    best = np.inf
    for chosen in combinations(range(len(w)), count):
        rest = np.delete(w, list(chosen))
        for labels in product((0, 1), repeat=len(rest)):
            groups = [rest[np.array(labels) == k] for k in (0, 1)]
            best = min(best, sum(float(np.square(g - g.mean()).sum()) for g in groups if len(g)))
    return best


def test_few_weights_are_mostly_as_close_as_can_be() -> None:
    """A codebook and a correction have local optima: most results are the best, and few much worse."""
    rng = np.random.default_rng(7)
    ratios = []
    for _ in range(60):
        w = rng.laplace(size=8)
        found = Sum((AdaptiveCodebook(2), Pruning(count=1))).project([w])[0].decode()
        ratios.append(distance(w, found) / exact(w, 1))
    assert min(ratios) >= 1 - 1e-9
    assert np.mean(np.array(ratios) < 1 + 1e-6) > 0.7


@pytest.mark.parametrize("other", [AdaptiveCodebook(2), Ternary(), IntGrid(entries=4, granularity="channel")])
def test_corrected_weights_are_out_of_sight_of_the_others(other: Projection) -> None:
    """Outliers that corrections take up do not move the codebook."""
    array = np.where(RNG.random((50, 80)) < 0.5, -1.0, 1.0).astype(np.float32)
    array += 0.01 * RNG.normal(size=array.shape).astype(np.float32)
    array.reshape(-1)[::100] = 50.0
    found = Sum((other, Pruning(0.01))).project([array])[0]
    assert distance(array, found.decode()) < 2 * 0.01**2 * array.size
    assert np.abs(found.parts[0].decode()).max() < 4


def test_joint_parts_are_joint() -> None:
    arrays = [weight((30, 20), seed=8), weight((500,), seed=9) * 3]
    found = Sum((AdaptiveCodebook(2), Pruning(0.1))).project(arrays)
    values = np.unique(np.concatenate([e.parts[0].decode().ravel() for e in found]))
    assert len(values) == 2
    assert sum(np.count_nonzero(e.parts[1].decode()) for e in found) == 110


def test_a_penalty_in_a_sum_counts() -> None:
    kind = Sum((AdaptiveCodebook(2), L0Penalty(0.01)))
    found = kind.project([weight()], mu=2.0)
    corrections = np.count_nonzero(found[0].parts[1].decode())
    assert 0 < corrections < 0.5 * weight().size
    assert kind.penalised
    assert kind.cost(found) == pytest.approx(0.01 * corrections)
    assert not KINDS["two codebooks"].penalised


def test_numbers_are_those_of_all_parts() -> None:
    found = KINDS["codebook and few"].project([weight()])[0]
    book, few = found.parts
    assert [len(n.values) for n in found.numbers()] == [2, len(few.values)]
    other = found.with_numbers([book.entries * 2, few.values * 3])
    assert np.array_equal(other.decode(), 2 * book.decode() + 3 * few.decode())


def test_one_part_is_no_sum() -> None:
    with pytest.raises(UsageError, match="at least two parts"):
        Sum((AdaptiveCodebook(2),))
