"""``onnxcompress list methods|encodings|ops``."""

from __future__ import annotations

import click


@click.command("list")
@click.argument("what", type=click.Choice(["methods", "encodings", "ops"]))
def list_(what: str) -> None:
    """List the methods, encodings or operators that are known."""
    {"methods": _methods, "encodings": _encodings, "ops": _ops}[what]()


def _methods() -> None:
    from onnxcompress.methods._base import METHODS  # noqa: PLC0415

    for name, method in sorted(METHODS.items()):
        click.echo(f"{name:16s} {method.summary} (needs {method.needs.value}; {method.source})")


def _encodings() -> None:
    from onnxcompress.encodings._base import ENCODINGS  # noqa: PLC0415

    for name, encoding in sorted(ENCODINGS.items()):
        click.echo(f"{name:16s} {(encoding.__doc__ or '').strip().splitlines()[0]}")


def _ops() -> None:
    from onnxcompress.ops._base import OPS  # noqa: PLC0415

    for (domain, name), op in sorted(OPS.items()):
        flow = "" if op.differentiable else "  no gradient"
        click.echo(f"{(domain + '.' if domain else '') + name:40s}{flow}")
