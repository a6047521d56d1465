"""Low rank: layouts, the grid of exact products, ranks to choose from, recognition in a file."""

from collections.abc import Callable
from dataclasses import replace

import ml_dtypes
import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small import one_weight, run, stored_proto

from onnxcompress.core.errors import UsageError
from onnxcompress.csteps.lowrank import decompose
from onnxcompress.encodings._base import Projection
from onnxcompress.encodings._layout import Layout, layouts_of, most_useful, ranks_up_to
from onnxcompress.encodings._ranks import stored as stored_options
from onnxcompress.encodings.dense import Dense
from onnxcompress.encodings.lowrank import FixedRank, LearnedRank, LowRank, low_rank
from onnxcompress.engine.proto import from_proto
from onnxcompress.engine.storage import stored


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).normal(size=shape)


@pytest.mark.parametrize("layout", [*layouts_of(4), Layout((3, 1), (0, 2)), Layout((0, 1, 2), (3,))])
def test_a_layout_deals_axes_and_back(layout: Layout) -> None:
    weight = normal(3, 4, 5, 2)
    matrix = layout.matrix(weight)
    assert matrix.shape == layout.sides(weight.shape)
    assert np.array_equal(layout.weight(matrix, weight.shape), weight)
    assert layout.turned.matrix(weight).shape == matrix.T.shape


def test_scheme_two_is_a_row_of_the_kernel_then_a_column() -> None:
    """A kernel that is an outer product has rank 1 by scheme 2, and needs 3 by scheme 1."""
    kernel = np.einsum("nr,k,rm,l->nmkl", normal(6, 1), normal(3), normal(1, 5), normal(3))
    mixed = kernel + np.einsum("nr,k,rm,l->nmkl", normal(6, 1, seed=1), normal(3), normal(1, 5), normal(3))
    errors = {}
    for scheme in ("1", "2"):
        encoding = FixedRank(1, scheme=scheme).project([mixed])[0]  # type: ignore[arg-type]
        errors[scheme] = float(np.square(encoding.decode() - mixed).sum())
    auto = FixedRank(1).project([mixed])[0]
    assert np.isclose(np.square(auto.decode() - mixed).sum(), min(errors.values()))


def test_without_spatial_axes_both_schemes_are_one() -> None:
    assert layouts_of(2) == layouts_of(2, "2") == (Layout((0,), (1,)),)
    assert layouts_of(3, "2") == (Layout((0, 2), (1,)),)


def test_ranks_to_choose_from() -> None:
    assert ranks_up_to(40, 16).tolist() == [4, 8, 12, 16, 32]
    assert ranks_up_to(3, 16).tolist() == [1, 2, 3]
    assert ranks_up_to(6, 1).tolist() == [1, 2, 3, 4, 5, 6]
    assert ranks_up_to(0, 16).tolist() == []
    rank = most_useful((64, 32), Layout((0,), (1,)))
    assert rank * 96 < 0.95 * 64 * 32 <= (rank + 1) * 96


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 999),
    rank=st.integers(1, 40),
    scale=st.sampled_from([1e-12, 1e-3, 1.0, 1e4]),
    dtype=st.sampled_from([np.float32, np.float64, np.float16, ml_dtypes.bfloat16]),
)
def test_products_are_exact_in_any_order(seed: int, rank: int, scale: float, dtype: type) -> None:
    """Every sum of products of a row and a column is the same float64 number, whatever comes first."""
    if np.dtype(dtype) == np.float16 and scale != 1.0:
        scale = 0.1
    left, right = normal(4, rank, seed=seed) * scale, normal(rank, 5, seed=seed + 1) * scale
    found = low_rank(left, right, (4, 5), Layout((0,), (1,)), np.dtype(dtype))
    a, b = found.left.astype(np.float64), found.right.astype(np.float64)
    exact = a @ b
    order = np.random.default_rng(seed).permutation(rank)
    backwards = np.zeros((4, 5))
    for i in order:
        backwards += np.outer(a[:, i], b[i])
    assert np.array_equal(exact, backwards)
    assert found.left.dtype == found.right.dtype == found.decode().dtype == dtype


def test_rounding_to_the_grid_costs_no_more_than_the_type_does() -> None:
    array = normal(50, 70).astype(np.float32)
    left, right = decompose(array).truncated(20)
    found = low_rank(left, right, (50, 70), Layout((0,), (1,)), np.dtype(np.float32))
    plain = left.astype(np.float32).astype(float) @ right.astype(np.float32).astype(float)
    ours = np.linalg.norm(found.left.astype(float) @ found.right.astype(float) - left @ right)
    assert ours < 2 * np.linalg.norm(plain - left @ right)


def test_zeros_and_ones_are_harmless() -> None:
    for weight in (np.zeros((4, 6), np.float32), np.ones((1, 1), np.float32), np.ones((5,), np.float32)):
        assert np.allclose(FixedRank(1).project([weight])[0].decode(), weight)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 999),
    weights=st.sampled_from([2, 3]),
    keep=st.sampled_from([0.4, 0.6, 0.9]),
    told=st.booleans(),
)
def test_learned_ranks_against_every_combination(seed: int, weights: int, keep: float, told: bool) -> None:
    """By the damage of errors where it is told, else by the energy that is kept one layer after another."""
    rng = np.random.default_rng([seed, weights])
    arrays = [normal(6, 7, seed=seed + s) * 4.0**s for s in range(weights)]
    options = [stored_options((6, 7), layouts_of(2)) for _ in arrays]
    errors = []
    for k, array in enumerate(arrays):
        left_over = decompose(array).left_over()
        damage = rng.uniform(0.1, 10, len(left_over))
        ways = (replace(options[k].ways[0], damage=tuple(damage.tolist())),)
        options[k] = replace(options[k], ways=ways if told else options[k].ways)
        kept = 1 - left_over / left_over[0]
        of_ranks = (
            left_over * damage / np.maximum(kept, 1e-12)
            if told
            else -np.log(1 - left_over[1:] / left_over[0])
        )
        errors.append([*(of_ranks[1:4] if told else of_ranks[:3]), 0.0])
    found = LearnedRank(keep=keep, options=tuple(options)).project(arrays)
    costs = [13, 26, 39, 42]
    budget = keep * 42 * weights
    chosen = [3 if isinstance(e, Dense) else e.rank - 1 for e in found]
    assert sum(costs[i] for i in chosen) <= budget
    best = min(
        sum(e[i] for e, i in zip(errors, tried, strict=True))
        for tried in np.ndindex(*(4,) * weights)
        if sum(costs[i] for i in tried) <= budget
    )
    error = sum(e[i] for e, i in zip(errors, chosen, strict=True))
    step = max(max(e) for e in errors)
    assert best - 1e-9 <= error <= best + step


