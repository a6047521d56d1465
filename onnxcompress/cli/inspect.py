"""``onnxcompress inspect IN.onnx``: what a model consists of, and which channels can be cut."""

from __future__ import annotations

from pathlib import Path

import click

from onnxcompress.cli import _options as shared


@click.command()
@click.argument("source", metavar="IN.onnx", type=shared.MODEL)
@shared.input_shape
@click.option(
    "--groups/--no-groups",
    default=True,
    show_default=True,
    help="Find the channel groups too: what must be cut together, and what cannot be cut and why.",
)
@shared.reporting
@shared.common
def inspect(
    *,
    source: Path,
    input_shapes: tuple[str, ...],
    groups: bool,
    reports: tuple[Path, ...],
    quiet: bool,
    verbose: bool,
) -> None:
    """Show layers, bytes and MACs of a model, its channel groups, and what is left alone and why."""
    from onnxcompress import pipeline  # noqa: PLC0415
    from onnxcompress.cli._reports import check_reports, publish  # noqa: PLC0415

    check_reports(reports)
    run = pipeline.inspect(
        source,
        input_shapes=shared.parse_shapes(input_shapes),
        groups=groups,
        command=shared.command(),
    )
    publish(run, reports, quiet=quiet, verbose=verbose)
