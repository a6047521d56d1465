"""Refusal: what was left alone, and why."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Refusal:
    """Something left alone: where (weight, node or group) and why, in words."""

    where: str
    why: str


def in_words(refusals: Iterable[Refusal]) -> str:
    """Return refusals as one phrase, each reason once, with the first place that it holds for."""
    places: dict[str, list[str]] = {}
    for refusal in refusals:
        places.setdefault(refusal.why, []).append(refusal.where)
    return "; ".join(
        f"{first} (and {len(more)} more): {why}" if more else f"{first}: {why}"
        for why, (first, *more) in places.items()
    )
