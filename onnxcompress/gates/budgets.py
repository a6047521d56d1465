"""Budgets: one TOML file with the limits of several models, of which each run takes those of its own.

::

    [default]                      # for every model, unless its own entry says otherwise
    max_abs_err = 0.05

    [models."detector*.onnx"]      # file name, or a glob on it; the first that matches counts
    max_bytes = 400_000
    max_latency_ratio = 0.8
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from onnxcompress.core.errors import UsageError
from onnxcompress.core.run import Gate, Run
from onnxcompress.gates.limits import LIMITS, check_value, decide


@dataclass(frozen=True)
class Budgets:
    """Limits of several models.

    Attributes:
        where: the file, for messages.
        default: gate name -> limit, of every model.
        models: glob on file names -> gate name -> limit.
    """

    where: str
    default: Mapping[str, float]
    models: Mapping[str, Mapping[str, float]]

    def of(self, names: Iterable[str]) -> dict[str, float] | None:
        """Return the limits of the model of one of these names; None where no entry is about it."""
        for glob, limits in self.models.items():
            if any(name == glob or fnmatchcase(name, glob) for name in names):
                return {**self.default, **limits}
        return dict(self.default) if self.default else None

    def limits(self, names: Iterable[str]) -> dict[str, float]:
        """Return the limits of the model of one of these names; raises UsageError where there are none."""
        names = list(names)
        found = self.of(names)
        if found is None:
            raise UsageError(
                "the budgets say nothing of this model",
                where=self.where,
                why=f"no entry matches {' or '.join(map(repr, names))}",
                fix=f'add [models."{names[-1]}"], or [default]',
            )
        return found

    def decide(self, run: Run) -> tuple[Gate, ...]:
        """Return the verdicts on each compared model by its own limits.

        Raises:
            UsageError: no entry is about any of the models.
        """
        gates: list[Gate] = []
        known = False
        for index, model in enumerate(run.models):
            if index == 0 and len(run.models) > 1:
                continue
            limits = self.of(_names(model.name))
            if limits is not None:
                known = True
                gates += decide(_only(run, index), limits, model=model.name)
        if not known:
            self.limits([name for model in run.models[1:] or run.models for name in _names(model.name)])
        return tuple(gates)


def read_budgets(path: Path) -> Budgets:
    """Read a budgets file; raises UsageError where it cannot be read or names a gate that does not exist."""
    where = str(path)
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError("cannot read the budgets", where=where, why=error.strerror) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError("the budgets are not valid TOML", where=where, why=str(error)) from error
    unknown = set(content) - {"default", "models"}
    if unknown:
        raise UsageError(
            f"the budgets have an unknown entry {sorted(unknown)[0]!r}",
            where=where,
            fix='there may be [default] and [models."NAME"]',
        )
    models = content.get("models", {})
    if not isinstance(models, dict):
        raise UsageError("[models] of the budgets must be a table", where=where)
    return Budgets(
        where,
        _limits("default", content.get("default", {}), where),
        {name: _limits(f'models."{name}"', limits, where) for name, limits in models.items()},
    )


def _limits(entry: str, found: Any, where: str) -> dict[str, float]:
    if not isinstance(found, dict):
        raise UsageError(f"[{entry}] of the budgets must be a table", where=where, why=f"found {found!r}")
    for name, limit in found.items():
        if name not in LIMITS:
            close = difflib.get_close_matches(name, LIMITS, 1)
            raise UsageError(
                f"there is no gate {name!r}",
                where=f"{where}, [{entry}]",
                fix=f"did you mean {close[0]!r}?" if close else f"there are {', '.join(LIMITS)}",
            )
        check_value(name, limit, told=name, where=f"{where}, [{entry}]")
    return {name: float(limit) for name, limit in found.items()}


def _names(name: str) -> list[str]:
    """Return what a model of a run may be called in the file; A against A is told by number."""
    plain = re.sub(r" \(\d+\)$", "", name)
    return list(dict.fromkeys((name, plain, Path(plain).name)))


def _only(run: Run, index: int) -> Run:
    """Return the run as if that model were the only one compared with the first."""
    name = run.models[index].name
    benchmark = run.benchmark
    if benchmark is not None:
        first = benchmark.latencies[:1] if index else ()
        own = tuple(e for e in benchmark.latencies[(1 if index else 0) :] if e.name == name)
        ratios = tuple(r for r in benchmark.ratios if r.name == name)
        benchmark = replace(benchmark, latencies=(*first, *own), ratios=ratios)
    return replace(
        run,
        models=(run.models[0], run.models[index]) if index else run.models[:1],
        comparisons=tuple(c for c in run.comparisons if c.candidate in (None, name)),
        benchmark=benchmark,
    )
