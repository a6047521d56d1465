"""Constants of cut channels in biases: the model computes what it computed with them, or it is refused."""

import numpy as np
import pytest
from cut_graphs import channels_of, dropping, run
from text_graphs import model_of

from onnxcompress.core.errors import UnsupportedError
from onnxcompress.encodings.dense import Dense
from onnxcompress.engine.channels import site_key
from onnxcompress.surgery import cut, prove

RNG = np.random.default_rng(2)
GONE = (1, 4)


def with_constant_channels(axis, width=8):
    """Return the weight and bias of a layer, two of whose channels give their bias for every input."""
    shape = [6, 6]
    shape[axis] = width
    weight, bias = RNG.normal(size=shape).astype(np.float32), np.zeros(width, np.float32)
    index = [slice(None), slice(None)]
    index[axis] = list(GONE)
    weight[tuple(index)] = 0
    bias[list(GONE)] = 0.7, 2.5
    return weight, bias


def folded(model, shape, tensor="a"):
    """Cut the constant channels with their constants; outputs must be those of the whole model."""
    channels = channels_of(model, x=shape)
    keep = dropping(channels, tensor, *GONE)
    (name,) = keep
    constants = {}
    for site in channels.group(name).sites:
        values = np.zeros(len(site.channel_of))
        values[site.channel_of == GONE[0]], values[site.channel_of == GONE[1]] = 0.7, 2.5
        constants[site_key(site)] = values
    result = cut(channels, keep, constants)
    x = RNG.normal(size=shape)
    for output, value in run(model, x=x).items():
        np.testing.assert_allclose(run(result.model, x=x)[output], value, rtol=0, atol=1e-5)
    proof = prove(channels, keep, result, constants)
    assert proof.float64_error < 1e-6, "constants in float32 are folded in float64"
    without = run(cut(channels, keep).model, x=x)
    assert not np.allclose(next(iter(without.values())), value, atol=1e-2), "the constants matter"
    return result


GEMMS = [
    ("y = Gemm (r, b, c)", (8, 3), (3,)),
    ("y = Gemm (r, b, c)", (8, 3), (1, 3)),
    ("y = Gemm (r, b, c)", (8, 3), (1,)),
    ("y = Gemm (r, b)", (8, 3), None),
    ("y = Gemm <transB: int = 1, alpha: float = 0.5, beta: float = 2.0> (r, b, c)", (3, 8), (3,)),
    ("y = Gemm <beta: float = 0.0> (r, b, c)", (8, 3), (3,)),
    ("y = Gemm <beta: float = 3.0> (r, b)", (8, 3), None),
    ("y = MatMul (r, b)", (8, 3), None),
    ("t = Transpose (r) z = Gemm <transA: int = 1> (t, b, c) y = Identity (z)", (8, 3), (3,)),
    ("t = Transpose (r) z = MatMul (b, t) y = Transpose (z)", (3, 8), None),
    ("t = Transpose (r) z = Gemm (b, t) y = Transpose (z)", (3, 8), None),
]


@pytest.mark.parametrize(("end", "weight", "bias"), GEMMS)
def test_products(end, weight, bias):
    a, ab = with_constant_channels(1)
    weights = {"a": a, "ab": ab, "b": weight} | ({} if bias is None else {"c": bias})
    result = folded(
        model_of(f"h = Gemm (x, a, ab) r = Relu (h) {end}", "float[N, 6] x", "float[N, 3] y", weights), (4, 6)
    )
    assert result.folded == 1


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("attributes", "kernel"),
    [
        ("", (3, 8, 2, 2)),
        ("<pads: ints = [0, 0, 0, 0], strides: ints = [2, 2]>", (3, 8, 3, 3)),
        ('<auto_pad: string = "VALID">', (3, 8, 3, 3)),
        ('<auto_pad: string = "SAME_UPPER">', (3, 8, 1, 1)),
    ],
)
def test_convolutions(attributes, kernel, bias):
    a, ab = with_constant_channels(0)
    body = f"h = Conv (x, a, ab) r = Relu (h) y = Conv {attributes} (r, b{', c' if bias else ''})"
    weights = {"a": a[:, :, None, None], "ab": ab, "b": kernel} | ({"c": (3,)} if bias else {})
    outputs = "float[1, 3, h, w] y"
    folded(model_of(body, "float[1, 6, 5, 5] x", outputs, weights), (1, 6, 5, 5))


