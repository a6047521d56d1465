"""Refusal: what was left alone, and why."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

CALL = "whose body is a function of the model"
"""Said of nodes that call model-local functions, through which channels are not traced."""


@dataclass(frozen=True)
class Refusal:
    """Something left alone: where (weight, node or group) and why, in words."""

    where: str
    why: str


def advice(refusals: Iterable[Refusal], else_: str) -> str:
    """Return what to do where these are why channels stay: inline functions, where there are calls."""
    if any(CALL in refusal.why for refusal in refusals):
        return (
            "put the bodies of its functions into the graph first: "
            "onnx.inliner.inline_local_functions(model), saved as another file"
        )
    return else_


def in_words(refusals: Iterable[Refusal]) -> str:
    """Return refusals as one phrase, each reason once, with the first place that it holds for."""
    places: dict[str, list[str]] = {}
    for refusal in refusals:
        places.setdefault(refusal.why, []).append(refusal.where)
    return "; ".join(
        f"{first} (and {len(more)} more): {why}" if more else f"{first}: {why}"
        for why, (first, *more) in places.items()
    )
