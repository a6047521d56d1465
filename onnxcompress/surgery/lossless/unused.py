"""What nothing reads goes: nodes, constants; and weights stop being inputs where that was asked for."""

from __future__ import annotations

from collections.abc import Iterator

from onnxcompress.core.model import constant_of
from onnxcompress.engine.proto import annotating
from onnxcompress.surgery.lossless.workpiece import INITIALIZERS_ALONE, Workpiece, label, standard


def remove_unused(work: Workpiece) -> Iterator[str]:
    """Remove nodes whose results nobody reads and constants without readers; yields their names.

    Operators of other domains stay: what else they do is not known.
    """
    for graph in reversed(work.graphs()):
        for node in reversed(list(graph)):
            if standard(node) and not any(v.is_graph_output() or v.uses() for v in node.outputs):
                graph.remove(node, safe=True)
                yield label(node)
        for name, value in list(graph.initializers.items()):
            seen = value.is_graph_output() or value.is_graph_input() or name in annotating(graph)
            if not value.uses() and not seen:
                del graph.initializers[name]
                yield name


def freeze_inputs(work: Workpiece) -> Iterator[str]:
    """Let weights that a caller may replace be constants; yields their names."""
    graph = work.ir.graph
    frozen = [v for v in graph.inputs if v.is_initializer() and constant_of(v) is not None]
    if not frozen:
        return
    work.ir.ir_version = max(work.ir.ir_version or 0, INITIALIZERS_ALONE)
    for value in frozen:
        graph.inputs.remove(value)  # `del` leaves it saying that it is an input
        yield value.name or ""
