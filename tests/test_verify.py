"""Verification: numbers against closed forms, and models that are wrong must fail."""

from dataclasses import replace

import numpy as np
import onnx
import onnx.numpy_helper
import onnx.parser
import pytest

from onnxcompress import verify
from onnxcompress.core.errors import VerificationError
from onnxcompress.core.run import OutputDifference
from onnxcompress.core.task import Task
from onnxcompress.engine.data.feeding import Feeding
from onnxcompress.engine.measures.differences import Difference

RNG = np.random.default_rng(0)


def linear(weight: np.ndarray) -> bytes:
    """The model ``y = x @ weight``."""
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]>
        linear (float[N, 6] x) => (float[N, K] y) { y = MatMul(x, w) }"""
    )
    model.graph.initializer.append(onnx.numpy_helper.from_array(weight.astype(np.float32), "w"))
    return model.SerializeToString()


WEIGHT = RNG.standard_normal((6, 5)).astype(np.float32)
FEEDS = [{"x": RNG.standard_normal((4, 6)).astype(np.float32)} for _ in range(7)]


def constant(**outputs: object) -> verify.Computes:
    return lambda feeds: outputs


def compared(expected: object, actual: object, tolerance: float | None = None) -> OutputDifference:
    result = verify.compare(
        constant(y=expected),
        constant(y=actual),
        [{}],
        inputs="none",
        random_inputs=False,
        tolerance=tolerance,
    )
    return result.outputs[0]


def test_a_model_equals_itself() -> None:
    result = verify.compare(linear(WEIGHT), linear(WEIGHT), FEEDS, inputs="random", random_inputs=True)
    assert result.outputs == (
        OutputDifference("y", (4, 5), 0.0, 0.0, pytest.approx(1.0), 1.0, True, spread=1.0, lost=0.0),
    )
    assert (result.reference, result.examples, result.passed) == ("original", 7, None)
    assert result.random_inputs


def test_numbers_are_those_of_all_outputs_put_together() -> None:
    other = WEIGHT + 0.3 * RNG.standard_normal(WEIGHT.shape).astype(np.float32)
    result = verify.compare(linear(WEIGHT), linear(other), iter(FEEDS), inputs="x", random_inputs=False)
    x = np.concatenate([f["x"] for f in FEEDS]).astype(np.float64)
    a, b = x @ WEIGHT.astype(np.float64), x @ other.astype(np.float64)
    found = result.outputs[0]
    np.testing.assert_allclose(found.max_abs, np.abs(a - b).max(), rtol=1e-5)
    np.testing.assert_allclose(found.relative_l2, np.linalg.norm(a - b) / np.linalg.norm(a), rtol=1e-5)
    np.testing.assert_allclose(found.cosine, np.sum(a * b) / np.linalg.norm(a) / np.linalg.norm(b), rtol=1e-6)
    assert found.top1_agreement == np.mean(a.argmax(1) == b.argmax(1))
    assert 0 < found.top1_agreement < 1
    assert not found.equal


def test_one_changed_weight_fails() -> None:
    # Negative control: the check must notice a single weight of thirty that is off by a hundredth.
    wrong = WEIGHT.copy()
    wrong[3, 2] += 0.01
    believed = verify.against_torch(
        lambda feeds: {"y": feeds["x"] @ WEIGHT},
        linear(WEIGHT),
        FEEDS,
        inputs="x",
        random_inputs=False,
        tolerance=1e-5,
    )
    assert (believed.reference, believed.passed, believed.tolerance) == ("torch", True, 1e-5)
    verify.require(believed)
    broken = verify.against_torch(
        lambda feeds: {"y": feeds["x"] @ WEIGHT},
        linear(wrong),
        FEEDS,
        inputs="x",
        random_inputs=False,
        tolerance=1e-5,
    )
    assert broken.passed is False
    with pytest.raises(VerificationError, match="output 'y' differs by") as caught:
        verify.require(broken)
    assert "allowed 1e-05" in str(caught.value)
    assert caught.value.exit_code == 5
    assert verify.worst(broken) == broken.outputs[0].relative_l2 > verify.worst(believed)


def test_torch_may_compute_in_a_wider_type_but_a_file_may_not_change_its_own() -> None:
    wide, narrow = np.ones((2, 3)), np.ones((2, 3), np.float16)
    options = {"inputs": "none", "random_inputs": False}
    result = verify.against_torch(constant(y=wide), constant(y=narrow), [{}], tolerance=0.0, **options)  # type: ignore[arg-type]
    assert result.passed
    with pytest.raises(VerificationError, match="float16 of shape 2×3"):
        verify.compare(constant(y=wide), constant(y=narrow), [{}], **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(("difference", "passed"), [(5e-7, True), (5e-6, False)])
def test_only_rounding_of_the_last_operator_is_forgiven(difference: float, passed: bool) -> None:
    """An answer of 1e-7 everywhere (a Sigmoid that says no) has no digits that two implementations share."""
    small = np.full((1, 4), 1e-7, np.float32)
    options = {"inputs": "seeded", "random_inputs": True}
    result = verify.against_torch(
        constant(y=small), constant(y=small + np.float32(difference)), [{}], tolerance=1e-4, **options
    )  # type: ignore[arg-type]
    assert result.passed is passed


def test_integers_that_two_implementations_rounded_may_be_off_by_one() -> None:
    expected, actual = np.full(100, 200, np.uint8), np.full(100, 200, np.int32)
    actual[7] += 1
    options = {"inputs": "none", "random_inputs": False}
    for tolerance, passed in ((1e-3, True), (1e-4, False)):
        result = verify.against_torch(
            constant(y=expected),
            constant(y=actual),
            [{}],
            tolerance=tolerance,
            **options,  # type: ignore[arg-type]
        )
        assert result.passed is passed
        assert verify.worst(result) == pytest.approx(1 / (200 * 10))


def test_equal_nan_and_infinity_are_equal() -> None:
    value = np.array([1.0, np.nan, np.inf, -np.inf], np.float32)
    found = compared(value, value.copy())
    assert found.equal
    assert (found.max_abs, found.relative_l2, found.problem) == (0.0, 0.0, None)


@pytest.mark.parametrize(("bad", "word"), [(np.nan, "NaN"), (np.inf, "infinite"), (-np.inf, "infinite")])
def test_a_new_nan_or_infinity_fails_without_any_tolerance(bad: float, word: str) -> None:
    result = verify.compare(
        constant(y=np.array([1.0, 2.0], np.float32)),
        constant(y=np.array([1.0, bad], np.float32)),
        [{}],
        inputs="none",
        random_inputs=False,
    )
    assert result.passed is False
    assert not result.outputs[0].equal
    with pytest.raises(VerificationError, match=f"is {word} where the reference is a number"):
        verify.require(result)


@pytest.mark.parametrize(
    ("reference", "candidate"), [(np.nan, 1.0), (np.inf, -np.inf), (np.inf, np.nan), (np.inf, 1.0)]
)
def test_where_the_reference_is_no_number_another_value_is_a_difference_but_no_failure(
    reference: float, candidate: float
) -> None:
    found = compared(np.array([1.0, reference], np.float32), np.array([1.0, candidate], np.float32))
    assert not found.equal
    assert found.problem is None
    assert found.max_abs == 0.0


def test_zero_outputs_have_no_cosine_and_no_relative_difference() -> None:
    zero, small = np.zeros((2, 3), np.float32), np.full((2, 3), 1e-3, np.float32)
    same = compared(zero, zero)
    assert (same.equal, same.relative_l2, same.cosine) == (True, 0.0, None)
    other = compared(zero, small)
    assert (other.equal, other.relative_l2, other.cosine) == (False, None, None)
    np.testing.assert_allclose(other.max_abs, 1e-3, rtol=1e-6)
    for tolerance, passed in ((1e-2, True), (1e-4, False)):
        result = verify.compare(
            constant(y=zero),
            constant(y=small),
            [{}],
            inputs="none",
            random_inputs=False,
            tolerance=tolerance,
        )
        assert result.passed is passed


def test_large_and_small_values_do_not_overflow() -> None:
    huge = np.full((2, 4), 3e38, np.float32)
    assert compared(huge, huge * np.float32(0.5)).relative_l2 == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("expected", "actual"),
    [
        (np.zeros((2, 3), np.float32), np.zeros((3, 2), np.float32)),
        (np.zeros(3, np.float32), np.zeros(3, np.int64)),
        (np.zeros(3, np.int32), np.zeros(3, np.int64)),
        ([np.zeros(3)], [np.zeros(3)] * 2),
        ([np.zeros(3)], np.zeros((1, 3))),
        (None, np.zeros(3)),
    ],
)
def test_other_shapes_and_types_are_errors(expected: object, actual: object) -> None:
    with pytest.raises(VerificationError, match="output 'y' is"):
        compared(expected, actual)


def above(limit: float) -> bytes:
    """The numbers of ``x`` above a limit, and ``x`` itself."""
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]>
        above (float[N] x) => (float[K] kept, float[N] all)
        { b = Greater(x, limit) kept = Compress(x, b) all = Identity(x) }"""
    )
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(limit, np.float32), "limit"))
    return model.SerializeToString()


