"""What 8-bit models need of the pipeline: a stopwatch to choose by, and a tolerance that means something."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from onnxcompress import bench, verify
from onnxcompress.core.encoding import Encoding
from onnxcompress.core.errors import UsageError
from onnxcompress.core.plan import Plan
from onnxcompress.core.resources import Stopwatch
from onnxcompress.core.run import LatencyRatio
from onnxcompress.core.task import Task
from onnxcompress.methods._base import Method
from onnxcompress.pipeline import _original as originals
from onnxcompress.pipeline._compared import Compared, single_example
from onnxcompress.pipeline._original import Original

BUDGET_S = 8.0
"""Seconds for measuring which way is the fastest."""

SHARE = 0.5
"""Share of what quantising changes by which the file may differ from what was decided."""


def check_last(methods: Sequence[Method]) -> None:
    """Raise UsageError where a method would have to work on a graph that was rewritten before it."""
    for method in methods[:-1]:
        if method.last:
            raise UsageError(f"method {method.name!r} must be the last one", why="it rewrites the graph")


def stopwatch(
    original: Original, task: Task | None, seed: int, threads: int, budget_s: float = BUDGET_S
) -> Stopwatch:
    """Return what times serialised models interleaved, on one example of the data where there is any."""

    def time(models: Mapping[str, bytes]) -> tuple[LatencyRatio, ...]:
        single = single_example(original, task)
        if single is None:
            single = originals.random_single(original, seed)
        found = bench.compare_latency(
            models, single, threads=threads, seed=seed, budget_s=budget_s, memory=False
        )
        return found.ratios

    return time


def quantised_weights(plans: Sequence[Plan]) -> dict[str, Encoding]:
    """Return how the quantiser stores the weights it quantised."""
    return {name: e for plan in plans if plan.quantization is not None for name, e in plan.weights.items()}


def quantised_tolerance(
    original: Original,
    believed: verify.Computes,
    compared: Compared,
    threads: int,
    decided: Collection[str] = (),
) -> float:
    """Return the relative ℓ2 to which a quantised file must agree with what was decided.

    The torch model computes QuantizeLinear and DequantizeLinear as they are written; onnxruntime merges them
    with the operators between into integer kernels. A value near the middle between two levels then falls
    on the other one, and what is rounded later follows it: both are right to the resolution that was
    decided, and no closer. The yardstick is therefore the change that quantising makes: a file that is not
    clearly closer to what was decided than the original is (``SHARE``) computes something else, because a
    scale is wrong or, on processors without the instructions for it, because 16-bit sums overflow. Outputs
    that are ``decided``, made of others, are no yardstick.
    """
    change = verify.against_torch(
        believed,
        original.witness,
        compared.feeds,
        inputs=compared.origin,
        random_inputs=compared.random,
        examples=compared.examples,
        threads=threads,
        tolerance=0.0,
        decided=decided,
    )
    return SHARE * verify.worst(change, decided)
