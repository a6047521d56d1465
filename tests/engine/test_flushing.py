"""Denormal numbers while training."""

from __future__ import annotations

import pytest
import torch

from onnxcompress.engine.training.flushing import flushed_denormals, flushes


@pytest.mark.skipif(
    not torch.set_flush_denormal(False), reason="this processor cannot flush denormal numbers"
)
@pytest.mark.parametrize("before", [False, True])
def test_denormal_numbers_are_zero_inside_and_as_before_outside(before):
    torch.set_flush_denormal(before)
    try:
        small = torch.full((64,), 2e-38)
        with flushed_denormals():
            assert flushes()
            assert not (small * 0.1).any()
            assert (small * 1.0).all()
        assert flushes() is before
        assert bool((small * 0.1).any()) is not before
    finally:
        torch.set_flush_denormal(False)