def test_another_number_of_detections_is_a_difference_but_no_error() -> None:
    feeds = [{"x": np.arange(5, dtype=np.float32)}]
    found = verify.compare(above(1), above(2), feeds, inputs="x", random_inputs=False)
    kept, everything = found.outputs
    assert (kept.equal, everything.equal, found.passed) == (False, True, None)
    assert kept.problem == "has shape 2 where the reference has 3; 0 of 1 calls could be compared"
    verify.require(found)
    strict = verify.compare(above(1), above(2), feeds, inputs="x", random_inputs=False, tolerance=1.0)
    with pytest.raises(VerificationError, match="has shape 2"):
        verify.require(strict)
    # The axis that the input shares may not differ, nor may any where nothing is declared.
    with pytest.raises(VerificationError, match="output 'all' is float32 of shape 1"):
        verify.compare(
            above(1),
            lambda f: {"kept": f["x"][2:], "all": f["x"][:1]},
            feeds,
            inputs="x",
            random_inputs=False,
        )


def test_decisions_may_differ_where_what_they_are_made_of_does_not() -> None:
    feeds = [{"x": np.arange(n, dtype=np.float32)} for n in (5, 2, 2, 6)]
    original, other = (lambda f, n=n: {"kept": f["x"][n + 1 :], "all": f["x"]} for n in (1, 2))
    options = {"inputs": "x", "random_inputs": False, "tolerance": 1e-3}
    found = verify.compare(above(1), above(2), feeds, **options, decided={"kept"})  # type: ignore[arg-type]
    assert found.passed
    assert found.outputs[0].problem == "has shape 2 where the reference has 3; 2 of 4 calls could be compared"
    assert verify.worst(found, {"kept"}) == 0
    # The written file alone declares something here.
    assert verify.against_torch(original, above(2), feeds, **options, decided={"kept"}).passed  # type: ignore[arg-type]
    with pytest.raises(VerificationError, match="float32 of shape"):
        verify.against_torch(original, other, feeds, **options, decided={"kept"})  # type: ignore[arg-type]
    assert not verify.compare(above(1), above(2), feeds, **options).passed  # type: ignore[arg-type]

    def wrong(f):
        return {"kept": f["x"][2:], "all": f["x"] + 1}

    assert not verify.against_torch(original, wrong, feeds, **options, decided={"kept"}).passed  # type: ignore[arg-type]


