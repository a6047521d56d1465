"""Limits of settings: how many weights may stay, how many entries a codebook has, what a group is."""

from __future__ import annotations

import math

from onnxcompress.core.errors import UsageError


def check_limit(keep: float | None, count: int | None) -> None:
    """Raise UsageError where not exactly one is given, or it is out of range."""
    if (keep is None) == (count is None):
        raise UsageError("pruning needs either keep or count")
    if keep is not None and not 0 < keep <= 1:
        raise UsageError("keep must be over 0 and at most 1", why=f"found {keep:g}")
    if count is not None and count < 1:
        raise UsageError("count must be at least 1", why=f"found {count}")


def kept(keep: float | None, count: int | None, total: int) -> int:
    """Return ``count``, or ⌊keep · total⌋, but at least one.

    >>> kept(0.3, None, 10), kept(None, 4, 10), kept(0.01, None, 10)
    (3, 4, 1)
    """
    if count is not None:
        return count
    assert keep is not None, "one of both is given"
    # A share that was a count of millions divided by the total must give that count again.
    return max(1, math.floor(keep * total * (1 + 1e-15) + 1e-9))


def check_entries(entries: int, least: int = 2) -> None:
    """Raise UsageError for too few entries, or more than a code of one byte can tell apart."""
    if not least <= entries <= 256:
        raise UsageError(f"entries must be {least} to 256", why=f"found {entries}")


def check_groups(granularity: str, group_size: int | None) -> None:
    """Raise UsageError where the size of groups is no size, is missing, or is given of what has no groups."""
    if group_size is not None and group_size < 1:
        raise UsageError("group_size must be positive", why=f"found {group_size}")
    if granularity == "group" and group_size is None:
        raise UsageError("granularity group needs group_size")
    if granularity != "group" and group_size is not None:
        raise UsageError(f"group_size contradicts granularity {granularity}", fix="leave one of them out")


def check_positive(name: str, value: float) -> None:
    """Raise UsageError where a setting is not over zero."""
    if not value > 0:
        raise UsageError(f"{name} must be positive", why=f"found {value:g}")
