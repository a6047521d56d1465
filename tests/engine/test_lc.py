"""The loop against problems with a closed-form solution: no network, no codebook."""

from __future__ import annotations

import copy
import itertools
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxcompress.encodings._base import Projection
from onnxcompress.encodings.codebook import AdaptiveCodebook
from onnxcompress.encodings.dense import Dense
from onnxcompress.encodings.sparse import L0Penalty
from onnxcompress.engine.lc.learner import Learned, Score
from onnxcompress.engine.lc.loop import (
    CLOSE,
    FAR,
    MOST_MU,
    OUT_OF_TIME,
    STEEPER,
    Part,
    Schedule,
    State,
    compress,
    project,
)


@dataclass(frozen=True)
class AllEqual(Projection):
    """Π onto {c · 1}: the mean."""

    def project(self, weights, *, mu=None, previous=None):
        return [Dense(np.full_like(w, w.mean())) for w in weights]


class Quadratic:
    """L(w) = ½ Σ h (w − a)², whose L step has a closed form; a bias of 0 moves along with every step."""

    higher_is_better = True
    sufficient = None

    def __init__(self, h, a, worse=False):
        self.h, self.a, self.w = (
            np.asarray(h, np.float64),
            np.asarray(a, np.float64),
            np.asarray(a, np.float64),
        )
        self.bias, self.worse, self.rates = 0.0, worse, []

    def weights(self, names):
        return {name: self.w.copy() for name in names}

    def put(self, arrays):
        self.w = arrays["w"].copy()
        self.bias = float(arrays["bias"][0]) if "bias" in arrays else self.bias

    def others(self):
        return {"bias": np.array([self.bias])}

    def learn(self, step, pull, *, epochs, lr):
        self.rates.append(lr)
        self.bias += 1.0
        mu, target = (pull.mu, pull.targets["w"]) if pull else (0.0, 0.0)
        self.w = (self.h * self.a + mu * target) / (self.h + mu)
        return Learned(self.loss(self.w), epochs, "done")

    def loss(self, w):
        return float(0.5 * (self.h * (w - self.a) ** 2).sum()) * (1 + self.bias if self.worse else 1)

    def score(self, arrays):
        return Score(self.loss(arrays["w"]), None)


H, A = [1.0, 10.0, 0.1, 3.0], [1.0, -2.0, 5.0, 0.5]
PATH = Schedule("lc", 120, 1.0, 0.5, 1.0, 0.1, 1.1, True, 0.0)
EQUAL = [Part(("w",), AllEqual())]
OPTIMUM = np.dot(H, A) / np.sum(H)


def test_augmented_lagrangian_finds_the_constrained_minimum():
    result = compress(EQUAL, Quadratic(H, A), PATH)
    np.testing.assert_allclose(result.encodings["w"].decode(), OPTIMUM, rtol=0, atol=1e-6)


def test_quadratic_penalty_comes_close_to_it_on_a_slow_path():
    slow = replace(PATH, multipliers=False, mu0=0.01, growth=1.01, steps=1500)
    result = compress(EQUAL, Quadratic(H, A), slow)
    np.testing.assert_allclose(result.encodings["w"].decode(), OPTIMUM, rtol=0, atol=0.02)


def test_multipliers_reach_it_on_a_path_too_fast_for_the_penalty_alone():
    far, near = (
        abs(
            compress(EQUAL, Quadratic(H, A), replace(PATH, multipliers=m)).encodings["w"].decode()[0]
            - OPTIMUM
        )
        for m in (False, True)
    )
    assert far > 0.1
    assert near < 1e-6


def test_direct_compression_is_the_projection_and_makes_no_step():
    learner = Quadratic(H, A)
    result = compress(EQUAL, learner, replace(PATH, mode="dc"))
    assert learner.rates == []
    assert len(result.points) == 1
    np.testing.assert_array_equal(result.encodings["w"].decode(), np.full(4, np.mean(A)))
    np.testing.assert_array_equal(result.others["bias"], [0.0])


