"""Small networks around one operator, written as text, and the invariant that a cut of them must keep."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from onnx import numpy_helper, parser

from onnxcompress import surgery
from onnxcompress.core.model import Model, Source
from onnxcompress.engine import runtime
from onnxcompress.engine.channels import analyse, silenced


def model_of(nodes, weights, inputs="float[2,3,6,6] x", opset=21, outputs="float[] y"):
    """Parse nodes in ONNX's text form; weights are given as arrays, or as shapes to be filled at random."""
    header = f'<ir_version: 10, opset_import: ["": {opset}, "com.microsoft": 1]>'
    proto = parser.parse_model(f"{header} g ({inputs}) => ({outputs}) {{{nodes}}}")
    random = np.random.default_rng(0)
    for name, value in weights.items():
        array = random.normal(0, 0.5, value).astype(np.float32) if isinstance(value, tuple) else value
        proto.graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
    return Model(ir.from_proto(proto), Source(None, "", 0))


def ints(*values):
    return np.array(values, np.int64)


def image(between, weights=None, width=8, after=None, **options):
    """A Conv to ``width`` channels (h), something that makes z of it, and a Conv of z to 5 channels."""
    after = width if after is None else after
    nodes = f"h = Conv<pads=[1,1,1,1]>(x, w, b) {between} y = Conv(z, v)"
    return nodes, {"w": (width, 3, 3, 3), "b": (width,), "v": (5, after, 1, 1), **(weights or {})}, options


def sequence(between, weights=None, width=8, after=None, **options):
    """A MatMul to ``width`` channels (h, 2 5 width), something that makes z of it, and a MatMul of z to 5."""
    after = width if after is None else after
    options = {"inputs": "float[2,5,6] x", **options}
    nodes = f"m = MatMul(x, w) h = Add(m, b) {between} y = MatMul(z, v)"
    return nodes, {"w": (6, width), "b": (width,), "v": (after, 5), **(weights or {})}, options


def shapes_of(model):
    return {v.name: tuple(d if isinstance(d, int) else 2 for d in v.shape) for v in model.ir.graph.inputs}


def analysed(*arguments, **options):
    model = model_of(*arguments, **options)
    return analyse(model, shapes_of(model))


def run(model, feeds):
    session = runtime.open_session(ir.to_proto(model.ir).SerializeToString(), optimization="none")
    return session.run(feeds, [v.name for v in model.ir.graph.outputs])


def feeds_of(model):
    random = np.random.default_rng(1)
    feeds = {}
    for value in model.ir.graph.inputs:
        shape = shapes_of(model)[value.name]
        kind = value.dtype.numpy()
        drawn = random.normal(size=shape) if kind.kind == "f" else random.integers(0, 4, shape)
        feeds[value.name] = drawn.astype(kind)
    return feeds


def drawn_keep(channels, random):
    """Keep some of each group that may be cut, at least one channel and at most all but one."""
    keep = {}
    for group in channels.free:
        mask = random.random(group.size) < 0.5
        mask[random.integers(group.size)] = True
        if mask.all():
            mask[random.integers(group.size)] = False
        keep[group.name] = mask if mask.any() else ~mask
    return keep


def check_cut(channels, rounds=4, tolerance=2e-5):
    """Cut at random: outputs must be those of silencing, and not those of before.

    Returns:
        The last cut model.
    """
    feeds = feeds_of(channels.model)
    before = run(channels.model, feeds)
    cut = None
    for seed in range(rounds):
        keep = drawn_keep(channels, np.random.default_rng(seed))
        assert keep, "nothing may be cut"
        cut = surgery.cut(channels, keep).model
        found, expected = run(cut, feeds), run(silenced(channels, keep), feeds)
        for name, want in expected.items():
            scale = max(1e-3, np.abs(want).max())
            assert found[name].shape == before[name].shape
            assert np.abs(found[name] - want).max() <= tolerance * scale
        assert any(np.abs(expected[n] - before[n]).max() > 1e-4 * np.abs(before[n]).max() for n in before)
    return cut


def check_case(net, free):
    """Analyse a network (nodes, weights, options), expect so many free channels, and cut them."""
    nodes, weights, options = net
    channels = analysed(nodes, weights, **options)
    assert sum(g.size for g in channels.free) == free, [(g.name, g.size, g.frozen) for g in channels.groups]
    assert not any(g.mixed for g in channels.free)
    assert not channels.unknown
    return check_cut(channels)


def reasons(channels):
    return " | ".join(why for group in channels.groups for why in group.frozen)
