"""Writing reports and telling the run on the terminal."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import click

from onnxcompress.core.errors import OutputError
from onnxcompress.core.run import Run


def check_reports(paths: Sequence[Path]) -> None:
    """Raise OutputError now, not after hours of training, where a report could not be written."""
    from onnxcompress.report import SUFFIXES  # noqa: PLC0415

    for path in paths:
        if path.suffix not in (*SUFFIXES, ".toml"):
            raise OutputError(
                f"a report cannot be a {path.suffix or 'file without suffix'}",
                where=str(path),
                fix=f"use one of {', '.join(SUFFIXES)}",
            )
        folder = path.resolve().parent
        if not folder.is_dir() or not os.access(folder, os.W_OK):
            raise OutputError("cannot write there", where=str(path), why="the folder is missing or read-only")


def write_reports(run: Run, paths: Sequence[Path]) -> None:
    """Write the run in the format each suffix names, and append it to a CI job's summary if there is one."""
    from onnxcompress import report  # noqa: PLC0415

    for path in paths:
        report.write(run, path)
    summary = os.environ.get("GITHUB_STEP_SUMMARY")
    if summary:
        with Path(summary).open("a", encoding="utf-8") as file:
            file.write(report.render(run, "markdown") + "\n")


def tell(run: Run, *, written: Path | None, verbose: bool) -> None:
    """Print the run on the terminal."""
    from onnxcompress import report  # noqa: PLC0415

    report.print_terminal(run, verbose=verbose)
    if written is not None:
        click.echo(f"wrote {written}")
