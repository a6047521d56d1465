"""Import: a file, a ModelProto or an onnx_ir model becomes a Model, or one sentence with every problem.

In this order, so that no step trusts what a later one checks: size, parse without external data, limits of
our own (:mod:`onnxcompress.engine.limits`), a trial load by onnxruntime in a child process, the graph. What
onnxruntime loads is accepted, whatever a checker thinks of it; what it refuses could neither be verified
nor timed.
"""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import psutil
from google.protobuf.message import DecodeError  # type: ignore[import-untyped,unused-ignore]

from onnxcompress.core.errors import ModelImportError, UnsupportedError, UsageError
from onnxcompress.core.model import Model, Source, constant_of
from onnxcompress.engine import limits
from onnxcompress.engine.isolation import close_kept_child, isolated
from onnxcompress.engine.proto import from_proto, to_proto
from onnxcompress.engine.runtime import load_check
from onnxcompress.engine.storage import stored

_SHOWN = 8  # problems told in one message
_LARGE = 64 * 2**20  # above this many bytes the child that tried the model is ended, to give its memory back
_CHUNK = 2**22  # elements looked at together when searching for NaN
_ROOT_TIMEOUT_S, _TIMEOUT_S_PER_BYTE = 120.0, 1 / 20e6

_FOREIGN = (
    (b"PK\x03\x04", "it is a zip archive (a PyTorch checkpoint?)"),
    (b"\x80\x02", "it is a Python pickle (a PyTorch checkpoint?)"),
    (b"\x89HDF", "it is an HDF5 file (a Keras model?)"),
    (b"\x1f\x8b", "it is gzip-compressed"),
    (b"version https://git-lfs", "it is a Git LFS pointer, not the file itself"),
    (b"<", "it is an HTML or XML page"),
    (b"{", "it is JSON or text"),
)


def load(source: str | Path | onnx.ModelProto | ir.Model) -> Model:
    """Read a model that onnxruntime can run; the graph is held exactly as it is in the file.

    Args:
        source: a file, or a model in memory, which is not changed.

    Returns:
        The model, with the encodings this program once wrote into it recognised.

    Raises:
        UsageError: there is no such file, or it cannot be opened.
        ModelImportError: it is no ONNX model, breaks a limit, or onnxruntime refuses it; names every problem.
    """
    if isinstance(source, (str, Path)):
        return _from_file(Path(source))
    if isinstance(source, onnx.ModelProto):
        copy = onnx.ModelProto()
        copy.CopyFrom(source)
        return _from_memory(copy)
    if isinstance(source, ir.Model):
        return _from_ir(source)
    raise UsageError(
        "cannot import the model", why=f"{type(source).__name__} is no path, ModelProto or onnx_ir.Model"
    )


def files_of(path: Path) -> tuple[str, ...]:
    """Return the files a model consists of, relative to its folder: itself first, then its external data.

    Raises:
        UsageError: there is no such file, or it cannot be opened.
        ModelImportError: it is no ONNX model, or breaks a limit: external data lies outside its folder.
    """
    proto = _parse(_read(path), str(path))
    _refuse(str(path), limits.problems(proto, path.parent))
    return (path.name, *sorted(limits.external_files(proto)))


def _from_file(path: Path) -> Model:
    data = _read(path)
    proto = _parse(data, str(path))
    files = limits.external_files(proto)
    _refuse(str(path), limits.problems(proto, path.parent))
    size = len(data) + sum((path.parent / f).stat().st_size for f in files)
    _try_in_onnxruntime(str(path.absolute()), size, str(path), proto)
    source = Source(str(path), hashlib.sha256(data).hexdigest(), size)
    del data
    return _build(proto, source, str(path), base_dir=str(path.parent))


def _from_memory(proto: onnx.ModelProto) -> Model:
    name = "model in memory"
    _refuse(name, limits.problems(proto, None))
    try:
        data = proto.SerializeToString()
    except (ValueError, DecodeError) as error:
        raise ModelImportError(name, ["it is larger than 2 GiB"], fix="save it with external data") from error
    _try_in_onnxruntime(data, len(data), name, proto)
    return _build(proto, Source(None, hashlib.sha256(data).hexdigest(), len(data)), name, base_dir=None)


def _from_ir(model: ir.Model) -> Model:
    name = "model in memory"
    try:
        clone = model.clone()
        with tempfile.TemporaryDirectory(prefix="onnxcompress-") as folder:
            if not any(isinstance(t, ir.ExternalTensor) for t in _initial_tensors(clone)):
                return _from_memory(to_proto(clone))
            path = Path(folder) / "model.onnx"
            # saved as a second clone: saving re-points external tensors, here to a folder that goes away
            ir.save(model.clone(), path, external_data="model.data")
            _try_in_onnxruntime(str(path), _LARGE + 1, name, None)
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            size = sum(f.stat().st_size for f in Path(folder).iterdir())
    except (ir.serde.SerdeError, RuntimeError, ValueError, TypeError, OSError) as error:
        raise ModelImportError(name, [_words(error)]) from error
    return _finish(clone, Source(None, digest, size), name)


def _initial_tensors(model: ir.Model) -> Iterator[ir.TensorProtocol]:
    return (v.const_value for v in model.graph.initializers.values() if v.const_value is not None)


