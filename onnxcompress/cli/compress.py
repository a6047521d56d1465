"""``onnxcompress IN.onnx --method M``: the default command."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from onnxcompress.cli import _options as shared
from onnxcompress.cli._chain import Chain, ChainCommand
from onnxcompress.cli._gates import demands as asked_for
from onnxcompress.cli._gates import further
from onnxcompress.core.errors import OutputError, UsageError
from onnxcompress.core.places import require_folder, require_place
from onnxcompress.gates import LIMITS, require


@click.command(cls=ChainCommand)
@click.argument("source", metavar="IN.onnx", type=shared.MODEL)
@click.argument("result", metavar="[OUT.onnx]", required=False, type=shared.MODEL)
@click.option(
    "-o", "--output", type=shared.MODEL, help="Output file. [default: IN.<method>.onnx beside the input]"
)
@click.option(
    "--method",
    "methods",
    multiple=True,
    metavar="M",
    help="Method; several run one after the other, each with the options behind it.",
)
@shared.method_options
@shared.exclude_file
@click.option("--recipe", type=shared.MODEL, help="TOML file with methods and options; flags win over it.")
@click.option("--save-recipe", type=shared.MODEL, help="Write the resolved recipe here.")
@shared.data
@shared.random_data
@click.option("--device", default="cpu", show_default=True, help="cpu or cuda, for training.")
@click.option(
    "--max-time",
    type=click.FloatRange(min=0, min_open=True),
    metavar="S",
    help="Train for so many seconds at most, all methods together.",
)
@click.option(
    "--checkpoint", type=click.Path(path_type=Path), metavar="DIR", help="Keep the training state here."
)
@click.option(
    "--resume", type=click.Path(path_type=Path), metavar="DIR", help="Go on from the state kept there."
)
@shared.measuring
@shared.reporting
@shared.gates
@further
@click.option("--no-fold", is_flag=True, help="Keep constants that are subtracted from a layer's input.")
@shared.no_bench
@click.option("--dry-run", is_flag=True, help="Do everything except writing the output.")
@click.option("--overwrite", is_flag=True, help="Replace an existing output (never the input).")
@shared.common
def compress(
    *,
    source: Path,
    result: Path | None,
    output: Path | None,
    chain: Chain,
    recipe: Path | None,
    save_recipe: Path | None,
    device: str,
    max_time: float | None,
    checkpoint: Path | None,
    resume: Path | None,
    reports: tuple[Path, ...],
    no_fold: bool,
    no_bench: bool,
    dry_run: bool,
    overwrite: bool,
    verbose: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Compress a model, prove the result in onnxruntime, and say what it cost."""
    from onnxcompress import pipeline  # noqa: PLC0415
    from onnxcompress.cli._progress import Progress  # noqa: PLC0415
    from onnxcompress.cli._reports import check_reports, publish  # noqa: PLC0415
    from onnxcompress.core.resources import Resources  # noqa: PLC0415

    if result is not None and output is not None:
        raise UsageError("the output is given twice", fix="use either OUT.onnx or --output")
    demands = asked_for(options)
    limits = {key: options[key] for key in LIMITS if options[key] is not None}
    resolved = shared.recipe_of(chain, options, recipe)
    result = output or result or pipeline.default_output(source, resolved)
    limits = demands.limits(limits, [result.name, source.name])
    check_reports(reports, save_recipe, result)
    _check_places(save_recipe, checkpoint, resume)
    state = resume or checkpoint
    with _telling_of_state(state), Progress(quiet=quiet) as progress:
        run = pipeline.compress(
            pipeline.Request(
                source=source,
                recipe=resolved,
                output=None if dry_run else result,
                overwrite=overwrite,
                input_shapes=shared.parse_shapes(options["input_shapes"]),
                threads=options["threads"],
                resources=Resources(
                    device=device,
                    max_time_s=max_time,
                    checkpoint_dir=state,
                    resume=resume is not None,
                    progress=progress.update,
                ),
                limits=limits,
                fold=not no_fold,
                benchmark=not no_bench,
                command=shared.command(),
                name=result.name,
            )
        )
    written = None if dry_run else result
    with _telling_of_model(written):
        if save_recipe:
            resolved.save(save_recipe)
        run = demands.decided(run, each=False)
        publish(run, reports, quiet=quiet, verbose=verbose, written=written)
    require(run, strict=demands.strict)


@contextlib.contextmanager
def _telling_of_state(folder: Path | None) -> Iterator[None]:
    """Say how to go on where an interrupted run left its training state."""
    try:
        yield
    except KeyboardInterrupt:
        if folder is not None and any(folder.rglob("*.npz")):
            click.echo(f"the training state is kept: --resume {folder} goes on from there", err=True)
        raise


@contextlib.contextmanager
def _telling_of_model(written: Path | None) -> Iterator[None]:
    """Say that there is a model where an interruption comes after it, while reports are written."""
    try:
        yield
    except KeyboardInterrupt:
        if written is None:
            raise
        raise KeyboardInterrupt(
            f"{written} was written before, what was to come after it perhaps not"
        ) from None


def _check_places(save_recipe: Path | None, checkpoint: Path | None, resume: Path | None) -> None:
    """Raise UsageError where the recipe or the training state could not be kept or found."""
    if save_recipe is not None:
        require_place(save_recipe, "the recipe")
        if save_recipe.suffix.lower() != ".toml":
            raise OutputError("cannot write the recipe", where=str(save_recipe), fix="let it end in .toml")
    if checkpoint is not None:
        require_folder(checkpoint, "the training state")
    if resume is None:
        return
    if checkpoint is not None and checkpoint.resolve() != resume.resolve():
        raise UsageError("--checkpoint and --resume name two folders", fix="--resume keeps the state too")
    if not resume.is_dir():
        raise UsageError(
            "there is nothing to resume",
            where=str(resume),
            why="there is no such folder",
            fix="name the one given to --checkpoint",
        )
