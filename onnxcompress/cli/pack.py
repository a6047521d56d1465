"""``onnxcompress pack FILE.onnx``: an archive for transport."""

from __future__ import annotations

from pathlib import Path

import click

from onnxcompress.cli import _options as shared


@click.command()
@click.argument("source", metavar="FILE.onnx", type=shared.MODEL)
@click.option(
    "-o", "--output", type=shared.MODEL, help="Archive to write. [default: FILE.onnx.zst beside the model]"
)
@click.option(
    "--level", type=click.IntRange(1, 22), default=19, show_default=True, help="From fast (1) to small (22)."
)
@click.option(
    "--plain",
    is_flag=True,
    help="Do without the order of bytes that compresses better, so that `zstd -d` unpacks it too.",
)
@click.option("--overwrite", is_flag=True, help="Replace an existing archive.")
@shared.common
def pack(
    *,
    source: Path,
    output: Path | None,
    level: int,
    plain: bool,
    overwrite: bool,
    quiet: bool,
    verbose: bool,
) -> None:
    """Put a model and its external data into a small archive; `unpack` gives the same bytes again."""
    from onnxcompress.cli._progress import Progress  # noqa: PLC0415
    from onnxcompress.pipeline import packing  # noqa: PLC0415
    from onnxcompress.report.format import percent, size  # noqa: PLC0415

    with Progress(quiet=quiet) as progress:
        packed = packing.pack(
            source,
            output,
            level=level,
            plain=plain,
            overwrite=overwrite,
            tell=progress.update,
        )
    if quiet:
        return
    share = percent(packed.packed_bytes / max(1, packed.size_bytes)).text
    zipped = percent(packed.gzip_bytes / max(1, packed.size_bytes)).text
    click.echo(
        f"{size(packed.size_bytes).text} became {size(packed.packed_bytes).text} ({share}); "
        f"gzip makes {size(packed.gzip_bytes).text} ({zipped}) of it"
    )
    if verbose:
        click.echo(f"{packed.size_bytes} bytes of {', '.join(packed.files)}, {packed.packed_bytes} packed")
    click.echo(f"wrote {packed.path}")
