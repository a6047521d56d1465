"""Other sizes of a model's inputs, to see what depends on them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

Shapes = Mapping[str, tuple[int, ...]]
"""Input name -> shape."""


def resized(
    shapes: Shapes, places: Collection[tuple[str, int]], change: Callable[[int], int]
) -> dict[str, tuple[int, ...]]:
    """Return shapes with the lengths at some places (input name, axis) changed; 1 at least.

    >>> resized({"x": (1, 8)}, [("x", 1)], lambda length: 2 * length)
    {'x': (1, 16)}
    """
    return {
        name: tuple(
            max(1, change(length)) if (name, axis) in places else length for axis, length in enumerate(shape)
        )
        for name, shape in shapes.items()
    }


def _one_more(length: int) -> int:
    return length + 1


def _twice(length: int) -> int:
    return 2 * max(1, length)


def _one_less(length: int) -> int:
    return length - 1 if length > 1 else 2


def _half(length: int) -> int:
    return length // 2 if length > 1 else 2


CHANGES: tuple[Callable[[int], int], ...] = (_one_more, _twice, _one_less, _half)
"""What to try, in this order: models with a table of positions take no longer input than the longest there
is, and some want even numbers."""
