"""The archive format: every byte comes back, damage is told, nothing hostile gets through."""

import errno
import hashlib
import io
import json
import struct

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxcompress.core.errors import UnsupportedError, VerificationError
from onnxcompress.engine import archive
from onnxcompress.engine.archive import Contents, Entry, Reader, entry_of, read_contents

BLOCK = archive.BLOCK_BYTES


def packed(folder, files, *, filtered=True, level=3):
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    contents = Contents(tuple(entry_of(folder / name, name) for name in files), filtered)
    target = io.BytesIO()
    archive.write(target, contents, folder, level=level)
    return target.getvalue()


def unpacked(data):
    file = io.BytesIO(data)
    contents = read_contents(file)
    reader = Reader(file, contents)
    found = {entry.name: b"".join(reader.file(entry)) for entry in contents.files}
    reader.end()
    return found


@pytest.mark.parametrize("filtered", [True, False])
@pytest.mark.parametrize("level", [1, 9])
def test_every_byte_comes_back(tmp_path, filtered, level):
    floats = np.random.default_rng(0).normal(size=BLOCK // 2).astype(np.float32).tobytes()
    files = {
        "m.onnx": b"head" + floats[: BLOCK + 77],
        "w/data.bin": b"",
        "w/more.bin": bytes(BLOCK),
        "one": b"x",
    }
    data = packed(tmp_path, files, filtered=filtered, level=level)
    assert unpacked(data) == files
    assert packed(tmp_path, files, filtered=filtered, level=level) == data, "the same files, the same archive"


@settings(max_examples=40, deadline=None)
@given(
    data=st.binary(max_size=3000) | st.integers(0, 3000).map(lambda n: bytes(range(256)) * (n // 256 + 1)),
    width=st.sampled_from(archive.WIDTHS),
)
def test_planes_are_undone(data, width):
    assert archive._restored(archive._planes(data, width), width) == data


def test_the_order_of_bytes_pays(tmp_path):
    floats = np.random.default_rng(0).normal(0, 0.05, 300_000).astype(np.float32).tobytes()
    ordered, plain = (len(packed(tmp_path, {"m": floats}, filtered=f, level=9)) for f in (True, False))
    assert ordered < 0.94 * plain
    codes = np.random.default_rng(0).integers(0, 4, 300_000).astype(np.uint8).tobytes()
    ordered, plain = (len(packed(tmp_path, {"m": codes}, filtered=f, level=9)) for f in (True, False))
    assert ordered < 1.01 * plain


def test_plain_archives_are_zstandard(tmp_path):
    data = packed(tmp_path, {"m.onnx": b"model" * 1000}, filtered=False)
    assert (
        zstandard.ZstdDecompressor().stream_reader(io.BytesIO(data), read_across_frames=True).read()
        == b"model" * 1000
    )


def header(**changes):
    said = {
        "format": 1,
        "filter": "none",
        "files": [{"name": "m", "size": 3, "sha256": hashlib.sha256(b"abc").hexdigest()}],
    } | changes
    text = b"onnxcompress archive\n" + json.dumps(said).encode()
    return struct.pack("<II", 0x184D2A50, len(text)) + text


def test_a_header_made_by_hand():
    assert unpacked(header() + zstandard.compress(b"abc")) == {"m": b"abc"}


def files(*names):
    return [{"name": name, "size": 1, "sha256": "0" * 64} for name in names]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "does not begin like one"),
        (b"\x08\x07\x12", "does not begin like one"),
        (zstandard.compress(b"abc"), "zstd alone"),
        (struct.pack("<II", 0x184D2A50, 1 << 30), "does not begin like one"),
        (struct.pack("<II", 0x184D2A50, 100) + b"onnxcompress archive\n{}", "truncated"),
        (struct.pack("<II", 0x184D2A50, 30) + b"x" * 30, "does not begin like one"),
        (header(format=2), "its format is 2"),
        (header(filter="rot13"), "filter"),
        (header(files=[]), "holds 0 files"),
        (header(files=None), "damaged"),
        (header(files=[{"name": "m"}]), "damaged"),
        (header(files=[{"name": "m", "size": -1, "sha256": "0" * 64}]), "damaged"),
        (header(files=[{"name": "m", "size": True, "sha256": "0" * 64}]), "damaged"),
        (header(files=[{"name": "m", "size": 1e9, "sha256": "0" * 64}]), "damaged"),
        (header(files=files("../m")), "leads out"),
        (header(files=files("/m")), "leads out"),
        (header(files=files("a/../../m")), "leads out"),
        (header(files=files("C:m")), "leads out"),
        (header(files=files("a\\..\\m")), "leads out"),
        (header(files=files("m\0")), "leads out"),
        (header(files=files("m ")), "leads out"),
        (header(files=files("m", "M")), "one name"),
        (header(files=files("m", "m/w")), "one name"),
        (header(files=files("a/m")), "own folder"),
    ],
)
def test_what_is_no_archive(data, words):
    with pytest.raises(UnsupportedError, match=words):
        unpacked(data)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "truncated"),
        (zstandard.compress(b"ab"), "truncated"),
        (zstandard.compress(b"abc")[:-2], "truncated|zstandard says"),
        (zstandard.compress(b"abcd"), "more than it says"),
        (zstandard.compress(b"abc") + zstandard.compress(b"d"), "more than it says"),
        (zstandard.compress(b"abc") + b"rubbish", "no part of an archive"),
        (b"rubbish", "zstandard says"),
    ],
)
def test_damage_is_told(body, words):
    with pytest.raises(UnsupportedError, match=words):
        unpacked(header() + body)


