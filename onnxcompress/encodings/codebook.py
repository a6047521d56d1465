"""Codebook: every weight is one of K entries; a code says which."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from onnxcompress.core.encoding import Array, Encoding, Numbers, Site
from onnxcompress.csteps.kmeans import kmeans, kmeans_rows
from onnxcompress.csteps.nearest import nearest, nearest_rows
from onnxcompress.encodings import _nodes
from onnxcompress.encodings._base import ENCODINGS, PROJECTIONS, Previous, Projection
from onnxcompress.encodings._grouped_nodes import emit_codes, emit_ungrouped
from onnxcompress.encodings._groups import Granularity, grouped, interleave, join, regroup, split, ungrouped
from onnxcompress.encodings._limits import check_entries, check_groups
from onnxcompress.encodings._packing import Packing, packing


@ENCODINGS.register("codebook")
@dataclass(frozen=True, eq=False)
class Codebook(Encoding):
    """Codes and entries: one codebook for the weight, one per channel, or one per group of weights.

    Attributes:
        codes: uint8, in the weight's shape.
        entries: (K,), or (groups, K) where ``axis`` is given, ascending, in the weight's storage type.
        axis: channel axis; None: one codebook for the whole weight.
        group_size: so many consecutive weights of a channel, flattened, share a codebook; the last group of
            a channel may be shorter. None: the whole channel.
    """

    kind: ClassVar[str] = "codebook"
    codes: Array
    entries: Array
    axis: int | None = None
    group_size: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", tuple(self.codes.shape))
        object.__setattr__(self, "dtype", self.entries.dtype)

    @property
    def packing(self) -> Packing:
        """How the codes are packed."""
        return packing(max(2, self.entries.shape[-1]), self._packed_codes().size)

    def decode(self) -> Array:
        """Look every code up in its codebook."""
        if self.axis is None:
            return self.entries[self.codes]
        padded = grouped(self.codes, self.axis, self.group_size)
        values = np.take_along_axis(self.entries, padded.astype(np.int64), axis=1)
        return ungrouped(values, self.shape, self.axis)

    def stored_bits(self) -> int:
        """Bits of the packed codes and the entries."""
        return 8 * (self.packing.size_bytes(self._packed_codes().size) + int(self.entries.nbytes))

    def information_bits(self) -> float:
        """log₂ K bits a weight, and the entries."""
        return self.codes.size * float(np.log2(max(2, self.entries.shape[-1]))) + 8.0 * self.entries.nbytes

    def take(self, axis: int, keep: Array) -> Encoding:
        """Keep some slices along one axis; groups that this would tear apart make the result dense."""
        codes = np.take(self.codes, keep, axis=axis)
        if self.axis is None or (self.group_size is None and axis != self.axis):
            return Codebook(codes, self.entries, self.axis, self.group_size)
        if axis != self.axis:
            dense: Encoding = ENCODINGS["dense"](np.take(self.decode(), keep, axis=axis))  # type: ignore[call-arg]
            return dense
        per_channel = self.entries.reshape(self.shape[axis], -1, self.entries.shape[-1])
        entries = per_channel[keep].reshape(-1, self.entries.shape[-1])
        return Codebook(codes, entries, self.axis, self.group_size)

    def codebook(self) -> Array:
        """Return the entries."""
        return self.entries

    def numbers(self) -> tuple[Numbers, ...]:
        """Return the entries; one that is 0 stays so."""
        places = self.codes.astype(np.int64)
        if self.axis is not None:
            first = self.entries.shape[1] * np.arange(len(self.entries))[:, None]
            packed = self._packed_codes()
            places = ungrouped(packed.astype(np.int64) + first, self.shape, self.axis)
        entries = self.entries.reshape(-1)
        places[entries[places] == 0] = -1
        return (Numbers(entries, places, codebook=self.axis is None),)

    def with_numbers(self, values: Sequence[Array]) -> Codebook:
        """Return the same codes with other entries; where these are no longer ascending, both are sorted."""
        entries = values[0].reshape(self.entries.shape)
        if np.all(np.diff(entries.astype(np.float64), axis=-1) >= 0):
            return Codebook(self.codes, entries, self.axis, self.group_size)
        order = np.argsort(entries, axis=-1, kind="stable")
        rank = np.argsort(order, axis=-1, kind="stable").astype(np.uint8)
        entries = np.take_along_axis(entries, order, axis=-1)
        if self.axis is None:
            return Codebook(rank[self.codes], entries)
        codes = np.take_along_axis(rank, self._packed_codes().astype(np.int64), axis=1)
        return Codebook(ungrouped(codes, self.shape, self.axis), entries, self.axis, self.group_size)

    def emit(self, site: Site) -> ir.Value:
        """Emit tables and look-ups; the last node yields the weight."""
        if self.axis is None:
            return emit_codes(site, self.packing, self.codes, site.tensor("k", self.entries))
        codes = emit_codes(site, self.packing, self._packed_codes(), None)
        offsets = _nodes.counting(site, len(self.entries), self.entries.shape[1])
        places = site.node("Add", [codes, _nodes.reshape(site, offsets, [-1, 1])])
        values = site.node("Gather", [site.tensor("k", self.entries.reshape(-1)), places])
        return emit_ungrouped(site, values, self.shape, self.axis, self.group_size)

    def emit_rows(self, site: Site, rows: ir.Value) -> ir.Value | None:
        """Emit the decoding of the chosen rows alone: an embedding stays packed in memory."""
        if self.axis is not None or rows.shape is None or len(self.shape) < 2 or site.opset < 5:
            return None
        lead = len(rows.shape)
        width = int(np.prod(self.shape[1:]))
        chosen = packing(max(2, len(self.entries)), width, self.shape[0])
        streams = []
        for stream in chosen.streams(self.codes.reshape(self.shape[0], width)):
            streams.append(site.node("Gather", [site.tensor("q", stream), rows]))
        units = chosen.emit_units(site, streams, lead)
        table = chosen.emit_table(site, site.tensor("k", self.entries))
        values = site.node("Gather", [table, units])
        count = chosen.units(width) * chosen.digits
        if count != width:
            values = _nodes.reshape(site, values, [0] * lead + [count])
            values = _nodes.head(site, values, width, axis=lead)
        if count != width or chosen.digits > 1 or len(self.shape) > 2:
            values = _nodes.reshape(site, values, [0] * lead + list(self.shape[1:]))
        return values

    def _packed_codes(self) -> Array:
        """Return the codes as they are stored: the weight's order, or (groups, weights of a group)."""
        if self.axis is None:
            return self.codes
        return grouped(self.codes, self.axis, self.group_size)


