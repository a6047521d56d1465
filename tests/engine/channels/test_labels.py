"""The ledger against a union-find written out by hand."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from onnxcompress.engine.channels.labels import Kind, Ledger


def components(count: int, ties: list[tuple[int, int]]) -> list[set[int]]:
    sets = [{k} for k in range(count)]
    for a, b in ties:
        first, second = next(s for s in sets if a in s), next(s for s in sets if b in s)
        if first is not second:
            sets.remove(second)
            first |= second
    return sets


@given(
    st.integers(1, 12).flatmap(
        lambda n: st.tuples(st.just(n), st.lists(st.tuples(*[st.integers(0, n - 1)] * 2)))
    )
)
def test_roots_are_the_connected_components(case):
    count, ties = case
    ledger = Ledger()
    ledger.fresh(count)
    for a, b in ties:
        ledger.tie(np.array([a]), np.array([b]))
    roots = ledger.roots()
    for part in components(count, ties):
        assert len({int(roots[k]) for k in part}) == 1
    assert len(set(roots.tolist())) == len(components(count, ties))


def test_fresh_labels_never_repeat():
    ledger = Ledger()
    first, second = ledger.fresh(3), ledger.fresh(4)
    assert not set(first.tolist()) & set(second.tolist())
    assert ledger.count == 7


def test_no_labels_have_no_roots():
    assert Ledger().roots().size == 0


def test_the_kind_of_a_freeze_is_kept():
    ledger = Ledger()
    ledger.freeze(ledger.fresh(2), "reads the input", Kind.INPUT)
    ledger.freeze(np.zeros(0, np.int64), "nothing")
    assert [f.kind for f in ledger.frozen] == [Kind.INPUT]


def test_what_was_frozen_is_known_as_labels_come():
    rng, ledger, frozen, runs = np.random.default_rng(0), Ledger(), set(), []
    for _ in range(200):
        runs.append(np.repeat(ledger.fresh(int(rng.integers(1, 9))), int(rng.integers(1, 3))))
        some = runs[rng.integers(len(runs))]
        if rng.random() < 0.2:
            ledger.freeze(some.reshape(1, -1), "why")
            frozen.update(some.tolist())
        assert [ledger.is_frozen(run) for run in runs] == [
            not frozen.isdisjoint(run.tolist()) for run in runs
        ]
    assert 0 < sum(ledger.is_frozen(run) for run in runs) < len(runs)
