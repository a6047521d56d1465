"""Every operator has a rule, and each rule alone keeps the promise: cut is silenced, for every version."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from single_node import tensor

sys.path.insert(0, str(Path(__file__).parents[1] / "couplings"))
from ledger import Alone, Repaired

from onnxcompress.couplings._base import COUPLINGS
from onnxcompress.couplings.frozen import FROZEN
from onnxcompress.ops._base import OPS, Node

# what these tell of other values counts over all channels; that MaxUnpool follows is tested in a network
COUNTED = {("", "MaxPool"): 2}
# surgery lets these go on telling the sizes of before
PINNED = {"Shape", "Size"}
# half-precision and integers round where a sum has fewer terms
CLOSE = {"rtol": 1e-4, "atol": 1e-5}
NAMES_SIZES = {
    "Attention", "CenterCropPad", "ConstantOfShape", "Conv", "ConvInteger", "ConvTranspose",
    "DeformConv", "Expand", "FusedConv", "GRU", "Gather", "GroupNormalization", "LSTM",
    "LinearAttention", "MaxUnpool", "MultiHeadAttention", "Pad", "QLinearConv", "RNN", "Reshape",
    "Resize", "RotaryEmbedding", "ScatterND", "Slice", "Split", "Tile", "Upsample",
}  # fmt: skip
"""Operators that are told a size, a count or positions."""


def test_every_operator_has_a_rule():
    assert set(OPS) == set(COUPLINGS)


def test_every_operator_that_is_told_sizes_has_a_repair():
    for (domain, type_), coupling in COUPLINGS.items():
        assert (coupling.repair is not None) == (type_ in NAMES_SIZES), (domain, type_)


def test_only_operators_with_a_reason_freeze_everything():
    assert set(FROZEN) < set(COUPLINGS)
    assert all(why.startswith(("is ", "becomes ", "gives ")) for why in FROZEN.values())


def versions(domain, type_):
    known = [
        schema.since_version
        for schema in onnx.defs.get_all_schemas_with_history()
        if (schema.domain, schema.name) == (domain, type_)
    ]
    op = OPS[domain, type_]
    return sorted({v for v in known or [1] if op.versions[0] <= v <= op.versions[1]})


def cases():
    for (domain, type_), coupling in sorted(COUPLINGS.items()):
        if coupling.rule is None or type_ in PINNED:
            continue
        for version in versions(domain, type_):
            for number, example in enumerate(OPS[domain, type_].examples(version)):
                yield pytest.param(domain, type_, version, example, id=f"{type_}-{version}-{number}")


def computed(node, arrays):
    """Return the outputs, in float64 where inputs are floats; the forwards are tested on their own."""
    inputs = [tensor(a.astype(np.float64) if a is not None and a.dtype == np.float32 else a) for a in arrays]
    while inputs and inputs[-1] is None:
        inputs.pop()
    with torch.no_grad():
        found = OPS[node.domain, node.op_type].forward(node, *inputs)
    found = found if isinstance(found, tuple) else (found,)
    return [y.numpy() if isinstance(y, torch.Tensor) else y for y in found]


def silenced(alone, gone):
    """Return the inputs with zeros where a component that is gone is summed over."""
    arrays = [None if a is None else a.copy() for a in alone.arrays]
    for slot, axis in (*alone.sites, *alone.consumed):
        keep = alone.stays(alone.labels(slot, axis), gone)
        np.moveaxis(arrays[slot], axis, 0)[~keep] = 0
    return arrays


def drawn(alone, random):
    """Draw components to cut, so that no axis is emptied."""
    free = alone.free_roots()
    gone = {root for root in free if random.random() < 0.4}
    axes = [labels for labels in (*alone._labels.values(), *alone.out.values()) if len(labels)]
    for labels in axes:
        if not alone.stays(labels, gone).any():
            gone -= {alone.root(int(random.choice(labels)))}
    return gone


@pytest.mark.parametrize(("domain", "type_", "version", "example"), list(cases()))
def test_cut_is_silencing(domain, type_, version, example):
    if COUNTED.get((domain, type_)) == example.outputs:
        pytest.skip("counts over all channels")
    node = Node(type_, version, example.attributes, (True,) * example.outputs, domain=domain, wide=True)
    results = computed(node, example.inputs)
    for data in ((0,), tuple(range(len(example.inputs)))):
        alone = Alone(node, example.inputs, results[: example.outputs], data=data)
        coupling = COUPLINGS[domain, type_]
        try:
            coupling.rule(alone)
        except Exception as error:
            raise AssertionError(f"the rule fails: {error!r}") from error
        for seed in range(3):
            compare(alone, coupling, drawn(alone, np.random.default_rng(seed)))


def compare(alone, coupling, gone):
    cut = Repaired(alone, gone)
    if coupling.repair is not None:
        coupling.repair(cut)
    found = computed(cut.changed_node(), cut.arrays)
    expected = computed(alone.node, silenced(alone, gone))
    exact = not {alone.root(label) for label in alone.mixed} & gone
    for output in range(len(alone.results)):
        want = np.asarray(expected[output])
        for axis in range(want.ndim):
            keep = cut.keep_out(output, axis)
            want = want if keep is None else want.compress(keep, axis)
        got = np.asarray(found[output])
        assert got.shape == want.shape
        if exact:
            np.testing.assert_allclose(got.astype(np.float64), want.astype(np.float64), **CLOSE)


def wrong(rule):
    """Return a rule that forgets the ties of another."""

    def forgetful(crossing):
        crossing.merge = lambda first, second: second if first is None else first
        rule(crossing)

    return forgetful


@pytest.mark.parametrize("type_", ["Add", "BatchNormalization", "Conv", "GRU", "MatMul", "Where"])
def test_a_rule_that_forgets_a_tie_is_caught(type_):
    coupling = COUPLINGS["", type_]
    version = versions("", type_)[-1]
    caught = 0
    for example in OPS["", type_].examples(version):
        node = Node(type_, version, example.attributes, (True,) * example.outputs, wide=True)
        alone = Alone(node, example.inputs, computed(node, example.inputs)[: example.outputs])
        wrong(coupling.rule)(alone)
        try:
            for seed in range(3):
                compare(alone, coupling, drawn(alone, np.random.default_rng(seed)))
        except (AssertionError, RuntimeError, ValueError):
            caught += 1
    assert caught
