"""Examples: data matched to a model; the :class:`~onnxcompress.core.task.Samples` that adapters end in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from onnxcompress.core.encoding import Array
from onnxcompress.core.errors import DataError
from onnxcompress.engine.data.columns import Column
from onnxcompress.engine.data.feeding import Feeding
from onnxcompress.engine.data.fit import Fit
from onnxcompress.engine.data.labels import Labels

_LOOKED_AT = 64
"""Examples that are read at once where only whether they can be read counts."""


@dataclass(frozen=True)
class Examples:
    """Data matched to a model's inputs, read on demand.

    Attributes:
        columns: input name -> column over all splits, training split first.
        fits: input name -> how each split's examples become that input's, in the order of ``splits``.
        targets: the labels of the training split and of every other split that has them, None without.
        splits: split -> indices; ``train`` is always there, ``validation`` and ``test`` if the data has them.
        feeding: how examples become calls.
        origin: where the data came from.
        notes: sentences on how it was read.
        warnings: sentences a person must see.
        random: made of random numbers.
    """

    columns: Mapping[str, Column]
    fits: Mapping[str, Fit]
    targets: Labels | None
    splits: Mapping[str, Array]
    feeding: Feeding
    origin: str
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    random: bool = False

    def __len__(self) -> int:
        """Return the number of examples of all splits."""
        return next(iter(self.columns.values())).shape[0]

    def inputs(self, indices: Array) -> dict[str, Array]:
        """Return these examples stacked along the first axis; raises DataError where one holds NaN."""
        stack = {}
        for name, column in self.columns.items():
            taken = column.take(indices)
            values = self.fits[name].apply(taken)
            if values.dtype.kind == "f" and not np.isfinite(values).all():
                row = int(np.flatnonzero(~np.isfinite(values.reshape(len(values), -1)).all(axis=1))[0])
                where, fit = self.place(int(np.asarray(indices)[row]), name), self.fits[name]
                if taken.dtype.kind != "f" or np.isfinite(taken[row]).all():
                    why = f"the data is {fit.affine.words()} for input '{name}', which takes {fit.dtype}"
                    raise DataError(f"the data is too large for {fit.dtype}", where=where, why=why)
                raise DataError("the data holds NaN or infinity", where=where)
            stack[name] = values
        return stack

    def feed_shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the inputs where one example is fed; all examples have one shape."""
        blank = {name: np.zeros((1, *c.shape[1:]), c.dtype) for name, c in self.columns.items()}
        stack = {name: self.fits[name].apply(values) for name, values in blank.items()}
        _, feed = next(self.feeding.calls(stack, 1))
        return {name: values.shape for name, values in feed.items()}

    def look_through(self, indices: Array) -> None:
        """Read these examples and keep nothing of them; raises DataError where one cannot be read."""
        order = np.sort(indices)  # neighbours are read together
        for start in range(0, len(order), _LOOKED_AT):
            self.inputs(order[start : start + _LOOKED_AT])

    def place(self, index: int, name: str | None = None) -> str:
        """Return where an example lies, counted within its split, and the input that it is about."""
        split = next(split for split, held in self.splits.items() if len(held) and index <= held[-1])
        about = [self.origin]
        if len(self.splits) > 1:
            about.append(f"{split} split")
        if name is not None:  # the key is that of the first split: others have keys of their own
            key = self.fits[name].key
            about.append(f"key '{key or name}'" if split == next(iter(self.splits)) else f"input '{name}'")
        return ", ".join([*about, f"example {index - int(self.splits[split][0])}"])

    def labels(self, indices: Array) -> Array | None:
        """Return the labels of these examples, None where the data has none for them."""
        if self.targets is None or (len(indices) and int(np.max(indices)) >= self.targets.column.shape[0]):
            return None
        return self.targets.take(indices)


def take_indices(splits: Sequence[tuple[str, int]]) -> dict[str, Array]:
    """Return split -> consecutive indices for splits of these lengths, in this order."""
    result, start = {}, 0
    for name, count in splits:
        result[name] = np.arange(start, start + count)
        start += count
    return result
