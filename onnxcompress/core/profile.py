"""Where the time goes: nodes of several models, aligned."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class OperatorTime:
    """Time of one place of the graph in every model, as onnxruntime's profiler counts it.

    Places are aligned by the names of nodes and of the values they make. ``operators`` holds what computes
    there in each model after onnxruntime's optimisation, None where it has no such place; ``times_us`` the
    median microseconds of one inference spent there, None likewise.
    """

    place: str
    operators: tuple[str | None, ...]
    times_us: tuple[float | None, ...]


@dataclass(frozen=True)
class OperatorProfile:
    """Per-operator time of the models of a comparison, in their order.

    ``totals_us`` is the time of all nodes; ``runs`` how many inferences were recorded. Profiling itself costs
    time: shares are what to read, the latency is measured without it.
    """

    models: tuple[str, ...]
    runs: int
    totals_us: tuple[float, ...]
    places: tuple[OperatorTime, ...]
