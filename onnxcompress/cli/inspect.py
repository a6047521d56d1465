"""``onnxcompress inspect IN.onnx``: what a model consists of."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from onnxcompress.cli import _options as shared


@click.command()
@click.argument("source", metavar="IN.onnx", type=shared.MODEL)
@shared.input_shape
@shared.reporting
@shared.common
def inspect(
    *,
    source: Path,
    input_shapes: tuple[str, ...],
    reports: tuple[Path, ...],
    quiet: bool,
    verbose: bool,
    debug: bool,
) -> None:
    """Show layers, bytes and MACs of a model, which weights can be compressed, and what is left alone."""
    from onnxcompress import pipeline  # noqa: PLC0415
    from onnxcompress.cli._reports import check_reports, tell, write_reports  # noqa: PLC0415

    check_reports(reports)
    run = pipeline.inspect(
        source,
        input_shapes=shared.parse_shapes(input_shapes),
        command=("onnxcompress", *sys.argv[1:]),
    )
    write_reports(run, reports)
    if not quiet:
        tell(run, written=None, verbose=verbose)
