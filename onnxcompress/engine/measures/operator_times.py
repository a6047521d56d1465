"""Where the time goes: onnxruntime's own record of every node, aligned between models by the names of nodes.

onnxruntime merges nodes and renames what it merged: ``conv1_nchwc``, ``fused fc1``, ``conv1_token_3``; a
convolution and its activation may end under the name of the activation, or of the value it makes. A recorded
node therefore stands for itself and all nodes before it that were not recorded on their own, and is told
under the contraction among them.
"""

from __future__ import annotations

import re
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from onnxcompress.core.profile import OperatorProfile, OperatorTime
from onnxcompress.core.task import Feeds
from onnxcompress.engine import runtime
from onnxcompress.engine.measures.record import read_record
from onnxcompress.engine.proto_edits import name_nodes

RUNS = 40
"""Inferences recorded, if the time allows."""

LEAST_RUNS = 5
WARM_RUNS = 2

CONTRACTIONS = frozenset({
    "Conv", "ConvTranspose", "ConvInteger", "DeformConv", "Einsum", "GRU", "Gemm", "LSTM", "MatMul",
    "MatMulInteger", "QLinearConv", "QLinearMatMul", "RNN",
})  # fmt: skip
"""What a merged node is told under."""

_NESTING = frozenset({"If", "Loop", "Scan"})
"""Their time is that of the nodes inside them, which are recorded too."""

_LARGEST = 1_500_000_000
"""Files larger than this are not rewritten to name their nodes."""

_MERGED = re.compile(r"(_nchwc|_nhwc|_quant|_token_\d+|/[A-Za-z]*Fusion[A-Za-z]*/?)+$")


@dataclass(frozen=True)
class _Recorded:
    """Median microseconds of one inference and the operator, by place."""

    times_us: Mapping[str, float]
    operators: Mapping[str, str]


def operator_times(
    models: Mapping[str, Path | bytes],
    feeds: Feeds,
    *,
    threads: int = 1,
    provider: str = "CPUExecutionProvider",
    budget_s: float = 2.0,
) -> OperatorProfile:
    """Record the time of every node of several models, run in turn.

    Args:
        models: name -> file, or serialised model.
        feeds: inputs of one call; a model takes those it has.
        threads: onnxruntime's threads inside an operator.
        provider: execution provider.
        budget_s: seconds for all runs together; at least five each are recorded.

    Raises:
        UnsupportedError: onnxruntime does not run a model.
    """
    named = {name: _named(model) for name, model in models.items()}
    with tempfile.TemporaryDirectory(prefix="onnxcompress-") as folder:
        sessions = [
            runtime.open_session(
                model, threads=threads, provider=provider, profile_to=Path(folder) / f"model{index}"
            )
            for index, (model, _) in enumerate(named.values())
        ]
        given = [{i.name: feeds[i.name] for i in s.inputs} for s in sessions]
        began, runs = time.perf_counter(), 0
        while runs < LEAST_RUNS + WARM_RUNS or (
            runs < RUNS + WARM_RUNS and time.perf_counter() - began < budget_s
        ):
            for session, own in zip(sessions, given, strict=True):
                session.run(own)
            runs += 1
        recorded = [
            _read(read_record(session.end_profiling()), graph, runs)
            for session, (_, graph) in zip(sessions, named.values(), strict=True)
        ]
    return _aligned(tuple(models), recorded, runs - WARM_RUNS)


def _named(model: Path | bytes) -> tuple[Path | bytes, onnx.GraphProto]:
    """Return the model with a unique name for every node, so that the record tells which is which."""
    proto = onnx.load(model, load_external_data=False) if isinstance(model, Path) else onnx.ModelProto()
    if isinstance(model, bytes):
        proto.ParseFromString(model)
    elif proto.ByteSize() > _LARGEST or any(t.data_location for t in proto.graph.initializer):
        return model, proto.graph
    name_nodes(proto.graph)
    return proto.SerializeToString(), proto.graph


def _read(record: Sequence[dict[str, Any]], graph: onnx.GraphProto, runs: int) -> _Recorded:
    """Return the median time of each place from onnxruntime's record."""
    events = [e for e in record if e.get("cat") == "Node"]
    durations: dict[str, list[float]] = {}
    operators: dict[str, str] = {}
    for event in events:
        name = str(event["name"])
        operator = str(event.get("args", {}).get("op_name", ""))
        if not name.endswith("_kernel_time") or operator in _NESTING:
            continue
        name = name.removesuffix("_kernel_time")
        durations.setdefault(name, []).append(float(event["dur"]))
        operators[name] = operator
    places = _places(graph, durations)
    times_us: dict[str, float] = {}
    told: dict[str, str] = {}
    for name, spent in durations.items():
        share = max(1, len(spent) // runs)  # a node in a loop runs several times an inference
        warm = spent[WARM_RUNS * share :] or spent
        each = [sum(warm[i : i + share]) for i in range(0, len(warm) - share + 1, share)]
        place = places.get(name) or f"{operators[name]} (inserted)"
        median = statistics.median(each)
        if median >= times_us.get(place, 0.0):
            told[place] = operators[name]
        times_us[place] = times_us.get(place, 0.0) + median
    return _Recorded(times_us, told)


def _places(graph: onnx.GraphProto, recorded: Mapping[str, object]) -> dict[str, str]:
    """Return recorded name -> the node of the graph that it is told under."""
    nodes = {node.name: node for node in graph.node}
    maker = {output: node for node in graph.node for output in node.output if output}
    # What onnxruntime rearranges into blocks of channels is named after the value it makes.
    known = {name: node.name for name, node in maker.items()} | {name: name for name in nodes}
    own = {name: found for name in recorded if (found := _source(name, known)) is not None}
    alone = set(own.values())
    return {name: _main(nodes[node], alone, maker) for name, node in own.items()}


def _source(name: str, known: Mapping[str, str]) -> str | None:
    """Return the node of the graph that a recorded name comes from; None: onnxruntime made it."""
    plain = name.removeprefix("fused ")
    while plain not in known:
        shorter = _MERGED.sub("", plain).removeprefix("fused ")
        if shorter == plain:
            return None
        plain = shorter
    return known[plain]


def _main(node: onnx.NodeProto, alone: set[str], maker: Mapping[str, onnx.NodeProto]) -> str:
    """Return the contraction among a node and those merged into it, the node itself where there is none."""
    front, seen = [node], {node.name}
    while front:
        current = front.pop(0)
        if current.op_type in CONTRACTIONS:
            return current.name
        for value in current.input:
            before = maker.get(value)
            if before is not None and before.name not in alone and before.name not in seen:
                seen.add(before.name)
                front.append(before)
    return node.name


def _aligned(names: tuple[str, ...], recorded: Sequence[_Recorded], runs: int) -> OperatorProfile:
    places = dict.fromkeys(place for one in recorded for place in one.times_us)
    rows = [
        OperatorTime(
            place,
            tuple(one.operators.get(place) for one in recorded),
            tuple(one.times_us.get(place) for one in recorded),
        )
        for place in places
    ]
    rows.sort(key=lambda row: -max(t for t in row.times_us if t is not None))
    totals = tuple(sum(one.times_us.values()) for one in recorded)
    return OperatorProfile(names, runs, totals, tuple(rows))
