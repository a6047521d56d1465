"""Runs ONNX's backend node tests through the torch graph and writes what passed, which way, as a table.

Usage: ``python benchmarks/backend_coverage.py [--write docs/backend_coverage.md] [--failures]``

The tests, inputs and expected outputs come with the ``onnx`` package; its ``_expanded`` variants, which
repeat a test with the operator spelled out in others, are left out.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import torch

from onnxcompress.core.errors import OnnxCompressError
from onnxcompress.core.model import Model, Source
from onnxcompress.engine.graph.torchgraph import TorchGraph

ORDER = ("onnxruntime", "onnx2torch", "own")


@dataclass(frozen=True)
class Outcome:
    """What became of one test: ``way`` is the worst its nodes went, ``why`` empty if it passed."""

    name: str
    operator: str
    way: str | None
    why: str

    @property
    def passed(self) -> bool:
        """Whether all outputs had the expected type and shape, and values within the test's tolerance."""
        return not self.why


def node_tests() -> list[Any]:
    """Return the node tests of the installed ``onnx`` that are not expansions of others, by name."""
    from onnx.backend.test.loader import load_model_tests

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return sorted(
            (c for c in load_model_tests(kind="node") if "_expanded" not in c.name), key=lambda c: c.name
        )


def run(case: Any) -> Outcome:
    """Run one test through the torch graph and compare as ONNX's own runner does."""
    operator = case.model.graph.node[-1].op_type
    way: str | None = None
    try:
        graph = TorchGraph(Model(ir.from_proto(case.model), Source(None, "", 0)))
        for inputs, expected in case.data_sets:
            names = [i.name for i in case.model.graph.input]
            outputs = graph.run(dict(zip(names, map(plain, inputs), strict=False)))
            way = min(graph.ways().values(), key=ORDER.index, default="own")
            why = difference([outputs[n] for n in graph.outputs], expected, case.rtol, case.atol)
            if why:
                return Outcome(case.name, operator, way, why)
    except OnnxCompressError as error:
        return Outcome(case.name, operator, way, f"{type(error).__name__}: {error}")
    return Outcome(case.name, operator, way, "")


def plain(value: Any) -> Any:
    """Return a stored test value as NumPy array or list."""
    if isinstance(value, onnx.TensorProto):
        return onnx.numpy_helper.to_array(value)
    if isinstance(value, onnx.SequenceProto):
        return onnx.numpy_helper.to_list(value)
    if isinstance(value, onnx.OptionalProto):
        return plain(onnx.numpy_helper.to_optional(value))
    return list(value) if isinstance(value, tuple) else value


def difference(found: list[Any], expected: Any, rtol: float, atol: float) -> str:
    """Return how results differ from what a test expects, empty where they do not."""
    if len(found) != len(expected):
        return f"{len(found)} outputs instead of {len(expected)}"
    for index, (out, wanted) in enumerate(zip(found, map(plain, expected), strict=True)):
        if isinstance(wanted, list):
            if not isinstance(out, list):
                return f"output {index} is no sequence"
            why = difference(out, wanted, rtol, atol)
        else:
            why = _differs(out, np.asarray(wanted), rtol, atol)
        if why:
            return f"output {index}: {why}"
    return ""


def _differs(out: Any, wanted: np.ndarray[Any, Any], rtol: float, atol: float) -> str:
    if not isinstance(out, np.ndarray):
        return f"{type(out).__name__} instead of an array"
    if out.shape != wanted.shape:
        return f"shape {out.shape} instead of {wanted.shape}"
    if wanted.dtype.kind in "OSU":
        return "" if np.array_equal(out.astype(str), wanted.astype(str)) else "other strings"
    if out.dtype != wanted.dtype:
        return f"type {out.dtype} instead of {wanted.dtype}"
    if wanted.dtype.isbuiltin == 2:
        # NumPy does not promote these types with Python numbers. Two units in the last place of bfloat16.
        rtol = max(rtol, 2**-6) if wanted.dtype.name == "bfloat16" else rtol
        out, wanted = out.astype(np.float32), wanted.astype(np.float32)
    if np.allclose(out, wanted, rtol=rtol, atol=atol, equal_nan=True):
        return ""
    if wanted.dtype.kind in "fiu":
        gap = np.abs(out.astype(np.float64) - wanted.astype(np.float64)).max()
        return f"largest difference {gap:.3g}"
    return "other values"


def table(outcomes: list[Outcome]) -> Iterator[str]:
    """Yield the lines of the coverage document."""
    passed = sum(o.passed for o in outcomes)
    ways = Counter(o.way for o in outcomes if o.passed)
    yield "# ONNX backend node tests through the torch graph\n"
    yield (
        f"{passed} of {len(outcomes)} pass (onnx {onnx.__version__}): {ways['own']} in our own operators, "
        f"{ways['onnx2torch']} through onnx2torch, {ways['onnxruntime']} with a node in onnxruntime.\n"
    )
    yield "Written by `benchmarks/backend_coverage.py`.\n"
    yield "| operator | tests | pass | own | onnx2torch | onnxruntime |"
    yield "|---|---:|---:|---:|---:|---:|"
    by_operator: dict[str, list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        by_operator[outcome.operator].append(outcome)
    for operator, group in sorted(by_operator.items()):
        ways = Counter(o.way for o in group if o.passed)
        counts = " | ".join(str(ways[w] or "") for w in reversed(ORDER))
        yield f"| {operator} | {len(group)} | {sum(o.passed for o in group)} | {counts} |"
    yield "\n## What does not pass\n"
    for outcome in outcomes:
        if not outcome.passed:
            yield f"* `{outcome.name}`: {outcome.why.replace('|', '/')[:160]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--write", type=Path, help="file the table goes to")
    parser.add_argument("--failures", action="store_true", help="print what does not pass")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cases = node_tests()
    began = time.perf_counter()
    outcomes = [run(case) for case in cases]
    passed = sum(o.passed for o in outcomes)
    print(f"{passed} of {len(outcomes)} pass; {time.perf_counter() - began:.1f} s")
    print(Counter(o.way for o in outcomes if o.passed))
    if options.failures:
        print("\n".join(f"{o.name} [{o.way}] {o.why[:250]}" for o in outcomes if not o.passed))
    if options.write:
        options.write.write_text("\n".join(table(outcomes)) + "\n")


if __name__ == "__main__":
    main()
