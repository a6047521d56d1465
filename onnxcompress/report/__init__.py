"""Reports: a Run as terminal text, Markdown, JSON or HTML."""

from __future__ import annotations

import importlib
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from onnxcompress.core.errors import OutputError, UsageError
from onnxcompress.core.places import require_place
from onnxcompress.core.run import Run

if TYPE_CHECKING:
    from rich.console import Console

FORMATS = ("terminal", "markdown", "json", "html")
SUFFIXES = {".json": "json", ".md": "markdown", ".html": "html"}


def render(run: Run, fmt: str) -> str:
    """Return the report of a run as text.

    Args:
        run: what to report.
        fmt: ``"terminal"`` (100 columns, no colours), ``"markdown"``, ``"json"`` or ``"html"``.

    Raises:
        UsageError: no such format.
    """
    if fmt not in FORMATS:
        raise UsageError(f"unknown report format {fmt!r}", fix=f"use one of {', '.join(FORMATS)}")
    # Each renderer brings a library that a run without this report need not load.
    text = importlib.import_module(f"onnxcompress.report.{fmt}").render(run)
    assert isinstance(text, str)
    return text


def check_path(path: str | Path) -> str:
    """Return the format that a report's suffix asks for, before anything is computed.

    Raises:
        OutputError: unknown suffix, or no file can be written there.
    """
    path = Path(path)
    fmt = SUFFIXES.get(path.suffix.lower())
    if fmt is None:
        suffixes = ", ".join(SUFFIXES)
        raise OutputError(
            "cannot write the report",
            where=str(path),
            why=f"the suffix {path.suffix!r} names no format" if path.suffix else "the name has no suffix",
            fix=f"let the name end in one of {suffixes}",
        )
    require_place(path, "the report")
    return fmt


def write(run: Run, path: str | Path) -> None:
    """Write the report of a run; the suffix of ``path`` decides: .json, .md or .html.

    The file is written beside its target and renamed, so a reader sees the old report or the new one.

    Raises:
        OutputError: unknown suffix, or the file cannot be written.
    """
    path = Path(path)
    text = render(run, check_path(path))
    beside: Path | None = None
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        beside = Path(name)
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
        # mkstemp makes the file private; a report is read by others as far as the user's umask allows.
        mask = os.umask(0)
        os.umask(mask)
        beside.chmod(0o666 & ~mask)
        beside.replace(path)
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        raise OutputError(
            "cannot write the report", where=str(path), why=why, fix="choose another place"
        ) from error
    finally:
        if beside is not None:
            beside.unlink(missing_ok=True)


def print_terminal(run: Run, console: Console | None = None, *, verbose: bool = False) -> None:
    """Print the report of a run to the terminal.

    Args:
        run: what to report.
        console: where to; None: standard output.
        verbose: details too, as in the other formats.
    """
    from onnxcompress.report import terminal  # noqa: PLC0415

    terminal.print_to(run, console, verbose=verbose)
