"""What every registered projection promises: feasible, idempotent, and no feasible point closer.

A compression that is new in the registry needs an entry in ``EXAMPLES`` and one in ``ORACLES``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxcompress.core.encoding import Encoding
from onnxcompress.core.errors import UsageError
from onnxcompress.encodings._base import PROJECTIONS, Projection
from onnxcompress.encodings._layout import WORTH
from onnxcompress.encodings.codebook import AdaptiveCodebook
from onnxcompress.encodings.half import TYPES, HalfPrecision
from onnxcompress.encodings.lowrank import FixedRank, LearnedRank
from onnxcompress.encodings.scaled import Binary, IntGrid, PowersOfTwo, Ternary
from onnxcompress.encodings.sparse import L0Penalty, L1Ball, L1Penalty, Pruning
from onnxcompress.encodings.sparse_codebook import PruneCodebook
from onnxcompress.encodings.trellis import TrellisCodebook

EXAMPLES: dict[str, tuple[Projection, ...]] = {
    "codebook": (AdaptiveCodebook(2), AdaptiveCodebook(3, pin_zero=True), AdaptiveCodebook(16)),
    "binary": (Binary(), Binary(scaled=False)),
    "ternary": (Ternary(), Ternary(scaled=False)),
    "pow2": (PowersOfTwo(entries=4), PowersOfTwo(entries=16, scaled=False)),
    "int": (IntGrid(entries=4), IntGrid(entries=3, symmetric=True)),
    "prune": (Pruning(0.3), Pruning(count=3)),
    "prune-codebook": (PruneCodebook(2, 0.3), PruneCodebook(3, count=3), PruneCodebook(16, 0.1)),
    "half": (HalfPrecision("fp16"), HalfPrecision("bf16")),
    "l0-penalty": (L0Penalty(0.01), L0Penalty(0.5)),
    "l1": (L1Ball(0.5), L1Ball(6.0)),
    "l1-penalty": (L1Penalty(0.01), L1Penalty(0.5)),
    "low-rank": (FixedRank(1), FixedRank(3)),
    "trellis": (TrellisCodebook(1), TrellisCodebook(4)),
    "rank": (LearnedRank(alpha=0.01), LearnedRank(alpha=1e-4), LearnedRank(keep=0.9)),
}
CASES = [pytest.param(p, id=f"{term} {p}") for term, kinds in EXAMPLES.items() for p in kinds]
MUS = (0.01, 1.0, 30.0)


def weight(seed: int, shape: tuple[int, ...] = (12, 7, 3, 3), dtype: type = np.float32) -> np.ndarray:
    return np.random.default_rng(seed).laplace(0, 0.3, shape).astype(dtype)


def distance(arrays: list[np.ndarray], decoded: list[np.ndarray]) -> float:
    pairs = zip(arrays, decoded, strict=True)
    return sum(float(np.square(a.astype(np.float64) - d.astype(np.float64)).sum()) for a, d in pairs)


def objective(kind: Projection, arrays: list[np.ndarray], found: list[Encoding], mu: float) -> float:
    """What a C step makes small: μ/2 times the distance, and the cost of a penalty form."""
    return kind.cost(found) + mu / 2 * distance(arrays, [e.decode() for e in found])


def sets(kind: Projection) -> list[list[np.ndarray]]:
    """Return weights to project: one, and several jointly where the compression can."""
    alone = [weight(1)]
    return [alone, [weight(2), weight(3, (20, 9))]] if kind.joint else [alone]


def test_every_registered_compression_has_examples() -> None:
    assert set(EXAMPLES) == set(PROJECTIONS)
    for term, kinds in EXAMPLES.items():
        assert all(type(kind) is PROJECTIONS[term] for kind in kinds)


@pytest.mark.parametrize("term", sorted(PROJECTIONS))
def test_settings_are_plain_frozen_fields_with_a_text(term: str) -> None:
    kind = PROJECTIONS[term]
    assert dataclasses.is_dataclass(kind)
    assert kind.__doc__
    for field in dataclasses.fields(kind):
        documented = any(f"    {field.name}: " in (base.__doc__ or "") for base in kind.__mro__)
        assert documented, f"{term}: {field.name} is not documented"
    with pytest.raises(dataclasses.FrozenInstanceError):
        EXAMPLES[term][0].anything = 1  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", CASES)
@pytest.mark.parametrize("mu", MUS)
def test_shapes_and_types_are_kept(kind: Projection, mu: float) -> None:
    for dtype in (np.float16, np.float32, np.float64):
        arrays = [w.astype(dtype) for w in sets(kind)[-1]]
        for array, encoding in zip(arrays, kind.project(arrays, mu=mu), strict=True):
            decoded = encoding.decode()
            assert decoded.shape == encoding.shape == array.shape
            assert decoded.dtype == encoding.dtype == dtype
            assert np.isfinite(decoded.astype(np.float64)).all()


@pytest.mark.parametrize("kind", CASES)
def test_projecting_a_feasible_point_returns_it(kind: Projection) -> None:
    for arrays in sets(kind):
        found = [e.decode() for e in kind.project(arrays, mu=1.0)]
        # Penalty forms have no limit to be within: with μ they move on, without they stay.
        again = kind.project(found, mu=None if kind.penalised else 1.0)
        for before, after in zip(found, again, strict=True):
            # A product of factors is rounded to the precision of the largest of its entries.
            near = 1e-6 * np.abs(before).max() if isinstance(kind, (FixedRank, LearnedRank)) else 0
            assert np.allclose(after.decode(), before, rtol=1e-6, atol=near)


@pytest.mark.parametrize("kind", CASES)
@pytest.mark.parametrize("mu", MUS)
def test_no_sampled_feasible_point_is_better(kind: Projection, mu: float) -> None:
    rng = np.random.default_rng(5)
    for arrays in sets(kind):
        best = objective(kind, arrays, kind.project(arrays, mu=mu), mu)
        for size in (1e-4, 1e-2, 0.1, 1.0):
            moved = [(a + size * rng.normal(0, 0.3, a.shape)).astype(a.dtype) for a in arrays]
            other = kind.project(moved, mu=mu)
            assert objective(kind, arrays, other, mu) >= best * (1 - 1e-4)


@pytest.mark.parametrize("kind", CASES)
def test_a_warm_start_is_no_worse(kind: Projection) -> None:
    for arrays in sets(kind):
        before = kind.project([0.9 * a for a in arrays], mu=1.0)
        cold, warm = (kind.project(arrays, mu=1.0, previous=p) for p in (None, before))
        assert objective(kind, arrays, warm, 1.0) <= objective(kind, arrays, cold, 1.0) * (1 + 1e-4)


@pytest.mark.parametrize("kind", CASES)
def test_the_cost_is_that_of_penalty_forms(kind: Projection) -> None:
    arrays = sets(kind)[-1]
    free = kind.project(arrays)
    if not kind.penalised:
        assert kind.cost(free) == 0
        return
    # Without μ nothing weighs against distance; the larger μ is, the more a penalty form may cost.
    assert distance(arrays, [e.decode() for e in free]) == 0
    costs = [kind.cost(kind.project(arrays, mu=mu)) for mu in MUS]
    assert costs == sorted(costs)
    assert costs[-1] <= kind.cost(free)


# the least possible value, by trying everything -----------------------------------------------------------

Least = Callable[[Projection, np.ndarray, float], float]


def partitions(n: int, parts: int) -> Iterator[np.ndarray]:
    for labels in product(range(parts), repeat=n):
        yield np.array(labels)


def by_partition(kind: Projection, w: np.ndarray, mu: float) -> float:
    """Every assignment to K entries, each entry the mean of its weights (or the pinned 0)."""
    assert isinstance(kind, AdaptiveCodebook)
    best = np.inf
    for labels in partitions(len(w), min(kind.entries, 3)):
        means = [w[labels == k].mean() if (labels == k).any() else 0.0 for k in range(3)]
        if kind.pin_zero:
            means[0] = 0.0
        best = min(best, float(np.square(w - np.array(means)[labels]).sum()))
    return mu / 2 * best if kind.entries <= 3 else 0.0


def by_levels(kind: Projection, w: np.ndarray, mu: float) -> float:
    """Every assignment to the levels, with the best scale for it (1 where it is fixed)."""
    levels = kind.levels()  # type: ignore[attr-defined]
    best = float(np.square(w).sum()) if kind.scaled else np.inf  # type: ignore[attr-defined]
    few = levels if len(levels) <= 4 else np.unique(levels[np.abs(w[:, None] - levels).argsort(1)[:, :2]])
    for chosen in product(few, repeat=len(w)) if len(few) ** len(w) <= 20000 else ():
        c = np.array(chosen)
        norm = c @ c
        a = 1.0 if not kind.scaled else max(w @ c, 0) / norm if norm else 0.0  # type: ignore[attr-defined]
        best = min(best, float(np.square(w - a * c).sum()))
    return mu / 2 * best


def by_support(kind: Projection, w: np.ndarray, mu: float) -> float:
    """Every set of weights that stay."""
    kept = kind.count or max(1, int(kind.keep * len(w) + 1e-9))  # type: ignore[attr-defined]
    kept = min(kept, len(w))
    return (
        mu
        / 2
        * min(
            float(np.square(np.delete(w, list(chosen))).sum()) for chosen in combinations(range(len(w)), kept)
        )
    )


def by_partition_and_zero(kind: Projection, w: np.ndarray, mu: float) -> float:
    """Every assignment to zero or one of K entries, each the mean of its weights."""
    assert isinstance(kind, PruneCodebook)
    kept = kind.count or max(1, int((kind.keep or 0) * len(w) + 1e-9))
    best, parts = np.inf, 1 + min(kind.entries, kept, 3)
    for labels in partitions(len(w), parts):
        if np.count_nonzero(labels) <= kept:
            means = [0.0, *(w[labels == k].mean() if (labels == k).any() else 0.0 for k in range(1, parts))]
            best = min(best, float(np.square(w - np.array(means)[labels]).sum()))
    return mu / 2 * best


def by_any_support(kind: Projection, w: np.ndarray, mu: float) -> float:
    alpha = kind.alpha  # type: ignore[attr-defined]
    return min(
        alpha * sum(stay) + mu / 2 * float(np.square(w * (1 - np.array(stay))).sum())
        for stay in product((0, 1), repeat=len(w))
    )


def by_grid(kind: Projection, w: np.ndarray, mu: float) -> float:
    """Each weight by itself, on a fine grid."""
    grid = np.linspace(-5, 5, 10001)
    alpha = kind.alpha  # type: ignore[attr-defined]
    return float(sum((alpha * np.abs(grid) + mu / 2 * np.square(grid - x)).min() for x in w))


def by_face(kind: Projection, w: np.ndarray, mu: float) -> float:
    """Every face of the ball (a choice of signs and zeros), with the closest point of its plane."""
    radius = kind.radius  # type: ignore[attr-defined]
    if np.abs(w).sum() <= radius:
        return 0.0
    best = np.inf
    for signs in product((-1, 0, 1), repeat=len(w)):
        s = np.array(signs)
        if not s.any():
            continue
        theta = np.where(s != 0, w - s * (s @ w - radius) / np.abs(s).sum(), 0)
        if (theta * s >= -1e-12).all():
            best = min(best, float(np.square(w - theta).sum()))
    return mu / 2 * best


def by_every_half(kind: Projection, w: np.ndarray, mu: float) -> float:
    """Try every number of 16 bits for every weight."""
    assert isinstance(kind, HalfPrecision)
    every = np.arange(1 << 16, dtype=np.uint16).view(TYPES[kind.kind])
    with np.errstate(invalid="ignore"):
        every = every[np.isfinite(every)].astype(np.float64)
    return mu / 2 * sum(float(np.square(every - x).min()) for x in w)


def left_over(w: np.ndarray) -> float:
    """Squared error of the closest rank 1 of a matrix with two rows, trying directions finely."""
    angles = np.linspace(0, np.pi, 20001)
    directions = np.stack([np.cos(angles), np.sin(angles)], 1)
    return max(0.0, float(np.square(w).sum() - np.square(directions @ w).sum(1).max()))


def by_direction(kind: Projection, w: np.ndarray, mu: float) -> float:
    assert isinstance(kind, FixedRank)
    return mu / 2 * left_over(w) if kind.rank == 1 else 0.0


def by_rank(kind: Projection, w: np.ndarray, mu: float) -> float:
    """Rank 1, where it is worth while, and the whole matrix."""
    assert isinstance(kind, LearnedRank)
    whole, one = w.size, sum(w.shape)
    useful = one <= WORTH * whole
    if kind.alpha is None:
        fits = whole <= (kind.keep or 0) * whole
        return mu / 2 * left_over(w) if useful and not fits else 0.0
    factored = kind.alpha * one + mu / 2 * left_over(w) if useful else np.inf
    return min(kind.alpha * whole, factored)


def by_partition_of_codes(kind: Projection, w: np.ndarray, mu: float) -> float:
    """Weights too few for a trellis get a plain codebook; its paths have an oracle in tests/encodings."""
    assert isinstance(kind, TrellisCodebook)
    return by_partition(AdaptiveCodebook(1 << kind.bits), w, mu)


MATRICES = frozenset({"low-rank", "rank"})
"""Compressions of matrices: their few weights are two rows."""

ORACLES: dict[str, Least] = {
    "codebook": by_partition,
    "binary": by_levels,
    "ternary": by_levels,
    "pow2": by_levels,
    "int": by_levels,
    "prune": by_support,
    "half": by_every_half,
    "prune-codebook": by_partition_and_zero,
    "l0-penalty": by_any_support,
    "l1": by_face,
    "l1-penalty": by_grid,
    "low-rank": by_direction,
    "rank": by_rank,
    "trellis": by_partition_of_codes,
}
values = st.lists(st.floats(-4, 4, width=32) | st.sampled_from([0.0, -0.5, 1.0]), min_size=1, max_size=6)


def test_every_registered_compression_has_an_oracle() -> None:
    assert set(ORACLES) == set(PROJECTIONS)


@pytest.mark.parametrize("term", sorted(ORACLES))
@settings(max_examples=12, deadline=None)
@given(numbers=values, mu=st.sampled_from(MUS))
def test_nothing_is_better_than_what_is_found_on_few_weights(
    term: str, numbers: list[float], mu: float
) -> None:
    w = np.array(numbers, np.float64)
    if term in MATRICES:
        w = np.stack([w, w[::-1] ** 2])
    for kind in EXAMPLES[term]:
        if isinstance(kind, LearnedRank) and kind.keep and kind.keep < kind.least([w.shape]):
            continue  # too small to be factored
        least = ORACLES[term](kind, w, mu)
        found = objective(kind, [w], kind.project([w], mu=mu), mu)
        assert found <= least * (1 + 1e-4) + 1e-6 * mu


@pytest.mark.parametrize(
    ("term", "settings_", "words"),
    [
        ("codebook", {"entries": 1}, "2 to 256"),
        ("pow2", {"entries": 2}, "3 to 256"),
        ("int", {"entries": 300}, "2 to 256"),
        ("prune", {}, "either keep or count"),
        ("prune", {"keep": 0.1, "count": 5}, "either keep or count"),
        ("prune", {"keep": 0.0}, "over 0"),
        ("prune", {"count": 0}, "at least 1"),
        ("prune-codebook", {"entries": 4}, "either keep or count"),
        ("prune-codebook", {"entries": 1, "keep": 0.1}, "2 to 256"),
        ("trellis", {"bits": 5}, "1 to 4"),
        ("l1", {"radius": 0.0}, "positive"),
        ("l0-penalty", {"alpha": -1.0}, "positive"),
        ("l1-penalty", {"alpha": 0.0}, "positive"),
    ],
)
def test_settings_that_cannot_be_are_refused(term: str, settings_: dict[str, float], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        PROJECTIONS[term](**settings_)
