"""Export: a Model becomes an .onnx file that stock onnxruntime runs, and the proof that it does.

Encodings are written as nodes that onnxruntime folds while it loads. Before anything appears at the target,
the file is checked against its *dense twin*, the same graph with the weights decoded: the same operators
after onnxruntime's optimisation, bitwise equal weights, and bitwise equal outputs.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir

from onnxcompress.core.errors import OutputError, UnsupportedError, VerificationError
from onnxcompress.core.model import Model
from onnxcompress.core.places import require_place
from onnxcompress.core.refusal import Refusal
from onnxcompress.engine import feeds, opset, runtime
from onnxcompress.engine.dense_proto import serialised
from onnxcompress.engine.model_tensors import in_memory, tensors
from onnxcompress.engine.proto import to_proto
from onnxcompress.engine.storage import stored
from onnxcompress.engine.storage.decoders import decoders

EXTERNAL_ABOVE = 1_900_000_000
"""Files that would be larger than this keep their tensors in a second file beside them."""
_PROOF_SEED = 20170704

Shapes = Mapping[str, tuple[int, ...]]
"""Input name -> concrete shape."""


@dataclass(frozen=True)
class Exported:
    """A file that was written.

    Attributes:
        path: the model file.
        size_bytes: its size, with the external data file where there is one.
        refusals: weights whose packed form would not pay, and why.
        warnings: sentences the user must see.
    """

    path: Path
    size_bytes: int
    refusals: tuple[Refusal, ...] = ()
    warnings: tuple[str, ...] = ()


def export(
    model: Model,
    path: Path,
    *,
    overwrite: bool = False,
    shapes: Shapes | None = None,
) -> Exported:
    """Write the model with its encodings in stored form, proven equal to the dense twin.

    The operator set is raised where packed forms need that, it makes the file smaller, and the model is
    proven to compute the same with it.

    Args:
        model: the model.
        path: the file to write.
        overwrite: an existing file may be replaced.
        shapes: concrete shapes of the inputs, as far as they are known.

    Raises:
        OutputError: the file exists, is the input, or cannot be written.
        VerificationError: what would have been written does not compute the same; nothing is written.
    """
    check_target(path, None if model.source.path is None else Path(model.source.path), overwrite=overwrite)
    model, lowered = _lowered(model, shapes or {})
    with staging(path) as folder:
        staged = _write(lowered.graph, folder / path.name)
        _prove(model, lowered, staged, folder, shapes or {})
        size = sum(f.stat().st_size for f in (staged, _external(staged)) if f.exists())
        warnings = lowered.warnings
        if model.source.size_bytes and size > model.source.size_bytes:
            warnings += (f"the file grew: {size} bytes, {model.source.size_bytes} before",)
        place(staged, path)
    return Exported(path, size, lowered.refusals, warnings)


def _lowered(model: Model, shapes: Shapes) -> tuple[Model, stored.Lowered]:
    """Return the stored form, and the model it is of: with a later operator set where that packs weights."""
    lowered = stored.lower_all(model)
    later = None if lowered.needs is None else opset.with_opset(model, lowered.needs, shapes)
    if later is None:
        return model, lowered
    packed = stored.lower_all(later)
    saved = to_proto(lowered.graph).ByteSize() - to_proto(packed.graph).ByteSize()
    if saved <= 0:
        if len(packed.refusals) == len(lowered.refusals):  # not for want of operators: packing does not pay
            lowered = replace(lowered, refusals=packed.refusals, warnings=packed.warnings)
        return model, lowered
    told = (
        f"operator set {model.opset} was raised to {later.opset}, which packed weights need: the file is "
        f"{saved} bytes smaller; onnxruntime computes the same with both"
    )
    return later, replace(packed, warnings=(*packed.warnings, told))


def dense_bytes(model: Model) -> bytes:
    """Return the dense twin, serialised.

    Raises:
        UnsupportedError: it is larger than 2 GiB.
    """
    return serialised(model)


def information_bound_bytes(model: Model) -> float:
    """Return the bytes that no file with these encodings can do without: codes at log₂ K bits, codebooks, and
    everything of the dense twin that is not an encoded weight."""
    bound = float(to_proto(model.ir).ByteSize())
    for name, encoding in model.encodings.items():
        weight = model.weights[name]
        bound += encoding.information_bits() / 8 - weight.size * weight.dtype.itemsize
    return bound


def check_target(path: Path, source: Path | None, *, overwrite: bool) -> None:
    """Raise OutputError where ``path`` cannot, or must not, be written."""
    require_place(path, "the output")
    if source is not None and path.exists() and source.exists() and path.samefile(source):
        raise OutputError(
            "the output is the input",
            where=str(path),
            why="inputs are never overwritten",
            fix="choose another name",
        )
    if path.exists() and not overwrite:
        fix = "choose another name or allow overwriting (--overwrite)"
        raise OutputError("the output exists", where=str(path), fix=fix)


def place(staged: Path, path: Path) -> None:
    """Move a finished file, and its external data, to where it belongs; the model file last.

    Raises:
        OutputError: the file system refuses.
    """
    try:
        data = _external(staged)
        if data.exists():
            move(data, _external(path))
        move(staged, path)
    except OSError as error:
        raise OutputError("cannot write the output", where=str(path), why=error.strerror) from error


def move(source: Path, target: Path) -> None:
    """Move a file in one step, replacing what is there, also to another file system."""
    try:
        source.replace(target)
    except OSError:  # another file system: copy beside the target, then rename
        beside = target.with_name(f".{target.name}.part")
        try:
            shutil.copyfile(source, beside)
            beside.replace(target)
        finally:
            beside.unlink(missing_ok=True)


@contextlib.contextmanager
def staging(path: Path) -> Iterator[Path]:
    """Make a folder beside the target, so that renaming is atomic, and remove it whatever happens."""
    try:
        folder = tempfile.TemporaryDirectory(prefix=".onnxcompress-", dir=path.parent)
    except OSError as error:
        raise OutputError("cannot write the output", where=str(path), why=error.strerror) from error
    with folder as name:
        yield Path(name)


def _external(path: Path) -> Path:
    """Return the file that holds the tensors of ``path`` where they do not fit into it."""
    return path.with_name(path.name + ".data")


def _write(graph: ir.Model, path: Path) -> Path:
    """Serialise a graph, with external data if it is too large for one file.

    Raises:
        OutputError: the file system refuses.
    """
    total = sum(t.nbytes for t in tensors(graph))
    try:
        if total > EXTERNAL_ABOVE:
            moved = ir.external_data.unload_from_model(
                graph, path.parent, _external(path).name, size_threshold_bytes=1024
            )
            path.write_bytes(to_proto(moved).SerializeToString())
        else:
            path.write_bytes(to_proto(in_memory(graph)).SerializeToString())
    except OSError as error:
        raise OutputError("cannot write the output", where=str(path), why=error.strerror) from error
    return path


def _prove(model: Model, lowered: stored.Lowered, staged: Path, folder: Path, shapes: Shapes) -> None:
    """Raise VerificationError unless the file computes, bit by bit, what its dense twin computes."""
    twin = _write(lowered.twin, folder / "twin.onnx")
    if _passes_checker(twin) and not _passes_checker(staged):
        raise VerificationError("the written model does not pass onnx's checker", where=staged.name)
    try:
        left = _left_over(lowered, staged, twin)
        if left:
            raise VerificationError(
                "decoding is left in the model",
                where=staged.name,
                why=f"onnxruntime {runtime.version()} does not fold {', '.join(left)}",
            )
        _compare_weights(lowered, staged.name)
        _compare(model, staged, twin, shapes)
    except UnsupportedError as error:
        raise VerificationError(
            "onnxruntime refuses the written model", where=staged.name, why=str(error)
        ) from error


def _left_over(lowered: stored.Lowered, staged: Path, twin: Path) -> list[str]:
    """Return the operators that onnxruntime's optimisation leaves in one file and not in the other."""
    ours, theirs = runtime.optimized_ops(staged), runtime.optimized_ops(twin)
    if lowered.by_row:  # rows of embeddings are decoded when they are looked up, with these operators
        allowed = {("", op) for op in ("Gather", "Cast", "Reshape", "Add", "Mul", "Slice")}
        ours = Counter({op: n for op, n in ours.items() if op not in allowed})
        theirs = Counter({op: n for op, n in theirs.items() if op not in allowed})
    return sorted(f"{count} {op}" for (_, op), count in ((ours - theirs) + (theirs - ours)).items())


