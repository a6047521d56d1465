"""Mixtures: what the original model says between two examples, for training on few examples without labels.

An input λ·x₁ + (1 − λ)·x₂ needs no label where the original is the teacher: its own output is right by
definition. Few examples become many (Zhang et al. 2018, mixup; Beyer et al. 2022, Knowledge distillation: a
good teacher is patient and consistent, section 3).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from onnxcompress.core.encoding import Array
from onnxcompress.core.task import Samples, Task

ENOUGH = 20000
"""Training examples from which on none are added."""

MOST_BYTES = 128 << 20
"""Inputs added take at most this many bytes: they are computed with, too."""

_MOST, _MOST_FOLD = 50000, 120
"""No more are added, and no more times as many as there are. Chosen on 10,000 held-out examples of MNIST
with 500 unlabelled ones to train on (4 entries): with 20,000 mixtures 0.0097 of the outputs' variance goes,
with 43,000 0.0080."""


@dataclass(frozen=True)
class MixedSamples:
    """Examples, followed by mixtures of pairs of them.

    Attributes:
        base: the examples.
        pairs: (M, 2) indices into ``base``.
        shares: (M,) λ of the first of each pair.
        noise: input name -> standard deviation of Gaussian noise added to the mixtures.
        seed: of the noise; that of one mixture depends on its number alone.
    """

    base: Samples
    pairs: Array
    shares: Array
    noise: Mapping[str, float] = field(default_factory=dict)
    seed: int = 0

    @property
    def feeding(self) -> Any:
        """How examples become calls, as in the base."""
        return getattr(self.base, "feeding", None)

    def __len__(self) -> int:
        return len(self.base) + len(self.pairs)

    def labels(self, indices: Array) -> Array | None:
        """Return None: mixtures are for training without labels."""
        return None

    def inputs(self, indices: Array) -> Mapping[str, Array]:
        """Return examples and mixtures, in the model's own types."""
        indices = np.asarray(indices)
        mixed = indices >= len(self.base)
        rows = np.where(mixed, indices - len(self.base), 0)
        first = self.base.inputs(np.where(mixed, self.pairs[rows, 0], indices))
        if not mixed.any():
            return first
        second = self.base.inputs(np.where(mixed, self.pairs[rows, 1], indices))
        share = np.where(mixed, self.shares[rows], 1.0)
        found = {name: _mix(array, second[name], share) for name, array in first.items()}
        for name in self.noise:
            self._add_noise(name, found[name], indices, mixed)
        return found

    def _add_noise(self, name: str, stack: Array, indices: Array, mixed: Array) -> None:
        for place in np.flatnonzero(mixed):
            generator = np.random.default_rng([self.seed, int(indices[place])])
            drawn = generator.standard_normal(stack.shape[1:], np.float32) * self.noise[name]
            stack[place] = (stack[place].astype(np.float32) + drawn).astype(stack.dtype)


def _mix(a: Array, b: Array, share: Array) -> Array:
    share = share.reshape(-1, *([1] * (a.ndim - 1))).astype(np.float32)
    mixed: Array = (share * a.astype(np.float32) + (1 - share) * b.astype(np.float32)).astype(a.dtype)
    return mixed


def with_mixtures(task: Task, noise: Callable[[], Mapping[str, float]] = dict) -> tuple[Task, int]:
    """Return the task with mixtures added to its training split, and how many.

    None are added where there are labels or examples enough, where an input is not floating-point, or where
    inputs are random numbers anyway.

    Args:
        task: the task.
        noise: gives input name -> standard deviation of noise on the mixtures (the original speaks of those,
            too); asked only where mixtures are added.
    """
    count = len(task.train)
    feeding = getattr(task.samples, "feeding", None)
    if task.labelled or task.random or count < 2 or count >= ENOUGH or getattr(feeding, "whole", False):
        return task, 0
    one = task.samples.inputs(task.train[:1])
    if any(np.dtype(array.dtype).kind not in "fV" for array in one.values()):
        return task, 0
    size = max(1, sum(array.nbytes for array in one.values()))
    added = min(_MOST, _MOST_FOLD * count, MOST_BYTES // size)
    if added < 1:
        return task, 0
    generator = np.random.default_rng([task.seed, 0x317])
    pairs = generator.choice(task.train, (added, 2))
    samples = MixedSamples(task.samples, pairs, generator.uniform(0, 1, added), noise(), task.seed)
    train = np.concatenate([task.train, len(task.samples) + np.arange(added)])
    return replace(task, samples=samples, train=train), added
