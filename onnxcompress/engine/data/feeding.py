"""How examples become calls of a model: along a batch axis, in fixed groups, or one whole feed at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from onnxcompress.core.encoding import Array

Predict = Callable[[Mapping[str, Array]], Mapping[str, Any]]
"""Runs a model on one feed and returns its outputs by name."""


class TensorLike(Protocol):
    """What is asked of an input or output: name, NumPy type (None: no such type) and shape."""

    @property
    def name(self) -> str:
        """Name in the graph."""
        ...

    @property
    def numpy(self) -> np.dtype[Any] | None:
        """NumPy type, None where NumPy has none."""
        ...

    @property
    def shape(self) -> tuple[int | str | None, ...]:
        """Shape; symbolic axes are a name or None."""
        ...


@dataclass(frozen=True)
class Feeding:
    """How many examples one call takes.

    Attributes:
        whole: the inputs share no batch axis (one is a scalar, or their first axes are fixed and differ, as
            those of recurrent states, or are fixed where an axis behind has the name of the batch): an
            example is a complete feed, and stacks have one axis more than the inputs.
        fixed: the fixed length of the batch axis, None where it is free.
        batch: name of the axis that counts examples in whole feeds, None where nothing tells.
    """

    whole: bool
    fixed: int | None
    batch: str | None = None

    @classmethod
    def of(cls, inputs: Sequence[TensorLike]) -> Feeding:
        """Read it off the declared shapes of the inputs."""
        firsts = {i.shape[0] for i in inputs if i.shape and isinstance(i.shape[0], int)}
        batch = _batch([i.shape for i in inputs if i.shape])
        if any(not i.shape for i in inputs) or len(firsts) > 1:
            return cls(True, None, batch)
        fixed = next(iter(firsts), None)
        if batch is not None and fixed is not None and fixed > 1:
            return cls(True, None, batch)
        return cls(False, fixed)

    def step(self, size: int) -> int:
        """Return how many examples go into one call where ``size`` are wanted."""
        if self.whole:
            return 1
        return self.fixed or size

    def held(self, shapes: Mapping[str, tuple[int, ...]]) -> int:
        """Return how many examples a call holds whose inputs have these shapes."""
        return 1 if self.whole else max((shape[0] for shape in shapes.values() if shape), default=1)

    def calls(self, stack: Mapping[str, Array], size: int) -> Iterator[tuple[int, dict[str, Array]]]:
        """Split a stack of examples into feeds of ``size`` examples; yields (number of examples, feed).

        A last group that is smaller than a fixed batch is filled up with copies of its last example.
        """
        count = len(next(iter(stack.values())))
        step = self.step(size)
        for start in range(0, count, step):
            feed = {name: values[start : start + step] for name, values in stack.items()}
            held = min(step, count - start)
            if self.whole:
                feed = {name: values[0, ...] for name, values in feed.items()}  # a number stays an array
            elif self.fixed and held < step:
                rows = np.minimum(np.arange(step), held - 1)
                feed = {name: values[rows] for name, values in feed.items()}
            yield held, feed

    def predict(self, predict: Predict, stack: Mapping[str, Array], size: int = 256) -> dict[str, Array]:
        """Run the model on a stack of examples; outputs are stacked along the first axis.

        Where the batch is fixed, an output that merges it with another axis is taken apart again. Outputs
        without an example axis, and sequences, are left out.
        """
        parts: dict[str, list[Array]] = {}
        count = len(next(iter(stack.values())))
        for held, feed in self.calls(stack, size):
            fed = self.fixed or held
            for name, value in predict(feed).items():
                rows = self._rows(value, fed)
                if rows is not None:
                    parts.setdefault(name, []).append(rows[:held])
        return {
            name: np.concatenate(values)
            for name, values in parts.items()
            if sum(map(len, values)) == count and len({v.shape[1:] for v in values}) == 1
        }

    def _rows(self, value: Any, fed: int) -> Array | None:
        """Return an output with the example axis first, None where it has none."""
        if not isinstance(value, np.ndarray):
            return None
        if self.whole or (value.ndim == 0 and fed == 1):
            return value[None]
        if value.ndim == 0 or len(value) == 0:
            return None
        if len(value) == fed:
            return value
        if self.fixed and len(value) % fed == 0:
            return value.reshape(fed, len(value) // fed, *value.shape[1:])
        return None


def _batch(shapes: Sequence[tuple[int | str | None, ...]]) -> str | None:
    """Return the one name that several inputs have once, not all in front: 2 × N × H beside N × T × F."""
    names = {d for shape in shapes for d in shape if isinstance(d, str)}
    common = [name for name in names if all(shape.count(name) == 1 for shape in shapes)]
    return common[0] if len(common) == 1 and len({shape[0] for shape in shapes}) > 1 else None
