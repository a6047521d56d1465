"""How channels repeat along an axis, against the arrays they were made from."""

from __future__ import annotations

import numpy as np
from hypothesis import assume, given
from hypothesis import strategies as st

from onnxcompress.engine.channels.repetition import Repetition, repetition

NAMES = st.lists(st.integers(0, 99), min_size=2, max_size=6, unique=True)
TIMES = st.integers(1, 4)


@given(NAMES, TIMES, TIMES)
def test_what_was_repeated_is_found(names, outer, inner):
    labels = np.tile(np.repeat(names, inner), outer)
    found = repetition(labels)
    assert found == Repetition(outer, len(names), inner)
    assert found.per_channel(labels).tolist() == names


@given(NAMES, TIMES, TIMES, st.data())
def test_nothing_else_is(names, outer, inner, data):
    labels = np.tile(np.repeat(names, inner), outer)
    one, other = (data.draw(st.integers(0, len(labels) - 1)) for _ in range(2))
    assume(labels[one] != labels[other])
    labels[one] = labels[other]  # one channel more often than before, another less often
    found = repetition(labels)
    assert found is None or outer * inner == 1
