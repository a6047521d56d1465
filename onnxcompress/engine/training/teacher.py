"""The teacher: outputs of the original model, computed once and kept in memory or on disk, or on the fly."""

from __future__ import annotations

import math
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import BinaryIO, cast

import numpy as np
import torch

from onnxcompress.core.encoding import Array
from onnxcompress.engine.data.columns import FileColumn
from onnxcompress.engine.graph.values import Value
from onnxcompress.engine.training.batches import Batches
from onnxcompress.engine.training.execution import Execution
from onnxcompress.engine.training.losses import OutputFacts

MEMORY_BYTES = 256 << 20
"""Outputs up to this size are kept in memory, larger ones in a temporary file."""

_CHUNK = 256

_CONSTANT = 1e-12
"""Variance as share of the mean square below which an output is constant: it is rounding."""


class Teacher:
    """Outputs of the original model on training and validation examples.

    Made while the graph still holds the original's weights, of which a copy is kept: examples of the test
    split, and outputs too large even for the disk, are computed when they are asked for.

    Args:
        execution: runs the graph.
        batches: the examples.
        needed: whether outputs will be asked for; if not, only ``facts`` are measured, on a few examples.
        memory_bytes: see ``MEMORY_BYTES``.
        disk_bytes: largest temporary file; None: half of what is free.
        deadline: moment of ``time.monotonic`` from which on no more outputs are computed ahead; they are
            computed when they are first asked for, then, and each time where memory does not hold them.

    Attributes:
        needed: as given.
        broken_off: whether ``deadline`` came before all outputs were computed.
        example_s: seconds that one example took.
    """

    def __init__(
        self,
        execution: Execution,
        batches: Batches,
        *,
        needed: bool,
        memory_bytes: int = MEMORY_BYTES,
        disk_bytes: int | None = None,
        deadline: float = math.inf,
    ) -> None:
        self._execution, self._batches, self._deadline = execution, batches, deadline
        self._memory: dict[str, torch.Tensor] | None = None
        self._there = torch.zeros(len(batches.known), dtype=torch.bool)
        self._files: dict[str, FileColumn] | None = None
        self._original: list[torch.Tensor] = []
        self.needed, self.broken_off = needed, False
        self._moments: dict[str, list[float]] = {}
        self._probabilities = set(execution.outputs)
        # Stored examples may be sorted: what stands for all of them is drawn.
        some = np.random.default_rng(0).permutation(batches.known)[:_CHUNK]
        began = time.monotonic()
        first = self._compute(np.sort(some), deadline)
        found = min((len(v) for v in first.values()), default=1)
        self.example_s = (time.monotonic() - began) / found
        self._varying = {name: _varying(values) for name, values in first.items()}
        row_bytes = sum(v[0].numel() * v.element_size() for v in first.values())
        total = row_bytes * len(batches.known)
        if disk_bytes is None:
            disk_bytes = shutil.disk_usage(tempfile.gettempdir()).free // 2
        if not needed:
            self._measure(first)
        elif total <= memory_bytes:
            self._keep_in_memory(first)
        elif total <= disk_bytes:
            self._keep_on_disk(first)
        else:
            self._measure(first)
        if needed:
            self._original = [p.detach().clone() for p in execution.graph.parameters()]

    @property
    def place(self) -> str:
        """Where outputs are: ``"memory"``, ``"disk"``, ``"computed"`` each time, or ``"not needed"``."""
        if not self.needed:
            return "not needed"
        return "memory" if self._memory is not None else "disk" if self._files is not None else "computed"

    def outputs(self, indices: Array, rows: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        """Return the original's outputs for these examples.

        ``rows`` are those of :meth:`Batches.rows`; without them the examples may be any, and are computed.
        """
        if rows is not None and self._memory is not None:
            self._complete(indices, rows)
            return {name: values.index_select(0, rows) for name, values in self._memory.items()}
        if rows is not None and self._files is not None:
            at = rows.cpu().numpy()
            device = self._batches.device
            return {n: torch.from_numpy(column.take(at)).to(device) for n, column in self._files.items()}
        with self._as_original():
            return self._compute(indices)

    def answer(self, stack: Mapping[str, Value]) -> dict[str, torch.Tensor]:
        """Return the original's outputs for these inputs, whatever they are."""
        with self._as_original():
            return self._run(stack)

    def facts(self, labelled: str | None) -> OutputFacts:
        """Return what losses need to know; a constant output has variance 1."""
        variance = {}
        for name, (count, total, squares) in self._moments.items():
            mean = total / count
            spread = squares / count - mean * mean
            scale = squares / count
            variance[name] = spread if spread > _CONSTANT * scale and spread > 0 else (scale or 1.0)
        return OutputFacts(variance, frozenset(self._probabilities), labelled, varying=self._varying)

    # inside ------------------------------------------------------------------------------------------------

    def _complete(self, indices: Array, rows: torch.Tensor) -> None:
        """Compute what memory does not hold yet of these examples."""
        missing = ~self._there[rows.cpu()]
        if not missing.any():
            return
        with self._as_original():
            self._keep(rows[missing.to(rows.device)], self._compute(indices[missing.numpy()]))

    def _compute(self, indices: Array, until: float = math.inf) -> dict[str, torch.Tensor]:
        return self._run(self._batches.inputs(indices), until)

    @torch.no_grad()
    def _run(self, stack: Mapping[str, Value], until: float = math.inf) -> dict[str, torch.Tensor]:
        graph = self._execution.graph
        training = graph.training
        graph.eval()
        try:
            found = self._execution.run(stack, until)
            return {name: found[name] for name in self._execution.outputs}
        finally:
            graph.train(training)

    def _chunks(self, first: Mapping[str, torch.Tensor]) -> Iterator[tuple[int, Mapping[str, torch.Tensor]]]:
        """Yield the outputs of all examples, or of some where time is over; ``first`` are those of a draw."""
        known = self._batches.known
        for start in range(0, len(known), _CHUNK):
            part = known[start : start + _CHUNK]
            outputs = first if len(known) <= _CHUNK else self._compute(part, self._deadline)
            self._measure(outputs)
            yield start, outputs
            more = start + len(part) < len(known)
            late = more and time.monotonic() >= self._deadline
            self.broken_off = late or any(len(values) < len(part) for values in outputs.values())
            if self.broken_off:
                return

    def _keep_in_memory(self, first: Mapping[str, torch.Tensor]) -> None:
        count = len(self._batches.known)
        self._memory = {name: v.new_empty((count, *v.shape[1:])) for name, v in first.items()}
        for start, outputs in self._chunks(first):
            found = len(next(iter(outputs.values())))
            self._keep(torch.arange(start, start + found, device=self._batches.device), outputs)

    def _keep(self, rows: torch.Tensor, outputs: Mapping[str, torch.Tensor]) -> None:
        assert self._memory is not None
        for name, values in outputs.items():
            self._memory[name][rows] = values
        self._there[rows.cpu()] = True

    def _keep_on_disk(self, first: Mapping[str, torch.Tensor]) -> None:
        files: dict[str, BinaryIO] = {}
        columns: dict[str, FileColumn] = {}
        for _, outputs in self._chunks(first):
            for name, values in outputs.items():
                array = values.cpu().contiguous().numpy()
                if name not in files:
                    files[name] = cast(BinaryIO, tempfile.TemporaryFile())  # noqa: SIM115  lives with the teacher
                    shape = (len(self._batches.known), *array.shape[1:])
                    columns[name] = FileColumn(files[name], 0, shape, array.dtype)
                files[name].write(array.tobytes())
        for file in files.values():
            file.flush()
        self._files = None if self.broken_off else columns

    def _measure(self, outputs: Mapping[str, torch.Tensor]) -> None:
        for name, values in outputs.items():
            wide = values.double()
            sums = self._moments.setdefault(name, [0.0, 0.0, 0.0])
            sums[0] += wide.numel()
            sums[1] += float(wide.sum())
            sums[2] += float(wide.square().sum())
            if name in self._probabilities and not _are_probabilities(wide):
                self._probabilities.discard(name)

    @contextmanager
    def _as_original(self) -> Iterator[None]:
        """Let the graph hold the original's weights for a while; nothing is copied."""
        if not self._original:
            yield
            return
        parameters = list(self._execution.graph.parameters())
        present = [p.data for p in parameters]
        for parameter, original in zip(parameters, self._original, strict=True):
            parameter.data = original
        try:
            yield
        finally:
            for parameter, values in zip(parameters, present, strict=True):
                parameter.data = values


def _varying(values: torch.Tensor) -> float:
    """Return the mean over places of the variance over examples; 0 where there is none worth the name."""
    wide = values.double()
    found = float(wide.var(0).mean()) if len(wide) > 1 else 0.0
    return found if found > _CONSTANT * float(wide.square().mean()) else 0.0


def _are_probabilities(values: torch.Tensor) -> bool:
    """Whether rows are non-negative and sum to 1 along the class axis: the second, or else the last."""
    if values.dim() < 2 or bool((values < 0).any()):
        return False
    flat = [d for d in values.shape[1:] if d != 1]
    axes = [None] if len(flat) == 1 else [1, -1]
    for axis in axes:
        sums = values.reshape(len(values), -1).sum(1) if axis is None else values.sum(axis)
        if bool(((sums - 1).abs() < 1e-3).all()) and max(flat, default=0) > 1:
            return True
    return False


def array_outputs(outputs: Mapping[str, torch.Tensor]) -> dict[str, np.ndarray]:
    """Return tensors as NumPy arrays for metrics."""
    return {name: value.detach().cpu().numpy() for name, value in outputs.items()}