@pytest.mark.parametrize(
    ("end", "words"),
    [
        ("y = Conv <pads: ints = [1, 1, 1, 1]> (r, b)", "pads with zeros"),
        ('y = Conv <auto_pad: string = "SAME_LOWER"> (r, b)', "pads with zeros"),
        ("y = ConvTranspose (r, bt)", "no bias"),
    ],
)
def test_where_it_is_no_bias_it_is_refused(end, words):
    a, ab = with_constant_channels(0)
    weights = {"a": a[:, :, None, None], "ab": ab, "b": (3, 8, 3, 3), "bt": (8, 3, 3, 3)}
    model = model_of(
        f"h = Conv (x, a, ab) r = Relu (h) {end}", "float[1, 6, 5, 5] x", "float[1, 3, h, w] y", weights
    )
    with pytest.raises(UnsupportedError, match=words):
        folded(model, (1, 6, 5, 5))


def test_a_grouped_convolution():
    a, ab = with_constant_channels(0)
    gone_of_both = [GONE[0], GONE[0] + 4]
    a[gone_of_both], ab[gone_of_both] = 0, 1.5
    body = "h = Conv (x, a, ab) r = Relu (h) y = Conv <group: int = 2> (r, b, c)"
    weights = {"a": a[:, :, None, None], "ab": ab, "b": (4, 4, 3, 3), "c": (4,)}
    model = model_of(body, "float[1, 6, 5, 5] x", "float[1, 4, 3, 3] y", weights)
    channels = channels_of(model, x=(1, 6, 5, 5))
    group = next(g for g in channels.free if any(m.tensor == "a" and m.axis == 0 for m in g.members))
    (site,) = group.sites
    gone = np.unique(site.channel_of[gone_of_both])
    keep = {group.name: ~np.isin(np.arange(group.size), gone)}
    cut_here = np.flatnonzero(np.isin(site.channel_of, gone))
    if not np.isin(cut_here, gone_of_both).all():
        pytest.skip("the groups of this convolution are not cut position by position")
    result = cut(channels, keep, {site_key(site): np.where(np.isin(np.arange(8), cut_here), 1.5, 0.0)})
    x = RNG.normal(size=(1, 6, 5, 5))
    np.testing.assert_allclose(run(result.model, x=x)["y"], run(model, x=x)["y"], rtol=0, atol=1e-5)


def test_two_layers_that_share_a_bias_get_their_own():
    a, ab = with_constant_channels(1)
    body = "h = Gemm (x, a, ab) r = Relu (h) y = Gemm (r, b, c) z = Gemm (x, d, c)"
    weights = {"a": a, "ab": ab, "b": (8, 3), "c": (1, 3), "d": (6, 3)}
    folded(model_of(body, "float[N, 6] x", "float[N, 3] y, float[N, 3] z", weights), (4, 6))


def test_a_bias_that_is_cut_itself():
    a, ab = with_constant_channels(1)
    body = (
        "h = Gemm (x, a, ab) r = Relu (h) k = Gemm (r, b, c) s = Relu (k) l = MatMul (s, d) q = Relu (l) "
        "y = MatMul (q, e)"
    )
    weights = {"a": a, "ab": ab, "b": (8, 5), "c": (5,), "d": (5, 4), "e": (4, 3)}
    model = model_of(body, "float[N, 6] x", "float[N, 3] y", weights).with_encodings(
        {"c": Dense(np.ones(5, np.float32))}, "trained"
    )
    channels = channels_of(model, x=(4, 6))
    keep = {**dropping(channels, "a", *GONE), **dropping(channels, "b", 0), **dropping(channels, "d", 2)}
    constants = {}
    for name in keep:
        for site in channels.group(name).sites:
            constants[site_key(site)] = np.linspace(0.5, 1.5, len(site.channel_of))
    result = cut(channels, keep, constants)
    proof = prove(channels, keep, result, constants)
    assert (result.folded, proof.ort_error < 1e-5) == (3, True)
