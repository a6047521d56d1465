"""The model as it came: imported, open in onnxruntime; its latency."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import onnx
import onnx_ir as ir

from onnxcompress import bench, exporter, importer
from onnxcompress.core.errors import UnsupportedError
from onnxcompress.core.model import Model
from onnxcompress.core.run import Benchmark
from onnxcompress.core.task import Feeds
from onnxcompress.engine import feeds, runtime, scores
from onnxcompress.engine.denormals import NOTABLE
from onnxcompress.surgery import store_computed_weights

LATENCY_BUDGET_S = 10.0
"""Seconds for the latency comparison."""

Source = str | Path | onnx.ModelProto | ir.Model


@dataclass(frozen=True)
class Original:
    """The model as it came, open in onnxruntime.

    Attributes:
        model: what methods work on.
        file: the model as it came.
        session: ``witness`` in onnxruntime.
        shapes: concrete ones of its inputs; none as long as nobody asked for sizes.
        scores: outputs that ``model`` has and ``file`` has not (:mod:`onnxcompress.engine.scores`).
        witness: the file of ``model``: ``file`` itself unless there are such outputs.
        decided: outputs that are decisions, or selected by some, made of other outputs of ``model``.
    """

    model: Model
    file: Path | bytes
    session: runtime.OrtSession
    shapes: Mapping[str, tuple[int, ...]]
    scores: tuple[str, ...]
    witness: Path | bytes
    decided: frozenset[str] = frozenset()


def open_original(source: Source, threads: int) -> Original:
    """Import a model and open it in onnxruntime; it has no shapes before sizes are asked for.

    Raises:
        UnsupportedError: the file is not a model, or onnxruntime does not load it.
    """
    model = importer.load(source)
    path = path_of(source)
    file = path if path is not None else exporter.dense_bytes(model)
    session = runtime.open_session(file, threads=threads)
    model, shown, decided = _with_scores(model, session)
    witness = exporter.dense_bytes(model) if shown else file
    if shown:
        session = runtime.open_session(witness, threads=threads)
    return Original(model, file, session, {}, shown, witness, decided)


def with_stored_weights(original: Original) -> tuple[Original, tuple[str, ...]]:
    """Return the original with weights stored that its file computes, and the nodes that computed them."""
    model, names = store_computed_weights(original.model)
    return (replace(original, model=model), names) if names else (original, ())


def _with_scores(model: Model, session: runtime.OrtSession) -> tuple[Model, tuple[str, ...], frozenset[str]]:
    """Make what decides an output as well, where no output has scores; return it, its names, and of what."""
    real = {o.name: o for o in session.outputs if o.numpy is not None and o.numpy.kind not in "iubO"}
    selected = scores.decided(model) & real.keys()
    plain = [o for name, o in real.items() if name not in selected]
    asked = set(selected)
    if all(_one_number(o.shape) for o in plain):
        asked |= {o.name for o in session.outputs} - real.keys()
    shown = _showable(model, scores.deciding(model, asked))
    if plain and not selected:  # one number tells as much as its threshold does, but not which of several
        shown = {name: shape for name, shape in shown.items() if not _one_number(shape)}
    there = shown.keys() | {o.name for o in plain}
    made_of = {name: scores.deciding(model, [name], own=True) for name in asked}
    decided = frozenset(name for name, found in made_of.items() if found and there.issuperset(found))
    if not shown:
        return model, (), decided & selected
    return scores.revealed(model, tuple(shown)), tuple(shown), decided


def _showable(model: Model, names: Sequence[str]) -> dict[str, Sequence[int | str | None]]:
    """Return those of these values that can be outputs and hold real numbers, with their shapes."""
    if not names:
        return {}
    try:
        session = runtime.open_session(exporter.dense_bytes(scores.revealed(model, names)))
    except UnsupportedError:  # too large for one message, or values that cannot be outputs
        singly = [_showable(model, [name]) for name in names] if len(names) > 1 else []
        return {name: shape for found in singly for name, shape in found.items()}
    found = {o.name: o.shape for o in session.outputs if o.numpy is not None and o.numpy.kind == "f"}
    return {name: found[name] for name in names if name in found}


def _one_number(shape: Sequence[int | str | None]) -> bool:
    """Tell whether an output is known to be one number an example."""
    return len(shape) > 0 and all(d == 1 for d in shape[1:])


def latency(
    original: Original,
    models: Mapping[str, Path],
    seed: int,
    threads: int,
    budget_s: float = LATENCY_BUDGET_S,
    *,
    single: Feeds | None = None,
    provider: str = "CPUExecutionProvider",
) -> Benchmark:
    """Compare latencies on one input, a seeded random one where none is given; the first is the reference."""
    random = single is None
    return bench.compare_latency(
        models,
        single if single is not None else random_single(original, seed),
        threads=threads,
        seed=seed,
        budget_s=budget_s,
        provider=provider,
        denormals=random and provider == "CPUExecutionProvider",
        inputs="one seeded random input" if random else "one validation example",
    )


def random_single(original: Original, seed: int) -> Feeds:
    """Return one seeded random input."""
    return feeds.random_feeds(
        original.session.inputs, seed=seed, shapes=original.shapes, model=original.model
    )[0]


def latency_warnings(benchmark: Benchmark | None) -> tuple[str, ...]:
    """Say where a latency rests on denormal numbers, which random inputs may bring, real ones rarely."""
    if benchmark is None:
        return ()
    said = []
    first = benchmark.latencies[0] if benchmark.latencies else None
    for index, latency in enumerate(benchmark.latencies):
        flushed = latency.flushed_ms
        if flushed is None or latency.median_ms < NOTABLE * flushed:
            continue
        told = (
            f"the latency of {latency.name} rests on random inputs and denormal numbers: "
            f"{latency.median_ms:.3g} ms, {flushed:.3g} ms with them flushed to zero"
        )
        if index and first is not None and first.flushed_ms:
            told += (
                f"; its ratio would be {flushed / first.flushed_ms:.2f} "
                f"and not {latency.median_ms / first.median_ms:.2f}"
            )
        said.append(told + "; give --data to time it on real inputs")
    return tuple(said)


@contextlib.contextmanager
def as_file(model: Path | bytes) -> Iterator[Path]:
    """Give a serialised model a file for as long as the context lasts."""
    if isinstance(model, Path):
        yield model
        return
    folder = Path(tempfile.mkdtemp(prefix="onnxcompress-"))
    try:
        (folder / "original.onnx").write_bytes(model)
        yield folder / "original.onnx"
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def path_of(source: Source) -> Path | None:
    """Return the path of a model given as one, None for a model in memory."""
    return Path(source) if isinstance(source, (str, Path)) else None
