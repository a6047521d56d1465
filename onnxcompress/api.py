"""The Python interface: ``onnxcompress.compress(model, method="lc-quant", bits=2)``."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from onnxcompress import gates, pipeline
from onnxcompress.core.errors import GateError, UsageError
from onnxcompress.core.kinds import MOST_THREADS
from onnxcompress.core.resources import Resources
from onnxcompress.core.run import Run
from onnxcompress.pipeline import packing
from onnxcompress.recipe import build

pack, unpack = packing.pack, packing.unpack


@dataclass(frozen=True)
class Result:
    """A compressed model and the run that made it.

    Attributes:
        model: the compressed model; None where it was only written (``output`` given).
        path: the file it was written to, None where none was asked for.
        run: everything that was measured.
    """

    model: onnx.ModelProto | None
    path: Path | None
    run: Run


def compress(
    model: pipeline.Source,
    *,
    method: str | Sequence[str],
    output: str | Path | None = None,
    overwrite: bool = False,
    data: Any = None,
    data_options: Mapping[str, Any] | None = None,
    seed: int = 0,
    input_shapes: Mapping[str, tuple[int, ...]] | None = None,
    random_data: bool = False,
    threads: int = 1,
    resources: Resources | None = None,
    fold: bool = True,
    benchmark: bool = False,
    limits: Mapping[str, float] | None = None,
    budgets: str | Path | gates.Budgets | None = None,
    baseline: str | Path | Run | None = None,
    max_regression: float | None = None,
    strict: bool = False,
    **options: Any,
) -> Result:
    """Compress a model; the argument is never changed.

    Threads may call this at once and get what they would get alone: one computes, the others wait, because
    torch has one generator of random numbers, and one number of threads, a process. Use processes to compress
    in parallel. Threads of your own that draw from that generator meanwhile change what training comes to.

    Args:
        model: path, ``onnx.ModelProto`` or ``onnx_ir.Model``.
        method: a method's name, or several that run one after the other.
        output: where to write the result; None: it is returned in memory only.
        overwrite: an existing ``output`` may be replaced.
        data: as for ``--data``, or an iterable of dicts, or a calibration data reader.
        data_options: ``labels``, ``limit``, ``val``, ``loss``, ``metric``, ``scale``, ``mean``, ``std``, …
        seed: of every random choice.
        input_shapes: concrete shapes of inputs with symbolic dimensions.
        random_data: allow the method to train on random numbers.
        threads: CPU threads.
        resources: device, time limit, checkpoints, progress.
        fold: fold constants that shift a layer's input into its bias.
        benchmark: measure latency too.
        limits: gates, see :mod:`onnxcompress.gates`.
        budgets: limits of several models by file name; those of this one are taken, ``limits`` win over them.
        baseline: a stored run; where this one is worse, a gate fails.
        max_regression: share by which the baseline may be exceeded; latency: five times that. None: 0.02.
        strict: gates that noise leaves undecided fail too.
        options: options of the methods (``bits=2``, ``exclude=("conv1.*",)``).

    Raises:
        OnnxCompressError: one of its tree; nothing has been written then (a failed gate excepted, whose
            result is written so that it can be looked at, and is the ``result`` of the GateError).
    """
    _check_threads(threads)
    names = [method] if isinstance(method, str) else list(method)
    demands = gates.Demands.read(budgets, baseline, max_regression, strict, limits=list(limits or ()))
    given = {"path": data, "random": random_data or None, **(data_options or {})}
    recipe = build(names, options, data=given, seed=seed)
    with tempfile.TemporaryDirectory(prefix="onnxcompress-") as folder:
        target = Path(output) if output is not None else Path(folder) / "model.onnx"
        run = pipeline.compress(
            pipeline.Request(
                source=model,
                recipe=recipe,
                output=target,
                overwrite=overwrite,
                input_shapes=input_shapes or {},
                threads=threads,
                resources=resources or Resources(),
                limits=demands.limits(limits or {}, _names(output, model)),
                fold=fold,
                benchmark=benchmark,
            )
        )
        compressed = onnx.load(target) if output is None else None
    run = demands.decided(run, each=False)
    result = Result(compressed, Path(output) if output is not None else None, run)
    _require(run, strict, result)
    return result


def compare(
    *models: str | Path,
    data: Any = None,
    data_options: Mapping[str, Any] | None = None,
    seed: int = 0,
    input_shapes: Mapping[str, tuple[int, ...]] | None = None,
    threads: int = 1,
    benchmark: bool = True,
    limits: Mapping[str, float] | None = None,
    budgets: str | Path | gates.Budgets | None = None,
    baseline: str | Path | Run | None = None,
    max_regression: float | None = None,
    strict: bool = False,
) -> Run:
    """Compare models with the first one: outputs, size, latency.

    Args:
        models: files, two or more; the first is the reference.
        data: compare outputs on examples of this, as for ``compress``; None: on seeded random inputs.
        data_options: as for ``compress``.
        seed: of random inputs and of the order of measurements.
        input_shapes: concrete shapes of inputs with symbolic dimensions.
        threads: CPU threads.
        benchmark: measure latency too.
        limits: gates, see :mod:`onnxcompress.gates`.
        budgets: limits of several models by file name; every model is held to its own.
        baseline: a stored run; where this one is worse, a gate fails.
        max_regression: share by which the baseline may be exceeded; latency: five times that. None: 0.02.
        strict: gates that noise leaves undecided fail too.

    Raises:
        OnnxCompressError: one of its tree; GateError where a limit does not hold, its ``result`` the run.
    """
    _check_threads(threads)
    if len(models) < 2:
        raise UsageError("there is nothing to compare with", fix="name two or more models")
    demands = gates.Demands.read(budgets, baseline, max_regression, strict, limits=list(limits or ()))
    paths = [Path(model) for model in models]
    demands.check_each(paths, benchmark=benchmark, data=data is not None and len(paths) == 2)
    run = pipeline.compare(
        paths,
        data={"path": data, **(data_options or {})} if data is not None else dict(data_options or {}),
        input_shapes=input_shapes,
        seed=seed,
        threads=threads,
        benchmark=benchmark,
        limits=limits,
        hold_out=demands.held_out,
    )
    run = demands.decided(run, each=True)
    _require(run, strict, run)
    return run


def _check_threads(threads: int) -> None:
    if not 1 <= threads <= MOST_THREADS:
        raise UsageError(f"threads must be 1 to {MOST_THREADS}, not {threads}")


def _require(run: Run, strict: bool, result: object) -> None:
    """Raise GateError with the result where a limit does not hold."""
    try:
        gates.require(run, strict=strict)
    except GateError as error:
        error.result = result
        raise


def _names(output: str | Path | None, model: pipeline.Source) -> list[str]:
    """Return what a budget may call a model: the file that is written, the one it was made from."""
    paths = [output, model if isinstance(model, (str, Path)) else None]
    return [Path(path).name for path in paths if path is not None] or ["model in memory"]
