"""pack and unpack: round trips with and without external data, what is refused, and the commands."""

import os
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parents[1]))
from text_graphs import proto_of

import onnxcompress
from onnxcompress.cli._group import commands
from onnxcompress.core.errors import ModelImportError, OutputError, UnsupportedError, UsageError
from onnxcompress.pipeline import packing

BODY = "a = Gemm (x, w, b) y = Relu (a)"
ENDS = ("float[N, 100] x", "float[N, 80] y")


def model(folder, *, external=None, name="m.onnx"):
    proto = proto_of(BODY, *ENDS, {"w": (100, 80), "b": (80,)})
    folder.mkdir(exist_ok=True)
    if external is None:
        onnx.save(proto, folder / name)
    else:
        (folder / external).parent.mkdir(exist_ok=True, parents=True)
        onnx.save(proto, folder / name, save_as_external_data=True, location=external, size_threshold=0)
    return folder / name


def content(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("external", [None, "m.onnx.data", "weights/w.bin"])
@pytest.mark.parametrize("plain", [True, False])
def test_round_trip(tmp_path, external, plain):
    path = model(tmp_path / "a", external=external)
    packed = onnxcompress.pack(path, tmp_path / "p.zst", plain=plain)
    assert packed.packed_bytes == packed.path.stat().st_size < packed.size_bytes
    assert packed.files == tuple(filter(None, ("m.onnx", external)))
    (tmp_path / "b").mkdir()
    found = onnxcompress.unpack(packed.path, tmp_path / "b" / "m.onnx")
    assert content(tmp_path / "b") == content(tmp_path / "a")
    assert found.size_bytes == packed.size_bytes
    onnx.checker.check_model(str(tmp_path / "b" / "m.onnx"))


def test_names_nobody_gave(tmp_path):
    path = model(tmp_path / "a")
    packed = onnxcompress.pack(path)
    assert packed.path == tmp_path / "a" / "m.onnx.zst"
    before = path.read_bytes()
    path.unlink()
    assert onnxcompress.unpack(packed.path).path == path
    assert path.read_bytes() == before
    other = packed.path.rename(tmp_path / "archive")
    assert onnxcompress.unpack(other).path == tmp_path / "m.onnx"


def test_under_another_name(tmp_path):
    path = model(tmp_path / "a", external="m.data")
    packed = onnxcompress.pack(path)
    (tmp_path / "b").mkdir()
    onnxcompress.unpack(packed.path, tmp_path / "b" / "other.onnx")
    assert set(content(tmp_path / "b")) == {"other.onnx", "m.data"}
    with pytest.raises(OutputError, match="has this name"):
        onnxcompress.unpack(packed.path, tmp_path / "b" / "m.data", overwrite=True)


def test_nothing_is_overwritten_unasked(tmp_path):
    path = model(tmp_path / "a", external="m.data")
    packed = onnxcompress.pack(path)
    with pytest.raises(OutputError, match="exists"):
        onnxcompress.pack(path)
    with pytest.raises(OutputError, match="exists"):
        onnxcompress.unpack(packed.path)
    (tmp_path / "a" / "m.onnx").unlink()
    with pytest.raises(OutputError, match=r"exists \(.*m.data\)"):
        onnxcompress.unpack(packed.path)
    (tmp_path / "a" / "m.data").write_bytes(b"other")
    onnxcompress.unpack(packed.path, overwrite=True)
    assert onnxcompress.pack(path, overwrite=True).size_bytes == packed.size_bytes
    with pytest.raises(OutputError, match="file of the model"):
        onnxcompress.pack(path, tmp_path / "a" / "m.data", overwrite=True)


def test_links_lead_nowhere(tmp_path):
    packed = onnxcompress.pack(model(tmp_path / "a", external="w/d.bin"))
    for name in ("outside", "b"):
        (tmp_path / name).mkdir()
    (tmp_path / "b" / "w").symlink_to(tmp_path / "outside")
    with pytest.raises(OutputError, match="leads out of the folder"):
        onnxcompress.unpack(packed.path, tmp_path / "b" / "m.onnx", overwrite=True)
    (tmp_path / "b" / "w").unlink()
    (tmp_path / "b" / "w").mkdir()
    (tmp_path / "outside" / "d.bin").write_bytes(b"mine")
    (tmp_path / "b" / "w" / "d.bin").symlink_to(tmp_path / "outside" / "d.bin")
    with pytest.raises(OutputError, match="link"):
        onnxcompress.unpack(packed.path, tmp_path / "b" / "m.onnx", overwrite=True)
    assert (tmp_path / "outside" / "d.bin").read_bytes() == b"mine"
    assert set(content(tmp_path / "b")) == {"w/d.bin"}


def test_data_from_elsewhere_is_not_packed(tmp_path):
    path = model(tmp_path / "a", external="d.bin")
    (tmp_path / "a" / "d.bin").rename(tmp_path / "secret")
    (tmp_path / "a" / "d.bin").symlink_to(tmp_path / "secret")
    with pytest.raises(ModelImportError, match="leads out of it"):
        onnxcompress.pack(path)


def test_what_cannot_be_packed_or_unpacked(tmp_path):
    (tmp_path / "no.onnx").write_bytes(b"no model at all")
    with pytest.raises(ModelImportError, match="not an ONNX model"):
        onnxcompress.pack(tmp_path / "no.onnx")
    with pytest.raises(UsageError, match="no such file"):
        onnxcompress.pack(tmp_path / "nowhere.onnx")
    with pytest.raises(UsageError, match="no such file"):
        onnxcompress.unpack(tmp_path / "nowhere.zst")
    with pytest.raises(UnsupportedError, match=r"no archive.*no\.onnx"):
        onnxcompress.unpack(tmp_path / "no.onnx", tmp_path / "m.onnx")
    with pytest.raises(UsageError, match="1 to 22"):
        onnxcompress.pack(model(tmp_path / "a"), level=30)
    with pytest.raises(OutputError, match="no folder"):
        onnxcompress.pack(model(tmp_path / "a"), tmp_path / "b" / "c.zst")
    packed = onnxcompress.pack(model(tmp_path / "a"))
    with pytest.raises(UnsupportedError, match="more than is allowed"):
        onnxcompress.unpack(packed.path, tmp_path / "m.onnx", limit_bytes=1000)
    assert not (tmp_path / "m.onnx").exists()


def test_failing_leaves_nothing_behind(tmp_path):
    packed = onnxcompress.pack(model(tmp_path / "a"))
    data = bytearray(packed.path.read_bytes())
    data[-100] ^= 1
    packed.path.write_bytes(bytes(data))
    (tmp_path / "b").mkdir()
    with pytest.raises((UnsupportedError, onnxcompress.core.errors.VerificationError)):
        onnxcompress.unpack(packed.path, tmp_path / "b" / "m.onnx")
    assert not list((tmp_path / "b").iterdir())


def test_memory_does_not_grow(tmp_path):
    path = model(tmp_path / "a", external="big.bin")
    with (tmp_path / "a" / "big.bin").open("r+b") as file:
        file.seek(24 << 20)
        file.write(os.urandom(1000))
    tracemalloc.start()
    try:
        packed = packing.pack(path, level=1)
        packing.unpack(packed.path, overwrite=True)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 12 << 20
    assert packed.size_bytes > 24 << 20


def test_commands(tmp_path):
    path = model(tmp_path / "a")
    before = path.read_bytes()
    run = CliRunner().invoke(commands, ["pack", str(path), "-v"])
    assert run.exit_code == 0
    assert "gzip makes" in run.output
    assert "m.onnx.zst" in run.output
    path.unlink()
    run = CliRunner().invoke(commands, ["unpack", f"{path}.zst"])
    assert run.exit_code == 0, run.output
    assert path.read_bytes() == before
    assert np.frombuffer(before, np.uint8).size == path.stat().st_size
    run = CliRunner().invoke(commands, ["pack", str(path), "-q", "--overwrite", "--plain", "--level", "3"])
    assert (run.exit_code, run.output) == (0, "")