def test_iterated_direct_compression_goes_round_in_a_circle_where_training_converges():
    result = compress(EQUAL, Quadratic(H, A), replace(PATH, mode="idc", steps=5))
    np.testing.assert_allclose(result.encodings["w"].decode(), np.mean(A), rtol=0, atol=1e-12)
    assert all(point.mu is None for point in result.points)


def test_gap_of_the_quadratic_penalty_falls_to_nothing():
    path = replace(PATH, multipliers=False)
    gaps = [p.gap for p in compress(EQUAL, Quadratic(H, A), path).points]
    falling = gaps[int(np.argmax(gaps)) :]
    assert all(a > b for a, b in itertools.pairwise(falling))
    assert gaps[-1] < 1e-2 * gaps[0]


SHORT = replace(PATH, multipliers=False, steps=6, growth=1.2)


def test_path_that_has_not_come_close_goes_on_more_steeply_until_it_has():
    ended = compress(EQUAL, Quadratic(H, A), SHORT)
    assert len(ended.points) == 7
    assert ended.points[-1].gap > FAR > CLOSE
    result = compress(EQUAL, Quadratic(H, A), replace(SHORT, further=60))
    assert result.points[-1].gap <= CLOSE < result.points[-2].gap
    assert result.points[-1].compressed_loss < ended.points[-1].compressed_loss
    growths = [b.mu / a.mu for a, b in itertools.pairwise(result.points[1:])]
    assert growths == pytest.approx([1.2] * 5 + [STEEPER] * (len(growths) - 5))


def test_further_steps_are_bounded_and_made_only_where_they_are_needed():
    assert len(compress(EQUAL, Quadratic(H, A), replace(SHORT, further=3)).points) == 10
    assert len(compress(EQUAL, Quadratic(H, A), replace(SHORT, further=3, mode="idc")).points) == 7
    near = replace(PATH, multipliers=False, steps=70, further=9)
    found = compress(EQUAL, Quadratic(H, A), near)
    assert CLOSE < found.points[-1].gap <= FAR
    assert len(found.points) == near.steps + 1


def test_path_ends_where_the_gap_closes():
    result = compress(EQUAL, Quadratic(H, A), replace(PATH, tolerance=0.05))
    assert result.points[-1].gap < 0.05 <= result.points[-2].gap
    assert "0.05" in result.stopped


def test_result_is_compressed_never_w():
    part = [Part(("w",), AdaptiveCodebook(2))]
    rng = np.random.default_rng(3)
    learner = Quadratic(rng.uniform(0.1, 2, 50), rng.normal(size=50))
    result = compress(part, learner, replace(PATH, steps=3))
    assert len(np.unique(result.encodings["w"].decode())) == 2
    assert len(np.unique(learner.w)) > 2


def test_lc_beats_direct_compression_where_curvature_is_uneven():
    rng = np.random.default_rng(0)
    learner = Quadratic(np.exp(rng.normal(size=200) * 2), rng.normal(size=200))
    result = compress([Part(("w",), AdaptiveCodebook(4))], learner, replace(PATH, steps=60, growth=1.2))
    assert result.points[result.chosen].compressed_loss < 0.95 * result.points[0].compressed_loss


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(["lc", "idc"]), st.booleans())
def test_never_worse_than_direct_compression(seed, mode, worse):
    rng = np.random.default_rng(seed)
    learner = Quadratic(rng.uniform(0.01, 3, 20), rng.normal(size=20), worse=worse)
    schedule = replace(PATH, mode=mode, steps=6, mu0=float(np.exp(rng.normal())))
    result = compress([Part(("w",), AdaptiveCodebook(3))], learner, schedule)
    losses = [p.compressed_loss for p in result.points]
    assert losses[result.chosen] == min(losses) <= losses[0]


