"""Recognising what ``lower`` wrote: decoding nodes become an encoded weight again.

Values inside decoding subgraphs have short names of a fixed form; the weight's own name stands at the end.
A subgraph is read by evaluating it with a table of entries 0, 1, 2 … in place of the real one: what comes
out are the codes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxcompress.core.encoding import Array, Encoding
from onnxcompress.core.model import FLOAT_TYPES, constant_of, subgraphs
from onnxcompress.encodings._base import ENCODINGS
from onnxcompress.encodings._layout import Layout
from onnxcompress.encodings.sparse import sparse
from onnxcompress.engine.storage.evaluation import UnknownError, array_of, evaluate
from onnxcompress.engine.storage.site import internal

_LAST = frozenset(
    {"Gather", "Reshape", "Slice", "Transpose", "Cast", "Mul", "Add", "MatMul", "ScatterElements"}
)


@dataclass
class _Found:
    """One decoding subgraph: its nodes, last one first, the row numbers it reads (if any), its encoding."""

    name: str
    nodes: list[ir.Node]
    rows: ir.Value | None
    encoding: Encoding


def recognise(graph: ir.Graph) -> dict[tuple[int, str], Encoding]:
    """Turn decoding subgraphs back into initializers, in place; return (id of graph, name) -> encoding."""
    result: dict[tuple[int, str], Encoding] = {}
    found = [f for node in list(graph) if (f := _read(node)) is not None]
    for item in found:
        _restore(graph, item)
        result[id(graph), item.name] = item.encoding
    if found:
        sweep(graph)
    for _, nested in subgraphs(graph):
        result |= recognise(nested)
    return result


def _read(last: ir.Node) -> _Found | None:
    name = last.outputs[0].name if len(last.outputs) == 1 else None
    if last.op_type not in _LAST or not name or internal(last.outputs[0]):
        return None
    if not any(internal(v) for v in last.inputs if v is not None):
        return None
    try:
        terms = _terms(last)
        if len(terms) == 1:
            return _decipher(name, *_collected(last))
        found = [_decipher(name, *_collected(term)) for term in terms]
        if any(f.rows is not None for f in found):
            return None
        return _Found(name, [last], None, _make("additive", tuple(f.encoding for f in found)))
    except (UnknownError, ValueError, IndexError, KeyError, TypeError, OverflowError):
        return None


def _terms(last: ir.Node) -> list[ir.Node]:
    """Return the nodes whose outputs are added up, casts in between left out; the node where none are."""
    total = last
    if last.op_type == "Cast" and last.inputs[0] is not None:
        producer = last.inputs[0].producer()
        total = last if producer is None or producer.op_type != "Add" else producer
    if total.op_type != "Add":
        return [last]
    waiting, terms = [total], []
    while waiting:
        node = waiting.pop(0)
        producers = [None if v is None else v.producer() for v in node.inputs]
        if node.op_type == "Add":
            if None in producers:
                raise UnknownError
            waiting[:0] = [p for p in producers if p is not None]
        elif total is last:
            terms.append(node)
        elif node.op_type == "Cast" and producers[0] is not None:
            terms.append(producers[0])
        else:
            raise UnknownError
    return terms


def _collected(last: ir.Node) -> tuple[list[ir.Node], dict[str, list[ir.Value]], list[ir.Value]]:
    """Return what an output comes from: nodes, last one first, tensors by role, values from elsewhere."""
    nodes: list[ir.Node] = []
    tensors: dict[str, list[ir.Value]] = {"k": [], "s": [], "q": []}
    outside: list[ir.Value] = []
    seen: set[int] = set()
    waiting = [last]
    while waiting:
        node = waiting.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        nodes.append(node)
        for value in node.inputs:
            if value is None:
                continue
            producer = value.producer()
            role = (value.name or "?")[0]
            if constant_of(value) is not None:
                if internal(value) and role in tensors:
                    tensors[role].append(value)
                elif not internal(value):
                    outside.append(value)
            elif internal(value) and producer is not None:
                waiting.append(producer)
            else:
                outside.append(value)
    return nodes, {r: _unique(v) for r, v in tensors.items()}, _unique(outside)


def _decipher(
    name: str, nodes: list[ir.Node], tensors: Mapping[str, list[ir.Value]], outside: list[ir.Value]
) -> _Found:
    if not tensors["q"]:
        raise UnknownError
    if outside:
        return _decipher_rows(nodes, tensors, outside)
    if len(nodes) == 1 and nodes[0].op_type == "Cast" and not tensors["k"]:
        return _decipher_half(name, nodes, array_of(tensors["q"][0]))
    if len(tensors["k"]) != 1 or len(tensors["s"]) > 1:
        raise UnknownError
    if any(node.op_type == "MatMul" for node in nodes):
        return _decipher_product(name, nodes, *(array_of(tensors[role][0]) for role in "qk"))
    table = tensors["k"][0]
    entries = array_of(table)
    if any(node.op_type == "CumSum" for node in nodes):
        return _decipher_sparse(name, nodes, tensors, entries)
    if any(node.op_type == "ConvTranspose" for node in nodes):
        return _decipher_trellis(name, nodes, tensors, entries)
    scales = array_of(tensors["s"][0]) if tensors["s"] else None
    if entries.ndim == 2:
        return _decipher_pooled(name, nodes, table, entries)
    given = {id(table): np.arange(len(entries))}
    codes = evaluate(nodes[0].outputs[0], given, skip_scaling=True)
    shape = codes.shape
    axis, groups = _layout(nodes)
    if scales is None and groups is None:
        return _Found(name, nodes, None, _make("codebook", codes.astype(np.uint8), entries))
    count = len(scales) if scales is not None else int(groups or 0)
    group_size = _group_size(nodes, shape[axis], count)
    if scales is not None:
        encoding = _make("scaled", codes.astype(np.uint8), entries, scales.reshape(-1), axis, group_size)
    else:
        width = len(entries) // count
        codes = codes % width
        encoding = _make("codebook", codes.astype(np.uint8), entries.reshape(count, width), axis, group_size)
    return _Found(name, nodes, None, encoding)


def _decipher_sparse(
    name: str, nodes: list[ir.Node], tensors: Mapping[str, list[ir.Value]], entries: Array
) -> _Found:
    """A sparse weight: values, or entries with packed codes beside what tells the places."""
    last = nodes[0].outputs[0]
    if len(tensors["q"]) == 1:
        # Where values are, and which, needs no codes: the weight itself tells both.
        return _Found(name, nodes, None, sparse(evaluate(last, {}, skip_scaling=False)))
    numbers = np.arange(1, len(entries) + 1).astype(entries.dtype)
    coded = evaluate(last, {id(tensors["k"][0]): numbers}, skip_scaling=False).astype(np.int64)
    places = np.flatnonzero(coded)
    codes = (coded.reshape(-1)[places] - 1).astype(np.uint8)
    return _Found(name, nodes, None, _make("sparse-codebook", places, codes, entries, coded.shape))


def _decipher_trellis(
    name: str, nodes: list[ir.Node], tensors: Mapping[str, list[ir.Value]], entries: Array
) -> _Found:
    """A stream of codes, of this weight and maybe of others: its kernel tells how wide they are."""
    (spread,) = (node for node in nodes if node.op_type == "ConvTranspose")
    assert spread.inputs[1] is not None
    stride, _, places = array_of(spread.inputs[1]).shape
    table = tensors["k"][0]
    given = {id(table): np.arange(len(entries))}
    windows = evaluate(nodes[0].outputs[0], given, skip_scaling=True).astype(np.uint8)
    casts = [node for node in nodes if node.op_type == "Cast" and node.inputs[0] is table]
    dtype = ir.DataType(casts[0].attributes["to"].as_int()).numpy() if casts else entries.dtype
    scale = float(array_of(tensors["s"][0])) if tensors["s"] else 1.0
    bits = 16 * stride // places
    return _Found(name, nodes, None, _make("trellis", windows, entries, bits, np.dtype(dtype), scale))


def _decipher_half(name: str, nodes: list[ir.Node], values: Array) -> _Found:
    """Values of 16 bits that are cast to the weight's type."""
    to = nodes[0].attributes["to"]
    dtype = ir.DataType[to.as_string()] if to.type == ir.AttributeType.STRING else ir.DataType(to.as_int())
    if dtype not in FLOAT_TYPES:
        raise UnknownError
    return _Found(name, nodes, None, _make("half", values, np.dtype(dtype.numpy())))


