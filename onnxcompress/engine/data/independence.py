"""Independence: does the original answer to each example alone, whatever is fed beside it?

The first axis of the inputs counts examples, by convention. Recurrent networks may have the time there and
the examples behind it (PyTorch's ``batch_first=False``), and some networks compare what they are fed
together. The declared shapes do not tell; the original itself does, fed with a few examples alone and
together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxcompress.core.encoding import Array
from onnxcompress.core.errors import OnnxCompressError
from onnxcompress.engine.data.examples import Examples
from onnxcompress.engine.data.feeding import Predict, TensorLike

EXAMPLES = 4
"""Examples that are fed alone and together."""

APART = 0.1
"""Largest difference between the two, of the outputs' standard deviation: scales that quantisation takes from
the whole batch make a few hundredths."""


@dataclass(frozen=True)
class TimeFirst:
    """An input as it is seen where examples lie along its second axis: of one example at a time."""

    name: str
    numpy: np.dtype[Any] | None
    shape: tuple[int | str | None, ...]


def independent(examples: Examples, predict: Predict) -> bool | None:
    """Tell whether examples fed together get the answers that they get alone; None: that cannot be seen.

    They are fed along the first axis. Of an output that has no axis for them nothing is seen, nor where the
    original does not run on several.
    """
    feeding = examples.feeding
    if feeding.whole or len(examples) < 2:
        return None
    stack = _some(examples)
    count = len(next(iter(stack.values())))
    step = feeding.fixed or 1
    if step == 1:
        alone = [{n: v[k : k + 1] for n, v in stack.items()} for k in range(count)]
        return None if feeding.fixed else _answered_apart(predict, alone, stack)
    # A batch of fixed length: an example alone is one that fills it.
    rows = np.arange(step) % count
    alone = [{n: v[np.full(step, k)] for n, v in stack.items()} for k in range(count)]
    return _same_rows(predict, alone, {n: v[rows] for n, v in stack.items()}, rows)


def time_first(examples: Examples, inputs: Sequence[TensorLike], predict: Predict) -> list[TimeFirst] | None:
    """Return the inputs of one example where examples lie along the second axis; None where they do not.

    They do where examples fed along the second axis get the answers that they get alone.
    """
    if examples.feeding.whole or len(examples) < 2:
        return None
    stack = _some(examples)
    if any(len(i.shape) < 2 or isinstance(i.shape[1], int) or not _fits(i, stack[i.name]) for i in inputs):
        return None
    count = len(next(iter(stack.values())))
    alone = [{n: np.ascontiguousarray(v[k][:, None]) for n, v in stack.items()} for k in range(count)]
    together = {n: np.ascontiguousarray(v.swapaxes(0, 1)) for n, v in stack.items()}
    if not _answered_apart(predict, alone, together):
        return None
    return [TimeFirst(i.name, i.numpy, (i.shape[0], 1, *i.shape[2:])) for i in inputs]


def _some(examples: Examples) -> dict[str, Array]:
    order = np.linspace(0, len(examples) - 1, min(EXAMPLES, len(examples))).astype(np.int64)
    return examples.inputs(order)


def _fits(item: TensorLike, stack: Array) -> bool:
    """Tell whether an example has the length of a first axis that is fixed, and as many axes as are left."""
    first = item.shape[0]
    return stack.ndim == len(item.shape) and (not isinstance(first, int) or stack.shape[1] == first)


def _answered_apart(
    predict: Predict, alone: Sequence[Mapping[str, Array]], together: Mapping[str, Array]
) -> bool | None:
    """Tell whether along some axis of an output the answers lie side by side; None: no output has one."""
    verdicts = []
    for single, joint in _answers(predict, alone, together):
        shape = single[0].shape
        grown = [axis for axis, size in enumerate(shape) if joint.shape[axis] == size * len(alone)]
        rest = [axis for axis, size in enumerate(shape) if joint.shape[axis] != size]
        if not rest:
            continue
        if len(rest) > 1 or grown != rest:
            verdicts.append(False)  # it compares what is fed together
            continue
        verdicts.append(_alike(np.split(joint, len(alone), axis=rest[0]), single))
    return any(verdicts) if verdicts else None


def _same_rows(
    predict: Predict, alone: Sequence[Mapping[str, Array]], mixed: Mapping[str, Array], rows: Array
) -> bool | None:
    """Tell the same of batches of fixed length, each row of which is one of the examples."""
    verdicts = []
    for single, joint in _answers(predict, alone, mixed):
        if joint.ndim and len(joint) and len(joint) % len(rows) == 0:
            blocks = np.split(joint, len(rows))
            wanted = [np.split(single[k], len(rows))[place] for place, k in enumerate(rows)]
            verdicts.append(_alike(blocks, wanted))
    return any(verdicts) if verdicts else None


def _answers(
    predict: Predict, alone: Sequence[Mapping[str, Array]], together: Mapping[str, Array]
) -> list[tuple[list[Array], Array]]:
    """Return (alone, together) of each output of real numbers that has one shape alone; none if it fails."""
    try:
        singles, joint = [predict(feed) for feed in alone], predict(together)
    except OnnxCompressError:
        return []
    found = []
    for name, value in joint.items():
        own = [single[name] for single in singles]
        real = all(isinstance(v, np.ndarray) and v.dtype.kind == "f" for v in (value, *own))
        if real and len({v.shape for v in own}) == 1 and own[0].ndim == value.ndim:
            found.append((own, value))
    return found


def _alike(found: Sequence[Array], wanted: Sequence[Array]) -> bool:
    values, right = np.stack(found).astype(np.float64), np.stack(wanted).astype(np.float64)
    finite = np.isfinite(right)
    if not np.array_equal(
        np.where(finite, 0, right), np.where(np.isfinite(values), 0, values), equal_nan=True
    ):
        return False
    values, right = values[finite], right[finite]
    if not right.size:
        return True
    error = np.sqrt(np.mean(np.square(values - right)))
    return bool(error <= APART * np.std(right) + 1e-6 * np.max(np.abs(right)))
