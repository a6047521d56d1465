"""The bottleneck: closed forms against automatic differentiation, noise, the decision."""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper

sys.path.insert(0, str(Path(__file__).parents[1]))
from gated_nets import NETS, RNG, gated, grouped_net, set_means
from pruning_models import conv_net, mlp, model_of

from onnxcompress.core.channels import Group, Member
from onnxcompress.core.errors import UnsupportedError
from onnxcompress.engine.bottleneck.choice import gated_groups, weights_of_gamma
from onnxcompress.engine.bottleneck.decision import decide, filled
from onnxcompress.engine.bottleneck.gates import Gates
from onnxcompress.engine.bottleneck.normalisation import Normalisation, hidden_layers
from onnxcompress.engine.bottleneck.pressure import (
    CALM_LR,
    LEAST_TRAVEL,
    MOST_LR,
    TRAVEL,
    Pressure,
    gate_rate,
)
from onnxcompress.engine.bottleneck.steering import START, Steering
from onnxcompress.engine.channels import analyse, site_key
from onnxcompress.engine.graph.torchgraph import TorchGraph
from onnxcompress.engine.widths import Limit


def test_pixels_are_gated_only_when_asked_for():
    model = mlp(RNG.normal(size=(9, 6)), RNG.normal(size=(3, 9)))
    channels = analyse(model, {"x": (1, 6)})
    without, _ = gated_groups(channels, (), (), inputs=False)
    with_inputs, _ = gated_groups(channels, (), (), inputs=True)
    assert [g.size for g in without] == [9]
    assert sorted(g.size for g in with_inputs) == [6, 9]


def test_information_term_and_its_gradient_are_the_closed_form():
    _, groups, _, gates = gated(conv_net(), {"x": (1, 3, 8, 8)}, dtype=torch.float64)
    set_means(gates)
    with torch.no_grad():
        for group in groups:
            gates[group.name].log_variance.uniform_(-6, 2)
    weights = {g.name: 0.5 + k for k, g in enumerate(groups)}
    pressure = Pressure(gates, weights, 0.7, lr=1e-9)
    term = sum(
        weights[g.name] * torch.log1p(gates[g.name].mean ** 2 / gates[g.name].log_variance.exp()).sum()
        for g in groups
    ) * (0.7 / len(groups))
    term.backward()
    assert float(pressure.value()) == pytest.approx(term.item(), rel=1e-12)
    wanted = [p.grad.clone() for p in gates.parameters()]
    seen = []
    pressure._optimizer.step = lambda: seen.extend(p.grad.clone() for p in gates.parameters())
    for p in gates.parameters():
        p.grad = None
    pressure.add_gradient()
    for ours, theirs in zip(seen, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def test_term_agrees_with_the_divergence_integrated_numerically():
    """min over the prior's variance of KL(N(μ, σ²) ‖ N(0, s)) is ½ log(1 + μ²/σ²), per unit of h²."""
    mean, variance = 0.8, 0.3
    best = mean**2 + variance
    z = np.linspace(-12, 12, 200_001)
    density = np.exp(-((z - mean) ** 2) / (2 * variance)) / np.sqrt(2 * np.pi * variance)
    prior = np.exp(-(z**2) / (2 * best)) / np.sqrt(2 * np.pi * best)
    divergence = np.trapezoid(density * np.log(np.maximum(density, 1e-300) / np.maximum(prior, 1e-300)), z)
    assert divergence == pytest.approx(0.5 * np.log1p(mean**2 / variance), rel=1e-6)


def test_noise_is_drawn_per_example_and_channel_and_the_same_at_all_sites():
    # A residual of one group: two consumers read the same channels.
    tensors = {
        "w0": RNG.uniform(0.5, 1, size=(7, 2, 1, 1)), "w1": RNG.normal(size=(4, 7, 1, 1)),
        "w2": RNG.normal(size=(4, 7, 3, 3)), "w3": RNG.normal(size=(3, 4)),
    }  # fmt: skip
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["a"], "c0"),
        helper.make_node("Conv", ["a", "w1"], ["b"], "c1"),
        helper.make_node("Conv", ["a", "w2"], ["c"], "c2", pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["b", "c"], ["d"], "add"),
        helper.make_node("GlobalAveragePool", ["d"], ["e"], "pool"),
        helper.make_node("Flatten", ["e"], ["f"], "fl"),
        helper.make_node("Gemm", ["f", "w3"], ["y"], "fc", transB=1),
    ]
    model = model_of(nodes, tensors, (2, 5, 5), 3)
    _, groups, graph, gates = gated(model, {"x": (1, 2, 5, 5)})
    with torch.no_grad():
        for group in groups:
            gates[group.name].log_variance.fill_(0.0)
    torch.manual_seed(0)
    seen = {}
    with gates.on(graph):
        for name in list(graph.hooks):
            inner = graph.hooks[name]
            graph.hooks[name] = lambda v, inner=inner, name=name: seen.setdefault(name, inner(v) / v)
        graph({"x": torch.randn(6, 2, 5, 5, generator=torch.Generator().manual_seed(0)) + 3})
    wide = [v.detach() for v in seen.values() if v.shape[1] == 7 and v.dim() == 4]
    assert len(wide) == 2
    torch.testing.assert_close(wide[0], wide[1], rtol=1e-4, atol=1e-4)
    factors = wide[0]
    torch.testing.assert_close(factors, factors[:, :, :1, :1].expand_as(factors), rtol=1e-4, atol=1e-4)
    flat = factors[:, :, 0, 0]
    assert len(torch.unique(flat)) == flat.numel()


