"""How many weights may stay: a share of them, or a number."""

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
    return max(1, math.floor(keep * total + 1e-9))
