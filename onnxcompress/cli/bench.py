"""``onnxcompress bench A.onnx [B.onnx ...]``: latency only."""

from __future__ import annotations

from pathlib import Path

import click

from onnxcompress.cli import _options as shared


@click.command()
@click.argument("sources", metavar="A.onnx [B.onnx ...]", nargs=-1, required=True, type=shared.MODEL)
@shared.measuring
@shared.provider
@shared.budget
@shared.reporting
@shared.common
def bench(
    *,
    sources: tuple[Path, ...],
    input_shapes: tuple[str, ...],
    threads: int,
    provider: str,
    seed: int | None,
    budget_s: float,
    reports: tuple[Path, ...],
    quiet: bool,
    verbose: bool,
) -> None:
    """Measure latency, load time and memory; several models interleaved, each against the first."""
    from onnxcompress import pipeline  # noqa: PLC0415
    from onnxcompress.cli._reports import check_reports, publish  # noqa: PLC0415

    check_reports(reports)
    run = pipeline.compare(
        sources,
        input_shapes=shared.parse_shapes(input_shapes),
        seed=seed or 0,
        threads=threads,
        outputs=False,
        budget_s=budget_s,
        provider=shared.known_provider(provider),
        command=shared.command(),
    )
    publish(run, reports, quiet=quiet, verbose=verbose)
