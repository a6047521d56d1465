"""Stored form: encodings written into the graph as decoding nodes, and recognised again.

``lower`` replaces every encoded weight by the nodes its encoding emits; ``lift`` is the inverse. A weight
whose packed form would take more bytes than the weight itself stays dense: it keeps its (quantised) values.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxcompress.core.encoding import Encoding
from onnxcompress.core.model import LEAST_IR_VERSION, Home, Model, Source, Weight
from onnxcompress.core.refusal import Refusal
from onnxcompress.engine.proto import plain_bytes
from onnxcompress.engine.storage import positions
from onnxcompress.engine.storage.decoders import Decoded
from onnxcompress.engine.storage.lift import graphs as walk
from onnxcompress.engine.storage.lift import recognise, sweep
from onnxcompress.engine.storage.pool import Pool, emit_pool, ordered, pools
from onnxcompress.engine.storage.site import Draft, GraphSite, Names

VERSION_KEY = "onnxcompress.stored"
FORM = "1"
"""Version of the stored form, for the metadata of a file."""
_FOLDED = 1 << 30
"""onnxruntime folds no node whose output is larger than this many bytes."""
_TOO_SMALL = "packed it would take more bytes than the weight itself; its values are compressed all the same"
_ROWS = 1 << 16
"""Embeddings with at least this many weights are decoded row by row."""


@dataclass(frozen=True)
class Lowered:
    """A graph with its weights in stored form.

    Attributes:
        graph: the graph.
        refusals: weights that stay dense, and why.
        warnings: sentences the user must see.
        by_row: weights that are decoded row by row when the model runs, not when it is loaded.
        decoded: the other stored weights: the graph, the name of the value, the encoding.
        twin: the same graph with the weights decoded; what the stored form must compute, bit by bit.
        needs: the operator set that all packed forms need; None: the model's is late enough.
    """

    graph: ir.Model
    refusals: tuple[Refusal, ...]
    warnings: tuple[str, ...]
    by_row: tuple[str, ...]
    decoded: tuple[Decoded, ...]
    twin: ir.Model
    needs: int | None = None


def lower(model: Model) -> tuple[ir.Model, tuple[Refusal, ...]]:
    """Return a clone of the graph with every encoding in stored form, and the weights that stay dense."""
    lowered = lower_all(model)
    return lowered.graph, lowered.refusals


def lift(graph: ir.Model) -> tuple[ir.Model, dict[str, Encoding]]:
    """Recognise what ``lower`` wrote: return a clone with dense weights again, and their encodings by name.

    Only what ``lower`` would write again in exactly this form is recognised; otherwise the graph is returned
    as it is, without encodings.
    """
    clone = graph.clone()
    found, places = recognise(clone.graph), positions.recognise(clone.graph)
    if not found and not places:
        return graph, {}
    sweep(clone.graph)
    version = clone.metadata_props.pop(VERSION_KEY, None)
    weights = Model(clone, Source(None, "", 0)).weights.values()
    by_place = {(id(w.graph), w.value.name): w.name for w in weights}
    encodings = {by_place[place]: e for place, e in found.items() if place in by_place}
    # Files of before positions were stored in bytes hold them as they are.
    again = _Lowering(Model(clone, Source(None, "", 0), encodings), positions=places > 0).run().graph
    if version is None:
        again.metadata_props.pop(VERSION_KEY, None)
    else:
        again.metadata_props[VERSION_KEY] = version
    if len(encodings) < len(found) or not _equal(again, graph):
        return graph, {}
    return clone, encodings


def _equal(one: ir.Model, other: ir.Model) -> bool:
    """Return whether two graphs are written the same, node by node and tensor by tensor."""
    pairs = zip(walk(one.graph), walk(other.graph), strict=False)
    return all(_spelled(a) == _spelled(b) for a, b in pairs)


def _spelled(graph: ir.Graph) -> object:
    tensors = {
        n: (v.const_value.dtype, v.const_value.tobytes())
        for n, v in graph.initializers.items()
        if v.const_value is not None
    }
    nodes = [
        (
            node.domain,
            node.op_type,
            [v.name if v is not None else None for v in node.inputs],
            [v.name for v in node.outputs],
            sorted(a.name for a in node.attributes.values()),
        )
        for node in graph
    ]
    return tensors, nodes, [v.name for v in graph.inputs], [v.name for v in graph.outputs]


def lower_all(model: Model) -> Lowered:
    """Return the graph in stored form with everything an exporter has to know about it."""
    return _Lowering(model).run()


class _Lowering:
    """The work of :func:`lower_all`, weight by weight from the largest on, then pool by pool."""

    def __init__(self, model: Model, *, positions: bool = True) -> None:
        self._positions = positions
        self._clone, self._twin = model.ir.clone(), model.ir.clone()
        self._twins = Model(self._twin, model.source).weights
        self._encoded = ordered(Model(self._clone, model.source, model.encodings))
        self._names = Names(self._clone)
        self._sites: dict[int, GraphSite] = {}
        self._refusals: list[Refusal] = []
        self._inputs: list[str] = []
        self._by_row: list[str] = []
        self._decoded: list[Decoded] = []

    def run(self) -> Lowered:
        together = pools(self._encoded, GraphSite(self._clone, self._clone.graph, self._names).opset)
        pooled = {weight.name for pool in together for weight, _ in pool}
        for weight, encoding in self._encoded:
            if weight.name not in pooled:
                self._one(weight, encoding)
        for pool in together:
            self._pool(pool)
        if self._positions:
            for value in list(positions.positions(self._clone)):
                self._choice(value)
        if len(self._refusals) < len(self._encoded):
            self._clone.metadata_props[VERSION_KEY] = FORM
        return Lowered(
            self._clone,
            tuple(self._refusals),
            (*self._stored_whole(), *_no_longer_inputs(self._inputs)),
            tuple(self._by_row),
            tuple(self._decoded),
            self._twin,
            max(self._needed(), default=None),
        )

    def _site(self, graph: ir.Graph) -> GraphSite:
        return self._sites.setdefault(id(graph), GraphSite(self._clone, graph, self._names))

    def _one(self, weight: Weight, encoding: Encoding) -> None:
        site, first = self._site(weight.graph), self._names.next
        why = _refuse(weight, encoding, site.opset)
        if why is None:
            if _by_row(weight, encoding, site):
                self._by_row.append(weight.name)
            else:
                self._names.next = first
                why = _in_place(weight, encoding, site)
                if why is None:
                    self._decoded.append((weight.graph, str(weight.value.name), encoding))
                else:
                    self._names.next = first
        if why is not None:
            self._refusals.append(Refusal(weight.name, why))
        else:
            self._no_input(weight)

    def _needed(self) -> list[int]:
        """Return the operator sets that the packed forms need which the model has no operators for."""
        opset = self._site(self._clone.graph).opset
        return [encoding.least_opset for _, encoding in self._encoded if encoding.least_opset > opset]

    def _stored_whole(self) -> tuple[str, ...]:
        """Return the warning of weights whose packed form the model's operator set has no operators for."""
        opset, needed = self._site(self._clone.graph).opset, self._needed()
        if not needed:
            return ()
        count = f"{len(needed)} compressed weight{'s are' if len(needed) > 1 else ' is'}"
        return (
            f"{count} stored whole, which saves nothing: packed they need operator set {max(needed)}, and "
            f"the model has {opset}; export it with a later one",
        )

    def _pool(self, pool: Pool) -> None:
        site = self._site(pool[0][0].graph)
        with site.draft() as draft:
            values = emit_pool(site, [encoding for _, encoding in pool])
            draft.commit(None)
        for value, (weight, encoding) in zip(values, pool, strict=True):
            _replace(weight, value)
            self._decoded.append((weight.graph, str(value.name), encoding))
            self._no_input(weight)

    def _choice(self, value: ir.Value) -> None:
        """Store the positions that a Gather chooses in fewer bytes, where that pays."""
        site, first = self._site(self._clone.graph), self._names.next
        tensor = value.const_value
        assert tensor is not None
        with site.draft() as draft:
            decoded = positions.emit(site, np.asarray(tensor.numpy()))
            if decoded is None or draft.size_bytes() >= tensor.nbytes + 16:
                self._names.next = first
                return
            draft.commit(None)
        _put(self._clone.graph, value, decoded)

    def _no_input(self, weight: Weight) -> None:
        """A weight that was an input of the graph as well is none any more, in the twin neither."""
        twin = self._twins[weight.name]
        if _is_input(twin):
            _drop_input(weight)
            _drop_input(twin)
            if (self._clone.ir_version or 0) >= LEAST_IR_VERSION:
                self._inputs.append(weight.name)