def test_noise_falls_on_examples_where_the_example_axis_is_not_the_first():
    gates = Gates((), {}, site_key, seed=0)
    gates._examples = 6
    assert gates._example_axis("v", 2, torch.zeros(10, 6, 4)) == 1
    gates._examples = 5
    assert gates._example_axis("v", 2, torch.zeros(10, 5, 4)) == 1
    assert gates._example_axis("w", 1, torch.zeros(3, 4)) is None


def test_no_noise_without_gradient():
    _, groups, graph, gates = gated(conv_net(), {"x": (1, 3, 8, 8)})
    with torch.no_grad():
        for group in groups:
            gates[group.name].log_variance.fill_(0.0)
    x = torch.randn(3, 3, 8, 8)
    with gates.on(graph):
        noisy = [graph({"x": x})["y"].detach() for _ in range(2)]
        with torch.no_grad():
            quiet = [graph({"x": x})["y"] for _ in range(2)]
    assert not torch.allclose(*noisy)
    assert torch.equal(*quiet)
    assert graph.hooks == {}


@pytest.mark.parametrize("name", NETS)
def test_lent_normalisation_starts_as_identity_and_folds(name):
    make, shape = NETS[name]
    model = make()
    layers = hidden_layers(model)
    if name == "conv":
        assert [la.weight for la in layers] == ["c2.w"]  # the first one is normalised already
    assert layers
    widths = {la.output: model.weights[la.weight].shape[la.weight_axis] for la in layers}
    graph, norms = TorchGraph(model, dtype=torch.float64), Normalisation(layers, widths).double()
    x = np.random.default_rng(2).normal(size=(64, *shape))
    before = graph.run({"x": x})["y"]
    with norms.on(graph.hooks):
        norms.pause(lambda: graph.run({"x": x}))
        np.testing.assert_allclose(graph.run({"x": x})["y"], before, rtol=1e-8, atol=1e-8)
        with torch.no_grad():
            for norm in norms._norms:
                norm.weight.uniform_(0.2, 2)
                norm.bias.uniform_(-1, 1)
        wanted = graph.run({"x": x})["y"]
    graph.set_arrays(norms.folded({n: model.array(n).astype(np.float64) for n in model.weights}))
    np.testing.assert_allclose(graph.run({"x": x})["y"], wanted, rtol=1e-8, atol=1e-8)
    assert np.abs(wanted - before).max() > 1e-3


@pytest.mark.parametrize("name", ["conv", "matmul"])
def test_lent_normalisation_takes_the_numbers_of_the_model(name):
    """A model of double precision; without the cast torch refuses the mixture."""
    make, shape = NETS[name]
    model = make()
    layers = hidden_layers(model)
    widths = {la.output: model.weights[la.weight].shape[la.weight_axis] for la in layers}
    graph, norms = TorchGraph(model, dtype=torch.float64), Normalisation(layers, widths)
    x = np.random.default_rng(2).normal(size=(64, *shape))
    before = graph.run({"x": x})["y"]
    with norms.on(graph.hooks):
        norms.pause(lambda: graph.run({"x": x}))
        after = graph.run({"x": x})["y"]
    assert after.dtype == np.float64
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-4)


