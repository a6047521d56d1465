"""``onnxcompress unpack FILE.onnx.zst``: the model out of an archive."""

from __future__ import annotations

from pathlib import Path

import click

from onnxcompress.cli import _options as shared


@click.command()
@click.argument("source", metavar="FILE.onnx.zst", type=shared.MODEL)
@click.option(
    "-o",
    "--output",
    type=shared.MODEL,
    help="Model to write; external data goes beside it. [default: the archive's name without .zst]",
)
@click.option(
    "--limit-bytes",
    type=click.IntRange(min=1),
    default=1 << 34,
    show_default=True,
    help="Refuse an archive that says it holds more.",
)
@click.option("--overwrite", is_flag=True, help="Replace existing files.")
@shared.common
def unpack(
    *,
    source: Path,
    output: Path | None,
    limit_bytes: int,
    overwrite: bool,
    quiet: bool,
    verbose: bool,
) -> None:
    """Get a model out of an archive that `pack` wrote, with the bytes it had; a checksum proves it."""
    from onnxcompress.cli._progress import Progress  # noqa: PLC0415
    from onnxcompress.pipeline import packing  # noqa: PLC0415
    from onnxcompress.report.format import size  # noqa: PLC0415

    with Progress(quiet=quiet) as progress:
        unpacked = packing.unpack(
            source,
            output,
            overwrite=overwrite,
            limit_bytes=limit_bytes,
            tell=progress.update,
        )
    if quiet:
        return
    click.echo(f"{size(unpacked.packed_bytes).text} became {size(unpacked.size_bytes).text}")
    for path in unpacked.files:
        click.echo(f"wrote {path}")
