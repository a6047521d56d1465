"""Operators with many attributes against onnxruntime, on attributes and shapes drawn at random."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from single_node import by_onnxruntime, computed, difference, model_of, node_of

from onnxcompress.ops._base import OPS, Example
from onnxcompress.ops._examples import normal

Draw = Callable[[st.SearchStrategy[Any]], Any]
Case = tuple[str, int, Example]


def whole(draw: Draw, low: int, high: int) -> int:
    return int(draw(st.integers(low, high)))


def one_of(draw: Draw, *choices: Any) -> Any:
    return draw(st.sampled_from(choices))


def sizes(draw: Draw, rank: int, low: int, high: int) -> list[int]:
    return [whole(draw, low, high) for _ in range(rank)]


def window(draw: Draw, kernel: list[int], *, ceil: bool = False) -> dict[str, Any]:
    """Draw strides, dilations and padding for a kernel."""
    rank = len(kernel)
    found: dict[str, Any] = {"kernel_shape": kernel}
    if one_of(draw, False, True):
        found["strides"] = sizes(draw, rank, 1, 3)
    if one_of(draw, False, True):
        found["dilations"] = sizes(draw, rank, 1, 2)
    padding = one_of(draw, "pads", "SAME_UPPER", "SAME_LOWER", "VALID", "none")
    if padding == "pads":
        found["pads"] = [whole(draw, 0, min(2, kernel[i % rank] - 1)) for i in range(2 * rank)]
    elif padding != "none":
        found["auto_pad"] = padding
    if ceil and padding in ("pads", "none"):
        found["ceil_mode"] = whole(draw, 0, 1)
    return found


@st.composite
def convolution(draw: Draw) -> Case:
    rank, group = whole(draw, 1, 3), one_of(draw, 1, 2)
    kernel, out = sizes(draw, rank, 1, 3), group * whole(draw, 1, 2)
    x = normal(whole(draw, 1, 2), 2 * group, *sizes(draw, rank, 5, 8))
    inputs = [x, normal(out, 2, *kernel, seed=1), *([normal(out, seed=2)] if one_of(draw, 0, 1) else [])]
    return "Conv", 22, Example(tuple(inputs), {**window(draw, kernel), "group": group})


@st.composite
def transposed(draw: Draw) -> Case:
    rank, group = whole(draw, 1, 3), one_of(draw, 1, 2)
    kernel, out = sizes(draw, rank, 1, 4), whole(draw, 1, 2)
    x = normal(whole(draw, 1, 2), 2 * group, *sizes(draw, rank, 2, 5))
    attributes = {**window(draw, kernel), "group": group}
    if "auto_pad" not in attributes and "strides" in attributes and one_of(draw, 0, 1):
        attributes["output_padding"] = [whole(draw, 0, s - 1) for s in attributes["strides"]]
    elif one_of(draw, 0, 1):
        attributes["output_shape"] = sizes(draw, rank, 2, 9)
    inputs = [x, normal(2 * group, out, *kernel, seed=1)]
    if one_of(draw, 0, 1):
        inputs.append(normal(out * group, seed=2))
    return "ConvTranspose", 11, Example(tuple(inputs), attributes)


@st.composite
def pooling(draw: Draw) -> Case:
    type_, rank = one_of(draw, "MaxPool", "AveragePool", "LpPool"), whole(draw, 1, 3)
    attributes = window(draw, sizes(draw, rank, 1, 3), ceil=True)
    outputs = 1
    if type_ == "AveragePool":
        attributes["count_include_pad"] = whole(draw, 0, 1)
    elif type_ == "LpPool":
        attributes["p"] = whole(draw, 1, 3)
    else:
        outputs, attributes["storage_order"] = 2, whole(draw, 0, 1)
    return type_, 22, Example((normal(2, 2, *sizes(draw, rank, 5, 8)),), attributes, outputs)


@st.composite
def resizing(draw: Draw) -> Case:
    mode = one_of(draw, "nearest", "linear", "cubic")
    rank = 2 if mode == "cubic" else whole(draw, 1, 2)
    where = ("half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel", "half_pixel_symmetric")
    attributes = {"mode": mode, "coordinate_transformation_mode": one_of(draw, *where)}
    if mode == "nearest":
        roundings = ("floor", "ceil", "round_prefer_floor", "round_prefer_ceil")
        attributes["nearest_mode"] = one_of(draw, *roundings)
    else:
        attributes["antialias"] = whole(draw, 0, 1)
        attributes["exclude_outside"] = whole(draw, 0, 1) if mode == "cubic" else 0
    x = normal(1, 2, *sizes(draw, rank, 2, 8))
    if one_of(draw, False, True):
        scales = [one_of(draw, 0.5, 0.6, 1.0, 1.3, 2.0, 2.5, 3.0) for _ in range(rank)]
        return "Resize", 19, Example((x, None, np.array([1, 1, *scales], np.float32)), attributes)
    return "Resize", 19, Example((x, None, None, np.array([1, 2, *sizes(draw, rank, 1, 14)])), attributes)


@st.composite
def slicing(draw: Draw) -> Case:
    rank = whole(draw, 1, 4)
    axes = draw(st.lists(st.integers(0, rank - 1), min_size=1, unique=True))
    bounds = [np.array([one_of(draw, whole(draw, -9, 9), 2**40, -(2**40)) for _ in axes]) for _ in "se"]
    steps = np.array([one_of(draw, 1, 2, 3, -1, -2) for _ in axes])
    along = np.array([one_of(draw, axis, axis - rank) for axis in axes])
    return "Slice", 13, Example((normal(*sizes(draw, rank, 1, 6)), *bounds, along, steps))


@st.composite
def padding(draw: Draw) -> Case:
    rank, mode = whole(draw, 1, 4), one_of(draw, "constant", "edge", "reflect", "wrap")
    pads = np.array(sizes(draw, 2 * rank, -1, 2))
    return "Pad", 19, Example((normal(*sizes(draw, rank, 4, 6)), pads), {"mode": mode})


@st.composite
def recurrent(draw: Draw) -> Case:
    type_ = one_of(draw, "LSTM", "GRU", "RNN")
    gates, functions = {"LSTM": (4, 3), "GRU": (3, 2), "RNN": (1, 1)}[type_]
    direction = one_of(draw, "forward", "reverse", "bidirectional")
    ways = 2 if direction == "bidirectional" else 1
    steps, batch, width, hidden = whole(draw, 1, 5), whole(draw, 1, 3), whole(draw, 1, 4), whole(draw, 1, 5)

    def maybe(*shape: int, seed: int) -> Any:
        return normal(*shape, seed=seed) if one_of(draw, False, True) else None

    half = np.float32(0.5)
    inputs = [normal(steps, batch, width), normal(ways, gates * hidden, width, seed=1) * half]
    inputs += [normal(ways, gates * hidden, hidden, seed=2) * half, maybe(ways, 2 * gates * hidden, seed=3)]
    lengths = np.array(sizes(draw, batch, 1, steps), dtype=np.int32) if one_of(draw, False, True) else None
    inputs += [lengths, maybe(ways, batch, hidden, seed=4)]
    attributes: dict[str, Any] = {"hidden_size": hidden, "direction": direction}
    if type_ == "LSTM":
        inputs += [maybe(ways, batch, hidden, seed=5), maybe(ways, 3 * hidden, seed=6)]
        attributes["input_forget"] = whole(draw, 0, 1)
    if type_ == "GRU":
        attributes["linear_before_reset"] = whole(draw, 0, 1)
    if one_of(draw, False, True):
        attributes["clip"] = 0.5
    if one_of(draw, False, True):
        names = ("Sigmoid", "Tanh", "Relu", "HardSigmoid", "Softsign", "LeakyRelu", "Elu", "Affine")
        attributes["activations"] = [one_of(draw, *names) for _ in range(functions * ways)]
    return type_, 14, Example(tuple(inputs), attributes, 3 if type_ == "LSTM" else 2)


@pytest.mark.parametrize(
    "cases", [convolution(), transposed(), pooling(), resizing(), slicing(), padding(), recurrent()], ids=str
)
def test_equals_onnxruntime(cases: st.SearchStrategy[Case]) -> None:
    @settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(cases)
    def check(drawn: Case) -> None:
        type_, version, case = drawn
        try:
            wanted = by_onnxruntime(model_of("", type_, version, case), case)
        except Exception:  # what onnxruntime refuses is no example
            assume(False)
        got = computed(OPS["", type_], node_of("", type_, version, case), case)
        assert [difference(g, w) for g, w in zip(got, wanted, strict=True)] == [None] * len(wanted)

    check()
