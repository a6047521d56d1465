"""Random inputs for the proof of a cut: of one size, and of others where the model leaves sizes open."""

from __future__ import annotations

from functools import partial

import numpy as np

from onnxcompress.core.errors import OnnxCompressError
from onnxcompress.core.task import Feeds
from onnxcompress.engine import runtime
from onnxcompress.engine.channels import Channels
from onnxcompress.engine.channels.other_sizes import (
    PROOFS,
    Place,
    Shapes,
    attempted,
    by_name,
    resized,
)
from onnxcompress.engine.feeds import random_feeds

EXAMPLES = 2
"""Inputs of the first size."""

HEAVY_MACS = 2_000_000_000
"""Models that multiply more than this in one inference are compared on fewer and smaller inputs, and in
float64 on the first alone."""


def random_inputs(channels: Channels, session: runtime.OrtSession, seed: int) -> tuple[list[Feeds], int]:
    """Return inputs, and how many sizes there are among them.

    Args:
        channels: the analysed model.
        session: a model with the same inputs, to try sizes with.
        seed: of the values.
    """
    heavy = channels.macs({}) > HEAVY_MACS

    def drawn(shapes: Shapes, count: int, first: int) -> list[Feeds]:
        return list(
            random_feeds(session.inputs, seed=first, shapes=shapes, examples=count, model=channels.model)
        )

    def runs(shapes: Shapes) -> bool:
        try:
            outputs = session.run(drawn(shapes, 1, seed)[0])
        except OnnxCompressError:
            return False
        return all(np.size(value) for value in outputs.values() if isinstance(value, np.ndarray))

    traced = {info.name: tuple(channels.shape(info.name)) for info in session.inputs}
    names = _open(channels, traced)
    varying = {place for places in names for place in places}
    smaller = [resized(traced, varying, partial(_part, k)) for k in ((4, 2) if heavy else ())]
    base = next((shapes for shapes in smaller if shapes != traced and runs(shapes)), traced)
    found = drawn(base, 1 if heavy else EXAMPLES, seed)
    others = attempted(base, names, lambda s: s if runs(s) else None, rows=PROOFS, each=False)
    more = [feeds for k, other in enumerate(others) for feeds in drawn(other, 1, seed + 1 + k)]
    return [*found, *more], 1 + len(others)


def _part(divisor: int, length: int) -> int:
    return length // divisor


def _open(channels: Channels, shapes: Shapes) -> list[list[Place]]:
    """Return the input axes whose lengths the model leaves open, those of one name together."""
    names: dict[Place, str] = {}
    for name, shape in shapes.items():
        declared = channels.value(name).shape
        for axis in range(len(shape)):
            if channels.is_dynamic(name, axis):
                symbol = getattr(declared[axis], "value", None) if declared is not None else None
                names[name, axis] = str(symbol or f"{name}:{axis}")
    return by_name(names)