def _no_longer_inputs(names: list[str]) -> tuple[str, ...]:
    if not names:
        return ()
    shown = ", ".join(f"'{n}'" for n in names[:3]) + (" …" if len(names) > 3 else "")
    return (f"{len(names)} weights were also optional inputs of the model and are constants now: {shown}",)


def _refuse(weight: Weight, encoding: Encoding, opset: int) -> str | None:
    if weight.size == 0:
        return "it has no elements"
    if opset < encoding.least_opset:
        needs = f"its packed form needs operator set {encoding.least_opset}, and the model has {opset}"
        return f"{needs}; its values are compressed all the same"
    if weight.size * max(4, weight.dtype.itemsize) > _FOLDED:
        return "decoded it takes more than 1 GiB, which onnxruntime does not decode while loading"
    if not encoding.stored_bits() < 8 * plain_bytes(weight):
        return _TOO_SMALL
    return None


def _in_place(weight: Weight, encoding: Encoding, site: GraphSite) -> str | None:
    """Replace the weight by its decoding nodes; return why not where that would take more bytes."""
    with site.draft() as draft:
        decoded = encoding.emit(site)
        if draft.size_bytes() >= plain_bytes(weight) + 16:
            return _TOO_SMALL
        draft.commit(None)
    _replace(weight, decoded)
    return None


