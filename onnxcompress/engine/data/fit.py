"""Fit: how one column's examples become what one input of the model takes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxcompress.core.encoding import Array
from onnxcompress.core.errors import DataError
from onnxcompress.engine.data.columns import Column
from onnxcompress.engine.data.feeding import Feeding, TensorLike
from onnxcompress.engine.data.options import DataOptions

Dims = tuple[int | str | None, ...]


@dataclass(frozen=True)
class Affine:
    """``(x · scale − mean) / std``; mean and std hold one number, or one a channel."""

    scale: float = 1.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    @property
    def identity(self) -> bool:
        """Whether it changes nothing."""
        return self == Affine()

    def words(self) -> str:
        """Return the formula for messages, "scaled by 1/255"."""
        if self.identity:
            return "unscaled"
        inverse = 1 / self.scale
        factor = (
            f"1/{inverse:g}" if self.scale < 1 and abs(inverse - round(inverse)) < 1e-9 else f"{self.scale:g}"
        )
        text = f"scaled by {factor}"
        if self.mean != (0.0,):
            text += f", minus ({', '.join(f'{m:g}' for m in self.mean)})"
        if self.std != (1.0,):
            text += f", divided by ({', '.join(f'{s:g}' for s in self.std)})"
        return text

    def apply(self, stack: Array, channel_axis: int | None, dtype: np.dtype[Any]) -> Array:
        """Return the stack transformed, in ``dtype``; computed in float32, float64 if asked for."""
        work = np.dtype(np.float64) if dtype == np.float64 else np.dtype(np.float32)
        result: Any = stack.astype(work)
        if self.scale != 1.0:
            result *= work.type(self.scale)
        if self.mean != (0.0,):
            result -= self._along(self.mean, channel_axis, result.ndim, work)
        if self.std != (1.0,):
            result /= self._along(self.std, channel_axis, result.ndim, work)
        return np.asarray(result, dtype)

    @staticmethod
    def _along(values: tuple[float, ...], axis: int | None, rank: int, dtype: np.dtype[Any]) -> Array:
        array = np.asarray(values, dtype)
        if len(values) == 1 or axis is None:
            return array[:1]
        shape = [1] * rank
        shape[axis] = len(values)
        return array.reshape(shape)


@dataclass(frozen=True)
class Fit:
    """Turns a stack of a column's examples into a stack of an input's.

    Attributes:
        key: the column's key, for messages.
        name: the input's name.
        dtype: the input's type.
        axes: order of the example's axes, None where they stay.
        shape: shape of an example afterwards, None where it stays.
        channel_axis: axis of the stack that counts channels, None where unknown.
        affine: scaling of the numbers.
        flip: reverse the channels (RGB to BGR).
    """

    key: str
    name: str
    dtype: np.dtype[Any]
    axes: tuple[int, ...] | None
    shape: tuple[int, ...] | None
    channel_axis: int | None
    affine: Affine = Affine()
    flip: bool = False

    def apply(self, stack: Array) -> Array:
        """Return the stack as the input takes it; a number too large for its type becomes infinity."""
        # Who reads the examples looks for infinity.
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            return self._applied(stack)

    def _applied(self, stack: Array) -> Array:
        if self.axes is not None:
            stack = stack.transpose(0, *(a + 1 for a in self.axes))
        if self.shape is not None:
            stack = stack.reshape(len(stack), *self.shape)
        if self.flip and self.channel_axis is not None:
            stack = np.flip(stack, self.channel_axis)
        if self.dtype.kind in "SUO":
            return stack.astype(object)
        if self.affine.identity:
            return np.ascontiguousarray(stack.astype(self.dtype, copy=False))
        return np.ascontiguousarray(self.affine.apply(stack, self.channel_axis, self.dtype))


def example_dims(item: TensorLike, feeding: Feeding) -> Dims:
    """Return the shape of one example of an input: without its batch axis, if it has one."""
    return tuple(item.shape) if feeding.whole else tuple(item.shape[1:])


def find_fit(key: str, column: Column, item: TensorLike, feeding: Feeding, options: DataOptions) -> Fit:
    """Return how the column fits the input; raises DataError naming the key and both shapes.

    In this order: as it is; with axes of length 1 put in or left out; channels moved from last to first or
    from first to last; flattened, or folded from a flat row, where the number of elements fits.
    """
    if item.numpy is None:
        raise DataError(f"input '{item.name}' has a type that no array can feed")
    found, wanted = column.shape[1:], example_dims(item, feeding)
    channels_first = _channels_first(wanted, options)
    alone = tuple(1 if d == feeding.batch else d for d in wanted) if feeding.batch else wanted
    axes, shape, matched = _arrange(found, alone, column.channels_last, channels_first)
    if not matched and alone != wanted:  # a feed of several that belong together
        axes, shape, matched = _arrange(found, wanted, column.channels_last, channels_first)
    if not matched:
        batch = "" if feeding.whole else "N × "
        raise DataError(
            f"'{key or 'the data'}' does not fit input '{item.name}'",
            why=f"found {_words(column.shape)}, expected {batch}{_words(wanted) or 'nothing more'}",
        )
    dtype = _input_type(key, column.dtype, item, item.numpy)
    rank = len(wanted)
    channel_axis = None
    if rank == 3:
        channel_axis = 1 if channels_first else 3
    elif rank >= 1:
        channel_axis = 1 if rank > 1 and not isinstance(wanted[-1], int) else rank
    flip = options.color == "bgr" and rank == 3
    return Fit(key, item.name, dtype, axes, shape, channel_axis, flip=flip)


def _words(dims: tuple[Any, ...]) -> str:
    return " × ".join("?" if d is None else str(d) for d in dims)


def _channels_first(wanted: Dims, options: DataOptions) -> bool:
    """Whether a three-axis example of the model counts channels on its first axis."""
    if options.layout != "auto":
        return options.layout == "nchw"
    if len(wanted) != 3:
        return True
    few = (1, 3, 4)
    return wanted[0] in few or wanted[2] not in few


def _fits(found: tuple[int, ...], wanted: Dims) -> bool:
    return len(found) == len(wanted) and all(
        not isinstance(w, int) or f == w for f, w in zip(found, wanted, strict=True)
    )


def _arrange(
    found: tuple[int, ...], wanted: Dims, channels_last: bool, channels_first: bool
) -> tuple[tuple[int, ...] | None, tuple[int, ...] | None, bool]:
    """Return (axis order, shape, whether it fits); None: leave as it is."""
    if channels_last and len(found) == 3 and len(wanted) == 3:
        axes = (2, 0, 1) if channels_first else (0, 1, 2)
        return axes, None, _fits(tuple(found[a] for a in axes), wanted)
    if _fits(found, wanted):
        return None, None, True
    aligned = _align(found, wanted)
    if aligned is not None:
        return None, aligned, True
    if len(found) == 3 and len(wanted) == 3:
        for axes in ((2, 0, 1), (1, 2, 0)):
            if _fits(tuple(found[a] for a in axes), wanted):
                return axes, None, True
    fixed = tuple(d for d in wanted if isinstance(d, int))
    flat = len(found) == 1 or len(wanted) == 1
    if flat and len(fixed) == len(wanted) and math.prod(fixed) == math.prod(found):
        return None, fixed, True
    return None, None, False


def _align(found: tuple[int, ...], wanted: Dims) -> tuple[int, ...] | None:
    """Return ``found`` with axes of length 1 put in where ``wanted`` has them, or left out; None: no way."""
    if not wanted:
        return () if all(f == 1 for f in found) else None
    head = wanted[0]
    if found and (not isinstance(head, int) or head == found[0]):
        rest = _align(found[1:], wanted[1:])
        if rest is not None:
            return (found[0], *rest)
    if head == 1:
        rest = _align(found, wanted[1:])
        if rest is not None:
            return (1, *rest)
    if found and found[0] == 1:
        return _align(found[1:], wanted)
    return None


def _input_type(key: str, dtype: np.dtype[Any], item: TensorLike, wanted: np.dtype[Any]) -> np.dtype[Any]:
    name = key or "the data"
    text, wants_text = dtype.kind in "SUO", wanted.kind in "SUO"
    if text != wants_text:
        raise DataError(
            f"'{name}' has the wrong type for input '{item.name}'", why=f"found {dtype}, expected {wanted}"
        )
    if wanted.kind in "iub" and dtype.kind == "f":
        raise DataError(
            f"'{name}' has the wrong type for input '{item.name}'",
            why=f"found {dtype}, expected whole numbers ({wanted})",
            fix="store it with that type",
        )
    return wanted
