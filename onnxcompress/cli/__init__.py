"""The command line: parse, call, print. Every sub-command is one file of this folder."""

from __future__ import annotations

import contextlib
import errno
import io
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import NoReturn

import click

from onnxcompress.cli._group import commands
from onnxcompress.core.errors import OnnxCompressError, OutputError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_OF_THE_SYSTEM = (*_FULL, errno.EIO, errno.EROFS, errno.EMFILE, errno.ENFILE)
"""What the operating system refuses for reasons of its own: a full disk, no further open files."""


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit with its code; errors show a traceback only with --debug."""
    # Not `list(...)`: once the command of that name was imported, it is a name of this package.
    arguments = [*(sys.argv[1:] if arguments is None else arguments)]
    debug = "--debug" in arguments
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="replace")  # a terminal that knows no "±" must not end a run
    try:
        with _ended_as_interrupted():
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
    except (KeyboardInterrupt, click.Abort) as error:
        click.echo(f"interrupted: {str(error.__cause__ or error) or 'no model was written'}", err=True)
        code = 130
    except BrokenPipeError:
        code = 141
    except SystemExit as stop:
        if stop.code != 1:
            raise
        # click and rich leave so where nobody reads any more; what the user's own functions raise is caught
        code = 141
    except Exception as error:  # the last door
        if debug:
            traceback.print_exc()
        code = _tell(error, debug=debug)
    sys.exit(code if isinstance(code, int) else 0)


def _tell(error: Exception, *, debug: bool) -> int:
    """Say in one line what nobody foresaw, and return the exit code."""
    if isinstance(error, OSError) and error.errno in _OF_THE_SYSTEM:
        where = None if error.filename is None else str(error.filename)
        fix = "make room; TMPDIR names another folder for temporary files" if error.errno in _FULL else None
        refused = OutputError("the operating system refuses", where=where, why=error.strerror, fix=fix)
        click.echo(f"error: {refused}", err=True)
        return refused.exit_code
    if not debug:  # a bug of ours
        click.echo(
            f"internal error: {type(error).__name__}: {error}; "
            "run again with --debug for the traceback and report it",
            err=True,
        )
    return 1


@contextlib.contextmanager
def _ended_as_interrupted() -> Iterator[None]:
    """Let SIGTERM end a run as Ctrl-C does, so that temporary files go.

    The first process of a container would not even be ended by it otherwise.
    """

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    main_thread = threading.current_thread() is threading.main_thread()
    if not main_thread or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
