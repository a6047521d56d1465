"""The command line: parse, call, print. Every sub-command is one file of this folder."""

from __future__ import annotations

import io
import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn

import click

from onnxcompress.cli._group import commands
from onnxcompress.core.errors import OnnxCompressError


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit with its code; errors show a traceback only with --debug."""
    # Not `list(...)`: once the command of that name was imported, it is a name of this package.
    arguments = [*(sys.argv[1:] if arguments is None else arguments)]
    debug = "--debug" in arguments
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="replace")  # a terminal that knows no "±" must not end a run
    try:
        code = commands.main(args=arguments, prog_name="onnxcompress", standalone_mode=False)
    except click.exceptions.Exit as stop:
        code = stop.exit_code
    except click.ClickException as error:
        if debug:
            traceback.print_exc()
        if isinstance(error, click.UsageError) and error.ctx is not None:
            click.echo(error.ctx.get_usage(), err=True)
        click.echo(f"error: {error.format_message()}", err=True)
        code = 2
    except OnnxCompressError as error:
        if debug:
            traceback.print_exc()
        click.echo(f"error: {error}", err=True)
        code = error.exit_code
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted: no model was written", err=True)
        code = 130
    except BrokenPipeError:
        code = 141
    except Exception as error:  # the last door: a bug of ours, told in one line
        if debug:
            traceback.print_exc()
        else:
            click.echo(
                f"internal error: {type(error).__name__}: {error}; "
                "run again with --debug for the traceback and report it",
                err=True,
            )
        code = 1
    sys.exit(code if isinstance(code, int) else 0)
