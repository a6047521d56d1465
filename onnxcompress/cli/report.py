"""``onnxcompress report RUN.json --html OUT.html``: render a stored run again."""

from __future__ import annotations

from pathlib import Path

import click

from onnxcompress.cli import _options as shared
from onnxcompress.core.errors import OutputError, UsageError


@click.command()
@click.argument("stored", metavar="RUN.json", type=click.Path(path_type=Path))
@click.option("--html", type=click.Path(path_type=Path), help="Write a self-contained page.")
@click.option("--md", type=click.Path(path_type=Path), help="Write Markdown.")
@shared.common
def report(*, stored: Path, html: Path | None, md: Path | None, quiet: bool, verbose: bool) -> None:
    """Render a stored run; without --html or --md it is printed."""
    from onnxcompress.cli._reports import check_reports, publish  # noqa: PLC0415
    from onnxcompress.core.run import Run  # noqa: PLC0415

    try:
        run = Run.from_json(stored.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError("cannot read the run", where=str(stored), why=error.strerror) from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        why = str(error) if isinstance(error, ValueError) else "parts of a run are missing or of another kind"
        raise UsageError("this is not a stored run", where=str(stored), why=why) from error
    paths = [path for path in (html, md) if path is not None]
    for path, suffix in ((html, ".html"), (md, ".md")):
        if path is not None and path.suffix.lower() != suffix:
            raise OutputError("cannot write the report", where=str(path), fix=f"let it end in {suffix}")
    check_reports(paths)
    publish(run, paths, quiet=quiet or bool(paths), verbose=verbose)
