"""Trellis: the best path by brute force, windows as the stream says, decoded in onnxruntime, read again."""

import itertools
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))
from small import one_weight, packed_bytes, run, stored_at, stored_proto

from onnxcompress import importer
from onnxcompress.core.errors import UsageError
from onnxcompress.csteps.kmeans import kmeans
from onnxcompress.csteps.trellis import best_path, trellis
from onnxcompress.encodings.codebook import Codebook
from onnxcompress.encodings.trellis import Trellis, TrellisCodebook
from onnxcompress.engine.storage import stored

EVERY = [(1, 2), (1, 5), (1, 8), (2, 4), (2, 7), (2, 8), (3, 6), (3, 8), (4, 8)]


def some(*shape: int, dtype: type = np.float32) -> np.ndarray:
    return np.random.default_rng(0).laplace(size=shape).astype(dtype)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_no_path_is_better(data):
    bits, window = data.draw(st.sampled_from([(1, 2), (1, 3), (2, 4)]))
    count = data.draw(st.integers(1, 7 if bits == 1 else 3))
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    path, entries = rng.normal(size=count), rng.normal(size=1 << window)
    counted = rng.random(count) < 0.8
    best = np.inf
    for before in range(1 << window - bits):
        for codes in itertools.product(range(1 << bits), repeat=count):
            cost, memory = 0.0, before
            for w, c, code in zip(path, counted, codes, strict=True):
                at = (memory << bits) | code
                cost += c * (w - entries[at]) ** 2
                memory = at & (1 << window - bits) - 1
            best = min(best, cost)
    found = best_path(path, counted, entries, bits)
    assert ((path - entries[found]) ** 2 * counted).sum() == pytest.approx(best, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize(("bits", "window"), EVERY)
@pytest.mark.parametrize("count", [1, 5, 1024, 1025, 5000])
def test_every_window_goes_on_from_the_one_before(bits, window, count):
    """Where segments meet, too."""
    rng = np.random.default_rng(1)
    found = best_path(
        rng.normal(size=count), np.ones(count, bool), rng.normal(size=1 << window), bits
    ).astype(int)
    memory = (1 << window - bits) - 1
    assert (found[:-1] & memory).tolist() == (found[1:] >> bits).tolist()


def test_segments_cost_next_to_nothing(monkeypatch):
    path = np.random.default_rng(2).normal(size=6000)
    every = np.ones(len(path), bool)
    for bits, window in ((1, 8), (2, 6), (2, 8), (4, 8)):
        entries = trellis([path], [every], bits, window).entries
        cut = ((path - entries[best_path(path, every, entries, bits)]) ** 2).sum()
        with monkeypatch.context() as patch:
            patch.setattr("onnxcompress.csteps.trellis._SEGMENT", len(path))
            whole = ((path - entries[best_path(path, every, entries, bits)]) ** 2).sum()
        assert whole * (1 - 1e-6) <= cut <= 1.0005 * whole


@pytest.mark.parametrize(("bits", "decibels"), [(1, 5.4), (2, 11.0), (3, 16.8), (4, 22.0)])
def test_nearer_than_the_best_plain_codebook_and_not_nearer_than_the_bound(bits, decibels):
    """Gaussian numbers: Lloyd and Max reach 4.4, 9.3, 14.6, 20.2 dB, and nothing more than 6.02 a bit."""
    path = np.random.default_rng(3).normal(size=20_000)
    every = np.ones(len(path), bool)
    entries = trellis([path], [every], bits, 8).entries
    found = -10 * np.log10(np.mean((path - entries[best_path(path, every, entries, bits)]) ** 2))
    plain = kmeans(path, 1 << bits)
    nearest = np.abs(path[:, None] - plain).min(axis=1)
    assert found > -10 * np.log10(np.mean(nearest**2)) + 0.9
    # A few entries are learned from the numbers themselves, so that the bound may be passed by a hair.
    assert decibels < found < 6.02 * bits + 0.2


def test_turns_never_get_worse():
    path = some(3000).astype(np.float64)
    every = np.ones(len(path), bool)
    found, costs = None, []
    for _ in range(4):
        found = trellis([path], [every], 2, 6, found)
        costs.append(((path - found.entries[best_path(path, every, found.entries, 2)]) ** 2).sum())
    assert all(b <= a * (1 + 1e-6) for a, b in itertools.pairwise(costs))
    assert costs[-1] < costs[0]


@pytest.mark.parametrize(("bits", "window"), EVERY)
@pytest.mark.parametrize("shape", [(64, 64), (61, 83), (4097,), (5, 3, 17, 19)])
def test_onnxruntime_decodes_it_and_it_is_read_again(bits, window, shape):
    (encoding,) = TrellisCodebook(bits, window).project([some(*shape)])
    if isinstance(encoding, Codebook):  # 1 bit for 4,845 weights: more than 512 bytes, else none
        pytest.fail("the weight is large enough")
    proto = stored_at(13, encoding)
    (found,) = importer.load(proto).encodings.values()
    assert isinstance(found, Trellis)
    assert found.windows.tobytes() == encoding.windows.tobytes()
    assert found.entries.tobytes() == encoding.entries.tobytes()
    assert (found.shape, found.bits, found.window, found.dtype) == (shape, bits, window, np.float32)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize(("opset", "ir_version"), [(10, 5), (13, 3), (21, 10)])
def test_all_types_and_old_operator_sets(dtype, opset, ir_version):
    (encoding,) = TrellisCodebook(2).project([some(70, 90, dtype=dtype)])
    proto = stored_proto(one_weight(encoding.decode(), opset=opset, ir_version=ir_version), encoding)
    assert run(proto).tobytes() == encoding.decode().tobytes()
    (found,) = importer.load(proto).encodings.values()
    assert isinstance(found, Trellis)
    assert found.dtype == dtype
    assert found.decode().tobytes() == encoding.decode().tobytes()


def test_an_older_operator_set_is_refused():
    (encoding,) = TrellisCodebook(2).project([some(70, 90)])
    _, refusals = stored.lower(one_weight(some(70, 90), opset=9).with_encodings({"w": encoding}, "test"))
    assert "operator set 10" in refusals["w"] if isinstance(refusals, dict) else "10" in str(refusals)


def test_tiny_and_giant_numbers_keep_their_type():
    """float16 has too few bits for 1e-7, and none for 1e9."""
    for scale in (1e-7, 1.0, 1e9):
        array = some(70, 90) * np.float32(scale)
        (encoding,) = TrellisCodebook(2).project([array])
        assert encoding.entries.dtype == (np.float16 if scale == 1 else np.float32)
        error = np.linalg.norm(encoding.decode() - array) / np.linalg.norm(array)
        assert error < 0.35


@pytest.mark.parametrize("scale", [1e-320, 1e-200, 1e200, 1e306])
def test_doubles_whose_squares_no_double_holds(scale):
    array = some(70, 90, dtype=np.float64) * scale
    (encoding,) = TrellisCodebook(2).project([array])
    assert np.linalg.norm((encoding.decode() - array) / scale) < 0.35 * np.linalg.norm(array / scale)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("scale", [0, 1e-44, 1e-30, 1e-20])
def test_a_weight_that_has_all_but_vanished_shares_entries(scale):
    array, vanished = some(70, 90), some(40, 40) * np.float32(scale)
    found, other = TrellisCodebook(2).project([array, vanished])
    assert np.linalg.norm(found.decode() - array) < 0.35 * np.linalg.norm(array)
    assert np.abs(other.decode()).max() < 0.1


@pytest.mark.filterwarnings("error")
def test_hidden_weights_may_be_of_any_size():
    array = some(70, 90) * np.float32(1e-20)
    hidden = np.zeros(array.shape, bool)
    hidden[0, ::7] = True
    (encoding,) = TrellisCodebook(2).project_seen([np.where(hidden, np.float32(3e38), array)], [hidden])
    error = (encoding.decode() - array)[~hidden] / np.float32(1e-20)
    assert np.linalg.norm(error) < 0.35 * np.linalg.norm(array / np.float32(1e-20))


def test_several_weights_share_entries_and_zeros_are_no_trouble():
    arrays = [some(70, 90), np.zeros((40, 90), np.float32), 2 * some(50, 50)]
    found = TrellisCodebook(2).project(arrays)
    assert len({e.entries.tobytes() for e in found}) == 1
    assert all(e.shape == a.shape for e, a in zip(found, arrays, strict=True))
    (zeros,) = TrellisCodebook(2).project([np.zeros((70, 90), np.float32)])
    assert not zeros.decode().any()


def test_each_has_its_own_scale():
    """Weights of very different sizes are as near to what they should be as each with entries of its own."""
    arrays = [some(70, 90), 1e-3 * some(64, 64), 30 * some(50, 50)]
    found = TrellisCodebook(2, 8).project(arrays)
    assert max(e.scale for e in found) == 1
    for array, encoding in zip(arrays, found, strict=True):
        (alone,) = TrellisCodebook(2, 8).project([array])
        error, least = (np.linalg.norm(e.decode() - array) for e in (encoding, alone))
        assert error < 1.25 * least
        e = encoding.entries.astype(np.float64)[encoding.windows]
        assert encoding.scale == pytest.approx(float((e * array).sum() / (e * e).sum()), rel=0.02)


def test_each_goes_on_from_the_one_before():
    arrays = [some(64, 64), some(70, 90), some(10, 10), some(5, 5)]
    first, second, third, small = TrellisCodebook(2, 8).project(arrays)
    assert isinstance(small, Codebook)
    assert (second.after, first.after) == (first.before, third.before)


def test_more_turns_with_several_weights_never_get_worse():
    arrays = [some(64, 64), 5 * some(70, 90), some(30, 30)]
    found, costs = None, []
    for _ in range(4):
        found = TrellisCodebook(2, 6).project(arrays, previous=found)
        costs.append(sum(((e.decode() - a) ** 2).sum() for e, a in zip(found, arrays, strict=True)))
    assert all(b <= a * (1 + 1e-4) for a, b in itertools.pairwise(costs))
    assert costs[-1] < costs[0]


def test_hidden_weights_do_not_count():
    array = some(70, 90)
    hidden = np.random.default_rng(5).random(array.shape) < 0.3
    spoilt = np.where(hidden, np.float32(100), array)
    (encoding,) = TrellisCodebook(2).project_seen([spoilt], [hidden])
    (whole,) = TrellisCodebook(2).project([array])
    seen = np.linalg.norm((encoding.decode() - array)[~hidden])
    assert seen < np.linalg.norm((whole.decode() - array)[~hidden])


@pytest.fixture(scope="module", params=["alone", "scaled"])
def encoding(request):
    (alone,) = TrellisCodebook(2).project([some(70, 90)])
    _, scaled = TrellisCodebook(2).project([3 * some(80, 90), some(70, 90)])
    assert alone.scale == 1 > scaled.scale
    return {"alone": alone, "scaled": scaled}[request.param]


def test_cut_channels_leave_the_others_as_they_were(encoding):
    keep = np.array([0, 3, 4, 69])
    for axis in (0, 1):
        assert np.array_equal(encoding.take(axis, keep).decode(), encoding.decode().take(keep, axis=axis))


def test_other_entries_and_the_same_codes(encoding):
    (numbers,) = encoding.numbers()
    made = np.where(numbers.places >= 0, numbers.values.astype(np.float32)[numbers.places], 0)
    factors = np.float32(1) if numbers.factors is None else numbers.factors
    assert np.array_equal(made * factors, encoding.decode())
    doubled = encoding.with_numbers([2 * numbers.values])
    assert np.array_equal(doubled.decode(), 2 * encoding.decode())


def test_stored_bits_are_the_bytes_in_the_file(encoding):
    proto = stored_at(13, encoding)
    assert encoding.stored_bits() == 8 * packed_bytes(proto)
    assert encoding.information_bits() <= encoding.stored_bits()


def test_small_weights_get_a_plain_codebook():
    array = some(20, 20)
    (encoding,) = TrellisCodebook(2).project([array])
    assert isinstance(encoding, Codebook)
    expected = kmeans(array, 4)
    assert np.allclose(encoding.entries, expected)


@pytest.mark.parametrize(
    "settings", [{"bits": 0}, {"bits": 5}, {"bits": 2, "window": 3}, {"bits": 2, "window": 9}]
)
def test_settings_out_of_range(settings):
    with pytest.raises(UsageError):
        TrellisCodebook(**settings)