def _replace(weight: Weight, decoded: ir.Value) -> None:
    """Let ``decoded`` take the weight's name and place."""
    _put(weight.graph, weight.value, decoded)


def _put(graph: ir.Graph, value: ir.Value, decoded: ir.Value) -> None:
    """Let ``decoded`` take the name and place of a constant."""
    name, producer = value.name, value.producer()
    decoded.shape, decoded.type = value.shape, value.type
    value.replace_all_uses_with(decoded, replace_graph_outputs=True)
    if producer is not None:
        graph.remove(producer, safe=True)
    else:
        assert name is not None
        del graph.initializers[name]
    decoded.name = name


def _by_row(weight: Weight, encoding: Encoding, site: GraphSite) -> bool:
    """Decode an embedding where its rows are looked up, if that is all it is used for."""
    users = [node for node, _ in weight.value.uses()]
    if weight.size < _ROWS or weight.home is Home.CONSTANT or weight.value.is_graph_output() or not users:
        return False
    for node, index in weight.value.uses():
        axis = node.attributes.get("axis")
        looks_up = node.op_type == "Gather" and index == 0 and (axis is None or axis.as_int() == 0)
        if not looks_up or node.graph is not weight.graph or node.inputs[1] is None:
            return False
    results: list[tuple[ir.Value, Draft]] = []
    for node in users:
        rows = node.inputs[1]
        assert rows is not None
        with site.draft(tensors=results[0][1].tensors if results else None) as draft:
            decoded = encoding.emit_rows(site, rows)
            if decoded is None:
                return False
            results.append((decoded, draft))
    for node, (decoded, draft) in zip(users, results, strict=True):
        draft.commit(node)
        output = node.outputs[0]
        name = output.name
        decoded.shape, decoded.type = output.shape, output.type
        output.replace_all_uses_with(decoded, replace_graph_outputs=True)
        weight.graph.remove(node, safe=True)
        decoded.name = name
    assert weight.value.name is not None
    del weight.graph.initializers[weight.value.name]
    results[0][1].tensors[-1].name = weight.value.name  # the table of entries keeps the weight's name
    return True


def _is_input(weight: Weight) -> bool:
    return isinstance(weight.graph, ir.Graph) and any(v is weight.value for v in weight.graph.inputs)


def _drop_input(weight: Weight) -> None:
    graph = weight.graph
    for index, value in enumerate(graph.inputs):
        if value is weight.value:
            graph.inputs.pop(index)
            return