@pytest.mark.parametrize("alpha", [0.1, 0.3, 1.0])
def test_penalty_form_finds_the_minimum_of_loss_and_cost(alpha):
    """Σ ½h(w − a)² + α‖w‖₀ falls apart into one decision a weight: w = a where ½ha² > α, else 0."""
    rng = np.random.default_rng(1)
    h, a = np.exp(rng.normal(size=300)), rng.normal(size=300)
    learner = Quadratic(h, a)
    path = replace(PATH, mu0=0.05, growth=1.1, steps=120)
    found = compress([Part(("w",), L0Penalty(alpha))], learner, path).encodings["w"].decode()
    least = np.minimum(0.5 * h * a**2, alpha).sum()
    assert learner.loss(found) + alpha * np.count_nonzero(found) <= 1.02 * least
    direct = np.where(np.abs(a) > np.sqrt(2 * alpha), a, 0)
    assert learner.loss(direct) + alpha * np.count_nonzero(direct) > 1.05 * least


def test_uncompressed_weights_belong_to_the_chosen_state():
    result = compress(EQUAL, Quadratic(H, A, worse=True), replace(PATH, steps=5))
    assert result.chosen == 0
    np.testing.assert_array_equal(result.others["bias"], [0.0])


def test_learning_rate_is_clipped_at_one_over_mu():
    learner = Quadratic(H, A)
    compress(EQUAL, learner, replace(PATH, mu0=1.0, growth=2.0, steps=4, lr_decay=1.0))
    assert learner.rates == [0.5, 0.5, 0.25, 0.125]


@pytest.mark.parametrize(("mu0", "growth"), [(1e-3, 1e300), (1e300, 1.1), (1e-3, 10.0)])
def test_the_penalty_parameter_stays_a_number_that_gradients_can_hold(mu0, growth):
    path = replace(PATH, steps=60, mu0=mu0, growth=growth)
    values = [path.mu(step) for step in range(90)]
    assert values == sorted(values)
    assert max(values) == MOST_MU < np.finfo(np.float32).max
    assert all(path.rate(step) * mu <= 1 + 1e-12 for step, mu in enumerate(values))


def test_step_that_loses_the_reference_is_made_again_with_half_the_rate():
    class Losing(Quadratic):
        def learn(self, step, pull, *, epochs, lr):
            learned = super().learn(step, pull, epochs=epochs, lr=lr)
            if lr <= 0.25:
                return learned
            self.w = np.full_like(self.w, 1e6)
            return replace(learned, loss=1e12)

    learner = Losing(H, A)
    result = compress(EQUAL, learner, replace(PATH, mu0=1e-3, steps=3))
    assert learner.rates == [0.5, 0.25, 0.25, 0.25]
    assert learner.bias == 3.0, "the step that was lost left no trace"
    assert max(p.compressed_loss for p in result.points) < 1e3


def test_step_below_the_loss_of_a_coarse_version_is_not_lost_where_direct_compression_costs_nothing():
    rng = np.random.default_rng(0)
    learner = Quadratic(rng.uniform(0.1, 2, 30), rng.normal(size=30))
    nearly_free, many = [Part(("w",), AdaptiveCodebook(29))], replace(PATH, steps=4)

    class Restless(Quadratic):
        def learn(self, step, pull, *, epochs, lr):
            return replace(super().learn(step, pull, epochs=epochs, lr=lr), loss=0.5)

    restless = Restless(learner.h, learner.a)
    assert "diverged" in compress(nearly_free, restless, many).stopped
    assert len(compress(nearly_free, restless, replace(many, ceiling=1.0)).points) == 5


def test_divergence_at_every_rate_ends_the_path_with_the_best_state():
    class Diverging(Quadratic):
        def learn(self, step, pull, *, epochs, lr):
            learned = super().learn(step, pull, epochs=epochs, lr=lr)
            return replace(learned, stopped="diverged") if step == 3 else learned

    result = compress(EQUAL, Diverging(H, A), PATH)
    assert len(result.points) == 4
    assert "diverged" in result.stopped