def test_the_decision_takes_the_threshold_or_just_meets_the_target():
    channels = analyse(conv_net(), {"x": (1, 3, 8, 8)})
    groups = channels.free
    rng = np.random.default_rng(3)
    alphas = {g.name: np.exp(rng.uniform(-8, 8, g.size)) for g in groups}
    plain = decide(groups, alphas, 1.0)
    for group in groups:
        np.testing.assert_array_equal(plain.keep[group.name], alphas[group.name] > 1)
    total = channels.macs({})
    limit = Limit(lambda keep: channels.macs(keep) / total, 0.4, "0.4 of the work")
    found = decide(groups, alphas, 1.0, limit=limit)
    assert found.share <= 0.4
    one_more = sorted(a for g in groups for a in alphas[g.name] if a <= found.threshold)[-1]
    wider = {g.name: alphas[g.name] >= one_more for g in groups}
    assert channels.macs(wider) / total > 0.4
    coarse = decide(groups, alphas, 1.0, limit=limit, round_to=8)
    more = filled(coarse, groups, alphas, round_to=8, limit=limit)
    assert coarse.share <= more.share <= 0.4
    for group in groups:
        kept = more.keep.get(group.name, np.ones(group.size, bool))
        assert kept.sum() >= coarse.keep.get(group.name, np.ones(group.size, bool)).sum()
        wider = {**more.keep, group.name: np.arange(group.size) < kept.sum() + 8}
        assert kept.all() or channels.macs(wider) / total > 0.4
    rounded = decide(groups, alphas, 1.0, round_to=4)
    assert all(mask.sum() % 4 == 0 for mask in rounded.keep.values())
    nothing = decide(groups, {n: a * 0 for n, a in alphas.items()}, 1.0)
    assert all(mask.sum() >= 1 for mask in nothing.keep.values())
    with pytest.raises(UnsupportedError):
        decide(groups, alphas, 1.0, limit=replace(limit, most=1e-6))


def test_what_a_costly_channel_leaves_of_the_target_is_filled_with_cheap_ones():
    def group(name, size):
        return Group(name, size, (Member(f"{name}.w", 0, np.arange(size), False),), ())

    groups, price = (group("costly", 3), group("cheap", 60)), {"costly": 100.0, "cheap": 1.0}
    alphas = {"costly": np.array([90.0, 80.0, 70.0]), "cheap": np.linspace(60, 1, 60)}

    def share(keep):
        kept = {g.name: g.size if g.name not in keep else keep[g.name].sum() for g in groups}
        return sum(price[n] * k for n, k in kept.items()) / 360

    # All of the second costly channel does not fit, and of the cheap ones no more than half.
    limit = Limit(share, 0.36, "0.36 of the price")
    found = decide(groups, alphas, 1.0, limit=limit)
    assert found.keep["cheap"].sum() == 1, "the threshold lies between the costly ones"
    more = filled(found, groups, alphas, round_to=1, limit=limit)
    assert (more.keep["costly"].sum(), more.keep["cheap"].sum()) == (1, 29)
    assert more.keep["cheap"][:29].all()


def test_where_much_of_a_target_is_left_one_group_gives_up_a_block_for_another():
    """16 of the wide group's channels fit only beside 16 of the narrow one's; α alone keeps all of these."""
    sizes = {"wide": 32, "narrow": 24}
    groups = [Group(n, s, (Member(f"{n}.w", 0, np.arange(s), False),), ()) for n, s in sizes.items()]
    alphas = {"wide": np.linspace(40, 1, 32), "narrow": np.linspace(90, 50, 24)}

    def share(keep):
        wide, narrow = (s if n not in keep else int(keep[n].sum()) for n, s in sizes.items())
        return wide * (wide + narrow) / (32 * 56)

    limit = Limit(share, 0.35, "0.35 of the work")
    found = decide(groups, alphas, 1.0, round_to=16, limit=limit)
    assert (found.keep["wide"].sum(), "narrow" in found.keep) == (12, False)
    more = filled(found, groups, alphas, round_to=16, limit=limit)
    assert (more.keep["wide"].sum(), more.keep["narrow"].sum()) == (16, 16)
    reachable = [share({"wide": np.ones(w), "narrow": np.ones(n)}) for w in (12, 16, 32) for n in (16, 24)]
    assert more.share == pytest.approx(max(s for s in reachable if s <= 0.35))
    # Not for what the gates call noise.
    noisy = {**alphas, "wide": np.r_[np.full(12, 40.0), np.full(20, 0.05)]}
    more = filled(
        decide(groups, noisy, 1.0, round_to=16, limit=limit), groups, noisy, round_to=16, limit=limit
    )
    assert "narrow" not in more.keep
    # Where little of the target is left, α has the last word.
    enough = filled(found, groups, alphas, round_to=16, limit=replace(limit, most=0.3))
    assert (enough.keep["wide"].sum(), "narrow" in enough.keep) == (12, False)


