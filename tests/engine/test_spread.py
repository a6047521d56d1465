"""How much outputs vary over examples, against NumPy and with dead networks."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from onnxcompress.core.run import Comparison, OutputDifference
from onnxcompress.engine.measures.spread import Spread
from onnxcompress.verify import LIFELESS, LOST, LOST_EXAMPLES, compare, forgotten, lifeless


def ratio(*calls: tuple[np.ndarray, np.ndarray]) -> float | None:
    spread = Spread()
    for expected, actual in calls:
        spread.add(expected, actual)
    return spread.ratio()


outputs = hnp.arrays(np.float64, (6, 3), elements=st.floats(-10, 10).map(lambda v: round(v, 3)))


@given(outputs, outputs, st.integers(1, 5))
def test_it_is_the_ratio_of_distances_from_the_first_example_however_calls_are_made(one, other, cut) -> None:
    expected, actual = (np.linalg.norm(side - side[0]) for side in (one, other))
    # Equal calls could count as examples themselves.
    cut = cut if cut != 3 else 2
    found = ratio((one[:cut], other[:cut]), (one[cut:], other[cut:]))
    if expected <= 1e-3 * np.linalg.norm(one):
        assert found is None
    else:
        assert found == pytest.approx(actual / expected)


@given(outputs, outputs)
def test_calls_of_one_size_are_compared_as_a_whole_too(one, other) -> None:
    """Rows that differ among themselves, as boxes do, hide that no call differs from another."""
    calls = [(one[k : k + 2], other[:2]) for k in (0, 2, 4)]
    varied = [c for c, _ in calls]
    if max(np.abs(c - varied[0]).max() for c in varied) > 0.1:
        assert ratio(*calls) == 0
    assert ratio(*[(c, c) for c in varied]) in (None, pytest.approx(1.0))


@given(outputs, outputs, st.integers(1, 5))
def test_what_is_lost_is_the_error_over_the_variance_place_by_place(one, other, cut) -> None:
    cut = cut if cut != 3 else 2
    spread = Spread()
    spread.add(one[:cut], other[:cut])
    spread.add(one[cut:], other[cut:])
    varies = one.var(axis=0, ddof=1).sum() * len(one)
    if varies > 0.1:
        # What all examples share changes nothing.
        assert spread.lost() == pytest.approx(np.square(other - one).sum() / varies)
        raised = Spread()
        raised.add(one + 50 * np.arange(3), other + 50 * np.arange(3))
        assert raised.lost() == pytest.approx(spread.lost())


def test_large_outputs_are_taken_in_parts(monkeypatch) -> None:
    monkeypatch.setattr("onnxcompress.engine.measures.spread._CHUNK", 8)
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(2, 7, 3, 2))
    wanted = np.linalg.norm(other - other[0]) / np.linalg.norm(one - one[0])
    assert ratio((one, other)) == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("expected", "actual"),
    [
        pytest.param(np.ones((1, 3)), np.ones((1, 3)), id="one example"),
        pytest.param(np.ones((4, 3)), np.eye(4, 3), id="reference does not vary"),
        pytest.param(1 + 1e-5 * np.eye(4, 3), np.eye(4, 3), id="reference hardly varies"),
        pytest.param(np.array([[1.0], [np.nan]]), np.ones((2, 1)), id="no number"),
        pytest.param(np.array(1.0), np.array(2.0), id="scalar"),
    ],
)
def test_where_it_cannot_be_told_there_is_none(expected, actual) -> None:
    assert ratio((expected, actual)) is None


def test_sizes_that_differ_cannot_be_compared() -> None:
    one, other = np.random.default_rng(0).normal(size=(2, 4, 3))
    assert ratio((one, other), (one[:, :2], other[:, :2])) is None


def feeds() -> list[dict[str, np.ndarray]]:
    return [{"x": row} for row in np.random.default_rng(0).normal(size=(5, 1, 4)).astype(np.float32)]


@pytest.mark.parametrize(("factor", "said"), [(0.0, True), (0.01, True), (0.5, False), (1.0, False)])
def test_a_network_that_answers_everything_alike_is_told_of(factor, said) -> None:
    comparison = compare(
        lambda feed: {"y": feed["x"]},
        lambda feed: {"y": np.float32([[3, 0, 0, 0]]) + np.float32(factor) * feed["x"]},
        feeds(),
        inputs="made",
        random_inputs=False,
    )
    assert comparison.outputs[0].spread == pytest.approx(factor, abs=1e-6)
    assert bool(lifeless(comparison)) is said


def test_scores_that_got_smaller_and_rank_alike_are_no_dead_network() -> None:
    comparison = compare(
        lambda feed: {"y": feed["x"]},
        lambda feed: {"y": np.float32(0.01) * feed["x"]},
        feeds(),
        inputs="made",
        random_inputs=False,
    )
    assert comparison.outputs[0].spread == pytest.approx(0.01)
    assert not lifeless(comparison)


def test_the_sentence_names_the_output_and_how_little_it_varies() -> None:
    output = OutputDifference("y", (1, 4), 1.0, 1.0, 0.0, None, False, None, LIFELESS / 10)
    comparison = Comparison("original", "made", False, 5, (output,), None, None)
    (sentence,) = lifeless(comparison)
    assert "'y'" in sentence
    assert "0.2 %" in sentence
    assert "5 examples" in sentence


def grid(examples: int, error: float, *, random_inputs: bool = False) -> Comparison:
    """Boxes around a constant grid, of which some share of the variance is lost."""
    rng = np.random.default_rng(3)
    moves = rng.standard_normal((examples, 5, 4)).astype(np.float32)
    errors = (error**0.5 * rng.standard_normal((examples, 5, 4))).astype(np.float32)
    calls = [{"k": np.array([k])} for k in range(examples)]
    place = np.linspace(0, 500, 20, dtype=np.float32).reshape(5, 4)
    return compare(
        lambda feed: {"boxes": place + moves[feed["k"]]},
        lambda feed: {"boxes": place + moves[feed["k"]] + errors[feed["k"]]},
        calls,
        inputs="made",
        random_inputs=random_inputs,
        examples=examples,
    )


def test_an_output_that_lost_what_it_said_is_told_of_though_its_error_is_small() -> None:
    lost = grid(40, 1.0)
    assert lost.outputs[0].relative_l2 < 0.01
    (sentence,) = forgotten(lost)
    assert "'boxes'" in sentence
    assert not lifeless(lost)
    assert not forgotten(lost, labelled="boxes")
    assert not forgotten(grid(40, LOST / 4))
    assert not forgotten(grid(40, 1.0, random_inputs=True))
    assert not forgotten(grid(LOST_EXAMPLES - 1, 1.0))
