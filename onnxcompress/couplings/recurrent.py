"""LSTM, GRU and RNN: a hidden unit is one position in every gate, in the state and in both directions."""

from __future__ import annotations

import numpy as np

from onnxcompress.couplings._axes import has, is_read
from onnxcompress.couplings._base import Crossing, Cut, Labels, coupling

_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
_STEP = "is a time step of a recurrent layer"
_DIRECTION = "is a direction of a recurrent layer"


def _narrowed(cut: Cut) -> None:
    if cut.keep(2, 2) is not None:
        cut.set_attribute("hidden_size", cut.cut_shape(2)[2])


@coupling("LSTM", "GRU", "RNN", repair=_narrowed)
def _recurrent(crossing: Crossing) -> None:
    """Tie W (D, gates·H, I), R (D, gates·H, H), B (D, 2·gates·H), P (D, 3·H), states and outputs along H."""
    gates, batch_first = _GATES[crossing.node.op_type], bool(crossing.node.get("layout", 0))
    if crossing.labels(0, 2) is not None or crossing.labels(1, 2) is not None:
        crossing.contract(0, 2, crossing.labels(1, 2), weight=(1, 2))
    units = crossing.labels(2, 2)
    for slot, axis, repeats in ((1, 1, gates), (2, 1, gates), (3, 1, 2 * gates), (7, 1, 3)):
        own = crossing.labels(slot, axis) if has(crossing, slot) else None
        if own is not None and units is not None:
            crossing.merge(np.tile(units, repeats), own)
        else:  # one hidden unit
            crossing.freeze(own, _ONE)
    if units is not None:
        crossing.consume(2, 2)
        for slot in (5, 6):
            if has(crossing, slot):
                crossing.merge(units, crossing.labels(slot, 2))
    for slot in (1, 2, 3, 7):
        if has(crossing, slot):
            crossing.freeze(crossing.labels(slot, 0), _DIRECTION)
    rows = _batch(crossing, batch_first)
    _outputs(crossing, units, rows, batch_first)


_ONE = "is a gate of the only hidden unit of a recurrent layer"


def _batch(crossing: Crossing, batch_first: bool) -> Labels | None:
    """Tie the batch axes of the input, its lengths and the states; freeze time and direction."""
    rows = crossing.labels(0, 0 if batch_first else 1)
    crossing.freeze(crossing.labels(0, 1 if batch_first else 0), _STEP)
    many = crossing.shape(0)[0 if batch_first else 1] > 1
    for slot, axis in ((4, 0), (5, 0 if batch_first else 1), (6, 0 if batch_first else 1)):
        if has(crossing, slot):
            if many:
                rows = crossing.merge(rows, crossing.labels(slot, axis))
            if slot > 4:
                crossing.freeze(crossing.labels(slot, 1 if batch_first else 0), _DIRECTION)
    return rows


def _outputs(crossing: Crossing, units: Labels | None, rows: Labels | None, batch_first: bool) -> None:
    """Label Y (T, D, N, H) and the last states (D, N, H); with ``layout`` the batch comes first."""
    places = {
        0: (3, 0 if batch_first else 2),
        1: (2, 0 if batch_first else 1),
        2: (2, 0 if batch_first else 1),
    }
    for output, (hidden, batch) in places.items():
        if is_read(crossing.node, output):
            crossing.put(output, hidden, units)
            crossing.put(output, batch, rows)