def test_a_measured_target_is_filled_too_and_measured_a_few_times_only():
    sizes, price = {"costly": 64, "cheap": 128}, {"costly": 10, "cheap": 1}
    groups = [Group(n, s, (Member(f"{n}.w", 0, np.arange(s), False),), ()) for n, s in sizes.items()]
    # The threshold passes through blocks of the costly group while all of the cheap one lies above, or below.
    alphas = {"costly": np.linspace(90, 20, 64), "cheap": np.linspace(15, 1, 128)}
    asked = []

    def latency(keep):
        asked.append(keep)
        kept = {n: s if n not in keep else keep[n].sum() for n, s in sizes.items()}
        return sum(price[n] * -(-k // 16) for n, k in kept.items()) / 48

    limit = Limit(latency, 26 / 48, "latency", blocks_first=True, measured=True)
    found = decide(groups, alphas, 1.0, round_to=16, limit=limit)
    assert (found.keep["costly"].sum(), found.keep["cheap"].sum()) == (32, 16)
    asked.clear()
    more = filled(found, groups, alphas, round_to=16, limit=limit)
    assert (more.keep["costly"].sum(), more.keep["cheap"].sum()) == (32, 96)
    assert more.share == pytest.approx(26 / 48)
    assert len(asked) <= 8


def test_gamma_per_group_is_one_on_average_and_follows_what_a_channel_costs():
    channels = analyse(grouped_net(), {"x": (2, 3, 8, 8)})
    groups, _ = gated_groups(channels, (), (), inputs=False)
    # Channels come in pairs, one of each group of the second convolution.
    assert {g.name: g.size for g in groups} == {"w1": 4, "w2": 6}
    costs = {
        "constant": (1, 1),
        # The first are read as 6×6 maps; the others, behind the Flatten, as 2×2.
        "map": (2 * 36, 2 * 4),
        "macs": (
            math.sqrt((8 * 27 * 36 + 12 * 36 * 16) / 4),
            math.sqrt((12 * 36 * 16 + 12 * 9 * 4 + 48 * 5) / 6),
        ),
        "params": (
            math.sqrt((8 * 27 + 8 + 12 * 36) / 4),
            math.sqrt((12 * 36 + 12 + 12 * 9 + 48 * 5) / 6),
        ),
    }
    for scaling, (first, second) in costs.items():
        weights = weights_of_gamma(channels, groups, scaling)
        assert (4 * weights["w1"] + 6 * weights["w2"]) / 10 == pytest.approx(1)
        assert weights["w1"] / weights["w2"] == pytest.approx(first / second), scaling


def test_steering_raises_gamma_while_the_level_lags_and_lowers_it_below_zero():
    high = Steering(1000, lambda: START, 1e-3)
    values = [high.look(step) for step in range(100, 1000, 100)]
    assert values == sorted(values)
    assert values[-1] > 5 * values[0]
    low = Steering(1000, lambda: -1.0, 1e-3)
    values = [low.look(step) for step in range(700, 1000, 50)]
    assert values == sorted(values, reverse=True)
    early = Steering(1000, lambda: 4.0, 1e-3)
    assert early.look(100) == pytest.approx(1e-3)


@given(steps=st.integers(1, 10**6), lr=st.floats(1e-5, 1e-2))
def test_gates_are_given_the_way_they_need_and_no_larger_steps(steps, lr):
    rate = gate_rate(steps, lr)
    assert lr <= rate <= MOST_LR
    # The way can be made, but where a handful of steps would have to be larger than any.
    assert rate == MOST_LR or rate * steps >= LEAST_TRAVEL * (1 - 1e-9)
    assert rate * steps <= max(TRAVEL, lr * steps) * (1 + 1e-9)
    if steps > LEAST_TRAVEL / CALM_LR:
        assert rate <= max(CALM_LR, lr)
    assert gate_rate(steps + 1, lr) <= rate
