"""The group of commands: `compress` is the default, every other one is imported when it is called."""

from __future__ import annotations

import importlib
from typing import Any

import click

from onnxcompress import __version__

COMMANDS = {
    "compress": "compress a model (the default: the word may be left out)",
    "inspect": "layers, bytes, MACs of a model, and what would be left alone",
    "compare": "outputs, size and latency of models side by side",
    "bench": "latency only, interleaved, with confidence intervals",
    "sensitivity": "rank layers by how far compressing each alone moves the outputs",
    "report": "render a stored run (JSON) again",
    "pack": "put a model into a small archive for transport",
    "unpack": "get the model out of such an archive, bit by bit",
    "list": "methods, encodings or operators",
}

CONTEXT = {
    "help_option_names": ["-h", "--help"],
    "max_content_width": 110,
    # People type --group_size as well as --group-size.
    "token_normalize_func": lambda token: token.replace("_", "-") if token.startswith("-") else token,
}


class Commands(click.Group):
    """Sub-commands by name; anything that is not one of them is the input of ``compress``."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands in the order they are explained."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command's file and return the command."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"onnxcompress.cli.{cmd_name}")
        # A trailing underscore keeps `list` from hiding the built-in one in its own file.
        command = getattr(module, cmd_name, None) or getattr(module, f"{cmd_name}_")
        assert isinstance(command, click.Command)
        return command

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put ``compress`` in front where no command is named."""
        own = {"-h", "--help", "--version"}
        if args and args[0] not in COMMANDS and args[0] not in own:
            args = ["compress", *args]
        return super().parse_args(ctx, args or ["--help"])

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands without importing them, then the options of the default one."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))
        compress = self.get_command(ctx, "compress")
        assert compress is not None
        compress.format_options(ctx, formatter)

    def format_usage(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the usage of the default command first: it is what most people want."""
        formatter.write_usage(ctx.command_path, "IN.onnx [OUT.onnx] --method METHOD [OPTIONS]")
        formatter.write_usage(ctx.command_path, "COMMAND [OPTIONS]")


def _group(**_: Any) -> None:
    """Make an ONNX model smaller and faster, and prove what it cost.

    \b
    onnxcompress in.onnx --method lc-quant --bits 2 --data train.npz --report run.html
    onnxcompress in.onnx --method lc-quant --bits 4          (no data: post-training)
    onnxcompress compare in.onnx in.lc-quant.onnx
    """


commands = Commands(
    name="onnxcompress",
    callback=_group,
    help=_group.__doc__,
    context_settings=CONTEXT,
    invoke_without_command=True,
    params=[
        click.Option(
            ["--version"],
            is_flag=True,
            is_eager=True,
            expose_value=False,
            help="Show the version and exit.",
            callback=lambda ctx, param, value: _version(ctx) if value else None,
        )
    ],
)


def _version(ctx: click.Context) -> None:
    click.echo(f"onnxcompress {__version__}")
    ctx.exit(0)
