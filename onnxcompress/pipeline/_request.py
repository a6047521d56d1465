"""What one compression is asked for, and what its files are called."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from onnxcompress.core.resources import Resources
from onnxcompress.pipeline._original import Source, path_of
from onnxcompress.recipe import Recipe


@dataclass(frozen=True)
class Request:
    """Everything one compression is asked for.

    Attributes:
        source: the model.
        recipe: methods, data options, seed.
        output: where the result goes; None: only planned and measured, nothing is written.
        overwrite: an existing output may be replaced (the input never is).
        input_shapes: concrete shapes of inputs with symbolic dimensions.
        threads: CPU threads of onnxruntime and torch.
        resources: device, time limit, checkpoints, progress.
        limits: gate name -> limit (:data:`onnxcompress.gates.LIMITS`).
        fold: fold constants that shift a layer's input into its bias (``surgery.fold_shifts``), and store
            weights that the file computes from constants (``surgery.store_computed_weights``).
        benchmark: measure latency, load time and memory.
        command: the command line, for the report.
        name: what the report calls a result that is not written; None: the default output's name.
    """

    source: Source
    recipe: Recipe
    output: Path | None = None
    overwrite: bool = False
    input_shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    threads: int = 1
    resources: Resources = field(default_factory=Resources)
    limits: Mapping[str, float] = field(default_factory=dict)
    fold: bool = True
    benchmark: bool = True
    command: tuple[str, ...] | None = None
    name: str | None = None


def names_of(request: Request) -> tuple[str, str]:
    """Return what to call the model before and after; different, also where both files are named alike."""
    source = path_of(request.source)
    before = source.name if source is not None else "model in memory"
    output = request.output or default_output(source or Path("model.onnx"), request.recipe)
    after = request.name if request.output is None and request.name is not None else output.name
    return before, after if after != before else f"{after} (compressed)"


def default_output(source: Path, recipe: Recipe) -> Path:
    """Return ``IN.<method>.onnx`` beside the input."""
    return source.with_name(f"{source.stem}.{'+'.join(m.name for m in recipe.methods)}.onnx")


def staging(request: Request) -> Path | None:
    """Return the folder in which the result is made: the output's own, so that placing it is one rename."""
    return request.output.parent if request.output is not None else None
