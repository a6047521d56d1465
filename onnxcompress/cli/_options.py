"""Options that several commands share, and options made from the methods' own fields."""

from __future__ import annotations

import dataclasses
import sys
import types
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from onnxcompress.cli._chain import Chain, MethodOption
from onnxcompress.core.errors import UsageError
from onnxcompress.core.kinds import MOST_THREADS
from onnxcompress.gates import LIMITS

if TYPE_CHECKING:
    from onnxcompress.recipe import Recipe

F = TypeVar("F", bound=Callable[..., Any])

MODEL = click.Path(path_type=Path)


def apply(*options: Callable[[F], F]) -> Callable[[F], F]:
    """Return a decorator that adds these options, in the order they are written."""

    def decorate(function: F) -> F:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


common = apply(
    click.option("-v", "--verbose", is_flag=True, help="Say more."),
    click.option("-q", "--quiet", is_flag=True, help="Print errors only."),
    click.option("--debug", is_flag=True, expose_value=False, help="Show tracebacks."),  # read in `main`
)

input_shape = click.option(
    "--input-shape",
    "input_shapes",
    multiple=True,
    metavar="NAME:1,3,224,224",
    help="Concrete shape of an input with symbolic dimensions; repeatable.",
)

measuring = apply(
    input_shape,
    click.option(
        "--threads",
        type=click.IntRange(1, MOST_THREADS),
        default=1,
        show_default=True,
        help="CPU threads.",
    ),
    click.option(
        "--seed", type=click.IntRange(0), default=None, help="Seed of every random choice. [default: 0]"
    ),
)

provider = click.option(
    "--provider",
    default="CPUExecutionProvider",
    show_default=True,
    metavar="NAME",
    help="onnxruntime's execution provider to time on.",
)

budget = click.option(
    "--budget",
    "budget_s",
    type=click.FloatRange(min=0.1),
    default=10.0,
    show_default=True,
    help="Seconds for measuring latency.",
)

no_bench = click.option("--no-bench", is_flag=True, help="Do not measure latency and memory.")

reporting = click.option(
    "--report",
    "reports",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="FILE.{html,md,json}",
    help="Write a report; the suffix decides the format; repeatable.",
)

exclude_file = click.option(
    "--exclude-file",
    cls=MethodOption,
    type=click.Path(path_type=Path),
    metavar="FILE.toml",
    help="Leave the layers alone that this file names, as `onnxcompress sensitivity` writes it.",
)

data = apply(
    click.option(
        "--data",
        metavar="PATH",
        help=".npz keyed by input name, .npy, folder of those, folder of images, or module.py:function.",
    ),
    click.option("--labels", metavar="KEY", help="Key of the labels in --data; 'none' ignores labels."),
    click.option(
        "--limit", type=click.IntRange(1), help="Use only this many training examples, drawn with --seed."
    ),
    click.option("--val", type=float, help="Validation share (below 1) or number of examples."),
    click.option(
        "--loss", metavar="ce|mse|l2|kl|MODULE:FUNCTION", help="Training loss. [default: by the data]"
    ),
    click.option(
        "--metric",
        metavar="NAME|MODULE:FUNCTION",
        help="Metric that chooses the best state: top1, top5, mse, agreement, relative_l2.",
    ),
    click.option("--scale", metavar="X", help="Multiply inputs by this (1/255 is understood)."),
    click.option("--mean", metavar="A,B,C", help="Subtract after scaling, per channel."),
    click.option("--std", metavar="A,B,C", help="Divide by after subtracting, per channel."),
    click.option("--image-size", metavar="H,W", help="Resize images of a folder."),
    click.option("--layout", type=click.Choice(["auto", "nchw", "nhwc"]), help="Layout of image inputs."),
    click.option("--color", type=click.Choice(["rgb", "bgr", "gray"]), help="Colour order of images."),
)

random_data = click.option(
    "--random-data",
    is_flag=True,
    help="Train or calibrate on random numbers; only to try things out, marked in the report.",
)

DATA_KEYS = (
    "data", "labels", "limit", "val", "loss", "metric",
    "scale", "mean", "std", "image_size", "layout", "color",
)  # fmt: skip

TAKEN = frozenset(
    (
        *DATA_KEYS,
        *LIMITS,
        "seed",
        "threads",
        "device",
        "max_time",
        "source",
        "result",
        "output",
        "recipe",
        "sparsity",
    )
)
"""Names that a method's option must not have, because the command uses them."""

gates = apply(
    *(
        click.option(
            "--" + name.replace("_", "-"), type=float, metavar="X", help=f"Fail (exit 3) on {limit.help}."
        )
        for name, limit in LIMITS.items()
    )
)


def method_options(function: F) -> F:
    """Add one option for every field of every method; those several methods have are added once."""
    for option, users in reversed(_users().items()):
        function = _option(option, users)(function)
    return click.option(
        "--sparsity",
        cls=MethodOption,
        type=click.FloatRange(0, 1, max_open=True),
        help="Share that goes: 1 − --keep.",
    )(function)


_Users = dict[str, tuple[Any, "dataclasses.Field[Any]"]]
"""Method name -> the type of an option and its field, for the methods that have it."""


