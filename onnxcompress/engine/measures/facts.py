"""Static facts for the report: what a file holds, what became of each weight, where it was measured."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import subprocess
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir

from onnxcompress.core.encoding import Array, Encoding
from onnxcompress.core.model import Model, Weight, constant_of, subgraphs
from onnxcompress.core.run import Environment, Histogram, ModelFacts, WeightFacts
from onnxcompress.core.task import Feeds
from onnxcompress.encodings.lowrank import LowRank
from onnxcompress.engine.measures.costs import count_macs
from onnxcompress.engine.measures.tensorfile import TensorFile
from onnxcompress.engine.proto import came_sparse, plain_bytes
from onnxcompress.engine.sparse_tensors import sparse_bytes
from onnxcompress.engine.storage.pool import stored_bits

BINS = 80
CLIP = 0.001
"""Fraction of the elements beyond either end of a histogram; they count in the end bins."""

CODEBOOK_LIMIT = 256
"""Codebooks with more entries than this are not repeated in the report."""

INTEGER_WEIGHTS: Mapping[str, tuple[int, ...]] = {
    "ConvInteger": (1,),
    "DequantizeLinear": (0,),
    "MatMulInteger": (1,),
    "QLinearConv": (3, 8),
    "QLinearMatMul": (3,),
}
"""Inputs of quantised operators that hold weights, or biases, as integers."""

PACKAGES = ("onnxcompress", "onnx", "onnx-ir", "onnxruntime", "numpy", "torch", "onnx2torch", "ml_dtypes")

_BLOCK = 1 << 20


def model_facts(
    file: Path | bytes,
    model: Model,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    *,
    name: str | None = None,
    feeds: Feeds | None = None,
) -> ModelFacts:
    """Return the facts of one file.

    Args:
        file: the file, or what a file would hold; external data is read beside it.
        model: the same model, imported: its weights are known as such, encoded or not.
        shapes: input name -> shape at which multiply-accumulates are counted; None: they are not.
        name: for the report; None: the file's name.
        feeds: inputs for the run that finds shapes, where inference does not; None: random ones.
    """
    tensors = TensorFile(file)
    parameters = sum(w.size for w in model.weights.values()) + sum(_integers(model).values())
    macs = None if shapes is None else count_macs(model, shapes, feeds=feeds)
    return ModelFacts(
        name=name or (file.name if isinstance(file, Path) else "model in memory"),
        sha256=_digest(tensors.main_blocks()),
        size_bytes=tensors.size_bytes,
        gzip_bytes=gzip_bytes(tensors.blocks()),
        nodes=_count_nodes(tensors.proto),
        parameters=parameters,
        bits_per_weight=8 * _weight_bytes(tensors, model) / parameters if parameters else None,
        macs=None if macs is None else macs.total,
        macs_unknown_ops=() if macs is None else macs.unknown_ops,
        opset=_default_opset(tensors.proto),
        ir_version=int(tensors.proto.ir_version),
        input_shapes={k: tuple(v) for k, v in (shapes or {}).items()},
    )


def _integers(model: Model) -> dict[str, int]:
    """Return name -> size of the tensors that hold weights as integers: those quantised operators read."""
    found: dict[str, int] = {}
    for node in model.ir.graph:
        for slot in INTEGER_WEIGHTS.get(node.op_type, ()):
            value = node.inputs[slot] if slot < len(node.inputs) else None
            tensor = constant_of(value) if value is not None else None
            if value is not None and value.name and tensor is not None and len(tensor.shape) > 0:
                found[value.name] = int(tensor.size)
    return found


def environment() -> Environment:
    """Return processor, operating system and versions; no names of machines or of people."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return Environment(
        python=platform.python_version(),
        platform=f"{platform.system()} {platform.machine()}".strip(),
        cpu=_cpu_name(),
        cores=_cores(),
        packages=versions,
    )


def weight_facts(before: Model, after: Model, encodings: Mapping[str, Encoding]) -> tuple[WeightFacts, ...]:
    """Return what became of each weight, in the model's order.

    ``relative_error`` is ‖w − Δ(Θ)‖₂ / ‖w‖₂, and ‖Δ(Θ)‖₂ where w is all zeros; None where it was cut.

    Args:
        before: the model as it came.
        after: the model as it is written.
        encodings: weight name -> how it is stored now.
    """
    sizes = stored_bits(before), stored_bits(after)
    return tuple(
        _weight_facts(before, weight, encodings[name], sizes)
        for name, weight in before.weights.items()
        if name in encodings
    )


def _weight_facts(
    before: Model, weight: Weight, encoding: Encoding, sizes: tuple[Mapping[str, int], Mapping[str, int]]
) -> WeightFacts:
    array = before.array(weight.name)
    codebook = encoding.codebook()
    entries = None if codebook is None else int(codebook.shape[-1]) if codebook.ndim else 1
    flat = codebook.reshape(-1) if codebook is not None and codebook.size == entries else None
    shown = flat is not None and flat.size <= CODEBOOK_LIMIT
    return WeightFacts(
        name=weight.name,
        shape=weight.shape,
        dtype=str(weight.dtype),
        consumers=tuple(_consumers(weight)),
        encoding=encoding.kind,
        entries=entries,
        bits_before=sizes[0].get(weight.name, 8 * plain_bytes(weight)),
        bits_after=_bits(weight, encoding, sizes[1]),
        relative_error=relative_error(array, encoding.decode()) if encoding.shape == weight.shape else None,
        codebook=tuple(float(c) for c in flat) if shown and flat is not None else None,
        histogram=histogram(array),
        shape_after=tuple(encoding.shape) if tuple(encoding.shape) != weight.shape else None,
        rank=rank_of(encoding),
    )


