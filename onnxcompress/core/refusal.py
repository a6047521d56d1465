"""Refusal: what was left alone, and why."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Refusal:
    """Something left alone: where (weight, node or group) and why, in words."""

    where: str
    why: str