@pytest.mark.parametrize("loss", [0.0, 1e9])
def test_what_ended_the_path_is_time_whatever_the_step_under_way_has_lost(loss):
    class Late(Quadratic):
        def learn(self, step, pull, *, epochs, lr):
            learned = super().learn(step, pull, epochs=epochs, lr=lr)
            return replace(learned, stopped="time", loss=loss) if step == 3 else learned

    assert compress(EQUAL, Late(H, A), PATH).stopped.startswith(OUT_OF_TIME)


def test_taken_up_from_any_step_it_ends_alike():
    rng = np.random.default_rng(5)
    h, a = rng.uniform(0.1, 2, 30), rng.normal(size=30)
    parts, path = [Part(("w",), AdaptiveCodebook(3))], replace(PATH, steps=8, further=4)
    kept = []
    learner = Quadratic(h, a)
    whole = compress(
        parts, learner, path, tell=lambda s, p: kept.append((copy.deepcopy(s), learner.w.copy()))
    )
    for state, w in kept[1:-1]:
        again = Quadratic(h, a)
        again.w, again.bias = w, float(state.step)
        rest = compress(parts, again, path, state=state)
        np.testing.assert_array_equal(rest.encodings["w"].decode(), whole.encodings["w"].decode())
        assert [p.compressed_loss for p in rest.points] == [p.compressed_loss for p in whole.points]


def test_joint_part_shares_one_codebook():
    weights = {"a": np.array([0.0, 0.1, 5.0]), "b": np.array([5.1, 0.05])}
    found = project([Part(("a", "b"), AdaptiveCodebook(2))], weights)
    assert len(np.unique(np.concatenate([e.decode() for e in found.values()]))) == 2


@pytest.mark.parametrize("steps", [4, 5])
@pytest.mark.parametrize(
    ("sufficient", "late"), [(None, False), (Score(1e9, None), True), (Score(0.0, None), False)]
)
def test_only_late_states_compete_where_the_original_remembers_the_validation_examples(
    sufficient, late, steps
):
    learner = Quadratic(H, A, worse=True)
    learner.sufficient = sufficient
    result = compress(EQUAL, learner, replace(PATH, steps=steps))
    losses = [p.compressed_loss for p in result.points]
    first = (steps + 1) // 2 if late else 0
    assert result.chosen == first + int(np.argmin(losses[first:]))
    assert losses.index(min(losses)) == 0  # negative control: direct compression scores best
    assert ("remembers the validation split" in result.stopped) is late
    np.testing.assert_array_equal(result.others["bias"], [float(result.chosen)])


@pytest.mark.parametrize(
    ("accuracies", "chosen"),
    [
        ([0.9, 0.50, 0.98, 0.97, 0.96], 3),  # 0.97 may be the luck of 200 examples, 0.96 is not
        ([0.9, 0.98, 0.97, 0.96, 0.97], 4),
        ([0.9, 0.98, 0.90, 0.97, 0.95], 3),
        ([0.98, 0.975, 0.97, 0.975, 0.97], 0),  # nothing trained is better than direct compression
        ([0.9, 0.97, 0.96, 0.98, 0.90], 3),
        ([0.975, 0.98, 0.97, 0.976, 0.974], 3),  # and nothing that is worse
    ],
)
def test_of_states_that_differ_by_chance_the_last_is_kept(monkeypatch, accuracies, chosen):
    learner = Quadratic(H, A)
    scores = iter([Score(100.0, accuracy, 200) for accuracy in accuracies])
    monkeypatch.setattr(learner, "score", lambda arrays: next(scores))
    result = compress(EQUAL, learner, replace(PATH, steps=len(accuracies) - 1))
    assert result.chosen == chosen
    np.testing.assert_array_equal(result.others["bias"], [float(chosen)])


def test_the_last_state_is_kept_where_the_path_ends_before_its_second_half():
    learner = Quadratic(H, A, worse=True)
    learner.sufficient = Score(1e9, None)
    result = compress(EQUAL, learner, replace(PATH, steps=50, tolerance=0.9))
    assert len(result.points) < 25
    assert result.chosen == len(result.points) - 1 > 0


def test_state_starts_empty():
    assert State().points == []
