"""Run: everything one run measured and decided. Reports render it, gates read it, JSON keeps it.

All types are frozen dataclasses of plain values. "Not applicable" and "not measured" are ``None``.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any

from onnxcompress.core.bottleneck import Bottleneck
from onnxcompress.core.channel_facts import ChannelFacts, CutFacts
from onnxcompress.core.plain import plain, typed
from onnxcompress.core.profile import OperatorProfile
from onnxcompress.core.quantization import QuantizationFacts
from onnxcompress.core.refusal import Refusal
from onnxcompress.core.sensitivity import Sensitivity
from onnxcompress.core.simplification import SimplificationFacts

SCHEMA = "onnxcompress.run/1"


@dataclass(frozen=True)
class Environment:
    """The machine and the versions the numbers were measured with."""

    python: str
    platform: str
    cpu: str
    cores: int
    packages: dict[str, str]


@dataclass(frozen=True)
class ModelFacts:
    """Static facts of one file.

    ``bits_per_weight`` counts the bits that the tensors of all weights take in the file, divided by their
    number of elements; ``macs`` are multiply-accumulates of one inference at ``input_shapes``.
    """

    name: str
    sha256: str
    size_bytes: int
    gzip_bytes: int
    nodes: int
    parameters: int
    bits_per_weight: float | None
    macs: int | None
    macs_unknown_ops: tuple[str, ...]
    opset: int
    ir_version: int
    input_shapes: dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Histogram:
    """Counts between consecutive ``edges`` (``len(edges) == len(counts) + 1``)."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True)
