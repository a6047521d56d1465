"""Progress on the terminal: a bar where a person watches, a line now and then in a log."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from onnxcompress.core.run import TrainingPoint

LOG_EVERY_S = 15.0


class Progress:
    """Shows the fraction done, loss, metric and time left; silent when quiet."""

    def __init__(self, *, quiet: bool) -> None:
        console = Console(stderr=True)
        self._console = console
        self._quiet = quiet
        self._began = self._logged = time.monotonic()
        self._bar: Bar | None = None
        self._task: TaskID | None = None
        if not quiet and console.is_terminal:
            self._bar = Bar(
                TextColumn("{task.description}"),
                BarColumn(),
                TimeRemainingColumn(),
                console=console,
                transient=True,
            )

    def update(self, fraction: float, what: str, point: TrainingPoint | None = None) -> None:
        """Show that this fraction of the work is done."""
        if self._quiet:
            return
        text = what if point is None else f"{what}  {_numbers(point)}"
        if self._bar is not None:
            if self._task is None:
                self._task = self._bar.add_task(text, total=1.0)
            self._bar.update(self._task, completed=fraction, description=text)
        elif time.monotonic() - self._logged > LOG_EVERY_S:
            self._logged = time.monotonic()
            elapsed = self._logged - self._began
            left = f"  about {elapsed / fraction - elapsed:.0f} s left" if fraction > 0 else ""
            sys.stderr.write(f"{fraction:4.0%}  {text}{left}\n")

    def __enter__(self) -> Progress:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()


def _numbers(point: TrainingPoint) -> str:
    parts = []
    if point.compressed_loss is not None:
        parts.append(f"loss {point.compressed_loss:.4g}")
    if point.compressed_metric is not None:
        parts.append(f"metric {point.compressed_metric:.4g}")
    if point.gap is not None:
        parts.append(f"gap {point.gap:.3g}")
    return "  ".join(parts)