def test_what_is_sorted_has_no_classes() -> None:
    best = np.array([[3.0, 2.0, 1.0]], np.float32)
    for decided, agreement in ((True, None), (False, 1.0)):
        difference = Difference("y", same_types=True, decided=decided)
        difference.add(best, best)
        assert difference.result().top1_agreement == agreement


def test_missing_outputs_are_errors() -> None:
    with pytest.raises(VerificationError, match="'z' instead of 'y'"):
        verify.compare(constant(y=1), constant(z=1), [{}], inputs="none", random_inputs=False)


@pytest.mark.parametrize(
    ("expected", "actual", "equal"),
    [
        (np.array([1, 2]), np.array([1, 2]), True),
        (np.array([1, 2]), np.array([1, 3]), False),
        (np.array(["a", "b"], object), np.array(["a", "b"], object), True),
        (np.array(["a", "b"], object), np.array(["a", "c"], object), False),
        (np.array([True]), np.array([False]), False),
        ([{1: "a"}], [{1: "a"}], True),
        ([{1: "a"}], [{2: "a"}], False),
        (None, None, True),
    ],
)
def test_everything_but_floats_is_equal_or_not(expected: object, actual: object, equal: bool) -> None:
    found = compared(expected, actual)
    assert found.equal is equal
    assert found.max_abs is found.relative_l2 is found.cosine is None


@pytest.mark.parametrize(
    ("expected", "actual", "share"),
    [
        (np.array([1, 2, 3, 7]), np.array([1, 2, 9, 7]), 0.75),
        (np.array([[True], [False]]), np.array([[True], [True]]), 0.5),
        (np.array([1, 2], np.int32), np.array([2, 1], np.int64), 0.0),
        (np.array([1, 2], np.uint8), np.array([1, 3], np.uint8), None),
        (np.array(["a"], object), np.array(["a"], object), None),
    ],
)
def test_of_decisions_the_share_counts_that_is_equal(expected, actual, share) -> None:
    difference = Difference("y", same_types=False)
    difference.add(expected, actual)
    found = difference.result()
    assert found.top1_agreement == share
    assert (found.relative_l2 is None) is (share is not None or expected.dtype == object)


