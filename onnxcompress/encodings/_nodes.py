"""Small pieces of decoding graphs, written for every version of the default operator set from 1 on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from onnxcompress.core.encoding import Array, Site


def integers(site: Site, codes: ir.Value) -> ir.Value:
    """Cast to int32, the smallest type that ``Gather`` accepts as indices."""
    return site.node("Cast", [codes], {"to": cast_type(site, ir.DataType.INT32)})


def reshape(site: Site, value: ir.Value, shape: Sequence[int]) -> ir.Value:
    """Reshape; −1 and 0 as in the operator."""
    dims = [int(d) for d in shape]
    if site.opset < 5:
        return site.node("Reshape", [value], {"shape": dims})
    name = "x".join(map(str, dims)).replace("-", "m")
    return site.node("Reshape", [value, site.shared(f"shape{name}", np.array(dims, dtype=np.int64))])


def head(site: Site, value: ir.Value, length: int, axis: int = 0) -> ir.Value:
    """Keep the first ``length`` elements along one axis."""
    if site.opset < 10:
        return site.node("Slice", [value], {"axes": [axis], "starts": [0], "ends": [length]})
    bounds = [site.shared(f"int{i}", np.array([i], dtype=np.int64)) for i in (0, length)]
    axes = [] if axis == 0 else [site.shared(f"int{axis}", np.array([axis], dtype=np.int64))]
    return site.node("Slice", [value, *bounds, *axes])


def counting(site: Site, stop: int, step: int = 1) -> ir.Value:
    """0, step, 2·step … (``stop`` numbers) as int32, shared by all weights."""
    name = f"count{stop}by{step}"
    if stop <= 32:
        return site.shared(name, np.arange(0, stop * step, step, dtype=np.int32))
    if site.opset >= 11:
        bounds = [site.shared(f"scalar{i}", np.array(i, dtype=np.int32)) for i in (0, stop * step, step)]
        return site.shared_node(name, "Range", bounds)
    columns = next(c for c in range(int(np.sqrt(stop)), 0, -1) if stop % c == 0)
    if columns * columns * 16 < stop:
        return site.shared(name, np.arange(0, stop * step, step, dtype=np.int32))
    tens = site.shared(f"{name}a", np.arange(0, stop * step, columns * step, dtype=np.int32).reshape(-1, 1))
    ones = site.shared(f"{name}b", np.arange(0, columns * step, step, dtype=np.int32).reshape(1, -1))
    return _shared_reshape(site, name, site.shared_node(f"{name}c", "Add", [tens, ones]), [-1])


def digits(site: Site, base: int, count: int) -> ir.Value:
    """Table (baseᶜ, c) int32 of the c digits of every number below baseᶜ, lowest digit first, shared."""
    name = f"digits{base}x{count}"
    size = base**count
    if size * count <= 192 or site.opset < 7:
        return site.shared(name, digit_table(base, count).astype(np.int32))
    column = _shared_reshape(site, f"{name}n", counting(site, size), [-1, 1])
    powers = site.shared(f"{name}p", (base ** np.arange(count)).astype(np.int32))
    divisor = site.shared(f"base{base}", np.array(base, dtype=np.int32))
    quotient = site.shared_node(f"{name}q", "Div", [column, powers])
    if site.opset >= 10:
        return site.shared_node(name, "Mod", [quotient, divisor])
    higher = site.shared_node(f"{name}h", "Div", [quotient, divisor])
    return site.shared_node(name, "Sub", [quotient, site.shared_node(f"{name}m", "Mul", [higher, divisor])])


def digit_table(base: int, count: int) -> Array:
    """NumPy's version of :func:`digits`."""
    return np.arange(base**count)[:, None] // base ** np.arange(count) % base


def _shared_reshape(site: Site, name: str, value: ir.Value, shape: list[int]) -> ir.Value:
    if site.opset < 5:
        return site.shared_node(name, "Reshape", [value], {"shape": shape})
    label = "x".join(map(str, shape)).replace("-", "m")
    return site.shared_node(
        name, "Reshape", [value, site.shared(f"shape{label}", np.array(shape, dtype=np.int64))]
    )


def cast_type(site: Site, dtype: ir.DataType) -> int | str:
    """``to`` of Cast: a name in the first versions, the number since opset 6."""
    return dtype.name if site.opset < 6 else int(dtype)
