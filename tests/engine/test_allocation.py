"""Allocation: widths, floors and targets against every possible choice on small groups."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxcompress.core.channels import Group, Member
from onnxcompress.core.errors import UnsupportedError, UsageError
from onnxcompress.engine.allocation import Costs, Target, allocate
from onnxcompress.engine.widths import positions, widths, widths_of


def group(name: str, size: int, repeats: int = 1) -> Group:
    made = np.repeat(np.arange(size), repeats)
    return Group(name, size, (Member(f"{name}.w", 0, made, False),), ())


def scores_of(groups, seed: int = 0):
    rng = np.random.default_rng(seed)
    return {g.name: rng.uniform(0.1, 1, g.size) for g in groups}


def linear(prices: dict[str, float], rest: float = 0.0):
    """A model whose work is a sum over groups of price times width."""

    def count(sizes):
        def macs(keep):
            kept = {n: s if n not in keep else int(np.sum(keep[n])) for n, s in sizes.items()}
            return rest + sum(prices[n] * k for n, k in kept.items())

        return macs

    return count


def test_widths_by_hand() -> None:
    assert widths(64).tolist() == [4, 8, 12, 16, 32, 48, 64]
    assert widths(24).tolist() == [4, 8, 12, 16, 24]
    assert widths(10).tolist() == [1, 2, 3, 4, 8, 10], "not a multiple of 4: any width below 4"
    assert widths(58).tolist() == [1, 2, 3, *range(4, 58, 4), 58]
    assert widths(4).tolist() == [4]
    assert widths(1).tolist() == [1]
    assert widths(4, positions=32).tolist() == [1, 2, 3, 4], "every channel is two blocks wide"
    assert widths(12, positions=8).tolist() == [1, 2, 4, 6, 8, 10, 12], "two channels are a block"
    assert widths(9, round_to=1).tolist() == list(range(1, 10))
    assert widths(64, round_to=32).tolist() == [*range(4, 32, 4), 32, 64]


def test_a_layer_that_reads_every_channel_twice_stays_fast() -> None:
    once, twice = np.arange(6), np.tile(np.arange(6), 2)
    both = Group("g", 6, (Member("a", 0, once, False), Member("b", 0, twice, False)), ())
    assert widths(6).tolist() == [1, 2, 3, 4, 6]
    assert widths_of(both, 16).tolist() == [2, 4, 6]
    assert widths_of(both, 1).tolist() == [1, 2, 3, 4, 5, 6]
    assert widths_of(group("h", 6), 16).tolist() == [1, 2, 3, 4, 6]


@settings(max_examples=200, deadline=None)
@given(size=st.integers(1, 300), places=st.integers(1, 20), block=st.sampled_from([1, 2, 4, 8, 16, 32]))
def test_no_width_falls_off_the_fast_path(size: int, places: int, block: int) -> None:
    allowed = widths(size, places, block)
    assert allowed[0] >= 1
    assert allowed[-1] == size
    assert (np.diff(allowed) > 0).all()
    if block >= 4 and size * places % 4 == 0:
        assert (allowed * places % 4 == 0).all()


@settings(max_examples=200, deadline=None)
@given(sizes=st.lists(st.integers(1, 200), min_size=1, max_size=6), keep=st.floats(0.05, 1))
def test_layers_keep_the_most_important_and_never_more_than_asked(sizes: list[int], keep: float) -> None:
    groups = [group(f"g{i}", size) for i, size in enumerate(sizes)]
    scores = scores_of(groups)
    found = allocate(groups, scores, Target("channels", keep))
    for g in groups:
        allowed = widths(g.size)
        mask = found.keep.get(g.name, np.ones(g.size, bool))
        kept = int(mask.sum())
        assert kept in allowed
        assert kept <= max(keep * g.size + 1e-6, allowed[0]), "rounding kept more than was asked for"
        larger = [w for w in allowed if kept < w <= keep * g.size]
        assert not larger, "a wider width was possible"
        if kept < g.size:
            assert scores[g.name][mask].min() >= scores[g.name][~mask].max()
            assert g.name not in found.whole
        else:
            assert found.whole[g.name]
    total = sum(sizes)
    assert found.reached == pytest.approx(
        sum(int(found.keep.get(g.name, np.ones(g.size, bool)).sum()) for g in groups) / total
    )


@pytest.mark.parametrize("scope", ["layer", "joint"])
@pytest.mark.parametrize("share", [0.8, 0.5, 0.3])
def test_targets_are_met_as_closely_as_the_widths_allow(scope: str, share: float) -> None:
    sizes = {"a": 64, "b": 128, "c": 32}
    prices = {"a": 10.0, "b": 1.0, "c": 3.0}
    groups = [group(n, s) for n, s in sizes.items()]
    macs = linear(prices, rest=50)(sizes)
    found = allocate(groups, scores_of(groups), Target("macs", share), scope=scope, costs=Costs(macs, macs))
    assert found.reached == pytest.approx(macs(found.keep) / macs({}))
    assert share - 0.1 < found.reached <= share


@settings(max_examples=100, deadline=None)
@given(
    sizes=st.lists(st.integers(2, 120), min_size=1, max_size=5),
    share=st.floats(0.3, 0.9),
    scope=st.sampled_from(["layer", "joint"]),
    seed=st.integers(0, 9),
)
def test_no_group_could_be_wider_within_the_target(sizes, share, scope, seed) -> None:
    """The oracle: every single step to the next width is tried."""
    groups = [group(f"g{i}", size) for i, size in enumerate(sizes)]
    whole = {g.name: g.size for g in groups}
    prices = dict(zip(whole, np.random.default_rng(seed).uniform(0.1, 5, len(groups)), strict=True))
    macs = linear(prices)(whole)
    try:
        found = allocate(
            groups, scores_of(groups, seed), Target("macs", share), scope=scope, costs=Costs(macs, macs)
        )
    except UnsupportedError:
        least = {n: np.arange(s) < widths(s)[0] for n, s in whole.items()}
        if scope == "layer":  # a joint ranking leaves more: a tenth, or a block, of every group
            assert macs(least) > share * macs({})
        return
    assert macs(found.keep) <= share * macs({}) * (1 + 1e-6)
    for g in groups:
        kept = int(found.keep[g.name].sum()) if g.name in found.keep else g.size
        for wider in widths(g.size)[widths(g.size) > kept][:1]:
            tried = {**found.keep, g.name: np.arange(g.size) < wider}
            assert macs(tried) > share * macs({}), f"{g.name} might have kept {wider} instead of {kept}"


def test_one_share_for_all_layers_leaves_a_target_unused_which_is_filled() -> None:
    """Four layers of 32 channels in a row: at one share for all, 16 or 32 each, 0.27 or the whole stay."""
    sizes = dict.fromkeys("abcd", 32)
    groups = [group(n, s) for n, s in sizes.items()]

    def macs(keep):
        a, b, c, d = (int(keep[n].sum()) if n in keep else 32 for n in "abcd")
        return 9 * a + 9 * (a * b + b * c + c * d) + 9 * d

    found = allocate(groups, scores_of(groups), Target("macs", 0.5), costs=Costs(macs, macs))
    assert macs(dict.fromkeys("abcd", np.arange(32) < 16)) / macs({}) < 0.27
    whole_blocks = [
        macs({n: np.arange(32) < w for n, w in zip("abcd", chosen, strict=True)})
        for chosen in itertools.product((16, 32), repeat=4)
    ]
    assert macs(found.keep) == max(m for m in whole_blocks if m <= 0.5 * macs({}))


def two_in_a_row(scores):
    """Allocate half of the work of two layers of 32 channels in a row and two small ones behind them.

    A block of either of the first two halves the work; two blocks quarter it, and one is too much by a hair.
    """
    groups = [group(n, s) for n, s in {"a": 32, "b": 32, "c": 64, "d": 32}.items()]

    def macs(keep):
        a, b, c, d = (int(keep[g.name].sum()) if g.name in keep else g.size for g in groups)
        return 576 * a + 576 * a * b + 16 * b * (c + d) + 10 * c + d

    costs = Costs(macs, macs)
    return macs, allocate(groups, scores(groups), Target("macs", 0.5), scope="joint", costs=costs)


def test_where_much_of_a_target_is_left_one_group_gives_up_a_block_for_another() -> None:
    macs, found = two_in_a_row(scores_of)
    quarter = {n: np.arange(s) < s // 2 for n, s in {"a": 32, "b": 32}.items()}
    assert macs(quarter) < 0.28 * macs({}), "what is left where none gives up anything"
    assert 0.4 * macs({}) < macs(found.keep) <= 0.5 * macs({})


def test_what_is_far_more_important_is_not_given_up_for_a_block_of_another() -> None:
    def scores(groups):
        small = {g.name: np.r_[np.full(16, 1.0), np.full(g.size - 16, 1e-3)] for g in groups}
        return {**small, "c": np.ones(64), "d": np.ones(32)}

    _, found = two_in_a_row(scores)
    assert all(found.keep[name][:16].all() for name in "ab")


def test_a_joint_ranking_is_fair_between_groups_of_different_scale() -> None:
    """The same channels with all importances of one group a thousandfold: the same choice."""
    groups = [group("a", 64), group("b", 64)]
    scores = scores_of(groups)
    larger = {"a": scores["a"] * 1000, "b": scores["b"]}
    first = allocate(groups, scores, Target("channels", 0.5), scope="joint")
    second = allocate(groups, larger, Target("channels", 0.5), scope="joint")
    for name in first.keep:
        assert np.array_equal(first.keep[name], second.keep[name])
    assert 0.35 < first.reached <= 0.5


def test_a_joint_ranking_cuts_where_channels_are_alike_unimportant() -> None:
    groups = [group("flat", 64), group("peaked", 64)]
    peaked = np.full(64, 0.01)
    peaked[:16] = 1.0
    scores = {"flat": np.linspace(0.99, 1.01, 64), "peaked": peaked}
    found = allocate(groups, scores, Target("channels", 0.6), scope="joint")
    assert found.keep["peaked"].sum() == 16
    assert found.keep["peaked"][:16].all()
    assert found.keep.get("flat", np.ones(64)).sum() >= 48


def test_no_group_is_emptied_however_unimportant() -> None:
    groups = [group("a", 160), group("b", 160), group("c", 6)]
    scores = {"a": np.full(160, 1.0), "b": np.r_[np.full(2, 100.0), np.full(158, 1e-9)], "c": np.ones(6)}
    found = allocate(groups, scores, Target("channels", 0.2), scope="joint")
    assert all(mask.sum() >= 1 for mask in found.keep.values())
    assert found.keep["b"].sum() >= 16


def test_the_costly_group_gives_more() -> None:
    sizes = {"cheap": 64, "costly": 64}
    groups = [group(n, s) for n, s in sizes.items()]
    macs = linear({"cheap": 1.0, "costly": 20.0})(sizes)
    found = allocate(groups, scores_of(groups), Target("macs", 0.6), scope="joint", costs=Costs(macs, macs))
    assert found.keep["costly"].sum() < found.keep.get("cheap", np.ones(64)).sum()


def test_a_target_out_of_reach_is_an_error_that_says_the_least() -> None:
    groups = [group("a", 64)]
    macs = linear({"a": 1.0}, rest=64)({"a": 64})
    for scope in ("layer", "joint"):
        with pytest.raises(UnsupportedError, match=r"0\.[56]\d* of the whole stay .* where 0\.3 may"):
            allocate(groups, scores_of(groups), Target("macs", 0.3), scope=scope, costs=Costs(macs, macs))


def test_latency_is_measured_a_few_times_only() -> None:
    sizes = {f"g{i}": 256 for i in range(10)}
    groups = [group(n, s) for n, s in sizes.items()]
    macs = linear(dict.fromkeys(sizes, 1.0))(sizes)
    asked = []

    def latency(keep):
        asked.append(keep)
        return macs(keep) / macs({})

    found = allocate(
        groups, scores_of(groups), Target("latency", 0.6), scope="joint", costs=Costs(macs, macs, latency)
    )
    assert len(asked) <= 8 + 8, "to find the level, and to fill what it leaves"
    assert 0.55 < found.reached <= 0.6


@pytest.mark.parametrize("scope", ["layer", "joint"])
def test_latency_takes_whole_blocks_and_parts_of_them_only_where_they_must_be(scope) -> None:
    """A machine that computes blocks of 16, and takes time to join what is not whole."""
    sizes = {"a": 64, "b": 24, "c": 10}
    groups = [group(n, s) for n, s in sizes.items()]

    def measured(joining: float):
        def latency(keep):
            kept = [s if n not in keep else int(keep[n].sum()) for n, s in sizes.items()]
            return sum(-(-k // 16) + joining * (k % 16 > 0) for k in kept) / 7

        return latency

    def asked(share: float, joining: float):
        macs = linear(dict.fromkeys(sizes, 1.0))(sizes)
        costs = Costs(macs, macs, measured(joining))
        found = allocate(groups, scores_of(groups), Target("latency", share), scope=scope, costs=costs)
        return {n: int(mask.sum()) for n, mask in found.keep.items()}, found

    # Three blocks stay at least: "a" and "b" one each, and "c", which is less than one.
    kept, found = asked(0.5, joining=0.01)
    assert kept == {"a": 16, "b": 16}
    assert found.reached <= 0.5
    # Where parts of blocks are measured to be faster, they are taken once whole ones do not do.
    kept, found = asked(0.3, joining=-0.6)
    assert min(kept.values()) < 16
    assert found.reached <= 0.3
    with pytest.raises(UnsupportedError, match="latency cannot be reached"):
        asked(0.2, joining=0.01)


def test_a_measurement_that_fails_is_told_and_not_taken_for_a_target_out_of_reach() -> None:
    asked = []

    def latency(keep):
        asked.append(keep)
        raise UnsupportedError("onnxruntime cannot load the model")

    groups = [group("a", 64)]
    with pytest.raises(UnsupportedError, match="cannot load"):
        allocate(
            groups, scores_of(groups), Target("latency", 0.5), costs=Costs(lambda _: 1, lambda _: 1, latency)
        )
    assert len(asked) == 1


def test_joint_meets_a_target_at_least_as_well_as_any_smaller_count() -> None:
    """The bisection finds the highest level at which the target holds (checked against all levels)."""
    sizes = {"a": 24, "b": 40}
    groups = [group(n, s) for n, s in sizes.items()]
    scores = scores_of(groups, 3)
    macs = linear({"a": 2.0, "b": 1.0})(sizes)
    found = allocate(groups, scores, Target("macs", 0.5), scope="joint", costs=Costs(macs, macs))
    reachable = [
        2.0 * a + b for a, b in itertools.product(widths(24), widths(40)) if 2.0 * a + b <= 0.5 * macs({})
    ]
    assert macs(found.keep) >= 0.6 * max(reachable)


def test_positions_of_a_channel() -> None:
    flattened = Member("fc.w", 1, np.repeat(np.arange(8), 49), True)
    conv = Member("conv.w", 0, np.arange(8), False)
    assert positions(Group("g", 8, (conv, flattened), ())) == 1
    assert positions(group("heads", 12, 64)) == 64


@pytest.mark.parametrize(
    "text", ["macs", "macs=", "macs=0", "macs=1", "macs=x", "channels=0.5", "flops=0.5", "="]
)
def test_targets_that_cannot_be_read(text: str) -> None:
    with pytest.raises(UsageError, match="target"):
        Target.read(text)


def test_targets_are_read() -> None:
    assert Target.read("params=0.4") == Target("params", 0.4)


def test_nothing_to_cut() -> None:
    assert allocate([], {}, Target("macs", 0.5)).keep == {}