def _read(path: Path) -> bytes:
    try:
        if path.is_dir():
            raise UsageError("cannot read the model", where=str(path), why="it is a folder, not a file")
        size = path.stat().st_size
        if not path.is_file():
            raise UsageError("cannot read the model", where=str(path), why="it is not a regular file")
        if size > limits.MAX_FILE_BYTES:
            raise ModelImportError(
                str(path), [f"{size} bytes are more than a file can hold"], fix="save it with external data"
            )
        return path.read_bytes()
    except FileNotFoundError as error:
        raise UsageError("cannot read the model", where=str(path), why="there is no such file") from error
    except (OSError, ValueError) as error:
        raise UsageError("cannot read the model", where=str(path), why=_words(error)) from error


def _parse(data: bytes, name: str) -> onnx.ModelProto:
    if not data:
        raise ModelImportError(name, ["the file is empty"])
    for magic, what in _FOREIGN:
        if data.startswith(magic):
            raise ModelImportError(name, [f"not an ONNX model: {what}"])
    if data[4:8] == b"ORTM":
        raise ModelImportError(
            name, ["it is in onnxruntime's own ORT format"], fix="give the ONNX file it was made from"
        )
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(data)
    except DecodeError as error:
        damaged = data[0] == 0x08  # field 1, a varint: ir_version, which every writer puts first
        what = "the file is truncated or damaged" if damaged else "not an ONNX model"
        raise ModelImportError(name, [what]) from error
    if not proto.HasField("graph"):
        what = "the file holds no graph (truncated, or not an ONNX model)"
        raise ModelImportError(name, [what])
    return proto


def _refuse(name: str, problems: Iterator[str]) -> None:
    found = list(problems)
    if found:
        shown = found[:_SHOWN]
        if len(found) > _SHOWN:
            shown.append(f"and {len(found) - _SHOWN} more problems")
        raise ModelImportError(name, shown)


def _try_in_onnxruntime(model: bytes | str, size: int, name: str, proto: onnx.ModelProto | None) -> None:
    """Let onnxruntime load it in a child process, where a crash, a hang or a memory bomb is one sentence."""
    memory = max(psutil.virtual_memory().total, 4 * 2**30)
    timeout_s = _ROOT_TIMEOUT_S + size * _TIMEOUT_S_PER_BYTE
    try:
        isolated(load_check, model, timeout_s=timeout_s, memory_bytes=memory, fresh=False)
    except UnsupportedError as error:
        why, fix = _reason(error.why or error.what)
        raise ModelImportError(
            name, [why, *(_checker_says(proto) if fix is None else ())], fix=fix
        ) from error
    finally:
        if size > _LARGE:
            close_kept_child()


def _reason(words: str) -> tuple[str, str | None]:
    missing = re.search(r"([\w.]*):?(\w+)\((-?\d+)\) is not a registered function/op", words)
    if missing:
        operator = f"{missing[1]}:{missing[2]}" if missing[1] else missing[2]
        return (
            f"onnxruntime refuses it, having no operator {operator}",
            "a model that onnxruntime cannot run can be neither checked nor timed",
        )
    return f"onnxruntime refuses it: {words.rstrip('.')}", None


def _checker_says(proto: onnx.ModelProto | None) -> list[str]:
    """Return what the ONNX checker finds, in a child too; only asked where onnxruntime has refused."""
    if proto is None or proto.ByteSize() > _LARGE:
        return []
    try:
        verdict = isolated(check, proto.SerializeToString(), timeout_s=30, fresh=False)
    except UnsupportedError:
        return []
    return [f"the ONNX checker adds: {verdict}"] if verdict else []


def check(data: bytes) -> str | None:
    """Return the first complaint of the ONNX checker about a serialised model, None if it has none."""
    try:
        onnx.checker.check_model(data)
    except (onnx.checker.ValidationError, ValueError, RuntimeError, TypeError) as error:
        return _words(error)
    return None


def _build(proto: onnx.ModelProto, source: Source, name: str, base_dir: str | None) -> Model:
    try:
        graph = from_proto(proto, base_dir=base_dir)
    except (ir.serde.SerdeError, ValueError, TypeError, KeyError, NotImplementedError) as error:
        root: BaseException = error
        while root.__cause__ is not None:
            root = root.__cause__
        raise ModelImportError(name, [_words(root)]) from error
    return _finish(graph, source, name)


def _finish(graph: ir.Model, source: Source, name: str) -> Model:
    dense, encodings = stored.lift(graph)
    model = Model(dense, source, encodings)
    _refuse(name, _not_a_number(model))
    return model


def _not_a_number(model: Model) -> Iterator[str]:
    """Yield weights that hold NaN; infinities (masks are made of them) and single values are left alone."""
    for weight in model.weights.values():
        if weight.size < 2:
            continue
        tensor = constant_of(weight.value)
        assert tensor is not None
        flat = np.asarray(tensor.numpy()).reshape(-1)
        for start in range(0, flat.size, _CHUNK):
            if np.isnan(flat[start : start + _CHUNK]).any():
                yield f"weight {weight.name!r} holds NaN"
                break
        del flat
        if isinstance(tensor, ir.ExternalTensor):
            tensor.release()  # unmap: pages that were read would count as memory of this process


def _words(error: BaseException) -> str:
    text = " ".join(str(getattr(error, "strerror", None) or error).split()) or type(error).__name__
    return text if len(text) <= 300 else text[:299] + "…"
