"""Sparse codebook: most weights are zero, the others are each one of K entries ("deep compression").

Where the non-zero weights are is stored as for other sparse weights, as a mask or as distances; their codes
are packed bit by bit, as those of a codebook. With the mask, the number of a weight among the non-zero ones
looks up its value; with distances the values are scattered into zeros, those of fillers behind the last
weight, where they are cut off. Decoded while the model is loaded: the file is smaller, the model not faster.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from onnxcompress.core.encoding import Array, Encoding, Numbers, Site
from onnxcompress.csteps.nearest import nearest
from onnxcompress.csteps.sparsebook import sparse_kmeans, support
from onnxcompress.encodings import _nodes
from onnxcompress.encodings._base import ENCODINGS, PROJECTIONS, Previous, Projection
from onnxcompress.encodings._grouped_nodes import emit_codes
from onnxcompress.encodings._limits import check_entries, check_limit, kept
from onnxcompress.encodings._packing import packing
from onnxcompress.encodings._places import (
    LONGEST,
    PlacedEncoding,
    bytes_of_mask,
    distances,
    emit_arrivals,
    emit_numbers,
    emit_scattered,
    fillers,
    places_information_bits,
)
from onnxcompress.encodings.codebook import Codebook
from onnxcompress.encodings.sparse import sparse


@ENCODINGS.register("sparse-codebook")
@dataclass(frozen=True, eq=False)
class SparseCodebook(PlacedEncoding):
    """Where the weights are that are not zero, their codes, and the entries these stand for.

    Attributes:
        places: int64, ascending, at least one: positions in the flattened weight.
        codes: uint8, one for each of them.
        entries: (K,) ascending, in the weight's storage type.
        shape: of the weight.
    """

    kind: ClassVar[str] = "sparse-codebook"
    places: Array
    codes: Array
    entries: Array
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "dtype", self.entries.dtype)

    def decode(self) -> Array:
        """Put the entries that the codes stand for into zeros."""
        return self.spread(self.entries[self.codes], 0)

    def information_bits(self) -> float:
        """log₂ of the number of ways to choose the places, log₂ K bits for each, and the entries."""
        codes = len(self.codes) * float(np.log2(max(2, len(self.entries))))
        return places_information_bits(self.size, len(self.places)) + codes + 8.0 * self.entries.nbytes

    def take(self, axis: int, keep: Array) -> Encoding:
        """Keep some slices along one axis; where no weight is left in them, the result is zeros."""
        coded = self.spread(self.codes.astype(np.int16), -1)
        return _of_codes(np.take(coded, keep, axis=axis), self.entries)

    def codebook(self) -> Array:
        """Return the entries."""
        return self.entries

    def numbers(self) -> tuple[Numbers, ...]:
        """Return the entries."""
        return (Numbers(self.entries, self.spread(self.codes.astype(np.int64), -1), codebook=True),)

    def with_numbers(self, values: Sequence[Array]) -> SparseCodebook:
        """Return the same codes with other entries; where these are no longer ascending, both are sorted."""
        book = Codebook(self.codes, self.entries).with_numbers(values)
        return SparseCodebook(self.places, book.codes, book.entries, self.shape)

    def _packed_bytes(self, count: int) -> int:
        return packing(max(2, len(self.entries)), count).size_bytes(count) + int(self.entries.nbytes)

    def mask_bytes(self) -> int:
        """Return the bytes of the mask, the packed codes and the entries."""
        return bytes_of_mask(self.size) + self._packed_bytes(len(self.codes))

    def gap_bytes(self) -> int:
        """Return the bytes of the distances, the packed codes, fillers with theirs, and the entries."""
        count = len(self.places) + int(fillers(self.places, told=True).sum())
        return count + self._packed_bytes(count)

    def _emit_values(self, site: Site, codes: Array) -> ir.Value:
        chosen = packing(max(2, len(self.entries)), len(codes))
        return emit_codes(site, chosen, codes, site.tensor("k", self.entries))

    def emit_mask(self, site: Site) -> ir.Value:
        """Emit the look-up of the codes, and that of the numbers of the weights in what it yields."""
        zero = site.shared(f"zero {self.dtype.name}", np.zeros(1, self.dtype))
        table = site.node("Concat", [zero, self._emit_values(site, self.codes)], {"axis": 0})
        return site.node("Gather", [table, emit_numbers(site, self.places, self.size)])

    def emit_gaps(self, site: Site) -> ir.Value:
        """Emit the look-up of the codes, and the scattering of what it yields."""
        steps, ends = distances(self.places, told=True)
        codes = np.zeros(len(steps), np.uint8)
        codes[ends] = self.codes
        bytes_, places = emit_arrivals(site, steps)
        values = self._emit_values(site, codes)
        if len(steps) == len(ends):
            return emit_scattered(site, self.size, self.dtype, places, values)
        filler, behind = (
            site.shared(f"scalar{i}", np.array(i, dtype=np.int32)) for i in (LONGEST, self.size)
        )
        places = site.node("Where", [site.node("Equal", [bytes_, filler]), behind, places])
        flat = emit_scattered(site, self.size + 1, self.dtype, places, values)
        return _nodes.head(site, flat, self.size)


def _of_codes(coded: Array, entries: Array) -> Encoding:
    """Return the encoding of codes in a weight's shape, −1 for zeros."""
    flat = coded.reshape(-1)
    places = np.flatnonzero(flat >= 0)
    if not len(places):
        return sparse(np.zeros(coded.shape, entries.dtype))
    return SparseCodebook(places, flat[places].astype(np.uint8), entries, tuple(coded.shape))


