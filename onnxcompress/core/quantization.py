"""Quantisation of a graph to 8 bits: the decision, as data, and what the report tells of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Quantization:
    """Which nodes compute with 8-bit integers, and the ranges their activations are rounded in.

    A decision like ``Plan.keep``: data. The graph is rewritten in one place only, by
    :mod:`onnxcompress.engine.quantizer`, as only surgery cuts. Nodes are named as
    :func:`onnxcompress.engine.int8.prepare` names them, which makes the same graph every time.

    Attributes:
        static: contractions with calibrated activations (QuantizeLinear, DequantizeLinear around them).
        carriers: nodes between those that pass 8-bit values on (Relu, Add, pooling, Concat …).
        dynamic: MatMul and Gemm whose activations are measured at each run (DynamicQuantizeLinear).
        ranges: value name -> (low, high) of every activation, 0 included.
        seven_bits: weights are rounded to 7 bits, whose products no processor cuts off.
    """

    static: tuple[str, ...]
    carriers: tuple[str, ...] = ()
    dynamic: tuple[str, ...] = ()
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    seven_bits: bool = False

    @property
    def nodes(self) -> tuple[str, ...]:
        """The contractions that compute with 8 bits."""
        return (*self.static, *self.dynamic)


@dataclass(frozen=True)
class QuantizedLayer:
    """One contraction: its node and operator, how it computes and why.

    ``way`` is ``"static"``, ``"dynamic"`` or ``"float"``; ``damage`` is the relative ℓ2 change of the outputs
    when it alone is quantised, None where that was not measured.
    """

    node: str
    op_type: str
    weight: str
    way: str
    why: str | None = None
    damage: float | None = None


@dataclass(frozen=True)
class QuantizedWay:
    """One way to compute that was tried: how fast on this machine, and how far its outputs move.

    ``ratio`` is its latency divided by that of the model it started from, with the 95 % interval
    ``low`` to ``high``; None where latency was not measured.
    """

    name: str
    layers: int
    relative_l2: float
    ratio: float | None
    low: float | None
    high: float | None
    verdict: str | None
    chosen: bool


@dataclass(frozen=True)
class QuantizationFacts:
    """What quantising to 8 bits decided and why.

    ``calibration`` names how ranges were found, on ``examples`` examples, which were random numbers where
    ``random_data`` holds; ``limit`` says in words what the outputs had to hold.
    """

    calibration: str
    examples: int
    random_data: bool
    limit: str | None
    ways: tuple[QuantizedWay, ...]
    layers: tuple[QuantizedLayer, ...]
