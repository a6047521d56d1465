"""Packing: every base, every length, and the bits it takes."""

import numpy as np
import pytest

from onnxcompress.encodings._packing import Packing, packing


@pytest.mark.parametrize("base", range(2, 257))
def test_unpacking_returns_the_codes(base: int) -> None:
    rng = np.random.default_rng(base)
    for count in (1, 7, 8, 1001, 40_000):
        codes = rng.integers(0, base, count).astype(np.uint8)
        chosen = packing(base, count)
        streams = chosen.streams(codes)
        assert all(s.dtype == np.uint8 for s in streams)
        assert sum(s.nbytes for s in streams) == chosen.size_bytes(count)
        assert np.array_equal(chosen.unpack(streams, count), codes)


@pytest.mark.parametrize("base", range(2, 257))
def test_large_weights_come_within_five_percent_of_whole_bits(base: int) -> None:
    bits = int(base - 1).bit_length()
    assert packing(base, 100_000).size_bytes(100_000) <= 1.01 * bits * 100_000 / 8 + 16


@pytest.mark.parametrize("base", [2, 3, 4, 5, 6, 8, 10, 16, 32, 64, 128, 256])
def test_these_come_within_five_percent_of_the_information(base: int) -> None:
    assert packing(base, 1_000_000).size_bytes(1_000_000) <= 1.035 * np.log2(base) * 1_000_000 / 8


def test_small_weights_prefer_few_nodes() -> None:
    assert packing(5, 300).unit_bits == 8
    assert packing(5, 1_000_000).unit_bits == 14


def test_rows_are_packed_one_by_one() -> None:
    codes = np.random.default_rng(0).integers(0, 8, (5, 11)).astype(np.uint8)
    chosen = Packing(8, 4, 12)
    streams = chosen.streams(codes)
    assert all(len(s) == 5 for s in streams)
    assert np.array_equal(chosen.unpack(streams, 11), codes)