class WeightFacts:
    """One weight: how it is stored, how far it moved, what it looked like before.

    ``macs`` are the multiply-accumulates of the nodes that use it in one inference; ``role`` is how they do
    ("contraction", "recurrent", "embedding"). ``relative_error`` is None where nothing was compressed, and
    where channels were cut: then ``shape_after`` is the shape that is left, else it is None. ``rank`` is
    that of a weight of which two layers hold a factor each, or that is stored as two factors, else None.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    consumers: tuple[str, ...]
    encoding: str
    entries: int | None
    bits_before: int
    bits_after: int
    relative_error: float | None
    codebook: tuple[float, ...] | None
    histogram: Histogram | None
    role: str | None = None
    macs: int | None = None
    shape_after: tuple[int, ...] | None = None
    rank: int | None = None


@dataclass(frozen=True)
class TrainingPoint:
    """State after one step of a method's outer loop (for LC: one L step and one C step).

    ``mu`` is the penalty parameter; ``loss`` the task loss of the uncompressed iterate w on the training
    batches; ``compressed_loss`` and ``compressed_metric`` belong to Δ(Θ) on the validation split;
    ``gap`` is ‖w − Δ(Θ)‖ / ‖w‖.
    """

    step: int
    mu: float | None
    loss: float | None
    compressed_loss: float | None
    compressed_metric: float | None
    gap: float | None
    elapsed_s: float


@dataclass(frozen=True)
class Training:
    """How a method trained: on what, towards what, and the path it took.

    ``bottleneck`` is what noisy gates in front of the layers came to, null for other methods.
    ``assumed_scores`` are the outputs that were taken for scores of classes by their shape alone, which chose
    the loss: neither the graph nor labels nor the user say what they are.
    """

    data: str
    random_data: bool
    labelled: bool
    loss: str
    metric: str | None
    train_examples: int
    validation_examples: int
    epochs: float
    device: str
    stopped: str
    points: tuple[TrainingPoint, ...]
    without_gradient: tuple[Refusal, ...]
    bottleneck: Bottleneck | None = None
    assumed_scores: tuple[str, ...] = ()


@dataclass(frozen=True)
class MethodFacts:
    """One method that ran: its name, its resolved options, its source, and what it did in one sentence."""

    name: str
    options: dict[str, Any]
    source: str
    summary: str
    duration_s: float
    training: Training | None


@dataclass(frozen=True)
class OutputDifference:
    """How one output differs between two models over all compared examples.

    ``relative_l2`` is ‖a − b‖₂ / ‖a‖₂; ``top1_agreement`` the fraction of examples whose largest score is at
    the same place, of whole numbers of 32 or 64 bits and truth values the fraction that is equal, None where
    the output looks like neither class scores nor decisions, or where labels, loss or graph show that the
    largest number of a row is no answer. ``problem`` says what went wrong
    where the outputs cannot be called different but broken ("is NaN where the reference is a number").
    ``spread`` is how much the output varies from example to example as share of how much the reference's does
    (root mean square), None where that cannot be told: near 0, the network gives one answer to everything.
    ``lost`` is the fraction of variance unexplained, 1 − R²: the mean square difference over the variance of
    the reference over examples, place by place. At 1 the output says no more of its input than a constant.
    """

    name: str
    shape: tuple[int, ...]
    max_abs: float | None
    relative_l2: float | None
    cosine: float | None
    top1_agreement: float | None
    equal: bool
    problem: str | None = None
    spread: float | None = None
    lost: float | None = None


@dataclass(frozen=True)
class Comparison:
    """Outputs of the written file against a reference on the same inputs.

    ``reference`` is ``"original"`` (the input file in onnxruntime: how much the compression cost) or
    ``"torch"`` (the model the method believed in: must agree to ``tolerance``, relative ℓ2).
    ``candidate`` names the compared file where there are several.
    """

    reference: str
    inputs: str
    random_inputs: bool
    examples: int
    outputs: tuple[OutputDifference, ...]
    tolerance: float | None
    passed: bool | None
    candidate: str | None = None


GIVEN = "given"
"""The split of examples of which none is set apart, because nothing is trained: all that were given."""


@dataclass(frozen=True)
class Accuracy:
    """A metric on labelled examples before and after; ``split`` names the examples used.

    ``trivial`` is what one answer to all of them would come to: the most frequent class, the labels' mean.
    """

    metric: str
    higher_is_better: bool
    before: float
    after: float
    split: str
    examples: int
    trivial: float | None = None


@dataclass(frozen=True)
class Latency:
    """Latency of one model in the interleaved comparison; ``samples_ms`` are per-call times of each round.

    ``flushed_ms`` is the median with denormal numbers flushed to zero, on the same input: much less than the
    median, and the latency is that of this input, not of the model. None: not measured.
    """

    name: str
    median_ms: float
    p90_ms: float
    p99_ms: float
    min_ms: float
    load_ms: float | None
    resident_bytes: int | None
    peak_bytes: int | None
    samples_ms: tuple[float, ...]
    flushed_ms: float | None = None


@dataclass(frozen=True)
class LatencyRatio:
    """Latency of a model divided by that of the first, with its 95 % bootstrap interval and the verdict."""

    name: str
    ratio: float
    low: float
    high: float
    verdict: str


@dataclass(frozen=True)
class Benchmark:
    """Interleaved latency of two or more models; the first is the reference.

    ``margin`` is the fraction around 1 into which the interval of a ratio must not reach for a model to be
    called faster or slower.
    """

    latencies: tuple[Latency, ...]
    ratios: tuple[LatencyRatio, ...]
    threads: int
    provider: str
    clock: str
    rounds: int
    sessions: int
    inputs: str
    margin: float = 0.02


@dataclass(frozen=True)
class Gate:
    """A limit the user set, what was measured, and whether it holds (None: could not be decided).

    ``low`` to ``high`` is the 95 % interval of what was measured, where it is noisy. A limit inside it is
    undecided: the noise is larger than the margin. ``model`` names the model where limits differ by model.
    """

    name: str
    limit: float
    measured: float | None
    passed: bool | None
    low: float | None = None
    high: float | None = None
    model: str | None = None

    @property
    def unknown(self) -> bool:
        """Whether it was measured, but not closely enough to decide."""
        return self.passed is None and self.measured is not None


@dataclass(frozen=True)
class Run:
    """One run of the tool, complete; ``command`` is None for a call from Python."""

    schema: str
    version: str
    kind: str
    command: tuple[str, ...] | None
    recipe: dict[str, Any]
    seed: int
    started: str
    duration_s: float
    environment: Environment
    models: tuple[ModelFacts, ...]
    methods: tuple[MethodFacts, ...] = ()
    weights: tuple[WeightFacts, ...] = ()
    refusals: tuple[Refusal, ...] = ()
    warnings: tuple[str, ...] = ()
    comparisons: tuple[Comparison, ...] = ()
    accuracy: Accuracy | None = None
    benchmark: Benchmark | None = None
    gates: tuple[Gate, ...] = ()
    cuts: tuple[CutFacts, ...] = ()
    channels: ChannelFacts | None = None
    quantizations: tuple[QuantizationFacts, ...] = ()
    sensitivity: Sensitivity | None = None
    operators: OperatorProfile | None = None
    simplifications: tuple[SimplificationFacts, ...] = ()

    def to_json(self) -> str:
        """Return the run as JSON; NaN and infinities are written as null."""
        return json.dumps(plain(dataclasses.asdict(self)), indent=2, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Run:
        """Read a run that ``to_json`` wrote; raises ValueError for another schema."""
        data = json.loads(text)
        if not isinstance(data, dict) or data.get("schema") != SCHEMA:
            raise ValueError(f"not a run of schema {SCHEMA}")
        run = typed(cls, data)
        assert isinstance(run, Run)
        return run