def _bits(weight: Weight, encoding: Encoding, sizes: Mapping[str, int]) -> int:
    """Return the bits of an encoded weight; what came sparse is written so wherever that takes fewer."""
    packed = encoding.stored_bits()
    if encoding.kind != "dense":
        packed = sizes.get(weight.name, packed)
    return min(packed, 8 * sparse_bytes(encoding.decode())) if came_sparse(weight) else packed


def rank_of(encoding: Encoding | None) -> int | None:
    """Return the rank of a weight that is the product of two factors, None of every other."""
    return encoding.rank if isinstance(encoding, LowRank) else None


def relative_error(before: Array, after: Array) -> float:
    """Return ‖before − after‖₂ / ‖before‖₂, ‖after‖₂ where the former is zero; summed in float64."""
    old, new = before.reshape(-1), after.reshape(-1)
    norm = error = 0.0
    for start in range(0, old.size, _BLOCK):
        one, other = (a[start : start + _BLOCK].astype(np.float64) for a in (old, new))
        norm += float(one @ one)
        error += float((one - other) @ (one - other))
    return float(np.sqrt(error / norm) if norm > 0 else np.sqrt(error))


def histogram(array: Array, *, bins: int = BINS, clip: float = CLIP) -> Histogram | None:
    """Return counts in equal bins between the ``clip`` and the ``1 - clip`` quantile.

    What is outside counts in the end bins, so that counts sum up to the number of finite elements; None
    where there is none.
    """
    values = array.reshape(-1).astype(np.float64)
    values = values[np.isfinite(values)]
    if values.size == 0:
        return None
    low, high = (float(q) for q in np.quantile(values, (clip, 1 - clip)))
    if not low < high:
        low, high = float(values.min()), float(values.max())
    if not low < high:
        low, high = low - max(1e-6, abs(low) * 1e-3), high + max(1e-6, abs(high) * 1e-3)
    counts, edges = np.histogram(np.clip(values, low, high), bins=bins, range=(low, high))
    return Histogram(tuple(float(e) for e in edges), tuple(int(c) for c in counts))


def _consumers(weight: Weight) -> Iterator[str]:
    """Yield the nodes that read a weight, as ``name (operator)``, or the operator alone."""
    for use in weight.value.uses():
        yield f"{use.node.name} ({use.node.op_type})" if use.node.name else use.node.op_type


def _weight_bytes(tensors: TensorFile, model: Model) -> int:
    """Return the bytes that the weights take in the file, with all that is stored to decode them.

    A tensor of the file is either one of the model that is no weight (a shape, an index), or it is a weight
    or part of an encoded one.
    """
    weights = {*model.weights, *_integers(model)}
    others = {name for name, _ in _constants(model.ir.graph, "") if name not in weights}
    return sum(t.size_bytes for t in tensors.tensors if t.name not in others)


def _constants(graph: ir.Graph, prefix: str) -> Iterator[tuple[str, ir.Value]]:
    for name, value in graph.initializers.items():
        yield prefix + name, value
    for node in graph:
        if node.op_type == "Constant" and node.outputs[0].name:
            yield prefix + node.outputs[0].name, node.outputs[0]
    for path, nested in subgraphs(graph):
        yield from _constants(nested, prefix + path)


def _count_nodes(proto: onnx.ModelProto) -> int:
    """Count the nodes of the graph, of the graphs nested in it, and of each function once."""

    def count(nodes: Iterator[onnx.NodeProto] | list[onnx.NodeProto]) -> int:
        total = 0
        for node in nodes:
            total += 1
            for attribute in node.attribute:
                for nested in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else ())):
                    total += count(list(nested.node))
        return total

    return count(list(proto.graph.node)) + sum(count(list(f.node)) for f in proto.functions)


def _default_opset(proto: onnx.ModelProto) -> int:
    versions = {entry.domain: int(entry.version) for entry in proto.opset_import}
    return versions.get("", versions.get("ai.onnx", 0))


def _digest(blocks: Iterator[bytes]) -> str:
    digest = hashlib.sha256()
    for block in blocks:
        digest.update(block)
    return digest.hexdigest()


def gzip_bytes(blocks: Iterator[bytes]) -> int:
    """Return the size after ``gzip -6``, in constant memory."""
    packer = zlib.compressobj(6, zlib.DEFLATED, 31)
    return sum(len(packer.compress(block)) for block in blocks) + len(packer.flush())


def _cores() -> int:
    """Return the cores this process may use."""
    affinity: Callable[[int], set[int]] | None = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1


def _cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    if platform.system() == "Darwin":
        asked = subprocess.run(
            ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"],
            capture_output=True,
            text=True,
            check=False,
        )
        if asked.returncode == 0:
            return asked.stdout.strip()
    return platform.processor() or platform.machine()
