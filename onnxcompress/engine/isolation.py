"""A child process for work that an untrusted or huge model could take down: crash, hang, memory bomb.

``isolated(function, …)`` calls a module-level function in a child and returns its result. Errors of ours
come back as they are; a child that dies, hangs or outgrows its memory becomes one sentence.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import pickle
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, TypeVar

from onnxcompress.core.errors import OnnxCompressError, UnsupportedError

R = TypeVar("R")

_LENGTH = struct.Struct("<Q")
_PACKAGE_ROOT = str(Path(__file__).resolve().parents[2])
_kept: _Child | None = None
_lock = threading.Lock()


class _Child:
    """One child process that serves calls over its pipes until they are closed."""

    def __init__(self, memory_bytes: int | None) -> None:
        paths = [_PACKAGE_ROOT, os.environ.get("PYTHONPATH", "")]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in paths if p)}
        self.owner = os.getpid()
        self.memory_bytes = memory_bytes
        self._process = subprocess.Popen(
            # -P: whatever lies in the working directory must not be imported instead of a library
            [sys.executable, "-P", "-c", "from onnxcompress.engine.isolation import serve; serve()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment | {"ONNXCOMPRESS_CHILD_MEMORY": str(memory_bytes or 0)},
        )

    def call(self, function: Callable[..., Any], args: tuple[Any, ...], timeout_s: float) -> Any:
        """Return ``(True, result)`` or ``(False, error)``; raises UnsupportedError when the child is gone."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        timed_out = threading.Event()

        def give_up() -> None:
            timed_out.set()
            self._process.kill()

        timer = threading.Timer(timeout_s, give_up)
        timer.daemon = True
        timer.start()
        try:
            _send(self._process.stdin, (function, args))
            return _receive(self._process.stdout)
        except (EOFError, OSError, pickle.UnpicklingError) as error:
            self._process.kill()
            why = self._last_words(timed_out.is_set(), timeout_s)
            raise UnsupportedError("onnxruntime cannot handle this model", why=why) from error
        finally:
            timer.cancel()

    def _last_words(self, timed_out: bool, timeout_s: float) -> str:
        code = self._process.wait()
        if timed_out:
            return f"it was still not done after {timeout_s:.0f} s"
        if code < 0:
            with contextlib.suppress(ValueError):
                return f"its process was ended by {signal.Signals(-code).name}"
        return f"its process ended with status {code}"

    def close(self) -> None:
        """End the child; a copy inherited by a forked process leaves it alone."""
        if self.owner != os.getpid():
            return
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


def isolated(
    function: Callable[..., R],
    *args: Any,
    timeout_s: float,
    memory_bytes: int | None = None,
    fresh: bool = True,
) -> R:
    """Call ``function(*args)`` in a child process and return its result.

    Args:
        function: a function at the top level of a module of this package.
        args: its positional arguments; pickled, as the result is.
        timeout_s: the child is killed after this many seconds.
        memory_bytes: address space the child may use (POSIX), in bytes; None: no limit.
        fresh: start a new child for this call (needed to measure memory); False: reuse the kept one.

    Raises:
        OnnxCompressError: what the function raised.
        UnsupportedError: the child crashed, hung or ran out of memory.
    """
    if fresh:
        child = _Child(memory_bytes)
        try:
            ok, result = child.call(function, args, timeout_s)
        finally:
            child.close()
    else:
        with _lock:
            child = _kept_child(memory_bytes)
            try:
                ok, result = child.call(function, args, timeout_s)
            except BaseException:
                close_kept_child()
                raise
    if not ok:
        raise result
    return result  # type: ignore[no-any-return]


def _kept_child(memory_bytes: int | None) -> _Child:
    global _kept  # noqa: PLW0603 (one child per process, ended at exit)
    if _kept is None or _kept.owner != os.getpid() or _kept.memory_bytes != memory_bytes:
        close_kept_child()
        _kept = _Child(memory_bytes)
    return _kept


def close_kept_child() -> None:
    """End the child that ``fresh=False`` keeps, if there is one."""
    global _kept  # noqa: PLW0603
    if _kept is not None:
        _kept.close()
        _kept = None


atexit.register(close_kept_child)


def serve() -> None:
    """Answer calls until the parent closes the pipe. The child's own standard output goes nowhere."""
    _limit_memory(int(os.environ.get("ONNXCOMPRESS_CHILD_MEMORY", "0")))
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    while True:
        try:
            function, args = _receive(requests)
        except EOFError:
            return
        try:
            answer = (True, function(*args))
        except OnnxCompressError as error:
            answer = (False, error)
        except MemoryError:
            answer = (False, UnsupportedError("onnxruntime cannot handle this model", why="out of memory"))
        _send(answers, answer)


def _limit_memory(limit: int) -> None:
    if limit:
        with contextlib.suppress(ImportError, ValueError, OSError):
            import resource  # noqa: PLC0415 (POSIX only)

            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _send(pipe: IO[bytes], message: Any) -> None:
    data = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
    pipe.write(_LENGTH.pack(len(data)))
    pipe.write(data)
    pipe.flush()


def _receive(pipe: IO[bytes]) -> Any:
    header = pipe.read(_LENGTH.size)
    if len(header) < _LENGTH.size:
        raise EOFError
    (length,) = _LENGTH.unpack(header)
    data = pipe.read(length)
    if len(data) < length:
        raise EOFError
    return pickle.loads(data)
