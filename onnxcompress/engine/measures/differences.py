"""How one output differs between two models, gathered call by call in memory that does not grow."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from onnxcompress.core.encoding import Array
from onnxcompress.core.errors import VerificationError
from onnxcompress.core.run import OutputDifference
from onnxcompress.engine.measures.spread import Spread

_CHUNK = 1 << 20
"""Elements turned into float64 at a time."""

_DECISION_BYTES = 4
"""Size of whole numbers from which on they say which, not how much: smaller ones are quantised values."""

NOISE = 1e-6
"""Absolute rounding error of float32 operators with outputs of order one: onnxruntime computes Sigmoid and
Softmax to about 1e-7. An output that is smaller than that everywhere has no digits that could agree."""


class Difference:
    """Accumulates the difference of one output over calls.

    Floating-point outputs get numbers. Sequences of tensors count as one long output. Sequences of maps from
    class to float (what scikit-learn exporters write) count as the matrix of their values, one class a
    column. Of whole numbers of 32 or 64 bits and truth values, which are decisions most often, the share
    counts that is equal. Everything else (smaller integers, strings, other maps) is equal or is not.

    A NaN or an infinity that the reference has at the same place is equal to it and left out of the numbers;
    one that it does not have there makes the output ``broken``.

    Args:
        name: of the output.
        same_types: types must be the same. False where the sides are two implementations: widths may differ,
            integers count as numbers, because one that was rounded may be off by one, and decisions are also
            within a tolerance where no larger share differs.
        open_axes: axes whose length depends on values (the boxes that are left of a detector); another length
            there is a difference like any other. None: another length is an error.
        decided: it holds decisions, or what decisions selected: in an order that tells nothing of classes,
            and as far off as one likes where rounding turns a decision around.
        unranked: the largest number of a row is no answer, whatever the row looks like.
    """

    def __init__(
        self,
        name: str,
        *,
        same_types: bool,
        open_axes: frozenset[int] | None = None,
        decided: bool = False,
        unranked: bool = False,
    ) -> None:
        self.name = name
        self._same_types = same_types
        self._open_axes = open_axes or frozenset()
        self._decided, self._unranked = decided, unranked
        self._calls = self._other_lengths = 0
        self.broken = False
        self._problem: str | None = None
        self._shape: tuple[int, ...] = ()
        self._equal = True
        self._numeric = False
        self._max_abs = 0.0
        self._expected_sq = self._actual_sq = self._difference_sq = self._dot = 0.0
        self._rows = self._agreeing = 0
        self._decisions = self._alike = 0
        self._spread = Spread()

    def add(self, expected: Any, actual: Any) -> None:
        """Take in the output of one call; raises VerificationError where type or shape differ."""
        expected, actual = _matrix(expected), _matrix(actual)
        if isinstance(expected, np.ndarray) and isinstance(actual, np.ndarray):
            self._shape = expected.shape
            self._add_array(expected, actual)
        elif _is_sequence(expected) and _is_sequence(actual):
            self._shape = (len(expected),)
            if len(expected) != len(actual):
                self._fail(f"a sequence of {len(actual)}", f"a sequence of {len(expected)}")
            for one, other in zip(expected, actual, strict=True):
                if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
                    self._add_array(one, other)
                else:
                    self._equal &= bool(one == other)
        elif type(expected) is type(actual):
            self._equal &= bool(expected == actual)
        else:
            self._fail(type(actual).__name__, type(expected).__name__)

    def within(self, tolerance: float) -> bool:
        """Tell whether the output agrees: relative ℓ2, or max |a − b| where the reference is all zeros.

        Differences up to ``NOISE`` agree in any case: the last operator's own rounding.
        """
        if self.broken or self._other_lengths:
            return False
        if not self._numeric:
            return self._equal
        if self._decisions and 1 - self._alike / self._decisions <= tolerance:
            return True
        relative = self._relative_l2()
        return self._max_abs <= NOISE or (self._max_abs if relative is None else relative) <= tolerance

    def result(self) -> OutputDifference:
        """Return what was gathered."""
        unranked = self._unranked or self._decided or self._other_lengths
        top1 = self._agreeing / self._rows if self._rows and not unranked else None
        # How far apart the numbers of two classes are says nothing.
        measured = self._numeric and not self._decisions
        return OutputDifference(
            name=self.name,
            shape=self._shape,
            max_abs=self._max_abs if measured else None,
            relative_l2=self._relative_l2() if measured else None,
            cosine=self._cosine() if measured else None,
            top1_agreement=self._alike / self._decisions if self._decisions else top1,
            equal=self._equal,
            problem=self._told(),
            spread=self._spread.ratio() if measured and not self._decided else None,
            lost=self._spread.lost() if measured and not self._decided else None,
        )

    def _told(self) -> str | None:
        """Return the problem in words, and how many calls the numbers lack."""
        if not self._other_lengths:
            return self._problem
        compared = self._calls - self._other_lengths
        return f"{self._problem}; {compared} of {self._calls} calls could be compared"

    def _relative_l2(self) -> float | None:
        if self._difference_sq == 0:
            return 0.0
        if self._expected_sq == 0:
            return None
        return math.sqrt(self._difference_sq) / math.sqrt(self._expected_sq)

    def _cosine(self) -> float | None:
        norms = math.sqrt(self._expected_sq) * math.sqrt(self._actual_sq)
        return None if norms == 0 else max(-1.0, min(1.0, self._dot / norms))

    def _add_array(self, expected: Array, actual: Array) -> None:
        if not self._comparable(expected, actual):
            self._fail(_kind(actual), _kind(expected))
        self._calls += 1
        if expected.shape != actual.shape:
            self._other_shape(expected, actual)
            return
        if _is_decision(expected) and _is_decision(actual):
            self._decisions += expected.size
            self._alike += int(np.sum(expected == actual))
        if not (_is_float(expected) or (not self._same_types and expected.dtype.kind in "iu")):
            self._equal &= bool(np.array_equal(expected, actual))
            return
        self._numeric = True
        self._spread.add(expected, actual)
        flat, other = expected.reshape(-1), actual.reshape(-1)
        for start in range(0, flat.size, _CHUNK):
            self._add_chunk(
                flat[start : start + _CHUNK].astype(np.float64),
                other[start : start + _CHUNK].astype(np.float64),
            )
        if looks_like_scores(expected):
            rows = expected.reshape(expected.shape[0], -1), actual.reshape(actual.shape[0], -1)
            self._rows += len(rows[0])
            self._agreeing += int(np.sum(rows[0].argmax(1) == rows[1].argmax(1)))

    def _add_chunk(self, expected: Array, actual: Array) -> None:
        finite = np.isfinite(expected) & np.isfinite(actual)
        if not finite.all():
            lost = np.isfinite(expected) & ~np.isfinite(actual)
            if lost.any():
                self.broken = True
                where = "NaN" if np.isnan(actual[lost]).any() else "infinite"
                self._problem = f"is {where} where the reference is a number"
            odd = ~finite
            self._equal &= bool(np.array_equal(expected[odd], actual[odd], equal_nan=True))
            expected, actual = expected[finite], actual[finite]
        difference = expected - actual
        largest = float(np.abs(difference).max(initial=0.0))
        self._equal &= largest == 0
        self._max_abs = max(self._max_abs, largest)
        self._expected_sq += float(expected @ expected)
        self._actual_sq += float(actual @ actual)
        self._difference_sq += float(difference @ difference)
        self._dot += float(expected @ actual)

    def _other_shape(self, expected: Array, actual: Array) -> None:
        """Note another length along open axes; anything else is an error."""
        differing = {i for i, (e, a) in enumerate(zip(expected.shape, actual.shape, strict=False)) if e != a}
        if expected.ndim != actual.ndim or not differing <= self._open_axes:
            self._fail(_kind(actual), _kind(expected))
        self._equal = False
        self._spread.give_up()
        self._other_lengths += 1
        if self._problem is None:
            self._problem = f"has shape {_dims(actual)} where the reference has {_dims(expected)}"

    def _comparable(self, expected: Array, actual: Array) -> bool:
        if expected.dtype == actual.dtype:
            return True
        if expected.dtype.kind in "OSU" and actual.dtype.kind in "OSU":
            return True
        if self._same_types:
            return False
        floats = _is_float(expected) and _is_float(actual)
        return floats or (expected.dtype.kind in "iu" and actual.dtype.kind in "iu")

    def _fail(self, found: str, wanted: str) -> None:
        raise VerificationError(f"output {self.name!r} is {found}", why=f"the reference gives {wanted}")


def looks_like_scores(output: Array) -> bool:
    """Tell whether an output looks like class scores: float, N C or N C 1 1, with C at least 2.

    >>> looks_like_scores(np.zeros((8, 10), np.float32)), looks_like_scores(np.zeros((8, 10, 4), np.float32))
    (True, False)
    """
    shape = output.shape
    flat = len(shape) == 2 or (len(shape) == 4 and shape[2:] == (1, 1))
    return flat and shape[0] > 0 and shape[1] >= 2 and _is_float(output)


def _is_decision(array: Array) -> bool:
    return array.dtype.kind == "b" or (array.dtype.kind in "iu" and array.dtype.itemsize >= _DECISION_BYTES)


def _is_float(array: Array) -> bool:
    # ml_dtypes' bfloat16 and 8-bit floats are of kind "V" for NumPy, and convert to float64.
    return array.dtype.kind == "f" or (array.dtype.kind == "V" and "float" in array.dtype.name)


def _is_sequence(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _matrix(value: Any) -> Any:
    """Return the values of maps with the same keys as a matrix, a row a map; anything else as it is.

    Columns are in the order of the keys: onnxruntime sorts them, whoever makes a map need not.
    """
    if not _is_sequence(value) or not value or not all(isinstance(v, Mapping) for v in value):
        return value
    keys = sorted(value[0])
    if any(v.keys() != value[0].keys() for v in value) or not all(
        isinstance(x, float) for v in value for x in v.values()
    ):
        return value
    return np.array([[v[k] for k in keys] for v in value], np.float32)


def _kind(array: Array) -> str:
    return f"{array.dtype} of shape {_dims(array)}"


def _dims(array: Array) -> str:
    return "×".join(map(str, array.shape)) or "scalar"