def _decipher_product(name: str, nodes: list[ir.Node], left: Array, right: Array) -> _Found:
    """Two factors, and how the axes of the weight are dealt to the rows and columns of their product."""
    dealt, order = [left.shape[0], right.shape[1]], None
    for node in nodes:
        if node.op_type == "Transpose":
            order = [int(i) for i in node.attributes["perm"].as_ints()]
        if node.op_type == "Reshape" and node.inputs[1] is not None:
            dealt = [int(d) for d in array_of(node.inputs[1])]
    places = range(len(dealt)) if order is None else np.argsort(order)
    axes = [int(a) for a in places]
    rows = next(i for i in range(len(dealt) + 1) if math.prod(dealt[:i]) == left.shape[0])
    shape = tuple(dealt[axes.index(a)] for a in range(len(axes)))
    layout = Layout(tuple(axes[:rows]), tuple(axes[rows:]))
    return _Found(name, nodes, None, _make("low-rank", left, right, shape, layout))


def _decipher_pooled(name: str, nodes: list[ir.Node], table: ir.Value, entries: Array) -> _Found:
    """One weight of a pool: which row of the table it uses, and its codes."""
    count, width = entries.shape
    rows = np.repeat(np.arange(count)[:, None], width, axis=1)
    last = nodes[0].outputs[0]
    places = evaluate(last, {id(table): rows * width + np.arange(width)}, skip_scaling=False)
    row = int(places.flat[0]) // width
    codes = places - row * width
    if codes.min() < 0 or codes.max() >= width:
        raise UnknownError
    return _Found(name, nodes, None, _make("codebook", codes.astype(np.uint8), entries[row].copy()))


