"""Random networks: silencing channels and cutting them is the same, and a wrong rule does not go unseen.

A network has some six groups that are cut. ``ONNXCOMPRESS_RANDOM_NETS`` sets how many networks are tried;
the test marked slow tries five hundred, which are thousands of groups.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))

import random_blocks
from random_nets import Drawn, Seeded

from onnxcompress import surgery
from onnxcompress.core.model import Model, Source
from onnxcompress.couplings._base import COUPLINGS
from onnxcompress.engine import runtime
from onnxcompress.engine.channels import analyse, silenced
from onnxcompress.engine.graph.torchgraph import TorchGraph
from onnxcompress.engine.measures.costs import count_macs
from onnxcompress.surgery import cutting

SETTINGS = settings(
    max_examples=int(os.environ.get("ONNXCOMPRESS_RANDOM_NETS", "100")),
    deadline=None,
    derandomize="ONNXCOMPRESS_RANDOM_NETS" not in os.environ,
    suppress_health_check=list(HealthCheck),
)

NOISE64 = 1e-9
"""Relative to the largest value of an output; rounding in float64 is a million times smaller."""

NOISE32 = 2e-4


class WrongCutError(AssertionError):
    """The cut model is not the silenced one."""


def as_model(proto: onnx.ModelProto) -> Model:
    return Model(ir.from_proto(proto), Source(None, "", 0))


def random_keep(channels, random):
    """Return a mask for each group that may be cut: some whole, some of one channel, most in between."""
    keep = {}
    for group in channels.free:
        part = random.choice([0.0, 0.3, 0.5, 0.7, 1.0])
        mask = random.random(group.size) < part
        mask[random.integers(group.size)] = True
        keep[group.name] = mask
    return keep


def differs(found, expected, noise):
    """Tell whether two sets of outputs differ by more than rounding, or where one overflows."""
    for name, want in expected.items():
        if found[name].shape != want.shape or not np.isfinite(want).all():
            return found[name].shape != want.shape
        if np.abs(found[name] - want).max(initial=0) > noise * max(np.abs(want).max(initial=0), 1e-3):
            return True
    return False


def session_of(model: Model):
    proto = ir.to_proto(model.ir)
    onnx.checker.check_model(proto, full_check=True)
    return runtime.open_session(proto.SerializeToString(), optimization="none")


def interface(model: Model):
    graph = model.ir.graph
    return [[(v.name, v.dtype, v.shape) for v in values] for values in (graph.inputs, graph.outputs)]


def check(net, *, mask_seed=0):
    """Cut a random network at random; raise WrongCutError where anything is not as it must be.

    Returns:
        How many groups were cut, and in how many of them the equality holds by definition.
    """
    model = as_model(net.model())
    shapes = {name: array.shape for name, array in net.feeds.items()}
    channels = analyse(model, shapes)
    keep = random_keep(channels, np.random.default_rng(mask_seed))
    exact = {name: mask for name, mask in keep.items() if not channels.group(name).mixed}
    try:
        part = surgery.cut(channels, exact).model
        if interface(part) != interface(model):
            raise WrongCutError("names, types or shapes of inputs and outputs changed")
        expected, found = silenced(channels, exact), part
        doubles = [TorchGraph(m, dtype=torch.float64).run(net.feeds) for m in (expected, found)]
        if differs(doubles[1], doubles[0], NOISE64):
            raise WrongCutError("cutting is not silencing in float64")
        singles = [session_of(m).run(net.feeds) for m in (expected, found)]
        if differs(singles[1], singles[0], NOISE32):
            raise WrongCutError("cutting is not silencing in onnxruntime")
        whole = surgery.cut(channels, keep).model
        after = session_of(whole).run(net.feeds)
    except WrongCutError:
        raise
    except Exception as error:
        raise WrongCutError(f"{type(error).__name__}: {error}") from error
    if any(after[name].shape != want.shape for name, want in singles[0].items()):
        raise WrongCutError("an output changed its shape")
    if mask_seed % 4 == 0 and channels.macs(keep) != count_macs(whole, shapes, feeds=net.feeds).total:
        raise WrongCutError("multiply-accumulates are not those that were foretold")
    for name, weight in whole.weights.items():
        if name in channels.model.weights and weight.shape != channels.cut_shape(weight.value.name, keep):
            raise WrongCutError("a weight has not the shape that was foretold")
    return sum(not m.all() for m in keep.values()), sum(not m.all() for m in exact.values())


@SETTINGS
@given(st.data())
def test_cutting_is_silencing(data):
    choices = Drawn(data)
    net = random_blocks.grown(choices, choices.pick([4, 10, 16, 24], "blocks"))
    check(net, mask_seed=int(choices.random.integers(2**32)))


@pytest.mark.slow
def test_cutting_is_silencing_for_thousands_of_groups():
    cut = exact = 0
    for seed in range(500):
        counts = check(random_blocks.grown(Seeded(seed), [4, 10, 16, 24][seed % 4]), mask_seed=seed)
        cut, exact = cut + counts[0], exact + counts[1]
    assert exact >= 2000
    assert cut > exact


BLOCKS = [(family, block) for family, blocks in random_blocks.FAMILIES.items() for block in blocks]


@pytest.mark.parametrize("block", BLOCKS, ids="-".join)
def test_every_block_between_two_layers(block):
    """Each block once for certain, with channels cut in front of it or behind."""
    cut = 0
    for seed in range(3):
        cut += check(random_blocks.grown(Seeded(seed), 1, must=block), mask_seed=seed)[0]
    assert cut > 0


# Wrong rules: the right one with one mistake, which random networks must show. ------------------------------


def depthwise_as_plain(monkeypatch):
    """The channels that a depthwise convolution reads are not tied to those it makes."""
    right = COUPLINGS["", "Conv"].rule

    def rule(crossing):
        if crossing.node.get("group", 1) > 1 and crossing.shape(1)[1] == 1:
            crossing.put(0, 1, crossing.labels(1, 0))
        else:
            right(crossing)

    replace_rule(monkeypatch, "Conv", rule)


def concat_off_by_one(monkeypatch):
    right = COUPLINGS["", "Concat"].rule

    def rule(crossing):
        right(Altered(crossing, put=lambda labels: None if labels is None else np.roll(labels, 1)))

    replace_rule(monkeypatch, "Concat", rule)


def statistics_in_reverse(monkeypatch):
    """Every shape fits: only values tell."""
    right = COUPLINGS["", "BatchNormalization"].rule

    def rule(crossing):
        right(Altered(crossing, read=lambda slot, labels: labels[::-1] if slot == 3 else labels))

    replace_rule(monkeypatch, "BatchNormalization", rule)


def groups_tiled_for_repeated(monkeypatch):
    """The weight of a grouped convolution is cut as if its groups stood side by side."""
    right = COUPLINGS["", "Conv"].rule

    def rule(crossing):
        grouped = crossing.node.get("group", 1) > 1 and crossing.shape(1)[1] > 1
        right(Altered(crossing, contract=np.sort) if grouped else crossing)

    replace_rule(monkeypatch, "Conv", rule)


def consumers_cut_beside(monkeypatch):
    """A weight loses the neighbour of the slice that reads a channel."""
    right = cutting.kept_positions

    def wrong(part, keep):
        stays = right(part, keep)
        return np.roll(stays, 1) if getattr(part, "consumes", False) else stays

    monkeypatch.setattr(cutting, "kept_positions", wrong)


def residual_not_tied(monkeypatch):
    right = COUPLINGS["", "Add"].rule

    def rule(crossing):
        right(crossing) if crossing.constant(0) is not None or crossing.constant(1) is not None else right(
            Altered(crossing, merge=lambda first, second: first)
        )

    replace_rule(monkeypatch, "Add", rule)


class Altered:
    """A crossing that tells a rule something wrong, or hears it wrong."""

    def __init__(self, crossing, *, put=None, read=None, contract=None, merge=None):
        self._crossing, self._put, self._read, self._contract = crossing, put, read, contract
        if merge is not None:
            self.merge = merge

    def __getattr__(self, name):
        return getattr(self._crossing, name)

    def put(self, output, axis, labels):
        self._crossing.put(output, axis, self._put(labels) if self._put else labels)

    def labels(self, slot, axis):
        found = self._crossing.labels(slot, axis)
        return self._read(slot, found) if self._read and found is not None else found

    def contract(self, slot, axis, other, weight=None):
        other = self._contract(other) if self._contract and other is not None else other
        self._crossing.contract(slot, axis, other, weight)


def replace_rule(monkeypatch, type_, rule):
    """Let an operator have another rule for the time of a test."""
    key = ("", type_)
    monkeypatch.setitem(COUPLINGS._entries, key, dataclasses.replace(COUPLINGS[key], rule=rule))


VALUES = "cutting is not silencing in float64"
"""What is said where every shape fits."""


@pytest.mark.parametrize(
    ("mistake", "block", "said"),
    [
        (depthwise_as_plain, ("image", "depthwise"), ""),
        (concat_off_by_one, ("image", "concat"), VALUES),
        (concat_off_by_one, ("sequence", "concat"), VALUES),
        (statistics_in_reverse, ("image", "batch norm"), VALUES),
        (groups_tiled_for_repeated, ("image", "conv"), ""),
        (consumers_cut_beside, ("image", "conv"), VALUES),
        (consumers_cut_beside, ("sequence", "dense"), VALUES),
        (residual_not_tied, ("image", "add"), ""),
    ],
)
def test_a_wrong_rule_is_caught(mistake, block, said, monkeypatch):
    mistake(monkeypatch)
    for seed in range(40):
        try:
            check(random_blocks.grown(Seeded(seed), 6, must=block), mask_seed=seed)
        except WrongCutError as error:
            if said in str(error):
                return
    raise AssertionError("the wrong rule went unseen")
