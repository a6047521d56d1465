"""The Python interface: ``onnxcompress.compress(model, method="lc-quant", bits=2)``."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from onnxcompress import gates, pipeline
from onnxcompress.core.errors import UsageError
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
    **options: Any,
) -> Result:
    """Compress a model; the argument is never changed.

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
        options: options of the methods (``bits=2``, ``exclude=("conv1.*",)``).

    Raises:
        OnnxCompressError: one of its tree; nothing has been written then (a failed gate excepted, whose
            result is written so that it can be looked at).
    """
    if threads < 1:
        raise UsageError(f"threads must be 1 or more, not {threads}")
    names = [method] if isinstance(method, str) else list(method)
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
                limits=limits or {},
                fold=fold,
                benchmark=benchmark,
            )
        )
        compressed = onnx.load(target) if output is None else None
    gates.require(run)
    return Result(compressed, Path(output) if output is not None else None, run)
