"""Flushing: denormal numbers count as zero while training.

Moments that Adam keeps of a weight without gradient, of a channel that is silent, sink by a constant factor
every step until they are denormal (below 1.2e-38), and so do weights under an ℓ2 penalty. A processor is up
to a hundred times slower at them, and they mean nothing.

The setting is the calling thread's, which computes all of a small tensor and its share of a large one;
torch's other threads keep theirs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def flushed_denormals() -> Iterator[None]:
    """Let denormal numbers be zero in this thread; afterwards it is as it was."""
    before = flushes()
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


def flushes() -> bool:
    """Return whether denormal numbers count as zero in this thread now."""
    return float(torch.full((1,), 1e-37) * 0.01) == 0.0
