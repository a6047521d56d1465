"""``onnxcompress sensitivity IN.onnx --method M``: per-layer damage, and a list that --exclude-file reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from onnxcompress.cli import _options as shared
from onnxcompress.cli._chain import Chain, ChainCommand
from onnxcompress.core.errors import OutputError
from onnxcompress.core.places import require_place


@click.command(cls=ChainCommand)
@click.argument("source", metavar="IN.onnx", type=shared.MODEL)
@click.option(
    "--method",
    "methods",
    multiple=True,
    required=True,
    metavar="M",
    help="What each layer is compressed with.",
)
@shared.method_options
@shared.exclude_file
@shared.data
@shared.random_data
@click.option(
    "-n", "--examples", type=click.IntRange(2), default=50, show_default=True, help="Inputs to measure on."
)
@click.option(
    "--above",
    type=click.FloatRange(0),
    metavar="X",
    help="A layer is fragile above this damage (relative l2). [default: clearly over 3 times the median]",
)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), metavar="FILE.toml", help="Write the list here."
)
@shared.measuring
@shared.reporting
@shared.common
def sensitivity(
    *,
    source: Path,
    chain: Chain,
    examples: int,
    above: float | None,
    output: Path | None,
    reports: tuple[Path, ...],
    verbose: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Rank layers by how far compressing each alone moves the outputs."""
    from onnxcompress.cli._progress import Progress  # noqa: PLC0415
    from onnxcompress.cli._reports import check_reports, publish  # noqa: PLC0415
    from onnxcompress.core.resources import Resources  # noqa: PLC0415
    from onnxcompress.pipeline import sensitivity as stage  # noqa: PLC0415

    check_reports(reports, output)
    if output is not None:
        require_place(output, "the list of layers")
        if output.suffix.lower() != ".toml":
            raise OutputError("cannot write the list of layers", where=str(output), fix="let it end in .toml")
    resolved = shared.recipe_of(chain, options)
    with Progress(quiet=quiet) as progress:
        ranked = stage.sensitivity(
            source,
            resolved,
            examples=examples,
            above=above,
            input_shapes=shared.parse_shapes(options["input_shapes"]),
            threads=options["threads"],
            resources=Resources(progress=progress.update),
            command=shared.command(),
        )
    if output is not None:
        stage.save(output, ranked)
    publish(ranked.run, reports, quiet=quiet, verbose=verbose, written=output)
