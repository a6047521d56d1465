"""Sparse weights: both forms in onnxruntime, bit by bit, folded, recognised, and as small as promised."""

import ml_dtypes
import numpy as np
import onnx
import pytest
from small import bfloat16_weight, left, one_weight, packed_bytes, run, stored_at, stored_proto

from onnxcompress.core.model import Model, Source
from onnxcompress.encodings._limits import kept
from onnxcompress.encodings.codebook import AdaptiveCodebook
from onnxcompress.encodings.sparse import Pruning, sparse
from onnxcompress.engine.proto import from_proto, to_proto
from onnxcompress.engine.storage import stored

RNG = np.random.default_rng(0)
KEEPS = {"mask": 0.5, "border": 0.14, "gaps": 0.05, "long gaps": 0.002}


def pruned(keep: float, shape: tuple[int, ...] = (61, 97), dtype: type = np.float32):
    return Pruning(keep).project([RNG.normal(size=shape).astype(dtype)])[0]


@pytest.mark.parametrize("keep", KEEPS)
@pytest.mark.parametrize("opset", range(11, 27))
def test_every_operator_set(opset: int, keep: str) -> None:
    encoding = pruned(KEEPS[keep])
    proto = stored_at(opset, encoding)
    assert encoding.stored_bits() == 8 * packed_bytes(proto)
    assert ("ScatterElements" in {n.op_type for n in proto.graph.node}) == (keep in ("gaps", "long gaps"))


@pytest.mark.parametrize("keep", KEEPS)
@pytest.mark.parametrize("shape", [(4001,), (1, 4000), (4000, 1), (30, 17, 3, 3), (2, 2, 2, 2, 2, 2, 99)])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64])
def test_every_shape_and_type(shape: tuple[int, ...], keep: str, dtype: type) -> None:
    encoding = pruned(KEEPS[keep], shape, dtype)
    proto = stored_proto(one_weight(encoding.decode()), encoding)
    assert run(proto).tobytes() == encoding.decode().tobytes()
    assert left(proto) <= {"Identity"}


@pytest.mark.parametrize("keep", KEEPS)
def test_bfloat16(keep: str) -> None:
    array = RNG.normal(size=(61, 97)).astype(ml_dtypes.bfloat16)
    encoding = Pruning(KEEPS[keep]).project([array])[0]
    stored_form = stored_proto(bfloat16_weight(array), encoding)
    onnx.checker.check_model(stored_form, full_check=True)
    assert run(stored_form).tobytes() == encoding.decode().astype(np.float32).tobytes()
    assert left(stored_form) <= {"Identity"}
    assert stored.lift(from_proto(stored_form))[1]["w"].kind == "sparse"


@pytest.mark.parametrize("keep", KEEPS)
def test_lifting_is_the_inverse_of_lowering(keep: str) -> None:
    encoding = pruned(KEEPS[keep])
    proto = stored_proto(one_weight(encoding.decode()), encoding)
    graph, encodings = stored.lift(from_proto(proto))
    assert encodings["w"].kind == "sparse"
    assert np.array_equal(encodings["w"].decode(), encoding.decode())
    assert [n.op_type for n in graph.graph] == ["Identity"]


@pytest.mark.parametrize("home", ["initializer", "constant", "input"])
def test_every_home(home: str) -> None:
    encoding = pruned(0.2)
    assert run(stored_proto(one_weight(encoding.decode(), home=home), encoding)).tobytes() == (
        encoding.decode().tobytes()
    )


def test_old_operator_sets_keep_the_weight_dense_and_say_so() -> None:
    encoding = pruned(0.1)
    model = one_weight(encoding.decode(), opset=10, ir_version=5).with_encodings({"w": encoding}, "test")
    lowered, refusals = stored.lower(model)
    assert [r.where for r in refusals] == ["w"]
    assert "operator set 11" in refusals[0].why
    (warning,) = stored.lower_all(model).warnings
    assert "1 compressed weight is stored whole" in warning
    assert "need operator set 11, and the model has 10" in warning
    assert [n.op_type for n in lowered.graph] == ["Identity"]


def test_gaps_of_any_length_and_both_ends() -> None:
    for places in ([0], [9999], [0, 255, 510], [0, 256, 9999], [254], [255], [256], [511, 512]):
        array = np.zeros(10000, np.float32)
        array[places] = np.arange(1, len(places) + 1)
        proto = stored_proto(one_weight(array), sparse(array))
        assert np.array_equal(run(proto), array), places
        assert np.array_equal(stored.lift(from_proto(proto))[1]["w"].decode(), array)


def test_a_weight_of_zeros() -> None:
    array = np.zeros((40, 50), np.float32)
    proto = stored_proto(one_weight(array), sparse(array))
    assert np.array_equal(run(proto), array)
    assert stored.lift(from_proto(proto))[1].keys() == {"w"}


def test_sizes_are_those_of_the_information_bound() -> None:
    """90 % zeros: about 4 bits a weight with single precision values, as measured for this form."""
    for keep, most in ((0.5, 17.1), (0.1, 4.1), (0.03, 1.3)):
        encoding = pruned(keep, (500, 400))
        assert encoding.stored_bits() / encoding.decode().size <= most
        assert encoding.information_bits() <= encoding.stored_bits()


def test_codebooks_with_a_zero_are_not_mistaken_for_it() -> None:
    encoding = AdaptiveCodebook(4, pin_zero=True).project([pruned(0.3).decode()])[0]
    proto = stored_proto(one_weight(encoding.decode()), encoding)
    assert stored.lift(from_proto(proto))[1]["w"].kind == "codebook"


def test_both_forms_in_one_model() -> None:
    few, many = pruned(0.02), pruned(0.5)
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Add", ["few", "many"], ["y"])],
        "g",
        [],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, few.shape)],
        [onnx.numpy_helper.from_array(e.decode(), name) for name, e in {"few": few, "many": many}.items()],
    )
    proto = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    model = Model(from_proto(proto), Source(None, "", 0)).with_encodings({"few": few, "many": many}, "test")
    lowered, refusals = stored.lower(model)
    assert not refusals
    onnx.checker.check_model(to_proto(lowered), full_check=True)
    assert np.array_equal(run(to_proto(lowered)), few.decode() + many.decode())


def test_a_count_given_as_a_share_of_millions_is_that_count() -> None:
    rng = np.random.default_rng(0)
    for total in rng.integers(10**7, 5 * 10**9, 2000).tolist():
        count = int(rng.integers(1, total))
        assert kept(count / total, None, total) == count


def test_joint_pruning_keeps_the_largest_of_all() -> None:
    small, large = RNG.normal(size=500) * 0.01, RNG.normal(size=300)
    first, second = Pruning(0.25).project([small, large])
    assert np.count_nonzero(first.decode()) == 0
    assert np.count_nonzero(second.decode()) == 200
