"""What methods that cut channels share: how many stay, and in which blocks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxcompress.core.errors import UnsupportedError, UsageError
from onnxcompress.core.refusal import advice, in_words

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onnxcompress.core.refusal import Refusal
    from onnxcompress.engine.allocation import Target

KEEP = 0.5
"""Share that stays where neither --keep nor --target is given."""


def check_cut(keep: float | None, target: str | None, round_to: int) -> None:
    """Raise UsageError where options of how many channels stay are out of range or contradict each other."""
    if keep is not None and not 0 < keep <= 1:
        raise UsageError("--keep must be over 0 and at most 1", why=f"found {keep:g}")
    if keep is not None and target is not None:
        raise UsageError("--keep and --target exclude each other", fix="give one of them")
    check_round_to(round_to)
    if target is not None:
        target_of(keep, target)


def check_round_to(round_to: int) -> None:
    """Raise UsageError for widths that no layer should have."""
    if round_to not in (1, 2) and (round_to < 1 or round_to % 4):
        raise UsageError("--round-to must be 1, 2 or a multiple of 4", why=f"found {round_to}")


def target_of(keep: float | None, target: str | None) -> Target:
    """Return what share of what stays; raises UsageError where ``target`` cannot be read."""
    from onnxcompress.engine.allocation import Target  # noqa: PLC0415

    if target is not None:
        return Target.read(target)
    return Target("channels", KEEP if keep is None else keep)


def require_channels(target: str | None, refusals: Sequence[Refusal], instead: str | None = None) -> None:
    """Raise UnsupportedError where there is a target, but no channel that may be cut; says why.

    Args:
        target: what is asked for.
        refusals: why each channel stays.
        instead: what to do, where this method alone cannot cut them.
    """
    if target is not None:
        raise UnsupportedError(
            f"the target {target} cannot be reached",
            why=f"no channel can be cut: {in_words(refusals) or 'the model has none'}",
            fix=instead
            or advice(refusals, "let more be cut, or, of several methods, cut before weights are encoded"),
        )
