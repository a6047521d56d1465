"""``onnxcompress compare A.onnx B.onnx``: the latency comparison report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from onnxcompress.cli import _options as shared
from onnxcompress.cli._gates import demands as asked_for
from onnxcompress.cli._gates import further
from onnxcompress.core.errors import UsageError
from onnxcompress.gates import LIMITS, require


@click.command()
@click.argument("sources", metavar="A.onnx B.onnx ...", nargs=-1, required=True, type=shared.MODEL)
@shared.data
@shared.measuring
@shared.provider
@shared.budget
@shared.no_bench
@shared.reporting
@shared.gates
@further
@shared.common
def compare(
    *,
    sources: tuple[Path, ...],
    budget_s: float,
    no_bench: bool,
    reports: tuple[Path, ...],
    quiet: bool,
    verbose: bool,
    **options: Any,
) -> None:
    """Compare models with the first one: outputs, size, latency."""
    from onnxcompress import pipeline  # noqa: PLC0415
    from onnxcompress.cli._reports import check_reports, publish  # noqa: PLC0415

    if len(sources) < 2:
        raise UsageError("there is nothing to compare with", fix="name two or more models, or use `bench`")
    check_reports(reports)
    demands = asked_for(options)
    demands.check_each(sources, benchmark=not no_bench, data=bool(options["data"]) and len(sources) == 2)
    run = pipeline.compare(
        sources,
        data=shared.data_options(options),
        input_shapes=shared.parse_shapes(options["input_shapes"]),
        seed=options["seed"] or 0,
        threads=options["threads"],
        benchmark=not no_bench,
        budget_s=budget_s,
        provider=shared.known_provider(options["provider"]),
        limits={key: options[key] for key in LIMITS if options[key] is not None},
        command=shared.command(),
        hold_out=demands.held_out,
    )
    run = demands.decided(run, each=True)
    publish(run, reports, quiet=quiet, verbose=verbose)
    require(run, strict=demands.strict)