def _decipher_rows(
    nodes: list[ir.Node], tensors: Mapping[str, list[ir.Value]], outside: list[ir.Value]
) -> _Found:
    """An embedding: the table of entries carries the weight's name, the other value are the row numbers."""
    tables = [v for v in outside if constant_of(v) is not None]
    rows = [v for v in outside if constant_of(v) is None]
    if len(tables) != 1 or len(rows) != 1 or rows[0].shape is None or tensors["k"]:
        raise UnknownError
    entries = array_of(tables[0])
    count = array_of(tensors["q"][0]).shape[0]
    lead = len(rows[0].shape)
    numbers = np.arange(count).reshape([1] * (lead - 1) + [count]) if lead else np.arange(count)
    if not lead:
        raise UnknownError
    codes = evaluate(
        nodes[0].outputs[0],
        {id(tables[0]): np.arange(len(entries)), id(rows[0]): numbers},
        skip_scaling=False,
    )
    codes = codes.reshape(count, *codes.shape[lead:])
    assert tables[0].name is not None
    return _Found(tables[0].name, nodes, rows[0], _make("codebook", codes.astype(np.uint8), entries))


def _make(kind: str, *arguments: Any) -> Encoding:
    make: Callable[..., Encoding] = ENCODINGS[kind]
    return make(*arguments)


def _layout(nodes: list[ir.Node]) -> tuple[int, int | None]:
    """Return the channel axis, and the number of codebooks where there is one per group."""
    axis, groups = 0, None
    for node in nodes:
        if node.op_type == "Transpose":
            axis = list(node.attributes["perm"].as_ints()).index(0)
        if node.op_type == "Gather" and node.inputs[1] is not None and node.inputs[0] is not None:
            places = node.inputs[1].producer()
            if (
                (node.inputs[0].name or "").startswith("k_")
                and places is not None
                and places.op_type == "Add"
            ):
                offsets = [v for v in places.inputs if v is not None and v.producer() is not None]
                for value in offsets:
                    column = evaluate(value, {}, skip_scaling=False)
                    if column.ndim == 2 and column.shape[1] == 1:
                        groups = len(column)
    return axis, groups


def _group_size(nodes: list[ir.Node], channels: int, groups: int) -> int | None:
    """Return the size of a group where channels have several: the width of the (groups, width) codes."""
    if groups == channels:
        return None
    for node in nodes:
        if node.op_type == "Reshape" and node.inputs[1] is not None:
            dims = array_of(node.inputs[1])
            if len(dims) == 2 and dims[0] == groups and dims[1] > 0:
                return int(dims[1])
    raise UnknownError


def _restore(graph: ir.Graph, found: _Found) -> None:
    """Put the weight back as an initializer, and a Gather where rows were decoded."""
    last = found.nodes[0]
    weight = ir.Value(name=found.name)
    encoding, dtype = found.encoding, ir.DataType.from_numpy(found.encoding.dtype)
    weight.const_value = ir.LazyTensor(
        lambda: ir.Tensor(encoding.decode(), name=found.name, dtype=dtype),
        dtype=dtype,
        shape=ir.Shape(encoding.shape),
        name=found.name,
    )
    weight.dtype, weight.shape = dtype, ir.Shape(encoding.shape)
    output = last.outputs[0]
    if found.rows is None:
        output.replace_all_uses_with(weight, replace_graph_outputs=True)
        graph.remove(last, safe=True)
    else:
        node = ir.Node("", "Gather", [weight, found.rows], name=last.name)
        fresh = node.outputs[0]
        fresh.shape, fresh.type = output.shape, output.type
        graph.insert_before(last, node)
        output.replace_all_uses_with(fresh, replace_graph_outputs=True)
        graph.remove(last, safe=True)
        fresh.name = output.name
        node.name = last.name
        graph.initializers.pop(found.name, None)
    graph.initializers.add(weight)


def sweep(graph: ir.Graph) -> None:
    """Remove internal nodes and tensors that nothing reads any more."""
    for node in reversed(list(graph)):
        if all(internal(v) and not v.uses() for v in node.outputs):
            graph.remove(node, safe=True)
    for name, value in list(graph.initializers.items()):
        if internal(value) and not value.uses():
            if value in graph.inputs:
                graph.inputs.remove(value)
            del graph.initializers[name]


def _unique(values: list[ir.Value]) -> list[ir.Value]:
    return list({id(v): v for v in values}.values())


def graphs(graph: ir.Graph) -> Iterator[ir.Graph]:
    """Yield the graph and everything nested in it."""
    yield graph
    for _, nested in subgraphs(graph):
        yield from graphs(nested)
