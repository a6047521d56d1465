"""Comparing outputs: on which inputs, and of which files."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from onnxcompress import verify
from onnxcompress.core.run import Comparison
from onnxcompress.core.task import Feeds, Task
from onnxcompress.engine import class_scores, feeds
from onnxcompress.engine.data import Examples
from onnxcompress.pipeline._original import Original

COMPARED_EXAMPLES = 256
"""Examples whose outputs are compared where there is data."""

COMPARED_RANDOM = 4
"""Random feeds whose outputs are compared where there is none."""

COMPARED_AT_ONCE = 32
"""Examples of one call when outputs are compared."""


@dataclass(frozen=True)
class Compared:
    """Inputs on which outputs are compared, and where they come from; one of them alone, of the data.

    ``unranked`` are the outputs that are no class scores.
    """

    feeds: tuple[Feeds, ...]
    examples: int
    origin: str
    random: bool
    single: Feeds | None = None
    unranked: frozenset[str] = frozenset()


def compared_inputs(original: Original, task: Task | None, seed: int) -> Compared:
    """Return the inputs that outputs are compared on: examples nothing is trained on, else random numbers."""
    unranked = class_scores.unranked(original.model, task)
    if task is not None and not task.random and isinstance(task.samples, Examples):
        split, indices = task.measured
        some = indices[:COMPARED_EXAMPLES]
        stack = task.samples.inputs(some)
        calls = tuple(feed for _, feed in task.samples.feeding.calls(stack, COMPARED_AT_ONCE))
        single = single_example(original, task)
        told = f"{len(some)} {split} example{'s' if len(some) > 1 else ''}"
        return Compared(calls, len(some), told, False, single, unranked)
    drawn = feeds.random_feeds(
        original.session.inputs,
        seed=seed,
        shapes=original.shapes,
        examples=COMPARED_RANDOM,
        model=original.model,
    )
    told = f"{len(drawn)} seeded random inputs"
    return Compared(tuple(drawn), len(drawn), told, True, unranked=unranked)


def single_example(original: Original, task: Task | None) -> Feeds | None:
    """Return one validation example at the shapes that costs are counted at, None where there is none."""
    if task is None or task.random or not isinstance(task.samples, Examples):
        return None
    stack = task.samples.inputs(task.validation[:1])
    feed = next(iter(task.samples.feeding.calls(stack, 1)))[1]
    fits = all(np.shape(feed[name]) == tuple(shape) for name, shape in original.shapes.items())
    return feed if fits else None


def compare_outputs(
    reference: Path | bytes,
    candidate: Path | bytes,
    compared: Compared,
    threads: int,
    *,
    same_types: bool = True,
    decided: Collection[str] = (),
) -> Comparison:
    """Compare the outputs of two models in onnxruntime, ``decided`` as in :func:`verify.compare`."""
    return verify.compare(
        reference,
        candidate,
        compared.feeds,
        inputs=compared.origin,
        random_inputs=compared.random,
        examples=compared.examples,
        threads=threads,
        same_types=same_types,
        decided=decided,
        unranked=compared.unranked,
    )