def test_on_the_hulls_the_choice_is_the_best() -> None:
    """Where the budget is met there, no combination is better: the ranks are those of one price."""
    arrays = [normal(12, 12, seed=s) * 3.0**s for s in range(3)]
    errors = [-np.log1p(-decompose(a).left_over()[1:] / np.square(a).sum()) for a in arrays]
    for price in (0.05, 0.02, 0.01):
        wanted = []
        for error in errors:
            objective = [*(error[:5] + price * 24 * np.arange(1, 6)), price * 144]
            wanted.append(int(np.argmin(objective)))
        spent = sum(144 if w == 5 else 24 * (w + 1) for w in wanted)
        found = LearnedRank(keep=spent / (3 * 144)).project(arrays)
        assert [5 if isinstance(e, Dense) else e.rank - 1 for e in found] == wanted


def test_learned_ranks_do_not_change_with_the_scale_of_a_layer() -> None:
    """A network of ReLUs stays the same if one layer is multiplied and the next divided."""
    arrays = [normal(20, 30, seed=s) @ np.diag(0.9 ** np.arange(30)) for s in range(3)]
    scaled = [a * s for a, s in zip(arrays, (1e-3, 1.0, 1e3), strict=True)]
    ranks = [[e.rank for e in LearnedRank(keep=0.5).project(some)] for some in (arrays, scaled)]
    assert ranks[0] == ranks[1]


@pytest.mark.parametrize(
    "made",
    [
        lambda: FixedRank(0),
        LearnedRank,
        lambda: LearnedRank(alpha=1.0, keep=0.5),
        lambda: LearnedRank(keep=0.0),
        lambda: LearnedRank(alpha=-1.0),
        lambda: LearnedRank(keep=0.5, round_to=0),
    ],
)
def test_settings_that_cannot_be_are_refused(made: Callable[[], Projection]) -> None:
    with pytest.raises(UsageError):
        made()


def test_the_penalty_form_weighs_rank_against_error() -> None:
    arrays = [normal(6, 7), 100 * normal(6, 7, seed=1)]
    for mu in (1e-3, 1.0, 1e3):
        for array, encoding in zip(arrays, LearnedRank(alpha=0.1).project(arrays, mu=mu), strict=True):
            tail = decompose(array).left_over()
            objective = [0.1 * 13 * r + mu / 2 * tail[r] for r in (1, 2, 3)] + [0.1 * 42]
            chosen = 3 if isinstance(encoding, Dense) else encoding.rank - 1
            assert np.isclose(objective[chosen], min(objective))
    ranks = [e.rank for e in LearnedRank(alpha=1e6).project(arrays, mu=1e-9) if isinstance(e, LowRank)]
    assert ranks == [1, 1], "however small μ is, a layer is not emptied"
    assert all(isinstance(e, Dense) for e in LearnedRank(alpha=1.0).project(arrays))


def test_the_cost_of_what_was_chosen() -> None:
    projection = LearnedRank(alpha=0.5)
    array = normal(20, 30)
    low = FixedRank(3).project([array])[0]
    assert projection.cost([low, Dense(array)]) == 0.5 * (3 * 50 + 600)
    assert projection.penalised
    assert not LearnedRank(keep=0.5).penalised
    assert LearnedRank(keep=0.5).cost([low]) == 0.0


def test_some_of_the_weights() -> None:
    arrays = [normal(20, 30, seed=s) for s in range(3)]
    part = LearnedRank(keep=0.4).of([2]).project([arrays[2]])[0]
    assert isinstance(part, LowRank)
    assert 50 * part.rank <= 0.4 * 600


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64])
@pytest.mark.parametrize(
    ("shape", "layout"),
    [
        ((40, 60), Layout((0,), (1,))),
        ((40, 60), Layout((1,), (0,))),
        ((20, 30, 3, 3), layouts_of(4)[0]),
        ((20, 30, 3, 3), layouts_of(4)[1]),
        ((1, 60, 40), Layout((0, 1), (2,))),
    ],
)
def test_recognised_in_the_file(shape: tuple[int, ...], layout: Layout, dtype: type) -> None:
    array = normal(*shape).astype(dtype)
    encoding = FixedRank(4, layouts=(layout,)).project([array])[0]
    proto = stored_proto(one_weight(array), encoding)
    graph, encodings = stored.lift(from_proto(onnx.load_from_string(proto.SerializeToString())))
    assert list(encodings) == ["w"]
    found = encodings["w"]
    assert isinstance(found, LowRank)
    assert found.shape == shape
    assert np.array_equal(found.decode(), encoding.decode())
    assert run(proto).tobytes() == found.decode().tobytes()
    assert not [n for n in graph.graph if n.op_type == "MatMul"]
