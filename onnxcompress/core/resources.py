"""Resources: what a method may use while it runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from onnxcompress.core.encoding import Array
from onnxcompress.core.errors import UsageError
from onnxcompress.core.model import Model
from onnxcompress.core.run import LatencyRatio, TrainingPoint

Stopwatch = Callable[[Mapping[str, bytes]], tuple[LatencyRatio, ...]]
"""Times serialised models interleaved; returns the latency of the others divided by that of the first."""


@dataclass(frozen=True)
class Resources:
    """What a method may use: device, time, a folder for checkpoints, someone to tell of progress.

    Attributes:
        device: torch device, ``"cpu"`` or ``"cuda"``.
        max_time_s: stop training after this many seconds and return the best so far; None: no limit. Of what
            is given for a chain each method gets its part.
        checkpoint_dir: where state is kept so that a killed run can be resumed; None: nowhere.
        resume: continue from the state found in ``checkpoint_dir``.
        progress: called with (fraction done 0 to 1, what is being done, the newest point or None).
        threads: of sessions that a method opens in onnxruntime.
        input_shapes: concrete shapes of the model's inputs, for analyses that run it once.
        seed: of random choices that no data is needed for.
        teacher: the model before any method, whose outputs training without labels goes towards; None: the
            one given to the method.
        latency: measures a cut: called with a model and which channels of groups stay (name -> bool mask),
            it returns the time of one inference divided by the original model's, low-rank weights as two
            layers; None: cannot be measured.
        limits: gate name -> limit the user set, so that a method can stop where one would fail.
        stopwatch: measures which of several models is fastest here; None: latency is not to be measured.

    Raises:
        UsageError: the time limit is no number, or negative.
    """

    device: str = "cpu"
    max_time_s: float | None = None
    checkpoint_dir: Path | None = None
    resume: bool = False
    progress: Callable[[float, str, TrainingPoint | None], None] = lambda fraction, what, point: None
    threads: int = 1
    input_shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    seed: int = 0
    teacher: Model | None = None
    latency: Callable[[Model, Mapping[str, Array]], float] | None = None
    limits: Mapping[str, float] = field(default_factory=dict)
    stopwatch: Stopwatch | None = None

    def __post_init__(self) -> None:
        if self.max_time_s is not None and not self.max_time_s >= 0:
            raise UsageError("--max-time must be a number of seconds", why=f"found {self.max_time_s}")
