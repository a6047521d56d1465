"""Trials: how the original model does on labelled examples with one scaling or another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from onnxcompress.core.encoding import Array
from onnxcompress.engine.data.columns import ArrayColumn
from onnxcompress.engine.data.examples import Examples
from onnxcompress.engine.data.feeding import Predict
from onnxcompress.engine.data.fit import Affine

_MOST = 2048
_MOST_BYTES = 128 << 20


@dataclass(frozen=True)
class Trial:
    """Some training examples, the model, and the input whose scaling is in question.

    Attributes:
        data: the examples chosen, held in memory as they are stored.
        input: the input.
        predict: the original model.
        output: the output that the labels are for.
        labels: class numbers.
        classes: number of classes.
    """

    data: Examples
    input: str
    predict: Predict
    output: str
    labels: Array
    classes: int

    @classmethod
    def of(cls, examples: Examples, name: str, predict: Predict | None, seed: int) -> Trial | None:
        """Return a trial on seeded random training examples; None without a model or without class labels."""
        targets = examples.targets
        if predict is None or targets is None or targets.output is None or not targets.classes:
            return None
        if targets.classes < 2:
            return None
        row_bytes = sum(int(np.prod(c.shape[1:])) * c.dtype.itemsize for c in examples.columns.values())
        most = max(1, min(_MOST, _MOST_BYTES // max(row_bytes, 1)))
        train = examples.splits["train"]
        some = np.random.default_rng(seed).permutation(train)[:most]
        labels = targets.take(some)
        if labels.ndim != 1:
            return None
        columns = {key: ArrayColumn(column.take(some)) for key, column in examples.columns.items()}
        data = replace(examples, columns=columns, targets=None)
        return cls(data, name, predict, targets.output, labels, targets.classes)

    @property
    def examples(self) -> int:
        """Number of examples there are to try on."""
        return len(self.labels)

    def right(self, affine: Affine, count: int) -> Array:
        """Return for each of the first ``count`` examples whether the model's largest score is the label."""
        fits = {**self.data.fits, self.input: replace(self.data.fits[self.input], affine=affine)}
        labels = self.labels[:count]
        stack = replace(self.data, fits=fits).inputs(np.arange(len(labels)))
        scores = self._scores(stack)
        if scores.size == len(labels):  # one number for two classes
            threshold = 0.5 if ((scores >= 0) & (scores <= 1)).all() else 0.0
            return np.asarray((scores.reshape(len(labels)) > threshold) == labels)
        return np.asarray(scores.reshape(len(labels), -1).argmax(axis=1) == labels)

    def _scores(self, stack: Mapping[str, Array]) -> Array:
        return self.data.feeding.predict(self.predict, stack)[self.output]