def test_decisions_are_within_a_tolerance_where_no_larger_share_differs() -> None:
    expected = np.zeros(1000, np.int64)
    actual = expected.copy()
    actual[7] = 900  # another class, however far its number
    difference = Difference("y", same_types=False)
    difference.add(expected, actual)
    assert difference.within(2e-3)
    assert not difference.within(5e-4)
    comparison = verify.compare(
        constant(y=expected), constant(y=actual), [{}], inputs="none", random_inputs=False
    )
    assert verify.worst(comparison) == pytest.approx(1e-3)


def test_sequences_of_tensors_are_one_long_output() -> None:
    expected = [np.array([3.0, 0.0], np.float32), np.array([0.0, 4.0, 0.0], np.float32)]
    actual = [np.array([3.0, 0.0], np.float32), np.array([0.0, 4.0, 1.0], np.float32)]
    found = compared(expected, actual)
    assert (found.max_abs, found.relative_l2, found.equal) == (1.0, pytest.approx(0.2), False)


def test_maps_from_class_to_score_are_compared_as_scores() -> None:
    found = compared([{0: 0.9, 1: 0.1}, {0: 0.3, 1: 0.7}], [{0: 0.8, 1: 0.2}, {0: 0.6, 1: 0.4}])
    assert found.top1_agreement == 0.5
    assert found.max_abs == pytest.approx(0.3)
    turned = compared([{0: 0.9, 1: 0.1}, {0: 0.3, 1: 0.7}], [{1: 0.1, 0: 0.9}, {1: 0.7, 0: 0.3}])
    assert turned.max_abs == 0, "a map has no order"


@pytest.mark.parametrize(
    ("shape", "scores"),
    [
        ((4, 2), True),
        ((4, 10, 1, 1), True),
        ((4, 1), False),
        ((10,), False),
        ((4, 10, 2, 2), False),
        ((0, 5), False),
    ],
)
def test_what_looks_like_class_scores(shape: tuple[int, ...], scores: bool) -> None:
    value = np.ones(shape, np.float32)
    assert (compared(value, value).top1_agreement is not None) is scores


def test_of_what_is_no_class_score_no_largest_number_is_told() -> None:
    found = verify.compare(
        linear(WEIGHT), linear(WEIGHT), FEEDS, inputs="made", random_inputs=True, unranked={"y"}
    )
    assert [o.top1_agreement for o in found.outputs] == [None]
    assert [o.relative_l2 for o in found.outputs] == [0.0]


class Rows:
    """Twenty labelled examples: class = place of the largest input."""

    feeding = Feeding(False, None)

    def __init__(self) -> None:
        self._x = np.random.default_rng(5).standard_normal((20, 6)).astype(np.float32)

    def __len__(self) -> int:
        return 20

    def inputs(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        return {"x": self._x[indices]}

    def labels(self, indices: np.ndarray) -> np.ndarray:
        return self._x[indices].argmax(1)


def task(**changes: object) -> Task:
    whole = Task(
        samples=Rows(),
        train=np.arange(5),
        validation=np.arange(5, 8),
        test=np.arange(8, 20),
        labelled=True,
        loss="ce",
        metric=None,
        random=False,
        origin="rows",
        seed=0,
    )
    return replace(whole, **changes)  # type: ignore[arg-type]


def test_accuracy_before_and_after_on_the_test_split() -> None:
    swapped = np.eye(6)[:, [1, 0, 2, 3, 4, 5]]
    found = verify.accuracy(linear(np.eye(6)), linear(swapped), task(), batch=1)
    labels = Rows().labels(np.arange(8, 20))
    assert found is not None
    assert (found.before, found.after) == (1.0, np.mean(labels > 1))
    assert 0 < found.after < 1
    assert (found.metric, found.higher_is_better) == ("top1", True)
    assert (found.split, found.examples) == ("test", 12)


def test_accuracy_on_the_validation_split_says_so() -> None:
    found = verify.accuracy(linear(np.eye(6)), linear(np.eye(6)), task(test=None))
    assert found is not None
    assert (found.split, found.examples, found.after) == ("validation", 3, 1.0)


def test_no_accuracy_without_labels_but_agreement_where_it_is_asked_for() -> None:
    model, other = linear(np.eye(6)), linear(-np.eye(6))
    assert verify.accuracy(model, other, task(labelled=False)) is None
    found = verify.accuracy(model, other, task(labelled=False, metric="agreement"))
    assert found is not None
    assert (found.before, found.after) == (1.0, 0.0)


def test_inputs_of_other_names_are_an_error_that_names_them():
    other = onnx.load_from_string(linear(WEIGHT))
    other.graph.input[0].name = other.graph.node[0].input[0] = "image"
    with pytest.raises(VerificationError, match="'image' instead of 'x'"):
        verify.compare(linear(WEIGHT), other.SerializeToString(), FEEDS, inputs="made", random_inputs=True)