def _compare_weights(lowered: stored.Lowered, where: str) -> None:
    """Decode every weight in onnxruntime; outputs alone could miss what a dead unit hides."""
    for proto, weights in decoders(lowered.graph, lowered.decoded):
        found = runtime.open_session(proto.SerializeToString()).run({})
        for value, (_, name, encoding) in zip(found.values(), weights, strict=True):
            if np.asarray(value).tobytes() != encoding.decode().tobytes():
                raise VerificationError(
                    "a weight decodes to something else than was decided", where=where, why=f"weight '{name}'"
                )


def _compare(model: Model, staged: Path, twin: Path, given: Shapes) -> None:
    ours, theirs = runtime.open_session(staged), runtime.open_session(twin)
    shapes = feeds.resolve_shapes(model, theirs, given)
    for feed in feeds.random_feeds(theirs.inputs, seed=_PROOF_SEED, shapes=shapes, examples=1, model=model):
        expected, found = theirs.run(feed), ours.run(feed)
        for name, value in expected.items():
            if not _same(value, found[name]):
                raise VerificationError(
                    "the written model computes something else than its dense twin",
                    where=staged.name,
                    why=f"output '{name}' differs",
                )


def _same(a: object, b: object) -> bool:
    """Return whether two outputs are equal bit by bit; NaN equals NaN."""
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(_same(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(a[k], b[k]) for k in a)
    x, y = np.asarray(a), np.asarray(b)
    if x.dtype != y.dtype or x.shape != y.shape:
        return False
    return bool(np.array_equal(x, y, equal_nan=x.dtype.kind in "fc"))


def _passes_checker(path: Path) -> bool:
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except Exception:  # the checker raises whatever its parsers raise; its verdict is all we need
        return False
    return True
