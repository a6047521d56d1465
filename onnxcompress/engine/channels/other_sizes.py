"""Other sizes of a model's inputs, to see what depends on them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TypeVar

Shapes = Mapping[str, tuple[int, ...]]
"""Input name -> shape."""

Place = tuple[str, int]
"""An axis of an input: its name and the axis."""

T = TypeVar("T")


def resized(shapes: Shapes, places: Collection[Place], change: Callable[[int], int]) -> Shapes:
    """Return shapes with the lengths at some places changed; 1 at least.

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


# Models with a table of positions take no longer input than the longest there is, and some want even numbers.
_NEXT = (_one_more, _one_less)

LOOKS: tuple[tuple[Callable[[int], int], ...], ...] = (_NEXT, (_twice,), (_half,))
"""Lengths to look at, of each row the first that the model takes. The next one tells what is padded, or
rounded to even; a stride of 16 takes it for the same length, so that far ones have to be looked at, too, and
from a short input only the longer one is far."""

PROOFS = (_NEXT, (_half, _twice))
"""Lengths to prove on, where each costs as much as a look at all of the above."""


def attempted(
    shapes: Shapes,
    names: Sequence[Collection[Place]],
    attempt: Callable[[Shapes], T | None],
    *,
    rows: Sequence[Sequence[Callable[[int], int]]],
    each: bool,
) -> list[T]:
    """Return what attempts with other sizes came to: of each row all open lengths together, else by name.

    Args:
        shapes: the sizes that are known to run; they are not attempted again.
        names: the places of the open lengths, those of one name together.
        attempt: returns None where the model does not take these sizes.
        rows: changes of a length, in rows of which the first that can be had will do.
        each: where lengths cannot change together, let each name have its own attempt; False: one will do.
    """
    known: dict[tuple[tuple[int, ...], ...], T | None] = {tuple(shapes.values()): None}
    together = {place for places in names for place in places}

    def first(row: Sequence[Callable[[int], int]], places: Collection[Place]) -> bool:
        for change in row:
            other = resized(shapes, places, change)
            key = tuple(other.values())
            if key not in known:
                known[key] = attempt(other)
            if known[key] is not None:
                return True
        return False

    for row in rows if names else ():
        if not first(row, together):
            for places in names if len(names) > 1 else ():
                if first(row, places) and not each:
                    break
    return [found for found in known.values() if found is not None]


def by_name(places: Mapping[Place, str]) -> list[list[Place]]:
    """Return the places of each name, in the order of the names.

    >>> by_name({("x", 0): "N", ("y", 1): "M", ("y", 0): "N"})
    [[('y', 1)], [('x', 0), ('y', 0)]]
    """
    found: dict[str, list[Place]] = {}
    for place, name in places.items():
        found.setdefault(name, []).append(place)
    return [found[name] for name in sorted(found)]