def sparse_codebook(weight: Array, stay: Array, entries: Array) -> Encoding:
    """Return the encoding of a weight: the nearest entry where ``stay``, zero elsewhere.

    Args:
        weight: finite numbers.
        stay: bool, in its shape; where it is nowhere true, the result is a sparse weight of zeros.
        entries: (K,) ascending, in its type.
    """
    places = np.flatnonzero(stay)
    coded = np.full(weight.size, -1, np.int16)
    coded[places] = nearest(np.ravel(weight)[places], entries)
    return _of_codes(coded.reshape(weight.shape), entries)


@PROJECTIONS.register("prune-codebook")
@dataclass(frozen=True)
class PruneCodebook(Projection):
    """At most so many weights stay, and each is one of K learned entries (Han et al. 2016).

    Which weights stay and what the entries are is chosen together: the closest weights of all of this form.

    Attributes:
        entries: K, 2 to 256, of one codebook for all weights given.
        keep: share of the weights that stay, over 0, at most 1; of several weights jointly.
        count: instead, how many of them stay.

    Raises:
        UsageError: neither or both are given, or one is out of range.
    """

    entries: int
    keep: float | None = None
    count: int | None = None

    def __post_init__(self) -> None:
        check_entries(self.entries)
        check_limit(self.keep, self.count)

    def project(
        self, weights: Sequence[Array], *, mu: float | None = None, previous: Previous = None
    ) -> list[Encoding]:
        """Return the closest weights: the best support and the best entries together."""
        values = np.concatenate([np.ravel(w) for w in weights])
        most = kept(self.keep, self.count, values.size)
        start = next((e.codebook() for e in previous or () if isinstance(e, SparseCodebook)), None)
        found = sparse_kmeans(values, most, self.entries, previous=start)
        stored = found.astype(values.dtype)
        stays = np.split(support(values, stored, most), np.cumsum([w.size for w in weights])[:-1])
        return [
            sparse_codebook(w, s.reshape(w.shape), stored.astype(w.dtype))
            for w, s in zip(weights, stays, strict=True)
        ]


@dataclass(frozen=True, eq=False)
class OnNonzeros(Projection):
    """A codebook for the non-zero weights alone: which those are is decided already.

    Attributes:
        codebook: how they are quantised, one codebook for all weights given.
        stays: for each weight, where it is not zero: bool, in its shape, somewhere true.
        apart: store where they are apart from their codes; otherwise zero is a further entry of the codebook,
            which takes more bits a weight, but no operator set from 11 on.
    """

    codebook: Projection
    stays: tuple[Array, ...]
    apart: bool = True

    def of(self, positions: Sequence[int]) -> OnNonzeros:
        """Return the same for some of the weights."""
        return replace(self, stays=tuple(self.stays[i] for i in positions))

    def project(
        self, weights: Sequence[Array], *, mu: float | None = None, previous: Previous = None
    ) -> list[Encoding]:
        """Return the closest codebook of the weights that stay, and zeros elsewhere."""
        chosen = [w[s] for w, s in zip(weights, self.stays, strict=True)]
        books = self.codebook.project(chosen, mu=mu, previous=previous if self.apart else None)
        found: list[Encoding] = []
        for stay, book in zip(self.stays, books, strict=True):
            assert isinstance(book, Codebook)
            assert book.axis is None, "channels and groups are torn apart by zeros"
            if self.apart:
                found.append(
                    SparseCodebook(np.flatnonzero(stay), book.codes, book.entries, tuple(stay.shape))
                )
            else:
                found.append(_with_zero(book, stay))
        return found


def _with_zero(book: Codebook, stay: Array) -> Codebook:
    """Return the codebook of a whole weight: ``book`` where ``stay``, zero elsewhere."""
    values = np.zeros(stay.shape, book.dtype)
    values[stay] = book.decode()
    entries = np.union1d(book.entries, np.zeros(1, book.dtype))
    return Codebook(nearest(values, entries), entries)
