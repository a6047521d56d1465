"""Random inputs for the proof of a cut: of one size, and of another where the model leaves sizes open."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from functools import partial

import numpy as np

from onnxcompress.core.errors import OnnxCompressError
from onnxcompress.core.task import Feeds
from onnxcompress.engine import runtime
from onnxcompress.engine.channels import Channels
from onnxcompress.engine.channels.other_sizes import CHANGES, Shapes, resized
from onnxcompress.engine.feeds import random_feeds

EXAMPLES = 2
"""Inputs of the first size."""

HEAVY_MACS = 2_000_000_000
"""Models that multiply more than this in one inference are compared on fewer and smaller inputs, and in
float64 on the first alone."""


def random_inputs(channels: Channels, session: runtime.OrtSession, seed: int) -> tuple[list[Feeds], int]:
    """Return inputs, and how many sizes there are among them (1 or 2).

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
    varying = _varying(channels, traced)
    smaller = [resized(traced, varying, partial(_part, k)) for k in ((4, 2) if heavy else ())]
    base = next((shapes for shapes in smaller if shapes != traced and runs(shapes)), traced)
    found = drawn(base, 1 if heavy else EXAMPLES, seed)
    other = next((shapes for shapes in _others(channels, base, varying) if runs(shapes)), None)
    return ([*found, *drawn(other, 1, seed + 1)], 2) if other is not None else (found, 1)


def _part(divisor: int, length: int) -> int:
    return length // divisor


def _varying(channels: Channels, shapes: Shapes) -> set[tuple[str, int]]:
    """Return the input axes whose lengths the model leaves open."""
    places = ((name, axis) for name, shape in shapes.items() for axis in range(len(shape)))
    return {(name, axis) for name, axis in places if channels.is_dynamic(name, axis)}


def _others(channels: Channels, shapes: Shapes, varying: Collection[tuple[str, int]]) -> Iterator[Shapes]:
    """Yield shapes with all varying lengths changed, and with those of one name alone."""
    if not varying:
        return
    tied: dict[str, set[tuple[str, int]]] = {}
    for name, axis in varying:
        declared = channels.value(name).shape
        symbol = getattr(declared[axis], "value", None) if declared is not None else None
        tied.setdefault(str(symbol or f"{name}:{axis}"), set()).add((name, axis))
    for places in (varying, *(tied[symbol] for symbol in sorted(tied))):
        for change in CHANGES:
            yield resized(shapes, places, change)