def _users() -> dict[str, _Users]:
    """Return option name -> the methods that have it."""
    from onnxcompress.methods._base import METHODS  # noqa: PLC0415
    from onnxcompress.methods._options import option_fields, option_type  # noqa: PLC0415

    found: dict[str, _Users] = {}
    for name in sorted(METHODS):
        for option, field in option_fields(METHODS[name]).items():
            assert option not in TAKEN, f"option {option!r} of method {name!r} hides one of the command's own"
            found.setdefault(option, {})[name] = (option_type(METHODS[name], option), field)
    return found


def _option(name: str, users: _Users) -> Callable[[F], F]:
    """Return the decorator for one option; where methods say different things of it, all are shown."""
    texts: dict[str, list[str]] = {}
    choices: dict[str, None] = {}
    for method, (_, field) in users.items():
        texts.setdefault(_text(field), []).append(method)
        choices.update(dict.fromkeys(field.metadata.get("choices", ())))
    text = " ".join(f"{told} ({', '.join(methods)})".strip() for told, methods in texts.items())
    kind, field = next(iter(users.values()))
    joined = any(field.metadata.get("joined", False) for _, field in users.values())
    known = {**field.metadata, **({"choices": choices} if choices else {}), "joined": joined}
    return _click_option(name, kind, known, text)


def _text(field: dataclasses.Field[Any]) -> str:
    text = str(field.metadata.get("help", ""))
    default = None if field.default is dataclasses.MISSING else field.default
    shown = default not in (None, ()) and not isinstance(default, bool)
    return f"{text} [default: {default}]" if shown else text


def _click_option(name: str, kind: Any, metadata: Mapping[str, Any], text: str) -> Callable[[F], F]:
    flag = "--" + name.replace("_", "-")
    base = _plain_type(kind)
    given: dict[str, Any] = {"cls": MethodOption, "help": text, "joined": metadata.get("joined", False)}
    if "choices" in metadata:
        return click.option(flag, name, type=click.Choice(list(metadata["choices"])), **given)
    if base is bool:
        return click.option(f"{flag}/--no-{flag[2:]}", name, **given)
    if base is tuple:
        given["help"] += " Repeatable."
        return click.option(flag, name, repeatable=True, metavar=metadata.get("metavar", "GLOB"), **given)
    return click.option(flag, name, type=base, **given)


def _plain_type(kind: Any) -> type:
    origin = typing.get_origin(kind)
    if origin in (typing.Union, types.UnionType):
        return _plain_type(next(a for a in typing.get_args(kind) if a is not type(None)))
    if origin is typing.Literal:
        return str
    return typing.cast(type, origin or kind)


def recipe_of(chain: Chain, options: Mapping[str, Any], file: Path | None = None) -> Recipe:
    """Return the recipe of the methods and data on the command line, on top of a file's."""
    from onnxcompress import recipe  # noqa: PLC0415

    return recipe.build(
        chain.names,
        chain.common,
        own=chain.own,
        data=data_options(options),
        seed=options["seed"],
        file=file,
    )


def command() -> tuple[str, ...]:
    """Return the words the program was called with, for the report."""
    return ("onnxcompress", *sys.argv[1:])


def known_provider(name: str) -> str:
    """Return the provider of that name, short or long; raises UsageError where this machine has none."""
    from onnxcompress.engine import runtime  # noqa: PLC0415

    there = runtime.providers()
    for known in there:
        if name.lower() in (known.lower(), known.lower().removesuffix("executionprovider")):
            return known
    raise UsageError(f"there is no provider {name!r} here", fix=f"choose one of {', '.join(there)}")


def parse_shapes(specs: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
    """Parse ``name:1,3,224,224`` (names may hold colons; ``x`` works as separator too)."""
    shapes: dict[str, tuple[int, ...]] = {}
    for spec in specs:
        name, _, dims = spec.rpartition(":")
        try:
            shape = tuple(int(d) for d in dims.replace("x", ",").split(",") if d != "")
        except ValueError:
            name = ""
            shape = ()
        if not name or any(d < 0 for d in shape) or (dims and not shape):
            raise UsageError(f"cannot read --input-shape {spec!r}", fix="write NAME:1,3,224,224")
        if name in shapes:
            both = " and ".join(",".join(map(str, each)) for each in (shapes[name], shape))
            raise UsageError(
                f"--input-shape gives input {name!r} twice",
                why=f"found {both}",
                fix="keep the one that is meant",
            )
        shapes[name] = shape
    return shapes


def data_options(values: Mapping[str, Any]) -> dict[str, Any]:
    """Turn the data flags into data options of a recipe; flags that were not given are left out."""
    readers: dict[str, Callable[[str], Any]] = {
        "scale": _number,
        "mean": _numbers,
        "std": _numbers,
        "image_size": lambda text: tuple(int(n) for n in _numbers(text.replace("x", ","))),
    }
    options: dict[str, Any] = {"random": True} if values.get("random_data") else {}
    for key in DATA_KEYS:
        value = values[key]
        if value is None:
            continue
        name = "path" if key == "data" else key
        try:
            options[name] = readers[key](value) if key in readers else value
        except (ValueError, ZeroDivisionError) as error:
            raise UsageError(f"cannot read --{key.replace('_', '-')} {value!r}", why=str(error)) from error
    return options


def _number(text: str) -> float:
    numerator, _, denominator = text.partition("/")
    return float(numerator) / (float(denominator) if denominator else 1.0)


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(_number(part) for part in text.split(","))
