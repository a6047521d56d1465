"""Writing reports and telling the run on the terminal."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import click

from onnxcompress.core.errors import OutputError, UsageError
from onnxcompress.core.places import require_place
from onnxcompress.core.run import Run

SUMMARY = "GITHUB_STEP_SUMMARY"
"""Environment variable with the file that a CI job's summary is appended to."""


def check_reports(paths: Sequence[Path], *others: Path | None) -> None:
    """Raise OutputError now, not after hours of training, where a report could not be written.

    Args:
        paths: reports.
        others: further files that are read or written, none of which a report may replace.
    """
    from onnxcompress import report  # noqa: PLC0415

    for path in paths:
        report.check_path(path)
    if summary := os.environ.get(SUMMARY):
        require_place(Path(summary), "the job's summary", replaced=False)
    check_distinct([*paths, *(path for path in others if path is not None)])


def check_distinct(paths: Sequence[Path]) -> None:
    """Raise UsageError where one file is named twice: it would be overwritten within the run."""
    seen = set()
    for path in paths:
        real = path.resolve()
        if real in seen:
            raise UsageError("a file is named twice", where=str(path), fix="give every output its own name")
        seen.add(real)


def publish(
    run: Run, paths: Sequence[Path], *, quiet: bool, verbose: bool, written: Path | None = None
) -> None:
    """Write the run in the format each suffix names, append it to a CI job's summary if any, and print it."""
    from onnxcompress import report  # noqa: PLC0415

    for path in paths:
        report.write(run, path)
    if summary := os.environ.get(SUMMARY):
        text = report.render(run, "markdown")
        try:
            with Path(summary).open("a", encoding="utf-8") as file:
                file.write(text + "\n")
        except OSError as error:
            raise OutputError(
                "cannot write the job's summary", where=summary, why=error.strerror or str(error)
            ) from error
    if quiet:
        return
    report.print_terminal(run, verbose=verbose)
    if written is not None:
        click.echo(f"wrote {written}")