def test_other_bytes_do_not_pass_the_checksum():
    with pytest.raises(VerificationError, match="checksum"):
        unpacked(header() + zstandard.compress(b"abd"))


def test_one_bit_is_enough(tmp_path):
    whole = np.random.default_rng(0).bytes(5000)
    data = bytearray(packed(tmp_path, {"m": whole}))
    for place in range(len(data) - 3000, len(data), 500):
        data[place] ^= 4
        with pytest.raises((UnsupportedError, VerificationError)):
            unpacked(bytes(data))
        data[place] ^= 4
    assert list(unpacked(bytes(data)).values()) == [whole]


def test_a_bomb_is_read_only_as_far_as_it_says():
    """A few thousand bytes that become gigabytes: no more than a block is held."""
    bomb = zstandard.ZstdCompressor(level=3).compress(bytes(200 << 20))
    assert len(bomb) < 20_000
    with pytest.raises(UnsupportedError, match="more than it says"):
        unpacked(header(files=[{"name": "m", "size": 0, "sha256": hashlib.sha256().hexdigest()}]) + bomb)


def test_windows_that_take_too_much_memory_are_refused():
    parameters = zstandard.ZstdCompressionParameters(window_log=30, write_content_size=False)
    frame = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    body = frame.compress(b"abc") + frame.flush()
    with pytest.raises(UnsupportedError, match="zstandard says"):
        unpacked(header() + body)


def test_files_that_change_meanwhile(tmp_path):
    (tmp_path / "m").write_bytes(b"abc")
    for entry in (Entry("m", 2, "0" * 64), Entry("m", 4, "0" * 64), Entry("m", 3, "0" * 64)):
        with pytest.raises(UnsupportedError, match="changed"):
            archive.write(io.BytesIO(), Contents((entry,), True), tmp_path, level=1)


@pytest.mark.parametrize("room", [0, 100, 5000])
def test_a_full_disk_is_no_change_of_the_file(tmp_path, room):
    """What fails is where it is written to; of the bytes that are missing then nothing is told."""

    class Full(io.BytesIO):
        def write(self, data):
            if self.tell() + len(data) > room:
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().write(data)

    (tmp_path / "m").write_bytes(np.random.default_rng(0).bytes(3 * BLOCK))
    contents = Contents((entry_of(tmp_path / "m", "m"),), True)
    with pytest.raises(OSError, match="No space left"):
        archive.write(Full(), contents, tmp_path, level=1)
