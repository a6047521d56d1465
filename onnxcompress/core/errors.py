"""Everything that can go wrong, as one tree.

::

    OnnxCompressError            exit code 1   something of ours is broken
    ├── UsageError               exit code 2   the command or its options are wrong
    │   ├── DataError                          the data given cannot be used
    │   └── OutputError                        the output cannot be written
    ├── GateError                exit code 3   a gate the user asked for failed
    ├── UnsupportedError         exit code 4   the model cannot be handled
    │   ├── ModelImportError                   the file is not a model we can read
    │   ├── ExecutionError                     one of its operators cannot be executed
    │   └── NothingChangedError                nothing would have changed
    └── VerificationError        exit code 5   the result is not what was promised

A message is one sentence: what, where, why, and what to do about it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar


class OnnxCompressError(Exception):
    """Base of all errors a user may see; renders as one sentence.

    Args:
        what: what went wrong, starting with a lower-case noun ("weight 'fc.w' holds NaN").
        where: the file, node, operator or weight it happened at.
        why: the cause.
        fix: what the user can do.

    >>> str(OnnxCompressError("cannot read model", where="a.onnx", why="empty file", fix="export it again"))
    'cannot read model (a.onnx): empty file; export it again'
    """

    exit_code: ClassVar[int] = 1

    def __init__(
        self, what: str, *, where: str | None = None, why: str | None = None, fix: str | None = None
    ) -> None:
        self.what, self.where, self.why, self.fix = what, where, why, fix
        message = what
        if where:
            message += f" ({where})"
        if why:
            message += f": {why}"
        if fix:
            message += f"; {fix}"
        super().__init__(message)


class UsageError(OnnxCompressError):
    """The command line or the arguments of the call are wrong."""

    exit_code = 2


class DataError(UsageError):
    """The data given with ``--data`` cannot be used for this model."""


class OutputError(UsageError):
    """The output, or a report, cannot be written where it was asked for."""


class GateError(OnnxCompressError):
    """A limit that the user set (size, latency, error, agreement) does not hold.

    Attributes:
        result: what ``compress`` or ``compare`` would have returned in Python: it was made and measured.
    """

    exit_code = 3
    result: object = None


class UnsupportedError(OnnxCompressError):
    """The model, or a part of it that cannot be left alone, is not supported."""

    exit_code = 4


class ExecutionError(UnsupportedError):
    """An operator cannot be executed on what it was given."""


class ModelImportError(UnsupportedError):
    """The file is not a model that can be read; lists every problem found, not only the first."""

    def __init__(self, path: str, problems: Sequence[str], *, fix: str | None = None) -> None:
        self.problems = tuple(problems)
        super().__init__("cannot import the model", where=path, why="; ".join(self.problems), fix=fix)


class NothingChangedError(UnsupportedError):
    """The method left every weight and every channel alone, so there is nothing to write."""


class VerificationError(OnnxCompressError):
    """The compressed model does not compute what the method decided."""

    exit_code = 5