class CodebookProjection(Projection):
    """Base of the codebooks, of which a single one can be fitted to some of the weights alone."""

    @property
    @abstractmethod
    def single(self) -> bool:
        """Whether there is one codebook, and not one a channel or group."""

    def project_seen(
        self,
        weights: Sequence[Array],
        hidden: Sequence[Array],
        *,
        mu: float | None = None,
        previous: Previous = None,
    ) -> list[Encoding]:
        """Return codes of all weights for the codebook that is closest to those outside ``hidden``.

        That is exact where it is a single one.
        """
        seen = [w[~h] for w, h in zip(weights, hidden, strict=True)]
        if not self.single:
            return super().project_seen(weights, hidden, mu=mu, previous=previous)
        if not any(s.size for s in seen):
            return self.project(weights, previous=previous)
        entries = [e.codebook() for e in self.project(seen, previous=previous)]
        return [Codebook(nearest(w, e), e) for w, e in zip(weights, entries, strict=True) if e is not None]


@PROJECTIONS.register("codebook")
@dataclass(frozen=True)
class AdaptiveCodebook(CodebookProjection):
    """Learned codebook: optimal one-dimensional k-means (methods.md section 2, "adaptive codebook").

    Attributes:
        entries: K, 2 to 256.
        pin_zero: one entry is exactly 0.
        granularity: one codebook per ``"tensor"``, ``"channel"`` or ``"group"``.
        axis: channel axis for channels and groups.
        group_size: weights of a group, along the flattened rest of a channel.

    Raises:
        UsageError: a number of entries that no code of one byte can tell apart, or groups that contradict.
    """

    entries: int
    pin_zero: bool = False
    granularity: Granularity = "tensor"
    axis: int = 0
    group_size: int | None = None

    def __post_init__(self) -> None:
        check_entries(self.entries)
        check_groups(self.granularity, self.group_size)

    @property
    def single(self) -> bool:
        """Whether it is per tensor."""
        return self.granularity == "tensor"

    def project(
        self, weights: Sequence[Array], *, mu: float | None = None, previous: Previous = None
    ) -> list[Encoding]:
        """Return the closest codebooks; several weights share one codebook (per tensor only)."""
        if not self.single:
            before: Sequence[Encoding | None] = previous or [None] * len(weights)
            return [self._by_group(w, p) for w, p in zip(weights, before, strict=True)]
        start = previous[0].codebook() if previous else None
        values = weights[0] if len(weights) == 1 else np.concatenate([np.ravel(w) for w in weights])
        found = kmeans(values, self.entries, zero=self.pin_zero, previous=start)
        results: list[Encoding] = []
        for w in weights:
            stored = found.astype(w.dtype)
            results.append(Codebook(nearest(w, stored), stored))
        return results

    def _by_group(self, weight: Array, previous: Encoding | None) -> Codebook:
        group_size = self.group_size if self.granularity == "group" else None
        start = None if previous is None else previous.codebook()
        parts = split(weight, self.axis, group_size)
        starts = [None] * len(parts) if start is None else regroup(start, parts)
        found = [
            kmeans_rows(part, self.entries, zero=self.pin_zero, previous=before).astype(weight.dtype)
            for part, before in zip(parts, starts, strict=True)
        ]
        codes = [nearest_rows(part, entries) for part, entries in zip(parts, found, strict=True)]
        return Codebook(
            join(codes, weight.shape, self.axis),
            interleave(found, weight.shape[self.axis]),
            self.axis,
            group_size,
        )
